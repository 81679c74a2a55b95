"""Tasks with more features than samples: methods of cost O(n d), avoiding the d x d Gram matrix of the features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsedis.ops.common.least_squares import normal_equations
from sparsedis.ops.common.precision import ROUNDING
from sparsedis.ops.common.primal import Certificate, Progress
from sparsedis.ops.common.support import least_step, least_step_by_samples
from sparsedis.ops.lasso.problem import certificate
from sparsedis.solution import Status

# Up to this number of features the Gram matrix is formed even if there are fewer samples.
ALWAYS_GRAM = 64

Descend = Callable[..., tuple[Tensor, Certificate, Tensor, Tensor]]


def is_wide(features: Tensor) -> bool:
    """Whether the Gram matrix of all features (B, n, d) should be avoided."""
    _, n, d = features.shape
    return d > max(n, ALWAYS_GRAM)


def descend_in_working_sets(
    descend: Descend,
    features: Tensor,
    targets: Tensor,
    weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Certificate, Tensor, Tensor]:
    """Solve every task on growing working sets of features until no other feature violates the optimality conditions.

    A working set consists of the support and the inactive features with the largest correlations: 2 n features at
    first, twice as many each time. A task ends if its certificate, which covers all features, is at rounding error or
    no longer improves. Without lambda1 the solution has a closed form.

    Args:
        descend: solves a batch of tasks; same arguments and results as this function.

    Returns:
        w (B, d), its certificate, n_iter (B,), summed over the working sets, and status (B,). A task starts no further
        working set after ``max_iter`` iterations.
    """
    _, n, d = features.shape
    w = torch.zeros_like(features[:, 0])
    to_minimum = torch.zeros_like(lambda1)
    dense = lambda1 == 0
    if bool(dense.any()):
        w[dense], to_minimum[dense] = _least_squares(*(v[dense] for v in (features, targets, weight, lambda2)))
    at = certificate(features, targets, weight, lambda1, lambda2, w, to_minimum)
    progress = Progress(w, at, tol)
    n_iter = dense.to(torch.int64)
    status = torch.where(at.relative_gap <= tol, int(Status.CERTIFIED), int(Status.STALLED))
    progress.index = index = progress.index[~dense[progress.index]]
    size = min(max(2 * n, ALWAYS_GRAM), d)
    while len(index):
        X, y, c, l1, l2, w = (v[index] for v in (features, targets, weight, lambda1, lambda2, progress.weights))
        chosen = _most_violating(X, y, c, l2, w, size)
        inner, _, taken, ended = descend(_columns(X, chosen), y, c, l1, l2, tol, max_iter)
        w = torch.zeros_like(w).scatter(1, chosen, inner)
        better = progress.keep_better(w, certificate(X, y, c, l1, l2, w, torch.zeros_like(l1)))
        n_iter[index] += taken
        gap = progress.certificate.relative_gap[index]
        certified, spent = gap <= tol, n_iter[index] >= max_iter
        # If the inner solve is certified but the task is not, features outside the working set violate the conditions.
        ended = torch.where(ended == Status.CERTIFIED, int(Status.STALLED), ended)
        ended = torch.where(spent, int(Status.MAX_ITER), ended)
        status[index] = torch.where(certified, int(Status.CERTIFIED), ended)
        if size == d:
            break
        progress.index = index = index[~(gap <= min(tol, ROUNDING)) & ~(certified & ~better) & ~spent]
        size = min(max(2 * size, int((progress.weights != 0).sum(1).max()) + n), d)
    return progress.weights, progress.certificate, n_iter, status


def support_step(features: Tensor, weight: Tensor, lambda2: Tensor, active: Tensor, gradient: Tensor) -> Tensor:
    """H_A^+ gradient on the active features, 0 elsewhere, (B, d), computed from the active columns only."""
    size = max(int(active.sum(1).max()), 1)
    chosen = active.to(torch.int8).topk(size, dim=1).indices
    X, active, right = _columns(features, chosen), active.gather(1, chosen), gradient.gather(1, chosen)
    if is_wide(X):
        step = least_step_by_samples(X, weight, lambda2, active, right)
    else:
        H, _ = normal_equations(X, torch.zeros_like(X[..., :1]), weight, lambda2)
        step = least_step(H, active, right)
    return torch.zeros_like(gradient).scatter(1, chosen, step)


def _least_squares(features: Tensor, targets: Tensor, weight: Tensor, lambda2: Tensor) -> tuple[Tensor, Tensor]:
    """Least-norm minimiser (B, d) for lambda1 = 0, with one refinement, and its objective minus the minimum (B,)."""
    nonzero = (weight[..., None] * features**2).sum(1) > 0

    def step(w: Tensor) -> tuple[Tensor, Tensor]:
        residual = targets - (features @ w[..., None])[..., 0]
        gradient = (features.mT @ (weight * residual)[..., None])[..., 0] - lambda2[:, None] * w
        return least_step_by_samples(features, weight, lambda2, nonzero, gradient), gradient

    w, _ = step(torch.zeros_like(features[:, 0]))
    w = w + step(w)[0]
    remaining_step, gradient = step(w)
    return w, (gradient * remaining_step).sum(1).clamp_min(0) / 2


def _most_violating(features: Tensor, targets: Tensor, weight: Tensor, lambda2: Tensor, w: Tensor, size: int) -> Tensor:
    """Indices (B, size) of the support of w and the inactive features with the largest correlations."""
    residual = targets - (features @ w[..., None])[..., 0]
    gradient = (features.mT @ (weight * residual)[..., None])[..., 0] - lambda2[:, None] * w
    return torch.where(w != 0, torch.inf, gradient.abs()).topk(size, dim=1).indices


def _columns(features: Tensor, chosen: Tensor) -> Tensor:
    """The chosen (B, m) columns of the features (B, n, d), as (B, n, m)."""
    return features.gather(2, chosen[:, None].expand(-1, features.shape[1], -1))
