"""Newton systems of the dual: the curvature of the features, the bounds' diagonal, and the rows' sums.

M = D [ sum_j x_j x_j^T (x) (alpha_j I + beta_j u_j u_j^T) ] D + diag(bounds),   D = diag(s) (x) I,

to be solved in the space of directions whose rows sum to zero. Features whose alpha and beta are zero cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sparsedis.problem import Problem

# Above this order of the reduced matrix, n (k-1), a dense factor costs more than the conjugate gradients. With fewer
# features than samples M is close to singular, and the conjugate gradients lose the accuracy that a gap of 1e-10 takes:
# the factor is kept for as long as its memory (8 bytes per entry, a few times) allows.
DENSE_LIMIT = 2048
SINGULAR_LIMIT = 12288
# Features are taken into the Hessian by blocks of so many, which bounds the scratch memory.
FEATURE_BLOCK = 1024


@dataclass(frozen=True)
class Curvature:
    """Second derivative of the features' part: alpha, beta (B, d), both >= 0, and unit rows u (B, d, k)."""

    alpha: Tensor
    beta: Tensor
    unit: Tensor


class NewtonSystem(Protocol):
    """M, ready to be solved any number of times."""

    def solve(self, rhs: Tensor, tolerance: float) -> Tensor:
        """The q (B, n, k), rows summing to zero, with M q = rhs up to a constant in every row.

        ``tolerance`` is the residual that is small enough, relative to ``rhs``; a dense factor reaches rounding.
        """
        ...


def newton_system(problem: Problem, curvature: Curvature, bounds: Tensor, dual: Tensor) -> NewtonSystem:
    """M for the given curvature and diagonal ``bounds`` (B, n, k) = Z/L + s rho at the dual point L (B, n, k)."""
    _, n, d, k = problem.shape
    solver = DenseSystem if is_dense(n, d, k) else IterativeSystem
    return solver(problem, curvature, bounds, dual)


def is_dense(n: int, d: int, k: int) -> bool:
    """Whether M is factored, and not solved by iteration, for n samples, d features and k classes."""
    return n * (k - 1) <= (DENSE_LIMIT if d >= n else SINGULAR_LIMIT)


def _gathered(problem: Problem, curvature: Curvature) -> tuple[Tensor, Curvature]:
    """D X and the curvature, at the features that have one; padded to the largest count of the batch."""
    features = problem.weight * problem.features
    used = (curvature.alpha > 0) | (curvature.beta > 0)
    width = int(used.sum(1).max())
    if width == used.shape[1]:
        return features, curvature
    # A stable sort puts the used features first; the padding has no curvature and adds nothing.
    index = used.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    features = features.gather(2, index[:, None, :].expand(-1, features.shape[1], -1))
    unit = curvature.unit.gather(1, index[..., None].expand(-1, -1, curvature.unit.shape[2]))
    return features, Curvature(curvature.alpha.gather(1, index), curvature.beta.gather(1, index), unit)


class DenseSystem:
    """Cholesky factor in reduced coordinates.

    Every sample drops the class with its largest L, the one furthest from its bound: q_pivot = -sum of the others. The
    huge entries Z/L then stay on the diagonal, where a Cholesky factor is insensitive to them; an orthonormal basis of
    the rows' space would smear them over whole blocks.
    """

    def __init__(self, problem: Problem, curvature: Curvature, bounds: Tensor, dual: Tensor) -> None:
        batch, n, _, k = problem.shape
        pivot = self._choose_coordinates(dual)
        features, curvature = _gathered(problem, curvature)

        # <e_l - e_pivot, e_r - e_pivot'> for every pair of reduced coordinates, times the Gram matrix of the samples.
        identity = torch.eye(k, dtype=dual.dtype, device=dual.device)
        basis = (identity[self._kept] - identity[pivot]).flatten(1, 2)
        gram = (features * curvature.alpha[:, None]) @ features.mT
        matrix = basis @ basis.mT
        blocks = matrix.view(batch, n, k - 1, n, k - 1)
        blocks *= gram[:, :, None, :, None]

        unit = curvature.unit * curvature.beta.sqrt()[..., None]
        for start in range(0, unit.shape[1], FEATURE_BLOCK):
            part = unit[:, start : start + FEATURE_BLOCK].mT[:, None].expand(-1, n, -1, -1)  # (B, n, k, block)
            reduced = self._take(part, self._kept) - self._take(part, pivot)
            rows = (reduced * features[:, :, None, start : start + FEATURE_BLOCK]).flatten(1, 2)
            matrix.baddbmm_(rows, rows.mT)

        diagonal = torch.diagonal(blocks, dim1=1, dim2=3)  # (B, k-1, k-1, n)
        diagonal += bounds.gather(2, pivot).permute(0, 2, 1)[:, :, None]
        torch.diagonal(matrix, dim1=1, dim2=2).add_(bounds.gather(2, self._kept).flatten(1))
        self._factor = factored(matrix)

    def _choose_coordinates(self, dual: Tensor) -> Tensor:
        """Every sample's pivot class, (B, n, 1), and the other classes in :attr:`_kept`, (B, n, k-1)."""
        self._pivot = dual.argmax(-1, keepdim=True)
        classes = torch.arange(dual.shape[2] - 1, device=dual.device)
        self._kept = classes + (classes >= self._pivot)
        return self._pivot

    @staticmethod
    def _take(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(2, index[..., None].expand(-1, -1, -1, values.shape[3]))

    def solve(self, rhs: Tensor, tolerance: float) -> Tensor:
        reduced = rhs.gather(2, self._kept) - rhs.gather(2, self._pivot)
        kept = torch.cholesky_solve(reduced.flatten(1)[..., None], self._factor).view_as(reduced)
        full = torch.zeros_like(rhs).scatter(2, self._kept, kept)
        return full.scatter(2, self._pivot, -kept.sum(-1, keepdim=True))


def factored(matrix: Tensor) -> Tensor:
    """Lower Cholesky factors of (B, N, N), overwriting ``matrix``'s diagonal.

    The solution L need not be unique, M may be singular up to rounding: a relative ridge, raised where it does not do.
    A zero on the diagonal is a sample without influence (its weight or its features are 0), whose right-hand side is 0.
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
    """Conjugate gradients in the space of zero row sums, for matrices too large to be formed.

    The preconditioner is M itself, but for the weakest of many features. Without its terms beta_j u_j u_j^T it is one
    n x n block a class, and the row sums are eliminated through the sum of the blocks' inverses (a constraint
    preconditioner); the terms are then put back by the matrix inversion lemma, as columns x_j (x) u_j sqrt(beta_j). Of
    more features than samples the weaker ones keep the mean of their term over the directions, I/(k-1), in the blocks.
    """

    max_iter = 500

    def __init__(self, problem: Problem, curvature: Curvature, bounds: Tensor, dual: Tensor) -> None:
        n, k = problem.shape[1], problem.shape[3]
        self._features, curvature = _gathered(problem, curvature)
        self._curvature = curvature
        self._bounds = bounds
        self._pivot = dual.argmax(-1).unsqueeze(1)[..., None]  # (B, 1, n, 1)

        strength = curvature.beta * (self._features**2).sum(1)
        directed = int((strength > 0).sum(1).max())  # none without a group Lasso
        strong = strength.topk(min(directed, n), dim=1).indices
        mean = curvature.alpha + curvature.beta.scatter(1, strong, 0.0) / (k - 1)
        gram = (self._features * mean[:, None]) @ self._features.mT
        blocks = gram[:, None] + torch.diag_embed(bounds.mT)  # (B, k, n, n)
        # As explicit inverses: a product with them is several times faster than two triangular solves.
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
        """The blocks' part of the inverse, for right-hand sides (B, k, n, any)."""
        free = self._inverses @ rows
        multiplier = torch.cholesky_solve(free.sum(1), self._row_sums)
        free -= self._inverses @ multiplier[:, None]
        # The rows' sums are zero up to rounding; what is left goes to the pivot, whose bound is far. Spread over the
        # row it would be multiplied by the huge Z/L of the entries at their bounds.
        pivot = self._pivot.expand(-1, -1, -1, free.shape[3])
        free.scatter_(1, pivot, 0.0)
        return free.scatter_(1, pivot, -free.sum(1, keepdim=True))

    def _precondition(self, rows: Tensor) -> Tensor:
        free = self._solve_blocks(rows.mT[..., None])[..., 0].mT
        along = ((self._columns.mT @ free) * self._units).sum(-1, keepdim=True)  # (B, r, 1)
        weights = torch.cholesky_solve(along, self._capacitance)
        return free - (self._solved.flatten(1, 2) @ weights).view_as(rows.mT).mT

    def solve(self, rhs: Tensor, tolerance: float) -> Tensor:
        q = torch.zeros_like(rhs)
        r = rhs
        z = self._precondition(r)
        p = z
        rz = first = _dot(r, z)
        for _ in range(self.max_iter):
            if bool((rz <= tolerance**2 * first).all()):
                break
            Mp = self._multiply(p)
            # A task that is solved has p = 0; its quotients are made 0 instead of 0/0.
            step = _quotient(rz, _dot(p, Mp))
            q = q + step * p
            r = r - step * Mp
            z = self._precondition(r)
            previous, rz = rz, _dot(r, z)
            p = z + _quotient(rz, previous) * p
        return q


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), keepdim=True)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / torch.where(b > 0, b, torch.ones_like(b)), torch.zeros_like(a))
