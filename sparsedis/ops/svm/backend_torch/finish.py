"""The last phase: projected semi-smooth Newton on the free entries of L, from a rough solution to rounding."""

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

# A relative gap that is rounding; and one that may be, where whole steps on the same free entries make it no better. So
# may be what rounding of margins of size 1 adds to the gap, for every sample: more than that beside objectives of 1e-6.
_ROUNDING, _ILL_CONDITIONED = 1e-14, 1e-9
_MARGIN_ROUNDING = 2 * torch.finfo(torch.float64).eps
# Rise of the dual objective, relative to P(W), that its own rounding can make.
_NOISE = 4 * torch.finfo(torch.float64).eps
_TINY = torch.finfo(torch.float64).tiny
# Turns without a gap half as large after which a task is given back, and turns at most.
_PATIENCE = 4
_MOST_TURNS = 30
# How often, within a turn, entries that the step takes below 0 are put to 0 and the others solved for again.
_ROUNDS = 3
_HALVINGS = 8


class Finished(NamedTuple):
    """What the finish made of M tasks."""

    dual: Tensor  # the best L, (M, n, k)
    relative_gap: Tensor  # its gap, (M,)
    turns: Tensor  # (M,) int64
    settled: Tensor  # (M,) bool: at rounding, no step makes it better
    oversized: Tensor  # (M,) bool: its system is too large for a factor


def finish(problem: Problem, dual: Tensor, multipliers: Tensor, most_turns: Tensor | None = None) -> Finished:
    """Take L (M, n, k), given with the multipliers of its bounds, to rounding.

    A turn solves Newton's system of the free entries, projects the step onto their simplices, halved until the dual
    objective does not rise, and chooses the free entries again: those above 0, and those at 0 whose derivative says up.
    Tasks that do not get better, or whose system is too large for a factor, are given back unsettled.

    Args:
        most_turns: (M,), at which a task stops; default: when it is settled, or does not get better.
    """
    best, best_gap = dual.clone(), torch.full_like(problem.lambda1, torch.inf)
    turns = torch.zeros_like(best_gap, dtype=torch.int64)
    settled = torch.zeros_like(turns, dtype=torch.bool)
    oversized = torch.zeros_like(settled)

    free = free_entries(problem, dual, multipliers, active_curvature(problem, certificate(problem, dual)))
    L = onto_free(dual, free, torch.where(free, 0, dual).sum(-1))
    at = certificate(problem, L)
    index = torch.arange(len(turns), device=turns.device)
    since = torch.zeros_like(turns)
    step = torch.ones_like(best_gap)
    same = torch.zeros_like(settled)
    for turn in range(_MOST_TURNS + 1):
        gap = at.relative_gap
        better, halved = gap < best_gap[index], gap <= 0.5 * best_gap[index]
        best[index[better]], best_gap[index[better]] = L[better], gap[better]
        turns[index] = turn
        since = torch.where(halved, 0, since + 1)
        noise = _MARGIN_ROUNDING * problem.weight.sum((1, 2)) / at.objective.clamp_min(_TINY)
        at_rounding = same & (step == 1) & ~halved & (best_gap[index] <= noise.clamp_min(_ILL_CONDITIONED))
        settled[index] = (best_gap[index] <= _ROUNDING) | at_rounding

        gradient = dual_gradient(problem, L, at.scores)
        wanted = (L > 0) | (gradient < (gradient * L).sum(-1, keepdim=True))
        going = ~settled[index] & (step > 0) & (since < _PATIENCE)
        if most_turns is not None:
            going &= turn < most_turns[index]
        oversized[index] = ~settled[index] & (wanted.sum((1, 2)) - problem.shape[1] > DENSE_LIMIT)
        going &= ~oversized[index]
        if turn == _MOST_TURNS or not bool(going.any()):
            break
        if not bool(going.all()):
            kept = going.nonzero()[:, 0]
            index, problem, at = index[kept], problem.take(kept), Certificate(*(value[kept] for value in at))
            L, free, wanted, gradient, since = (value[kept] for value in (L, free, wanted, gradient, since))
        same = (wanted == free).flatten(1).all(1)
        free = wanted
        L, at, step = _search(problem, L, at, free, _direction(problem, at, L, free, gradient))
    return Finished(best, best_gap, turns, settled, oversized)


def finish_solution(problem: Problem, dual: Tensor) -> Finished:
    """:func:`finish` from L alone, whichever solver found it."""
    return finish(problem, dual, bound_multipliers(problem, dual, certificate(problem, dual).scores))


def free_entries(problem: Problem, dual: Tensor, multipliers: Tensor, curvature: Curvature) -> Tensor:
    """(B, n, k) bool: the entries that the curvature along them would leave above 0; a row's largest one always.

    Those with L_il h_il > Z_il, h the diagonal of H.
    """
    squares = (problem.weight * problem.features) ** 2
    diagonal = squares @ (curvature.alpha[..., None] + curvature.beta[..., None] * curvature.unit**2)
    diagonal = diagonal + problem.weight * problem.rho[:, None, None]
    return (dual * diagonal > multipliers).scatter(2, dual.argmax(-1, keepdim=True), True)


def bound_multipliers(problem: Problem, dual: Tensor, scores: Tensor) -> Tensor:
    """The multipliers of L >= 0 at a solution: the dual gradient above its row's smallest entry, (B, n, k)."""
    gradient = dual_gradient(problem, dual, scores)
    return gradient - gradient.amin(-1, keepdim=True)


def onto_free(points: Tensor, free: Tensor, missing: Tensor) -> Tensor:
    """Projection of rows onto the simplex of their free entries; the others become 0.

    The threshold is made of what the free entries lack (``missing``, (B, n): 1 less their sum) and of the entries that
    it cuts off, not of 1 less the sum of the kept ones, in which entries of the size of lambda2 would drown.
    """
    k = points.shape[-1]
    ordered = torch.where(free, points, -torch.inf).sort(-1, descending=True).values
    present = ordered > -torch.inf
    values = torch.where(present, ordered, 0)
    # The sum of the entries after the c-th: what is cut off where c are kept.
    cut = values.flip(-1).cumsum(-1).flip(-1) - values
    tau = -(missing[..., None] + cut) / torch.arange(1, k + 1, device=points.device, dtype=points.dtype)
    last = (present & (ordered > tau)).sum(-1, keepdim=True).clamp_min(1) - 1
    return torch.where(free, (points - tau.gather(-1, last)).clamp_min(0), 0)


def _direction(problem: Problem, at: Certificate, dual: Tensor, free: Tensor, gradient: Tensor) -> Tensor:
    """Newton's step on the free entries, (B, n, k), rows summing to zero; entries that it takes below 0 end at 0.

    They are fixed there and the others solved for again. Left to the projection, which spreads what is below 0 over the
    row, one such entry among hundreds makes the step short.
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
    """The chosen coordinates of the damped Newton step, 0 at the others."""
    return torch.cholesky_solve(torch.where(chosen, rhs, 0)[..., None], damped_factor(matrix, chosen))[..., 0]


def _search(
    problem: Problem, dual: Tensor, at: Certificate, free: Tensor, direction: Tensor
) -> tuple[Tensor, Certificate, Tensor]:
    """The projection of L + t dL for the first t = 1, 1/2, ... at which the dual objective does not rise.

    Returns:
        That point, its certificate, and t, (B,); where there is none L itself and 0.
    """
    allowed = at.gap - at.objective + _NOISE * at.objective  # the dual objective, up to a constant
    start, dual, at = dual, dual.clone(), Certificate(*(value.clone() for value in at))
    taken = torch.zeros_like(allowed)
    index = torch.arange(len(taken), device=taken.device)
    size = 1.0
    for _ in range(_HALVINGS):
        every = len(index) == len(taken)
        trial = start[index] + size * direction[index]
        trial = onto_free(trial, free[index], torch.zeros_like(trial[..., 0]))
        there = certificate(problem if every else problem.take(index), trial)
        fine = there.gap - there.objective <= allowed[index]
        chosen = index[fine]
        dual[chosen], taken[chosen] = trial[fine], size
        for value, new in zip(at, there, strict=True):
            value[chosen] = new[fine]
        index = index[~fine]
        if len(index) == 0:
            break
        size /= 2
    return dual, at, taken
