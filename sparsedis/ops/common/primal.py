"""What solvers in the primal record of a batch: the best weights of every task so far, and which tasks continue."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis.ops.common.precision import ROUNDING
from sparsedis.solution import Status

# Iterations without a better gap or a lower objective after which a task has stalled.
PATIENCE = 20


class Certificate(NamedTuple):
    """What one pass over the features says about weights W of B tasks."""

    dual: Tensor  # (B, n) or (B, n, k), 0 for absent samples
    gap: Tensor  # (B,)
    relative_gap: Tensor  # gap / P(0), (B,)
    objective: Tensor  # P(W), (B,)


class Progress:
    """The best weights of B tasks, their certificate, iterations and status, and which tasks continue.

    A task continues to rounding, beyond ``tol``, as the gradient takes the right active set.

    Args:
        weights: the start, (B, ...).
        certificate: of the start.
        tol: the relative gap from which on a task is certified.
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
        """Another method begins with some of the tasks that continue, ``which`` (M,) bool; their objective may rise."""
        self._lowest[self.index[which]] = torch.inf

    def offer(self, weights: Tensor, certificate: Certificate) -> Tensor:
        """Keep the weights (M, ...) of the tasks that continue where they are better; (M,) bool, where."""
        better = certificate.relative_gap < self.certificate.relative_gap[self.index]  # false for NaN
        improved = self.index[better]
        self.weights[improved] = weights[better]
        for kept, new in zip(self.certificate, certificate, strict=True):
            kept[improved] = new[better]
        return better

    def record(self, weights: Tensor, certificate: Certificate, same: Tensor, iteration: int) -> Tensor:
        """Take in an iteration's weights (M, ...) of the tasks that continue.

        A task ends at rounding: at a gap of 1e-13 or, where that is too small for its features, certified after an
        iteration that found no better gap and the same active set. Otherwise it ends where it has stalled.

        Args:
            same: whether the active set is that from before the iteration, (M,) bool.

        Returns:
            (M,) bool: which of them continue; ``index`` then holds these.
        """
        index, lowest = self.index, self._lowest[self.index]
        better = self.offer(weights, certificate)
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
