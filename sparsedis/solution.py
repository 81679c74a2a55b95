"""What a solve returns: values, certificate and status of every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor


class Status(IntEnum):
    """How the solve of one task ended; :attr:`message` says what to do."""

    CERTIFIED = 0
    MAX_ITER = 1
    STALLED = 2
    PRECISION = 3

    @property
    def message(self) -> str:
        return _MESSAGES[self]


_MESSAGES = {
    Status.CERTIFIED: "The relative duality gap is at most tol.",
    Status.MAX_ITER: (
        "The maximum number of iterations was reached. Increase max_iter, increase lambda2, or use the default solver."
    ),
    Status.PRECISION: (
        "The gap is above tol, and rounding keeps it there: of the weights to their dtype, or of float64 where terms "
        "cancel. Centre the features (subtract their mean), or give them as float64."
    ),
    Status.STALLED: (
        "The gap stopped decreasing above tol. Increase tol, give the features as float64, or increase lambda2."
    ),
}


class NotCertifiedError(RuntimeError):
    """Raised by ``throw=True`` when a task's relative gap stayed above ``tol``."""


@dataclass(frozen=True, eq=False)
class Solution:
    """A batch of solved tasks; without the batch dimension B when one task was given.

    ``==`` is identity; whether the values of two solutions agree is a question of a tolerance.

    Only :attr:`weights` and :attr:`intercept` carry gradients.

    Attributes:
        weights: in the features' dtype (float32 for half precision); W, (B, d, k), for classifiers, w, (B, d), for
            regressions, (B, d, m) for m targets.
        dual: the dual point, in float64: the certificate can be computed again from it. L, (B, n, k), rows in the
            simplex, for classifiers; residuals (B, n) or (B, n, m) for regressions.
        gap: P(W) - D >= 0, (B,), float64.
        relative_gap: what ``tol`` bounds: gap / P(W) for the SVM; gap / P(0) for the others, whose P(W) may vanish,
            with the best intercept if there is one; (B,), float64.
        objective: P(W), (B,), float64.
        n_iter: iterations used, (B,), int64.
        status: values of :class:`Status`, (B,), int64.
        active: (B, d) bool, True where the feature's weight or row of W is not zero.
        solver: the solver that ran.
        backend: the backend that ran.
        intercept: (B, k), of a logistic regression solved with one; else None.
        margin: (B,), float64, >= 0 and scale-free: how far the solution is from a kink, where a feature or an entry of
            the dual point is on the edge between active and not, and the gradient is one of several. Gradients are
            right to rounding where it is well above rounding; 0 is at a kink.
    """

    weights: Tensor
    dual: Tensor
    gap: Tensor
    relative_gap: Tensor
    objective: Tensor
    n_iter: Tensor
    status: Tensor
    active: Tensor
    solver: str
    backend: str
    intercept: Tensor | None = None
    margin: Tensor | None = None

    @classmethod
    def of(
        cls,
        values: Sequence[Tensor],
        factor: Tensor | None = None,
        *,
        single: bool,
        solver: str,
        backend: str,
        intercept: Tensor | None = None,
    ) -> Solution:
        """From what an operation returns: weights, dual, gap, relative_gap, objective, n_iter, status, active, margin.

        ``factor`` (B,) is of gap and objective: N for losses that are summed and were solved averaged. ``single`` takes
        the batch dimension away.
        """
        if single:
            values = [value[0] for value in values]
            intercept = None if intercept is None else intercept[0]
            factor = None if factor is None else factor[0]
        weights, dual, gap, relative_gap, objective, n_iter, status, active, margin = values
        if factor is not None:
            gap, objective = factor * gap, factor * objective
        return cls(
            weights=weights,
            dual=dual,
            gap=gap,
            relative_gap=relative_gap,
            objective=objective,
            n_iter=n_iter,
            status=status,
            active=active,
            solver=solver,
            backend=backend,
            intercept=intercept,
            margin=margin,
        )

    @property
    def sparsity(self) -> Tensor:
        """(B,), float64: the fraction of features off."""
        return 1 - self.active.to(self.gap.dtype).mean(-1)

    @property
    def certified(self) -> Tensor:
        """(B,) bool: the relative gap is at most the tolerance asked for."""
        return self.status == Status.CERTIFIED

    def messages(self) -> list[str]:
        """One sentence for every task: what happened and what to do."""
        return [Status(int(value)).message for value in self.status.reshape(-1).tolist()]
