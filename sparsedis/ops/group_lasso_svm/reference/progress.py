"""The best dual point of every task so far, and which tasks go on: shared by all solvers."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.problem import Problem
from sparsedis.solution import Status


class Progress:
    """Best L, its relative gap, iteration count and status of B tasks.

    Args:
        problem: the tasks.
        patience: checks without a better gap after which a task counts as stalled. newton has been seen to wander for
            35 and then converge.
    """

    def __init__(self, problem: Problem, patience: int = 60) -> None:
        batch, _, _, k = problem.shape
        self.dual = torch.full_like(problem.targets, 1 / k)
        self.relative_gap = torch.full_like(problem.lambda1, torch.inf)
        self.n_iter = torch.zeros(batch, dtype=torch.int64, device=self.dual.device)
        self.status = torch.full_like(self.n_iter, Status.MAX_ITER)
        self._since_better = torch.zeros_like(self.n_iter)
        self._patience = patience

    def record(self, index: Tensor, dual: Tensor, relative_gap: Tensor, iteration: int | Tensor, tol: float) -> Tensor:
        """Take in a dual point (M, n, k) of each of the tasks ``index`` (M,).

        Returns:
            (M,) bool: the tasks that are neither certified nor stalled.
        """
        better = relative_gap < self.relative_gap[index]  # false for NaN
        improved = index[better]
        self.dual[improved] = dual[better]
        self.relative_gap[improved] = relative_gap[better]
        since = torch.where(better, 0, self._since_better[index] + 1)
        self._since_better[index] = since
        self.n_iter[index] = iteration
        certified = self.relative_gap[index] <= tol
        stalled = ~certified & ((since >= self._patience) | ~torch.isfinite(relative_gap))
        status = torch.where(stalled, int(Status.STALLED), int(Status.MAX_ITER))
        self.status[index] = torch.where(certified, int(Status.CERTIFIED), status)
        return ~(certified | stalled)
