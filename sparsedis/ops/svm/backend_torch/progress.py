"""Progress of the SVM solvers on a batch: each task's best dual point so far, and the tasks that continue."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.svm.problem import Problem
from sparsedis.solution import Status

# Checks without halving the gap after which a certified task that continues to rounding error counts as stalled.
CERTIFIED_PATIENCE = 6


class Progress:
    """Best L of B tasks, its relative gap, and iteration counts.

    Args:
        problem: the tasks.
        tol: relative gap up to which a task is certified.
        patience: number of checks without a smaller gap after which a task counts as stalled. newton has been observed
            to stagnate for 35 iterations and then converge.
    """

    def __init__(self, problem: Problem, tol: float, patience: int = 60) -> None:
        batch, _, _, k = problem.shape
        self.dual = torch.full_like(problem.targets, 1 / k)
        self.relative_gap = torch.full_like(problem.lambda1, torch.inf)
        self.n_iter = torch.zeros(batch, dtype=torch.int64, device=self.dual.device)
        self.stalled = torch.zeros_like(self.n_iter, dtype=torch.bool)
        self._since_better = torch.zeros_like(self.n_iter)
        self._tol, self._patience = tol, patience

    @property
    def certified(self) -> Tensor:
        """(B,) bool: the relative gap is at most ``tol``."""
        return self.relative_gap <= self._tol

    @property
    def status(self) -> Tensor:
        """(B,) int64: values of :class:`Status`."""
        ended = torch.where(self.stalled, int(Status.STALLED), int(Status.MAX_ITER))
        return torch.where(self.certified, int(Status.CERTIFIED), ended)

    def restart(self, index: Tensor) -> None:
        """Reset the patience of the tasks ``index``, for which another method takes over."""
        self._since_better[index] = 0

    def keep_better(self, index: Tensor, dual: Tensor, relative_gap: Tensor) -> Tensor:
        """Keep those of the dual points (M, n, k) of the tasks ``index`` (M,) that are better; returns which, (M,)."""
        better = relative_gap < self.relative_gap[index]  # false for NaN
        improved = index[better]
        self.dual[improved] = dual[better]
        self.relative_gap[improved] = relative_gap[better]
        return better

    def record(self, index: Tensor, dual: Tensor, relative_gap: Tensor, iteration: int | Tensor) -> Tensor:
        """Record an iteration's dual points (M, n, k) of the tasks ``index`` (M,).

        Returns:
            (M,) bool: the tasks that are not stalled.
        """
        before = self.relative_gap[index]
        self.keep_better(index, dual, relative_gap)
        certified = before <= self._tol
        better = relative_gap < torch.where(certified, before / 2, before)
        self._since_better[index] = since = torch.where(better, 0, self._since_better[index] + 1)
        self.n_iter[index] = iteration
        patience = torch.where(certified, min(CERTIFIED_PATIENCE, self._patience), self._patience)
        self.stalled[index] = (since >= patience) | ~torch.isfinite(relative_gap)
        return ~self.stalled[index]
