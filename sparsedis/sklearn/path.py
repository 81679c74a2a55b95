"""Regularisation path of the SVM: solutions for a grid of lambda1, as one batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsedis.sklearn import figures
from sparsedis.sklearn.classifiers import GroupLassoSVC
from sparsedis.sklearn.data import Floats, read, with_class_weight
from sparsedis.sklearn.grid import Settings, lambda1_grid, number, solve_grid


@dataclass(frozen=True)
class SVCPath:
    """Solutions for L values of lambda1, in descending order.

    Attributes:
        lambda1: (L,), absolute.
        classes: (k,), sorted.
        coef: (L, k, d), or (L, 1, d) for two classes, as in :attr:`GroupLassoSVC.coef_`.
        intercept: (L, k), or (L, 1).
        dual_gap: relative duality gaps, (L,).
        n_iter: numbers of iterations, (L,).
        active: (L, d), bool: whether a feature is used.
    """

    lambda1: Floats
    classes: NDArray[Any]
    coef: Floats
    intercept: Floats
    dual_gap: Floats
    n_iter: NDArray[np.int64]
    active: NDArray[np.bool_]

    def plot(self, axes: Any = None) -> Any:
        """Draw the norm of every feature's coefficients against lambda1.

        Args:
            axes: matplotlib axes; default: new ones.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return figures.path(self.lambda1, np.linalg.norm(self.coef, axis=1), self.active.sum(1), axes)


def svc_path(
    X: ArrayLike,
    y: ArrayLike,
    *,
    lambda1s: int | Iterable[float] = 30,
    eps: float = 0.01,
    sample_weight: ArrayLike | None = None,
    **parameters: Any,
) -> SVCPath:
    """Solve :class:`GroupLassoSVC` for a grid of lambda1.

    The problems are solved as one batch without warm starts, since an interior-point method would first have to leave
    the boundary on which the previous solution lies (docs/sklearn.md). The solutions equal those of separate fits.

    Args:
        X, y, sample_weight: as in :meth:`GroupLassoSVC.fit`.
        lambda1s: the number of lambda1, from lambda1_max down to ``eps`` times it in equal ratios; or the values, in
            any order.
        eps: ratio of the smallest to the largest lambda1 if a number of them is given, > 0 and < 1.
        parameters: of GroupLassoSVC except lambda1. With ``relative=False``, lambda1s are absolute values.

    Returns:
        The path, with lambda1 in descending order.

    Warns:
        ConvergenceWarning: a solution is not certified.

    Raises:
        TypeError, ValueError: as in GroupLassoSVC.
    """
    svc = GroupLassoSVC(1.0, **parameters)  # raises TypeError if parameters contain lambda1
    data = read(svc, X, y, sample_weight)
    weight = with_class_weight(data, data.weight, svc.class_weight)
    lambda1 = lambda1_grid(lambda1s, eps, svc.relative)
    lambda2 = np.array([number("lambda2", svc.lambda2)])
    grid = solve_grid(data, weight[None], lambda1, lambda2, Settings.of(svc))
    return SVCPath(
        lambda1=grid.lambda1[0],
        classes=data.classes,
        coef=grid.coef[0, 0],
        intercept=grid.intercept[0, 0],
        dual_gap=grid.dual_gap[0, 0],
        n_iter=grid.n_iter[0, 0],
        active=grid.active[0, 0],
    )
