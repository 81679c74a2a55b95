"""The result of a solve: solution, certificate and status of every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor


class Status(IntEnum):
    """How the solve of one task ended. :attr:`message` explains it and suggests a remedy."""

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
    """Raised with ``throw=True`` if the relative gap of a task remains above ``tol``."""


@dataclass(frozen=True, eq=False)
class Solution:
    """The solutions of a batch of tasks; if a single task was passed, without the batch dimension B.

    Only :attr:`weights` and :attr:`intercept` carry gradients. ``==`` compares identity, since comparing values would
    need a tolerance. float64 below is float32 on devices without float64 (MPS).

    Attributes:
        weights: in the features' dtype (float32 for half precision). Classifiers: W, (B, d, k). Regressions: w, (B, d),
            or (B, d, m) for m targets.
        dual: the dual point, float64, from which the certificate can be recomputed. Classifiers: L, (B, n, k), with
            rows in the simplex. Regressions: residuals, (B, n) or (B, n, m).
        gap: duality gap P(W) - D >= 0, (B,), float64.
        relative_gap: the quantity that ``tol`` bounds, (B,), float64: gap / P(W) for the SVM. For the other problems,
            whose P(W) may vanish, gap / P(0), where P(0) includes the optimal intercept if one is fitted.
        objective: P(W), (B,), float64.
        n_iter: number of iterations, (B,), int64.
        status: values of :class:`Status`, (B,), int64.
        active: (B, d), bool: True if the feature's weight or row of W is nonzero.
        solver: name of the solver that ran.
        backend: name of the backend that ran.
        intercept: (B, k), of a logistic regression with intercept; otherwise None.
        margin: scale-free distance >= 0 from the nearest kink, (B,), float64. At a kink (margin 0) a feature or an
            entry of the dual point is about to change between active and inactive, and the gradient is one of several.
            If the margin is well above rounding error, the gradient is accurate to rounding error.
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
        """Build a Solution from an operation's outputs.

        Args:
            values: weights, dual, gap, relative_gap, objective, n_iter, status, active and margin.
            factor: (B,), multiplies gap and objective: N if the mean loss was solved in place of the sum.
            single: remove the batch dimension.
            solver, backend: names of those that ran.
            intercept: (B, k), or None.
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
        """(B,), float64: the fraction of features that are inactive."""
        return 1 - self.active.to(self.gap.dtype).mean(-1)

    @property
    def certified(self) -> Tensor:
        """(B,), bool: the relative gap is at most ``tol``."""
        return self.status == Status.CERTIFIED

    def messages(self) -> list[str]:
        """The :attr:`Status.message` of every task."""
        return [Status(int(value)).message for value in self.status.reshape(-1).tolist()]
