"""Multinomial logistic loss for skglm's group solvers, which come with the binary one only.

Numba is told to compile nothing: that takes half a minute, and the tests' problems are solved in seconds without.
"""

import os

import numpy as np
import pytest

os.environ["NUMBA_DISABLE_JIT"] = "1"  # read by the first import of numba, which is skglm's
pytest.importorskip("skglm")

from numba import float64
from skglm.datafits.base import BaseMultitaskDatafit


class Multinomial(BaseMultitaskDatafit):
    """Mean cross-entropy of scores XW against one-hot labels Y."""

    def get_spec(self):
        return (("curvature", float64),)

    def params_to_dict(self):
        return {}

    def __init__(self):
        self.curvature = 0.5  # of the softmax, at most

    def initialize(self, X, Y):
        pass

    def get_lipschitz(self, X, Y):
        return self.curvature * (X**2).sum(axis=0) / len(X)

    def value(self, Y, W, XW):
        return (np.log(np.exp(XW).sum(1)) - (Y * XW).sum(1)).mean()

    def gradient_j(self, X, Y, W, XW, j):
        return X[:, j] @ self._residual(Y, XW) / len(Y)

    def intercept_update_step(self, Y, XW):
        return self._residual(Y, XW).mean(0) / self.curvature

    @staticmethod
    def _residual(Y, XW):
        odds = np.exp(XW)
        return odds / odds.sum(1, keepdims=True) - Y
