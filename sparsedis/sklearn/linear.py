"""Shared code of fitted linear classifiers: scores, predictions, and the coefficient shape for two classes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from sparsedis.sklearn.data import Floats
from sparsedis.solution import Solution, Status


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """Predictions from the attributes ``classes_``, ``coef_`` and ``intercept_`` that fit sets."""

    classes_: NDArray[Any]
    coef_: Floats
    intercept_: Floats

    def decision_function(self, X: ArrayLike) -> Floats:
        """Scores of samples X (m, d): (m, k), or (m,) for two classes, positive for the second."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Classes with the highest score for samples X (m, d), (m,); for equal scores the first of ``classes_``."""
        scores = self.decision_function(X)
        return self.classes_[predicted(scores[:, None] if scores.ndim == 1 else scores)]


def predicted(scores: Floats) -> NDArray[np.int64]:
    """Class indices predicted by scores (..., k), or (..., 1) for two classes; for equal scores the first."""
    if scores.shape[-1] == 1:
        return (scores[..., 0] > 0).astype(np.int64)
    return scores.argmax(-1)


def reduce_two_classes(values: Floats) -> Floats:
    """Coefficients (..., k, d) or intercepts (..., k, 1) in scikit-learn's shape.

    For two classes the two rows are replaced by their difference, whose score is positive for the second class.
    """
    return values[..., 1:, :] - values[..., :1, :] if values.shape[-2] == 2 else values


def warn_unless_certified(solution: Solution, tol: float) -> None:
    """Issue a ConvergenceWarning unless all tasks are certified."""
    failed = solution.status[~solution.certified]
    if len(failed):
        warnings.warn(
            f"{len(failed)} of {len(solution.status)} fits are not certified: the largest relative duality gap is "
            f"{float(solution.relative_gap.max()):.1e}, expected {tol:g} or less. {Status(int(failed[0])).message}",
            ConvergenceWarning,
            stacklevel=3,
        )
