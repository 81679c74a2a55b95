"""A subset of the rows of W in every task, updated together."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sparsedis.ops.logistic.problem import Problem, row_norms


def active_rows(problem: Problem, W: Tensor) -> Tensor:
    """(B, d) bool: rows that are nonzero or have no group Lasso, and whose feature is nonzero."""
    nonzero = (problem.weight * problem.features**2).sum(1) > 0
    return nonzero & ((row_norms(W) > 0) | (problem.lambda1 == 0))


@dataclass(frozen=True)
class Rows:
    """The chosen rows of B tasks, padded to the largest number a of any task.

    Attributes:
        X: features of the rows, (B, n, a).
        W: (B, a, k).
        lambda1, lambda2: (B, a).
        weight: c, (B, n, 1).
        present: (B, a), bool; False for padded rows, which are to be ignored.
        index: row indices in W, (B, a).
    """

    X: Tensor
    W: Tensor
    lambda1: Tensor
    lambda2: Tensor
    weight: Tensor
    present: Tensor
    index: Tensor

    @classmethod
    def of(cls, problem: Problem, W: Tensor, chosen: Tensor) -> Rows:
        """The rows of W (B, d, k) selected by ``chosen`` (B, d), bool."""
        count = max(1, int(chosen.sum(1).max()))
        present, index = chosen.sort(dim=1, descending=True, stable=True)
        present, index = present[:, :count], index[:, :count]
        X = problem.features.gather(2, index[:, None].expand(-1, problem.features.shape[1], -1))
        lambda1, lambda2 = problem.lambda1.gather(1, index), problem.lambda2.gather(1, index)
        return cls(X, _take(W, present, index), lambda1, lambda2, problem.weight, present, index)

    @classmethod
    def all(cls, problem: Problem, W: Tensor) -> Rows:
        """All rows of W (B, d, k)."""
        index = torch.arange(W.shape[1], device=W.device).expand(W.shape[:2])
        present = torch.ones_like(index, dtype=torch.bool)
        return cls(problem.features, W, problem.lambda1, problem.lambda2, problem.weight, present, index)

    def tasks(self, index: Tensor) -> Rows:
        """The rows of the tasks selected by ``index``."""
        return Rows(*(getattr(self, field.name)[index] for field in fields(self)))

    def take(self, values: Tensor) -> Tensor:
        """Gather rows: (B, d, k) -> (B, a, k), 0 in padded rows."""
        return _take(values, self.present, self.index)

    def scatter(self, rows: Tensor, d: int) -> Tensor:
        """Scatter rows: (B, a, k) -> (B, d, k), 0 elsewhere."""
        out = rows.new_zeros(len(rows), d, rows.shape[2])
        return out.scatter_add(1, self.index[..., None].expand_as(rows), rows * self.present[..., None])


def _take(values: Tensor, present: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2])) * present[..., None]
