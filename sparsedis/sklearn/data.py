"""Conversion of scikit-learn arguments to arrays: classes as integers, one weight per sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

Floats = NDArray[np.float64]
ClassWeight = Mapping[Any, float] | str | None


class Data(NamedTuple):
    """A classification problem, in float64 so that certificates are tight."""

    X: Floats  # (n, d)
    labels: NDArray[np.int64]  # (n,), from 0 to k-1; arbitrary if the weight is 0
    classes: NDArray[Any]  # (k,), sorted: the original labels
    weight: Floats  # (n,)


def read(estimator: BaseEstimator, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Data:
    """Check the arguments of fit; set ``n_features_in_`` and ``feature_names_in_``.

    Samples of weight 0 are ignored; a class without other samples does not count.

    Raises:
        TypeError, ValueError: as in scikit-learn's estimators; fewer than two classes.
    """
    samples, targets = validate_data(estimator, X, y, dtype=np.float64)
    check_classification_targets(targets)
    weight = _check_sample_weight(sample_weight, samples, dtype=np.float64, ensure_non_negative=True)
    classes = np.unique(targets[weight > 0])
    if len(classes) < 2:
        found = f"{len(classes)} class" if len(classes) else "none: all have zero weight"
        raise ValueError(f"y: expected samples of at least two classes with a weight above zero, got {found}")
    labels = np.searchsorted(classes, targets).clip(max=len(classes) - 1)
    return Data(samples, labels, classes, weight)


def with_class_weight(data: Data, weight: Floats, class_weight: ClassWeight) -> Floats:
    """The sample weights (n,) multiplied by those of their classes.

    Args:
        data: its ``weight`` is ignored.
        weight: (n,), used instead.
        class_weight: None, "balanced" (equal total weight for every class that has any; the sum of all weights is
            unchanged), or a dict of weights by class, 1 for classes not in it.

    Raises:
        ValueError: another type, or a weight that is not a finite number >= 0.
    """
    if class_weight is None:
        return weight
    if isinstance(class_weight, Mapping):
        factors = compute_class_weight(dict(class_weight), classes=data.classes, y=data.classes[data.labels])
        if not (np.isfinite(factors) & (factors >= 0)).all():
            raise ValueError(f"class_weight: expected finite weights >= 0, got {dict(class_weight)}")
    elif class_weight == "balanced":
        totals = np.bincount(data.labels, weight, minlength=len(data.classes))
        factors = totals.sum() / (max(np.count_nonzero(totals), 1) * np.where(totals > 0, totals, 1))
    else:
        raise ValueError(f"class_weight: expected None, 'balanced' or a dict, got {class_weight!r}")
    return weight * factors[data.labels]
