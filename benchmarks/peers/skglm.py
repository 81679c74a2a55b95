"""Group-Lasso logistic regression by skglm: its solver and penalty, with the multinomial loss that it lacks.

skglm has no sparse multiclass classifier with groups; this is the problem of GroupLassoLogisticRegression.
"""

from __future__ import annotations

import numpy as np
from numba import float64
from skglm.datafits.base import BaseMultitaskDatafit
from skglm.penalties import L2_1
from skglm.solvers import MultiTaskBCD
from sklearn.base import BaseEstimator, ClassifierMixin


class Multinomial(BaseMultitaskDatafit):
    """Mean cross-entropy of scores XW against one-hot labels Y, in the form that numba compiles."""

    def get_spec(self):
        return (("curvature", float64),)

    def params_to_dict(self):
        return {}

    def __init__(self):
        self.curvature = 0.5  # an upper bound for the softmax

    def initialize(self, X, Y):
        pass

    def get_lipschitz(self, X, Y):
        return self.curvature * (X**2).sum(axis=0) / len(X)

    def value(self, Y, W, XW):
        return (np.log(np.exp(XW).sum(1)) - (Y * XW).sum(1)).mean()

    def gradient_j(self, X, Y, W, XW, j):
        return X[:, j] @ self._residual(Y, XW) / len(Y)

    def intercept_update_step(self, Y, XW):
        return self._residual(Y, XW).sum(0) / len(Y) / self.curvature

    @staticmethod
    def _residual(Y, XW):
        odds = np.exp(XW)
        return odds / odds.sum(1).reshape(-1, 1) - Y


class MultinomialGroupLasso(ClassifierMixin, BaseEstimator):
    """lambda1 is relative to the smallest without features; tol is that of the optimality conditions, as in skglm."""

    def __init__(self, lambda1: float = 0.02, tol: float = 1e-4) -> None:
        self.lambda1 = lambda1
        self.tol = tol

    def fit(self, X: np.ndarray, y: np.ndarray) -> MultinomialGroupLasso:
        self.classes_, labels = np.unique(y, return_inverse=True)
        Y = np.eye(len(self.classes_))[labels]
        self.absolute_lambda1_ = self.lambda1 * np.linalg.norm(X.T @ (Y - Y.mean(0)), axis=1).max() / len(X)
        solver = MultiTaskBCD(tol=self.tol, fit_intercept=True)
        W, _, _ = solver.solve(np.asfortranarray(X), np.asfortranarray(Y), Multinomial(), L2_1(self.absolute_lambda1_))
        two = len(self.classes_) == 2
        W = W[:, 1:] - W[:, :1] if two else W
        self.coef_, self.intercept_ = W[:-1].T, W[-1]
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: np.ndarray) -> np.ndarray:
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]
