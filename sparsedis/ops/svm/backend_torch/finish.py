"""The finish: projected semismooth Newton on the free entries of L, from a rough solution to rounding error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis.ops.svm.backend_torch.hessian import (
    DENSE_LIMIT,
    Coordinates,
    Curvature,
    active_curvature,
    damped_factor,
    newton_matrix,
)
from sparsedis.ops.svm.problem import Certificate, Problem, certificate, dual_gradient

# A relative gap that is rounding error, and one that counts as such if a full step with the same free entries does not
# halve it. The latter is raised to _MARGIN_ROUNDING per sample, the rounding error of margins of size 1, which exceeds
# it for objectives of about 1e-6.
_ROUNDING, _ILL_CONDITIONED = 1e-14, 1e-9
_MARGIN_ROUNDING = 2 * torch.finfo(torch.float64).eps
# Increase of the dual objective, relative to P(W), that rounding alone can cause.
_NOISE = 4 * torch.finfo(torch.float64).eps
_TINY = torch.finfo(torch.float64).tiny
# Iterations without halving the gap after which a task is returned unsettled, and largest number of iterations.
_PATIENCE = 4
_MAX_ITER = 30
# Rounds per iteration in which entries that the step makes negative are fixed at 0 and the others are solved for again.
_ROUNDS = 3
_HALVINGS = 8


class Finished(NamedTuple):
    """Result of the finish for M tasks."""

    dual: Tensor  # the best L, (M, n, k)
    relative_gap: Tensor  # its gap, (M,)
    n_iter: Tensor  # iterations, (M,) int64
    settled: Tensor  # (M,) bool: accurate to rounding error, no step improves it
    oversized: Tensor  # (M,) bool: the system is too large to factor


def finish(problem: Problem, dual: Tensor, multipliers: Tensor, max_iter: Tensor | None = None) -> Finished:
    """Improve L (M, n, k), given with the multipliers of its bounds, to rounding error.

    An iteration solves the Newton system of the free entries and projects the step onto their simplices, halving it
    until the dual objective does not increase. It then chooses the free entries anew: those above 0, and those at 0
    whose derivative favours an increase. Tasks that stop improving, or whose system is too large to factor, are
    returned unsettled.

    Args:
        problem: the tasks.
        dual: L, (M, n, k).
        multipliers: (M, n, k).
        max_iter: largest number of iterations, (M,); default: only the built-in limit.
    """
    best, best_gap = dual.clone(), torch.full_like(problem.lambda1, torch.inf)
    n_iter = torch.zeros_like(best_gap, dtype=torch.int64)
    settled = torch.zeros_like(n_iter, dtype=torch.bool)
    oversized = torch.zeros_like(settled)

    free = free_entries(problem, dual, multipliers, active_curvature(problem, certificate(problem, dual)))
    L = project_on_free_simplex(dual, free, torch.where(free, 0, dual).sum(-1))
    at = certificate(problem, L)
    index = torch.arange(len(n_iter), device=n_iter.device)
    stagnant = torch.zeros_like(n_iter)
    step = torch.ones_like(best_gap)
    same = torch.zeros_like(settled)
    for iteration in range(_MAX_ITER + 1):
        gap = at.relative_gap
        better, halved = gap < best_gap[index], gap <= 0.5 * best_gap[index]
        best[index[better]], best_gap[index[better]] = L[better], gap[better]
        n_iter[index] = iteration
        stagnant = torch.where(halved, 0, stagnant + 1)
        noise = _MARGIN_ROUNDING * problem.weight.sum((1, 2)) / at.objective.clamp_min(_TINY)
        at_rounding = same & (step == 1) & ~halved & (best_gap[index] <= noise.clamp_min(_ILL_CONDITIONED))
        settled[index] = (best_gap[index] <= _ROUNDING) | at_rounding

        gradient = dual_gradient(problem, L, at.scores)
        next_free = (L > 0) | (gradient < (gradient * L).sum(-1, keepdim=True))
        going = ~settled[index] & (step > 0) & (stagnant < _PATIENCE)
        if max_iter is not None:
            going &= iteration < max_iter[index]
        oversized[index] = ~settled[index] & (next_free.sum((1, 2)) - problem.shape[1] > DENSE_LIMIT)
        going &= ~oversized[index]
        if iteration == _MAX_ITER or not bool(going.any()):
            break
        if not bool(going.all()):
            kept = going.nonzero()[:, 0]
            index, problem, at = index[kept], problem.take(kept), Certificate(*(value[kept] for value in at))
            L, free, next_free, gradient, stagnant = (value[kept] for value in (L, free, next_free, gradient, stagnant))
        same = (next_free == free).flatten(1).all(1)
        free = next_free
        L, at, step = _search(problem, L, at, free, _direction(problem, at, L, free, gradient))
    return Finished(best, best_gap, n_iter, settled, oversized)


def finish_solution(problem: Problem, dual: Tensor) -> Finished:
    """:func:`finish` from L alone, for a solution of any solver."""
    return finish(problem, dual, bound_multipliers(problem, dual, certificate(problem, dual).scores))


def free_entries(problem: Problem, dual: Tensor, multipliers: Tensor, curvature: Curvature) -> Tensor:
    """(B, n, k) bool: the entries that a Newton step would keep positive, and always the largest entry of a row.

    The former are the entries with L_il h_il > Z_il, where h is the diagonal of H.
    """
    squares = (problem.weight * problem.features) ** 2
    diagonal = squares @ (curvature.alpha[..., None] + curvature.beta[..., None] * curvature.unit**2)
    diagonal = diagonal + problem.weight * problem.rho[:, None, None]
    return (dual * diagonal > multipliers).scatter(2, dual.argmax(-1, keepdim=True), True)


def bound_multipliers(problem: Problem, dual: Tensor, scores: Tensor) -> Tensor:
    """Multipliers of L >= 0 at a solution: the dual gradient minus the smallest entry of its row, (B, n, k)."""
    gradient = dual_gradient(problem, dual, scores)
    return gradient - gradient.amin(-1, keepdim=True)


def project_on_free_simplex(points: Tensor, free: Tensor, missing: Tensor) -> Tensor:
    """Projection of rows onto the simplex of their free entries; bound entries become 0.

    The threshold is computed from ``missing`` (B, n), 1 minus the sum of the free entries, and from the entries that it
    cuts off. Computing it as 1 minus the sum of the kept entries would lose entries of the size of lambda2 to rounding.
    """
    k = points.shape[-1]
    ordered = torch.where(free, points, -torch.inf).sort(-1, descending=True).values
    present = ordered > -torch.inf
    values = torch.where(present, ordered, 0)
    # Sum of the entries after the c-th, which are cut off if c are kept.
    cut = values.flip(-1).cumsum(-1).flip(-1) - values
    tau = -(missing[..., None] + cut) / torch.arange(1, k + 1, device=points.device, dtype=points.dtype)
    last = (present & (ordered > tau)).sum(-1, keepdim=True).clamp_min(1) - 1
    return torch.where(free, (points - tau.gather(-1, last)).clamp_min(0), 0)


def _direction(problem: Problem, at: Certificate, dual: Tensor, free: Tensor, gradient: Tensor) -> Tensor:
    """Newton step on the free entries, (B, n, k), with rows summing to zero; entries that it makes negative end at 0.

    These entries are fixed at 0 and the others are solved for again. The projection alone would distribute the negative
    part over the row, so that one such entry among hundreds shortens the step.
    """
    coordinates = Coordinates(dual, free)
    bounds = (problem.weight * problem.rho[:, None, None]).expand_as(dual)
    matrix = newton_matrix(problem, active_curvature(problem, at), bounds, coordinates)
    rhs, value = coordinates.reduce(-gradient), coordinates.take(dual)
    step = _solve(matrix, coordinates.valid, rhs)
    fixed = torch.zeros_like(coordinates.valid)
    for _ in range(_ROUNDS):
        below = coordinates.valid & ~fixed & (value + step < 0)
        index = below.any(1).nonzero()[:, 0]
        if len(index) == 0:
            break
        fixed |= below
        known = torch.where(fixed, -value, 0)[index]
        right = rhs[index] - (matrix[index] @ known[..., None])[..., 0]
        moving = coordinates.valid[index] & ~fixed[index]
        step[index] = known + _solve(matrix[index], moving, right)
    return coordinates.expand(step, dual)


def _solve(matrix: Tensor, chosen: Tensor, rhs: Tensor) -> Tensor:
    """The damped Newton step on the chosen coordinates, 0 on the others."""
    return torch.cholesky_solve(torch.where(chosen, rhs, 0)[..., None], damped_factor(matrix, chosen))[..., 0]


def _search(
    problem: Problem, dual: Tensor, at: Certificate, free: Tensor, direction: Tensor
) -> tuple[Tensor, Certificate, Tensor]:
    """Projection of L + t dL for the first t = 1, 1/2, ... at which the dual objective does not increase.

    Returns:
        The point, its certificate, and t, (B,). If no t is found, L itself and t = 0.
    """
    allowed = at.gap - at.objective + _NOISE * at.objective  # the dual objective, up to a constant
    start, dual, at = dual, dual.clone(), Certificate(*(value.clone() for value in at))
    taken = torch.zeros_like(allowed)
    index = torch.arange(len(taken), device=taken.device)
    size = 1.0
    for _ in range(_HALVINGS):
        all_tasks = len(index) == len(taken)
        trial = start[index] + size * direction[index]
        trial = project_on_free_simplex(trial, free[index], torch.zeros_like(trial[..., 0]))
        trial_certificate = certificate(problem if all_tasks else problem.take(index), trial)
        accepted = trial_certificate.gap - trial_certificate.objective <= allowed[index]
        chosen = index[accepted]
        dual[chosen], taken[chosen] = trial[accepted], size
        for value, new in zip(at, trial_certificate, strict=True):
            value[chosen] = new[accepted]
        index = index[~accepted]
        if len(index) == 0:
            break
        size /= 2
    return dual, at, taken
