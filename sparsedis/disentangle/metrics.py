"""Metrics of disentanglement: MCC, R and DCI; independent component analysis (ICA) as a baseline.

Factors (N, m) and features (N, d) are float arrays with one row per sample. To measure disentanglement, draw the
factors
uniformly: if they are correlated, an entangled feature correlates with every factor.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsedis.extras import need

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DCI:
    """Disentanglement, completeness and informativeness (Eastwood and Williams, ICLR 2018); the best value is 1.

    Attributes:
        disentanglement: whether each feature is important for a single factor; mean over features, weighted by their
            importance.
        completeness: whether a single feature is important for each factor; mean over factors, weighted by their
            importance.
        informativeness: R^2 of the factors predicted from all features, on samples not used to fit the predictor, at
            least 0; mean over factors. (The paper uses the error, which depends on the scale of the factors.)
        importance: importance >= 0 of every feature for every factor, (d, m).
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Array


def check_installed() -> None:
    """ImportError unless the packages of the metrics are installed; called at the start of a run that uses them."""
    need("scipy.optimize")
    need("sklearn.decomposition")


def correlations(factors: ArrayLike, features: ArrayLike, method: str = "pearson") -> Array:
    """Correlations (m, d) of factors and features; 0 if one of them is constant.

    Args:
        factors: (N, m).
        features: (N, d).
        method: "pearson", or "spearman", the correlation of the ranks (mean ranks for ties), which is invariant to
            increasing functions of a feature.

    Raises:
        ValueError: an unknown method; arrays that are not two-dimensional, are empty, differ in rows, or contain NaN.
    """
    z, f = _pair(factors, features)
    if method not in ("pearson", "spearman"):
        raise ValueError(f"method: expected 'pearson' or 'spearman', got {method!r}")
    if method == "spearman":
        rank = need("scipy.stats").rankdata
        z, f = rank(z, axis=0), rank(f, axis=0)
    return np.clip(_standard(z).T @ _standard(f) / len(z), -1, 1)


def mcc(factors: ArrayLike, features: ArrayLike, method: str = "pearson") -> float:
    """Mean over factors of ``|correlation|`` with the assigned feature, for the best one-to-one assignment.

    It is 1 if and only if the features are the factors up to order, scale and shift. With fewer features than factors,
    the unassigned factors count as 0.

    Arguments and errors are those of :func:`correlations`.
    """
    strength = np.abs(correlations(factors, features, method))
    rows, columns = need("scipy.optimize").linear_sum_assignment(-strength)
    return float(strength[rows, columns].sum() / len(strength))


def assignment(factors: ArrayLike, features: ArrayLike) -> NDArray[np.int64]:
    """The feature that :func:`mcc` assigns to every factor, (m,); -1 for unassigned factors."""
    strength = np.abs(correlations(factors, features))
    rows, columns = need("scipy.optimize").linear_sum_assignment(-strength)
    result = np.full(len(strength), -1)
    result[rows] = columns
    return result


def r_score(factors: ArrayLike, features: ArrayLike) -> float:
    """R: mean over factors of the square root of the R^2 of the best affine function of the features.

    It is 1 if and only if the factors are affine in the features, and no smaller than :func:`mcc`. R^2 is measured on
    the fitted samples, which should therefore be many more than the features.

    Arguments and errors are those of :func:`correlations`.
    """
    z, f = _pair(factors, features)
    z, f = _standard(z), _standard(f)
    fitted = f @ np.linalg.lstsq(f, z, rcond=1e-10)[0]
    return float(np.sqrt(np.clip((fitted * z).mean(0), 0, 1)).mean())


def dci(factors: ArrayLike, features: ArrayLike, predictor: str = "lasso", *, seed: int = 0) -> DCI:
    """DCI with importances from scikit-learn predictors fitted to half of the samples.

    Args:
        factors: (N, m), N >= 20.
        features: (N, d); standardised first.
        predictor: "lasso": absolute coefficients of LassoCV with three folds; "forest": impurity importances of a
            random forest of 100 trees, which does not assume a linear map.
        seed: of the split into halves and of the forest.

    Raises:
        ValueError: as in :func:`correlations`; an unknown predictor; too few samples.
        ImportError: scikit-learn is not installed.
    """
    z, f = _pair(factors, features)
    if predictor not in ("lasso", "forest"):
        raise ValueError(f"predictor: expected 'lasso' or 'forest', got {predictor!r}")
    if len(z) < 20:
        raise ValueError(f"factors: expected 20 samples or more, got {len(z)}")
    z, f = _standard(z), _standard(f)
    order = np.random.default_rng(seed).permutation(len(z))
    fit, test = order[: len(z) // 2], order[len(z) // 2 :]
    importance = np.zeros((f.shape[1], z.shape[1]))
    informed = np.zeros(z.shape[1])
    for j in range(z.shape[1]):
        if not z[:, j].any():  # a constant factor has no importances
            continue
        if predictor == "lasso":
            model = need("sklearn.linear_model").LassoCV(cv=3)
        else:
            model = need("sklearn.ensemble").RandomForestRegressor(n_estimators=100, random_state=seed)
        model.fit(f[fit], z[fit, j])
        importance[:, j] = np.abs(model.coef_) if predictor == "lasso" else model.feature_importances_
        informed[j] = max(0.0, model.score(f[test], z[test, j]))
    return DCI(
        disentanglement=_concentration(importance),
        completeness=_concentration(importance.T),
        informativeness=float(informed.mean()),
        importance=importance,
    )


def ica(train: ArrayLike, features: ArrayLike, *, seed: int = 0) -> Array:
    """Features (N, d) transformed by FastICA (scikit-learn, logcosh), fitted to training features (M, d).

    Raises:
        ValueError: arrays of the wrong shape or with NaN; training features that are constant or linearly dependent,
            which cannot be whitened.
        ImportError: scikit-learn is not installed.
    """
    fitted, transformed = np.asarray(train, np.float64), np.asarray(features, np.float64)
    if fitted.ndim != 2 or transformed.ndim != 2 or fitted.shape[1] != transformed.shape[1] or not len(fitted):
        raise ValueError(f"features: expected (M, d) and (N, d), got {fitted.shape} and {transformed.shape}")
    if not (np.isfinite(fitted).all() and np.isfinite(transformed).all()):
        raise ValueError("features: expected finite values, got NaN or infinite ones")
    rank = np.linalg.matrix_rank(_standard(fitted))
    if rank < fitted.shape[1]:
        raise ValueError(
            f"expected {fitted.shape[1]} linearly independent features, none of them constant, got {rank} on the "
            f"{len(fitted)} samples to fit"
        )
    model = need("sklearn.decomposition").FastICA(
        n_components=fitted.shape[1], whiten="unit-variance", max_iter=1000, tol=1e-4, random_state=seed
    )
    with warnings.catch_warnings():
        # FastICA may not converge if the components are dependent; the last iterate is then used.
        warnings.filterwarnings("ignore", module="sklearn")
        return np.asarray(model.fit(fitted).transform(transformed))


def _pair(factors: ArrayLike, features: ArrayLike) -> tuple[Array, Array]:
    z, f = np.asarray(factors, np.float64), np.asarray(features, np.float64)
    for name, value in (("factors", z), ("features", f)):
        if value.ndim != 2 or 0 in value.shape:
            raise ValueError(f"{name}: expected a non-empty array (N, number), got shape {value.shape}")
        if not np.isfinite(value).all():
            raise ValueError(f"{name}: expected finite values, got NaN or infinite ones")
    if len(z) != len(f):
        raise ValueError(f"features: expected {len(z)} rows, as factors have, got {len(f)}")
    return z, f


def _standard(values: Array) -> Array:
    """Columns with mean 0 and variance 1; columns that are constant up to rounding become 0."""
    centred = values - values.mean(0)
    scale = np.sqrt((centred**2).mean(0))
    constant = scale <= 1e-12 * np.abs(values).max(0)
    return np.where(constant, 0, centred) / np.where(constant, 1, scale)


def _concentration(importance: Array) -> float:
    """Mean over rows, weighted by their sums, of 1 - entropy of the row, with the logarithm to base of its length."""
    total = importance.sum(1)
    if not total.any():
        return 0.0
    if importance.shape[1] == 1:
        return 1.0
    p = importance / np.where(total > 0, total, 1)[:, None]
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1) / np.log(importance.shape[1])
    return float(((1 - entropy) * total).sum() / total.sum())
