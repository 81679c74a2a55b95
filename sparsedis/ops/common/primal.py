"""Progress of the primal solvers on a batch: each task's best weights so far, and the tasks that continue."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis.ops.common.precision import ROUNDING
from sparsedis.solution import Status

# Number of iterations without a smaller gap or a lower objective after which a task counts as stalled.
PATIENCE = 20


class Certificate(NamedTuple):
    """Dual point, duality gap and objective of weights W of B tasks."""

    dual: Tensor  # (B, n) or (B, n, k); 0 for padding
    gap: Tensor  # (B,)
    relative_gap: Tensor  # gap / P(0), (B,)
    objective: Tensor  # P(W), (B,)


class Progress:
    """The best weights of B tasks, their certificate, iterations and status, and which tasks continue.

    A task whose gap is below ``tol`` continues to rounding error: its gradient requires the correct active set.

    Args:
        weights: initial weights, (B, ...).
        certificate: of the initial weights.
        tol: relative gap up to which a task is certified.
    """

    def __init__(self, weights: Tensor, certificate: Certificate, tol: float) -> None:
        self.weights, self.certificate = weights.clone(), certificate
        self.n_iter = torch.zeros(len(weights), dtype=torch.int64, device=weights.device)
        self.status = torch.where(certificate.relative_gap <= tol, int(Status.CERTIFIED), int(Status.MAX_ITER))
        self._tol, self._goal = tol, min(tol, ROUNDING)
        self.index = (~(certificate.relative_gap <= self._goal)).nonzero()[:, 0]  # the tasks that continue, (M,)
        self._lowest = certificate.objective.clone()
        self._since_better = torch.zeros_like(self.n_iter)

    def restart(self, which: Tensor) -> None:
        """Another method takes over the continuing tasks ``which`` (M,), bool; their objective may rise."""
        self._lowest[self.index[which]] = torch.inf

    def keep_better(self, weights: Tensor, certificate: Certificate) -> Tensor:
        """Keep the continuing tasks' weights (M, ...) if their gap is smaller; returns where, (M,) bool."""
        better = certificate.relative_gap < self.certificate.relative_gap[self.index]  # false for NaN
        improved = self.index[better]
        self.weights[improved] = weights[better]
        for kept, new in zip(self.certificate, certificate, strict=True):
            kept[improved] = new[better]
        return better

    def record(self, weights: Tensor, certificate: Certificate, same: Tensor, iteration: int) -> Tensor:
        """Record an iteration's weights (M, ...) of the tasks that continue.

        A task has converged to rounding if its gap is at most 1e-13, or, where rounding prevents such a gap, if it is
        certified and an iteration changed neither the best gap nor the active set. It ends then or when it stalls.

        Args:
            weights: (M, ...).
            certificate: of these weights.
            same: whether the iteration left the active set unchanged, (M,) bool.
            iteration: number of the iteration, from 1.

        Returns:
            (M,) bool: which of the tasks continue. ``index`` is updated to these.
        """
        index, lowest = self.index, self._lowest[self.index]
        better = self.keep_better(weights, certificate)
        progress = better | (certificate.objective < lowest)
        self._lowest[index] = torch.minimum(lowest, certificate.objective)
        self._since_better[index] = since = torch.where(progress, 0, self._since_better[index] + 1)
        self.n_iter[index] = iteration
        gap = self.certificate.relative_gap[index]
        certified = gap <= self._tol
        ended = (certified & ~better & same) | (since >= PATIENCE) | ~torch.isfinite(certificate.relative_gap)
        self.status[index[certified]] = int(Status.CERTIFIED)
        self.status[index[ended & ~certified]] = int(Status.STALLED)
        continues = ~ended & ~(gap <= self._goal)
        self.index = index[continues]
        return continues
