"""Accelerated proximal gradient on the dual, with restarts."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.svm.backend_torch.progress import Progress
from sparsedis.ops.svm.problem import (
    Problem,
    block_soft_threshold,
    certificate,
    correlation,
    dual_gradient,
    residual,
    row_norms,
    simplex_projection,
)
from sparsedis.ops.svm.thresholds import (
    CHECK_EVERY,
    ENTRY_COST,
    EXPECTED_STEPS,
    FIRST_ORDER_ORDER,
    FIRST_ORDER_PATIENCE,
    FIRST_ORDER_SHARE,
    FIRST_ORDER_TRIAL,
)


def lipschitz(problem: Problem) -> Tensor:
    """Lipschitz constant of the dual gradient, (B,): lambda_max(D X X^T D)/lambda2 + rho, for a largest weight of 1."""
    weighted = problem.weight * problem.features
    fewer = weighted if problem.shape[1] <= problem.shape[2] else weighted.mT
    largest = torch.linalg.eigvalsh(fewer @ fewer.mT)[:, -1]
    return (largest / problem.lambda2 + problem.rho).clamp_min(torch.finfo(largest.dtype).tiny)


def first_order_steps(problem: Problem) -> Tensor:
    """Number of first-order steps to try before newton, (B,) int64.

    It is 0 if the Newton matrix is small, and otherwise a budget of half of newton's usual cost. If more steps than
    that are expected, it is a fraction of the budget without a group Lasso, where fewer often suffice, and otherwise 0.
    """
    batch, n, d, k = problem.shape
    order = n * (k - 1)
    if order < FIRST_ORDER_ORDER:
        return torch.zeros(batch, dtype=torch.int64, device=problem.features.device)
    budget = FIRST_ORDER_SHARE * order**2 / (ENTRY_COST + d)
    expected = EXPECTED_STEPS * n / k * lipschitz(problem).sqrt()
    trial = torch.where(problem.lambda1 == 0, FIRST_ORDER_TRIAL, 0.0)
    return (torch.where(expected <= budget, 1.0, trial) * budget).long()


def fista(problem: Problem, tol: float, max_iter: int) -> Progress:
    """Solve every task to a relative gap of ``tol``: step size 1/L, momentum with the gradient restart scheme.

    Source: Beck and Teboulle 2009; O'Donoghue and Candes 2015 (gradient restart).
    """
    progress = Progress(problem, tol, patience=FIRST_ORDER_PATIENCE)
    index = torch.arange(problem.shape[0], device=problem.features.device)
    step = 1 / lipschitz(problem)
    dual = progress.dual.clone()
    extrapolated = dual
    momentum = torch.ones_like(problem.lambda1)
    for iteration in range(max_iter + 1):
        if iteration % CHECK_EVERY == 0 or iteration == max_iter:
            going = progress.record(index, dual, certificate(problem, dual).relative_gap, iteration)
            going &= ~progress.certified[index]
            if not bool(going.any()):
                break
            if not bool(going.all()):
                kept = going.nonzero()[:, 0]
                index, problem = index[kept], problem.take(kept)
                step, dual, extrapolated, momentum = step[kept], dual[kept], extrapolated[kept], momentum[kept]
        gradient = dual_gradient(problem, extrapolated, _scores(problem, extrapolated))
        new, _ = simplex_projection(extrapolated - step[:, None, None] * gradient)
        change = new - dual
        uphill = ((extrapolated - new) * change).sum((1, 2)) > 0
        momentum = torch.where(uphill, 1.0, momentum)
        next_momentum = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        extrapolated = new + ((momentum - 1) / next_momentum)[:, None, None] * change
        dual, momentum = new, next_momentum
    return progress


def _scores(problem: Problem, dual: Tensor) -> Tensor:
    V = correlation(problem, residual(problem, dual))
    return problem.features @ (block_soft_threshold(V, row_norms(V), problem.lambda1) / problem.lambda2[:, None, None])
