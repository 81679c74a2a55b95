"""Newton systems of the dual: the curvature of the features, the diagonal of the bounds, and zero row sums.

M = D [ sum_j x_j x_j^T (x) (alpha_j I + beta_j u_j u_j^T) ] D + diag(bounds),   D = diag(s) (x) I,

solved for directions whose rows sum to zero. Features with alpha = beta = 0 are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sparsedis.ops.svm.problem import Certificate, Problem

_TINY = torch.finfo(torch.float64).tiny

# Above this order n (k-1) of the reduced matrix, a dense factor costs more than conjugate gradients. With fewer
# features than samples M is nearly singular, and conjugate gradients do not reach the accuracy that a gap of 1e-10
# requires; the dense factor is then used as long as its memory (several times 8 bytes per entry) allows.
DENSE_LIMIT = 2048
SINGULAR_LIMIT = 12288
# Ridge of the free entries' system, relative to its largest diagonal entry.
DAMPING = 1e-11
# Number of features that are added to the Hessian at once, which bounds the scratch memory.
FEATURE_BLOCK = 1024


@dataclass(frozen=True)
class Curvature:
    """Second derivative in the features: alpha, beta (B, d), both >= 0, and unit rows u (B, d, k)."""

    alpha: Tensor
    beta: Tensor
    unit: Tensor


def active_curvature(problem: Problem, at: Certificate) -> Curvature:
    """Curvature of the dual: ((1 - t) I + t u u^T)/lambda2 on the active features, t = lambda1/||V_j||."""
    lambda1 = problem.lambda1[:, None]
    active = (at.norms > lambda1) | (lambda1 == 0)  # without a group Lasso even if V_j is 0
    norms = at.norms.clamp_min(_TINY)
    t = lambda1 / norms
    zero = torch.zeros_like(t)
    lambda2 = problem.lambda2[:, None]
    return Curvature(
        torch.where(active, (1 - t) / lambda2, zero),
        torch.where(active, t / lambda2, zero),
        at.V / norms[..., None],
    )


class NewtonSystem(Protocol):
    """A system with M that can be solved repeatedly."""

    def solve(self, rhs: Tensor, tolerance: float) -> Tensor:
        """The q (B, n, k) with rows summing to zero and M q = rhs up to a constant in every row.

        ``tolerance`` is the required residual relative to ``rhs``; a dense factor reaches rounding error.
        """
        ...


def newton_system(problem: Problem, curvature: Curvature, bounds: Tensor, dual: Tensor) -> NewtonSystem:
    """M for the given curvature and diagonal ``bounds`` (B, n, k) = Z/L + s rho at the dual point L (B, n, k)."""
    _, n, d, k = problem.shape
    solver = DenseSystem if is_dense(n, d, k) else IterativeSystem
    return solver(problem, curvature, bounds, dual)


def is_dense(n: int, d: int, k: int) -> bool:
    """Whether M is factored rather than solved iteratively, for n samples, d features and k classes."""
    return n * (k - 1) <= (DENSE_LIMIT if d >= n else SINGULAR_LIMIT)


def _gathered(problem: Problem, curvature: Curvature) -> tuple[Tensor, Curvature]:
    """D X and the curvature, restricted to features with nonzero curvature; padded to the batch's largest number."""
    features = problem.weight * problem.features
    has_curvature = (curvature.alpha > 0) | (curvature.beta > 0)
    width = int(has_curvature.sum(1).max())
    if width == has_curvature.shape[1]:
        return features, curvature
    # A stable sort puts the features with curvature first; padded features have zero curvature and add nothing.
    index = has_curvature.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    features = features.gather(2, index[:, None, :].expand(-1, features.shape[1], -1))
    unit = curvature.unit.gather(1, index[..., None].expand(-1, -1, curvature.unit.shape[2]))
    return features, Curvature(curvature.alpha.gather(1, index), curvature.beta.gather(1, index), unit)


class Coordinates:
    """Coordinates of directions whose rows sum to zero: the free classes of every sample except one, its pivot.

    The pivot is the class with the sample's largest L, which is furthest from its bound: q_pivot = -sum of the others.
    The huge entries Z/L of an interior point then remain on the diagonal of M, and a Cholesky factor is insensitive to
    them. An orthonormal basis of the zero-sum rows would spread them over whole blocks.

    Args:
        dual: L, (B, n, k).
        free: (B, n, k) bool, the free entries; the pivot is always free. Default: all.

    Attributes:
        pivot: (B, n, 1).
        sample, class_index: (B, m), sample and class of every coordinate; padded to the largest number m.
        valid: (B, m) bool, False for padding.
    """

    def __init__(self, dual: Tensor, free: Tensor | None = None) -> None:
        batch, n, k = dual.shape
        self.pivot = dual.argmax(-1, keepdim=True)
        if free is None:
            classes = torch.arange(k - 1, device=dual.device)
            kept = (classes + (classes >= self.pivot)).flatten(1)
            self.sample = torch.arange(n, device=dual.device).repeat_interleave(k - 1).expand(batch, -1)
            self.valid = torch.ones_like(kept, dtype=torch.bool)
        else:
            chosen = free.scatter(2, self.pivot, False).flatten(1)
            count = chosen.sum(1)
            flat = chosen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
            self.sample, kept = flat // k, flat % k
            self.valid = torch.arange(flat.shape[1], device=dual.device) < count[:, None]
        self.class_index = kept
        self._flat = self.sample * k + kept

    @property
    def pivots(self) -> Tensor:
        """Pivot of every coordinate's sample, (B, m)."""
        return self.pivot[..., 0].gather(1, self.sample)

    def take(self, values: Tensor) -> Tensor:
        """The coordinates' entries of (B, n, k), 0 for padding: (B, m)."""
        return torch.where(self.valid, values.flatten(1).gather(1, self._flat), 0)

    def reduce(self, values: Tensor) -> Tensor:
        """The coordinates' entries of (B, n, k) minus their pivots' entries, 0 for padding: (B, m)."""
        return self.take(values - values.gather(2, self.pivot))

    def expand(self, reduced: Tensor, like: Tensor) -> Tensor:
        """The direction (B, n, k) with coordinates ``reduced`` (B, m)."""
        full = torch.zeros_like(like)
        full.flatten(1).scatter_add_(1, self._flat, torch.where(self.valid, reduced, 0))
        return full.scatter(2, self.pivot, -full.sum(-1, keepdim=True))


def newton_matrix(problem: Problem, curvature: Curvature, bounds: Tensor, at: Coordinates) -> Tensor:
    """M in the given coordinates, (B, m, m); rows and columns of padding are 0."""
    k = problem.shape[3]
    features, curvature = _gathered(problem, curvature)
    sample, class_index, pivots = at.sample, at.class_index, at.pivots

    # <e_l - e_p, e_r - e_q> for every pair of coordinates, times the Gram matrix of their samples.
    identity = torch.eye(k, dtype=bounds.dtype, device=bounds.device)
    basis = torch.where(at.valid[..., None], identity[class_index] - identity[pivots], 0)
    gram = (features * curvature.alpha[:, None]) @ features.mT
    gram = gram.gather(1, sample[..., None].expand(-1, -1, gram.shape[2]))
    matrix = (basis @ basis.mT).mul_(gram.gather(2, sample[:, None].expand(-1, sample.shape[1], -1)))

    unit = (curvature.unit * curvature.beta.sqrt()[..., None]).mT  # (B, k, features)
    for start in range(0, unit.shape[2], FEATURE_BLOCK):
        part = unit[..., start : start + FEATURE_BLOCK]
        rows = _rows(part, class_index) - _rows(part, pivots)
        rows *= _rows(features[..., start : start + FEATURE_BLOCK], sample)
        rows *= at.valid[..., None]
        matrix.baddbmm_(rows, rows.mT)

    same = (sample[:, :, None] == sample[:, None]) & (at.valid[:, :, None] & at.valid[:, None])
    matrix += torch.where(same, bounds.gather(2, at.pivot)[..., 0].gather(1, sample)[:, None], 0)
    own = bounds.flatten(1).gather(1, sample * k + class_index)
    torch.diagonal(matrix, dim1=1, dim2=2).add_(torch.where(at.valid, own, 0))
    return matrix


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """values[b, index[b]], (B, m, .)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


class DenseSystem:
    """Cholesky factor in reduced coordinates."""

    def __init__(self, problem: Problem, curvature: Curvature, bounds: Tensor, dual: Tensor) -> None:
        self._at = Coordinates(dual)
        self._factor = factored(newton_matrix(problem, curvature, bounds, self._at))

    def solve(self, rhs: Tensor, tolerance: float) -> Tensor:
        # torch.cholesky_solve cannot be captured in a CUDA graph.
        half = torch.linalg.solve_triangular(self._factor, self._at.reduce(rhs)[..., None], upper=False)
        solution = torch.linalg.solve_triangular(self._factor.mT, half, upper=True)[..., 0]
        return self._at.expand(solution, rhs)


class FreeSystem:
    """H in the coordinates of the free entries, for the finish and the adjoint.

    H_FF is singular if L is not unique. A ridge makes the factor exist, and conjugate gradients preconditioned by the
    factor remove the ridge's effect.

    Args:
        matrix: H_FF from :func:`newton_matrix`, (B, m, m).
        at: the coordinates.
    """

    max_iter = 50

    def __init__(self, matrix: Tensor, at: Coordinates) -> None:
        self._matrix, self._at = matrix, at
        self._factor = damped_factor(matrix, at.valid)
        # Squared rounding error of a residual, relative to |q|^2, in the direction of least curvature.
        largest = torch.nn.functional.pad(torch.diagonal(matrix, dim1=1, dim2=2), (0, 1)).amax(1, keepdim=True)
        pivots = torch.diagonal(self._factor, dim1=1, dim2=2).square()
        least = torch.nn.functional.pad(pivots, (0, 1), value=torch.inf).amin(1, keepdim=True)
        self._rounding = (4 * torch.finfo(matrix.dtype).eps * largest) ** 2 / least

    def solve(self, rhs: Tensor, tolerance: float) -> Tensor:
        """See :class:`NewtonSystem`. A singular system must be consistent; the result is one of its solutions."""
        solution = conjugate_gradients(
            lambda p: (self._matrix @ p[..., None])[..., 0],
            lambda r: torch.cholesky_solve(r[..., None], self._factor)[..., 0],
            self._at.reduce(rhs),
            tolerance,
            self.max_iter,
            self._rounding,
        )
        return self._at.expand(solution, rhs)


def damped_factor(matrix: Tensor, chosen: Tensor) -> Tensor:
    """Cholesky factor of H_FF with a small ridge on the chosen rows and columns (B, m), the identity elsewhere."""
    diagonal = torch.where(chosen, torch.diagonal(matrix, dim1=1, dim2=2), 0)
    largest = torch.nn.functional.pad(diagonal, (0, 1)).amax(1, keepdim=True)  # m may be 0
    shift = torch.where(chosen & (largest > 0), DAMPING * largest, 1)
    both = chosen[:, :, None] & chosen[:, None]
    return factored(torch.where(both, matrix, 0) + torch.diag_embed(shift))


def factored(matrix: Tensor) -> Tensor:
    """Lower Cholesky factors of (B, N, N); overwrites the diagonal of ``matrix``.

    If the solution L is not unique, M is singular up to rounding. A relative ridge is added, and raised if it does not
    suffice. A zero on the diagonal belongs to a sample without influence (weight or features 0) and right-hand side 0.
    """
    ridge = torch.finfo(matrix.dtype).eps * 50
    diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
    original = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal))
    diagonal.copy_(original * (1 + ridge))
    factor, info = torch.linalg.cholesky_ex(matrix)
    while bool((failed := info > 0).any()) and ridge < 1:
        ridge *= 100
        diagonal[failed] = original[failed] * (1 + ridge)
        factor[failed], info[failed] = torch.linalg.cholesky_ex(matrix[failed])
    return factor


class IterativeSystem:
    """Conjugate gradients on directions with zero row sums, for matrices too large to be formed.

    The preconditioner is M, except that with more features than samples the weaker features are approximated. Without
    the terms beta_j u_j u_j^T, M consists of one n x n block per class, and the row sums are eliminated through the sum
    of the inverse blocks (a constraint preconditioner). These terms are then added as columns x_j (x) u_j sqrt(beta_j)
    by the matrix inversion lemma. For the weaker features the blocks contain the mean of the term, I/(k-1), instead.
    """

    max_iter = 500

    def __init__(self, problem: Problem, curvature: Curvature, bounds: Tensor, dual: Tensor) -> None:
        n, k = problem.shape[1], problem.shape[3]
        self._features, curvature = _gathered(problem, curvature)
        self._curvature = curvature
        self._bounds = bounds
        self._pivot = dual.argmax(-1).unsqueeze(1)[..., None]  # (B, 1, n, 1)

        strength = curvature.beta * (self._features**2).sum(1)
        directed = int((strength > 0).sum(1).max())  # 0 without a group Lasso
        strong = strength.topk(min(directed, n), dim=1).indices
        mean = curvature.alpha + curvature.beta.scatter(1, strong, 0.0) / (k - 1)
        gram = (self._features * mean[:, None]) @ self._features.mT
        blocks = gram[:, None] + torch.diag_embed(bounds.mT)  # (B, k, n, n)
        # Explicit inverses: multiplying by them is several times faster than two triangular solves.
        factors = factored(blocks.flatten(0, 1))
        self._inverses = torch.cholesky_inverse(factors).view(blocks.shape)
        self._row_sums = factored(self._inverses.sum(1))

        self._columns = self._features.gather(2, strong[:, None].expand(-1, n, -1))  # (B, n, r)
        self._units = curvature.beta.gather(1, strong).sqrt()[..., None] * curvature.unit.gather(
            1, strong[..., None].expand(-1, -1, k)
        )
        terms = self._units.mT[:, :, None] * self._columns[:, None]  # (B, k, n, r)
        self._solved = self._solve_blocks(terms)
        capacitance = terms.flatten(1, 2).mT @ self._solved.flatten(1, 2)
        torch.diagonal(capacitance, dim1=1, dim2=2).add_(1)
        self._capacitance = factored((capacitance + capacitance.mT) / 2)

    def _multiply(self, rows: Tensor) -> Tensor:
        c = self._curvature
        V = self._features.mT @ rows
        along = (c.unit * V).sum(-1, keepdim=True)
        V = c.alpha[..., None] * V + c.beta[..., None] * along * c.unit
        return self._features @ V + self._bounds * rows

    def _solve_blocks(self, rows: Tensor) -> Tensor:
        """Apply the inverse without the terms in beta to right-hand sides (B, k, n, any)."""
        free = self._inverses @ rows
        multiplier = torch.cholesky_solve(free.sum(1), self._row_sums)
        free -= self._inverses @ multiplier[:, None]
        # The row sums are zero up to rounding. The remainder goes to the pivot, whose bound is far; elsewhere it would
        # be multiplied by the huge Z/L of the entries at their bounds.
        pivot = self._pivot.expand(-1, -1, -1, free.shape[3])
        free.scatter_(1, pivot, 0.0)
        return free.scatter_(1, pivot, -free.sum(1, keepdim=True))

    def _precondition(self, rows: Tensor) -> Tensor:
        free = self._solve_blocks(rows.mT[..., None])[..., 0].mT
        along = ((self._columns.mT @ free) * self._units).sum(-1, keepdim=True)  # (B, r, 1)
        weights = torch.cholesky_solve(along, self._capacitance)
        return free - (self._solved.flatten(1, 2) @ weights).view_as(rows.mT).mT

    def solve(self, rhs: Tensor, tolerance: float) -> Tensor:
        return conjugate_gradients(self._multiply, self._precondition, rhs, tolerance, self.max_iter)


def conjugate_gradients(
    multiply: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    rhs: Tensor,
    tolerance: float,
    max_iter: int,
    rounding: Tensor | float = 0.0,
) -> Tensor:
    """The q with M q = rhs (B, ...), to a residual of ``tolerance`` relative to rhs in the preconditioner's norm.

    A residual whose square is below ``rounding`` |q|^2 is rounding error and also ends the iterations.
    """
    q = torch.zeros_like(rhs)
    r = rhs
    z = precondition(r)
    p = z
    rz = first = _dot(r, z)
    for _ in range(max_iter):
        going = rz > (tolerance**2 * first).maximum(rounding * _dot(q, q))
        if not bool(going.any()):
            break
        Mp = multiply(p)
        # A converged task takes no further steps, also if p = 0.
        step = torch.where(going, _quotient(rz, _dot(p, Mp)), 0)
        q = q + step * p
        r = r - step * Mp
        z = precondition(r)
        previous, rz = rz, _dot(r, z)
        p = z + _quotient(rz, previous) * p
    return q


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(tuple(range(1, a.dim())), keepdim=True)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / torch.where(b > 0, b, torch.ones_like(b)), torch.zeros_like(a))
