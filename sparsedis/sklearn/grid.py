"""A grid of SVMs on the samples of one data set, solved as one batch that stores the features once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsedis import checks
from sparsedis.sklearn.data import Data, Floats
from sparsedis.sklearn.linear import reduce_two_classes, warn_unless_certified
from sparsedis.svm import solve_svm, svm_lambda1_max

# Up to this order n (k-1) newton is fast; above, fista is faster for many samples but needs many iterations.
_LARGEST_ORDER = 2048
_FISTA_ITERATIONS = 20_000


@dataclass(frozen=True)
class Settings:
    """Parameters of :class:`sparsedis.sklearn.GroupLassoSVC` that all SVMs of a grid share."""

    dual_reg: float
    relative: bool
    fit_intercept: bool
    intercept_scaling: float
    solver: str
    tol: float
    max_iter: int | None

    @classmethod
    def of(cls, estimator: Any) -> Settings:
        """The parameters of an estimator.

        Raises:
            TypeError, ValueError: an invalid parameter that the solver does not check itself.
        """
        values = {field.name: getattr(estimator, field.name) for field in fields(cls)}
        for name in ("dual_reg", "intercept_scaling", "tol"):
            values[name] = number(name, values[name])
        checks.number("intercept_scaling", values["intercept_scaling"], above=0)
        return cls(**values)


@dataclass(frozen=True)
class Grid:
    """SVMs for F weightings of the samples, M values of lambda2 and L values of lambda1.

    Attributes:
        lambda1: (F, L), absolute.
        coef: (F, M, L, k, d), where two classes have k = 1.
        intercept: (F, M, L, k).
        dual_gap: relative duality gaps, (F, M, L).
        n_iter: numbers of iterations, (F, M, L).
    """

    lambda1: Floats
    coef: Floats
    intercept: Floats
    dual_gap: Floats
    n_iter: NDArray[np.int64]

    @property
    def active(self) -> NDArray[np.bool_]:
        """(F, M, L, d): whether a feature is used."""
        return (self.coef != 0).any(-2)


def solve_grid(data: Data, weights: Floats, lambda1: Floats, lambda2: Floats, settings: Settings) -> Grid:
    """Solve the F x M x L tasks as one batch.

    Args:
        data: n samples; its weights are ignored.
        weights: (F, n) sample weights; 0 leaves a sample out.
        lambda1: (L,), multiples of each weighting's :func:`sparsedis.svm_lambda1_max` if settings.relative.
        lambda2: (M,).

    Warns:
        ConvergenceWarning: a task is not certified.

    Raises:
        TypeError, ValueError: an invalid parameter; the message names it.
    """
    shape = (len(weights), len(lambda2), len(lambda1))
    X = data.X
    if settings.fit_intercept:
        X = np.hstack([X, np.full((len(X), 1), settings.intercept_scaling)])
    (n, d), k = X.shape, len(data.classes)
    # Copied once because PyTorch warns about read-only arrays; all tasks share the copy.
    features, labels = torch.tensor(X), torch.tensor(data.labels)
    by_weight = torch.tensor(weights)

    checks.parameter_values(lambda1=torch.tensor(lambda1))
    l1 = torch.tensor(lambda1).expand(len(weights), -1)
    if settings.relative:
        largest = svm_lambda1_max(
            features.expand(len(weights), n, d), labels.expand(len(weights), n), sample_weight=by_weight, n_classes=k
        )
        # As in solve_svm, a scale of 0 (uninformative features) is replaced by 1.
        l1 = l1 * torch.where(largest > 0, largest, 1)[:, None]
    tasks = shape[0] * shape[1] * shape[2]
    solver, max_iter = settings.solver, settings.max_iter
    if solver == "auto" and n * (k - 1) > _LARGEST_ORDER:
        solver, max_iter = "fista", _FISTA_ITERATIONS if max_iter is None else max_iter
    solution = solve_svm(
        features.expand(tasks, n, d),
        labels.expand(tasks, n),
        lambda1=l1[:, None, :].expand(shape).reshape(tasks),
        lambda2=torch.tensor(lambda2)[None, :, None].expand(shape).reshape(tasks),
        dual_reg=settings.dual_reg,
        n_classes=k,
        sample_weight=by_weight[:, None, None, :].expand(*shape, n).reshape(tasks, n),
        solver=solver,
        tol=settings.tol,
        max_iter=max_iter,
    )
    warn_unless_certified(solution, settings.tol)
    coef = reduce_two_classes(solution.weights.mT.numpy().reshape(*shape, k, d))
    intercept = np.zeros(coef.shape[:-1])
    if settings.fit_intercept:
        coef, intercept = coef[..., :-1], settings.intercept_scaling * coef[..., -1]
    return Grid(
        lambda1=l1.numpy(),
        coef=coef,
        intercept=intercept,
        dual_gap=solution.relative_gap.numpy().reshape(shape),
        n_iter=solution.n_iter.numpy().reshape(shape),
    )


def number(name: str, value: float) -> float:
    """A hyperparameter, a Python or NumPy number, as a float.

    Raises:
        TypeError: not a number.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    return float(value)


def numbers(name: str, values: float | Iterable[float]) -> Floats:
    """One or several hyperparameters as (m,).

    Raises:
        TypeError: a value is not a number.
        ValueError: there are no values.
    """
    items = list(values) if isinstance(values, Iterable) else [values]
    if not items:
        raise ValueError(f"{name}: expected at least one number, got none")
    return np.array([number(name, value) for value in items])


def lambda1_grid(values: int | Iterable[float], eps: float, relative: bool) -> Floats:
    """The given values in descending order, or the given number of multiples of lambda1_max from 1 down to ``eps``.

    Raises:
        TypeError, ValueError: as in :func:`numbers`; ``eps`` not between 0 and 1; a number of values without
            ``relative``.
    """
    if isinstance(values, bool) or not isinstance(values, Integral):
        return np.sort(numbers("lambda1s", values))[::-1].copy()
    checks.number("lambda1s", int(values), above=0)
    checks.number("eps", number("eps", eps), above=0)
    if eps >= 1:
        raise ValueError(f"eps: expected a number between 0 and 1, got {eps}")
    if not relative:
        raise ValueError(f"lambda1s: expected the values themselves with relative=False, got their number {values}")
    return np.geomspace(1, eps, int(values))
