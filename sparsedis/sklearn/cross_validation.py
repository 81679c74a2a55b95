"""GroupLassoSVC with lambda1 and lambda2 selected by cross-validation, with all fits in one batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import check_cv
from sklearn.utils.validation import check_is_fitted

from sparsedis import checks
from sparsedis.sklearn import figures
from sparsedis.sklearn.classifiers import SupportVectorClassifier
from sparsedis.sklearn.data import ClassWeight, Data, Floats, read, with_class_weight
from sparsedis.sklearn.grid import Settings, lambda1_grid, numbers, solve_grid
from sparsedis.sklearn.linear import predicted

_RULES = ("best", "one_standard_error")


class GroupLassoSVCCV(SupportVectorClassifier):
    """:class:`GroupLassoSVC` with lambda1, and lambda2 if several are given, selected by cross-validated accuracy.

    The fits for all folds, lambda1 and lambda2 form one batch over the same features; samples outside a fit have
    weight 0. The selected model is then fitted to all samples.

    Args:
        lambda1s: the number of lambda1, from lambda1_max down to ``eps`` times it in equal ratios; or the values.
        eps: ratio of the smallest to the largest lambda1 if a number of them is given, > 0 and < 1.
        lambda2s: > 0, one or several.
        rule: "best": the highest mean accuracy. "one_standard_error": a mean accuracy within one standard error of the
            best. Among several candidates, the model with the fewest features, then the highest mean accuracy, then the
            largest lambda1.
        cv: number of stratified folds (default 5), a scikit-learn splitter, or an iterable of (training, test) index
            arrays.
        dual_reg, relative, fit_intercept, intercept_scaling, class_weight, solver, tol, max_iter: as in GroupLassoSVC;
            relative lambda1 are multiples of each fold's lambda1_max.

    Attributes:
        lambda1_, lambda2_: the selected values; GroupLassoSVC with them is the same model.
        lambda1s_: (L,), descending, relative or absolute.
        lambda2s_: (M,).
        chosen_: indices of the selected values in ``lambda2s_`` and ``lambda1s_``.
        scores_: (F, M, L), accuracies on the test samples of each fold, weighted like the losses by sample_weight and
            class_weight; with "balanced" it is the balanced accuracy.
        n_active_: (F, M, L), numbers of features used.
        dual_gaps_: (F, M, L), relative duality gaps.
        classes_, coef_, intercept_, absolute_lambda1_, dual_gap_, n_iter_, n_features_in_, feature_names_in_: as in
            GroupLassoSVC.
    """

    def __init__(
        self,
        lambda1s: int | Iterable[float] = 20,
        *,
        eps: float = 0.01,
        lambda2s: float | Iterable[float] = 1.0,
        rule: str = "best",
        cv: Any = None,
        dual_reg: float = 0.0,
        relative: bool = True,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        class_weight: ClassWeight = None,
        solver: str = "auto",
        tol: float = 1e-5,
        max_iter: int | None = None,
    ) -> None:
        self.lambda1s = lambda1s
        self.eps = eps
        self.lambda2s = lambda2s
        self.rule = rule
        self.cv = cv
        self.dual_reg = dual_reg
        self.relative = relative
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> GroupLassoSVCCV:
        """Select by cross-validation, then fit to X (n, d) with labels y (n,) and sample weights (n,), default 1.

        Raises:
            TypeError, ValueError: as in GroupLassoSVC; a fold without positive weight in its training or test part.
        """
        checks.one_of("rule", self.rule, _RULES)
        data = read(self, X, y, sample_weight)
        self.lambda1s_ = lambda1_grid(self.lambda1s, self.eps, self.relative)
        self.lambda2s_ = numbers("lambda2s", self.lambda2s)

        trained, tested = _folds(self.cv, data, self.class_weight)
        grid = solve_grid(data, np.stack(trained), self.lambda1s_, self.lambda2s_, Settings.of(self))
        fitted = zip(tested, grid.coef, grid.intercept, strict=True)
        self.scores_ = np.stack([_accuracies(data, weight, coef, intercept) for weight, coef, intercept in fitted])
        self.n_active_, self.dual_gaps_ = grid.active.sum(-1), grid.dual_gap

        self.chosen_ = _chosen(self.scores_, self.n_active_, self.rule)
        row, column = self.chosen_
        self.lambda1_, self.lambda2_ = float(self.lambda1s_[column]), float(self.lambda2s_[row])
        self._fit_all(data, self.lambda1_, self.lambda2_)
        return self

    def plot(self, axes: Any = None) -> Any:
        """Draw mean accuracy with its standard error and the mean number of features used against lambda1.

        The curves are those of the selected lambda2; a dotted line marks the selected lambda1.

        Args:
            axes: matplotlib axes; default: new ones.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
            NotFittedError: the estimator is not fitted.
        """
        check_is_fitted(self)
        row = self.chosen_[0]
        return figures.cross_validation(
            self.lambda1s_,
            "lambda1 / lambda1_max" if self.relative else "lambda1",
            self.scores_[:, row].mean(0),
            _standard_error(self.scores_)[row],
            self.n_active_[:, row].mean(0),
            self.n_features_in_,
            self.lambda1_,
            axes,
        )


def _folds(cv: Any, data: Data, class_weight: ClassWeight) -> tuple[list[Floats], list[Floats]]:
    """Training and test weights (n,) of the samples in every fold; a sample drawn twice counts twice.

    Raises:
        ValueError: a fold has no positive weight in its training or test part.
    """
    trained: list[Floats] = []
    tested: list[Floats] = []
    every = np.arange(len(data.X))
    for fold, sides in enumerate(check_cv(cv, data.labels, classifier=True).split(data.X, data.labels)):
        for side, weights, chosen in zip(("train", "test"), (trained, tested), sides, strict=True):
            drawn = np.bincount(every[chosen], minlength=len(every))
            weight = with_class_weight(data, data.weight * drawn, class_weight)
            if not weight.any():
                raise ValueError(
                    f"cv: expected samples with weight to {side} on in every fold, got none in fold {fold}"
                )
            weights.append(weight)
    return trained, tested


def _accuracies(data: Data, weight: Floats, coef: Floats, intercept: Floats) -> Floats:
    """Weighted accuracies (M, L) of models with coefficients (M, L, k, d), on the samples with positive weight."""
    present = weight > 0
    scores = data.X[present] @ coef.swapaxes(-1, -2) + intercept[..., None, :]
    return np.average(predicted(scores) == data.labels[present], axis=-1, weights=weight[present])


def _standard_error(scores: Floats) -> Floats:
    """Standard error of the mean over the folds of scores (F, ...); 0 for a single fold."""
    folds = len(scores)
    return scores.std(0, ddof=1) / np.sqrt(folds) if folds > 1 else np.zeros(scores.shape[1:])


def _chosen(scores: Floats, n_active: NDArray[np.int64], rule: str) -> tuple[int, int]:
    """Indices of the lambda2 and lambda1 that the rule selects, from scores and numbers of features (F, M, L)."""
    mean, used = scores.mean(0), n_active.mean(0)
    best = np.unravel_index(mean.argmax(), mean.shape)
    # Means that differ by rounding error count as equal.
    least = mean[best] - 1e-12 - (_standard_error(scores)[best] if rule == "one_standard_error" else 0)
    rows, columns = np.nonzero(mean >= least)
    row, column = min(zip(rows.tolist(), columns.tolist(), strict=True), key=lambda at: (used[at], -mean[at], at[1]))
    return row, column
