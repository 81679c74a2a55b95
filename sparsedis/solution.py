"""What a solve returns: values, certificate and status of every task."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor


class Status(IntEnum):
    """How the solve of one task ended; :attr:`message` says what to do."""

    CERTIFIED = 0
    MAX_ITER = 1
    STALLED = 2

    @property
    def message(self) -> str:
        return _MESSAGES[self]


_MESSAGES = {
    Status.CERTIFIED: "The relative duality gap is at most tol.",
    Status.MAX_ITER: (
        "The maximum number of iterations was reached. Increase max_iter, use solver='newton', or increase lambda2."
    ),
    Status.STALLED: (
        "The gap stopped decreasing above tol. Increase tol, give the features as float64, or increase lambda2."
    ),
}


class NotCertifiedError(RuntimeError):
    """Raised by ``throw=True`` when a task's relative gap stayed above ``tol``."""


@dataclass(frozen=True)
class Solution:
    """A batch of solved tasks; without the batch dimension B when one task was given.

    Only :attr:`weights` carries gradients.

    Attributes:
        weights: W, (B, d, k), in the features' dtype (float32 for half precision).
        dual: L, (B, n, k), rows in the simplex, in float64: the certificate can be computed again from it.
        gap: P(W) - D(L) >= 0, (B,), float64.
        relative_gap: gap / P(W), (B,), float64.
        objective: P(W), (B,), float64.
        n_iter: iterations used, (B,), int64.
        status: values of :class:`Status`, (B,), int64.
        active: (B, d) bool, True where the feature's row of W is not zero.
        sparsity: share of features off, (B,), float64.
        solver: the solver that ran.
        backend: the backend that ran.
    """

    weights: Tensor
    dual: Tensor
    gap: Tensor
    relative_gap: Tensor
    objective: Tensor
    n_iter: Tensor
    status: Tensor
    active: Tensor
    sparsity: Tensor
    solver: str
    backend: str

    @property
    def certified(self) -> Tensor:
        """(B,) bool: the relative gap is at most the tolerance asked for."""
        return self.status == Status.CERTIFIED

    def messages(self) -> list[str]:
        """One sentence for every task: what happened and what to do."""
        return [Status(int(value)).message for value in self.status.reshape(-1).tolist()]
