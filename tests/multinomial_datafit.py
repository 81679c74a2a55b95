"""Multinomial logistic loss for skglm's group solvers, which come with the binary one only."""

import numpy as np
from numba import float64
from skglm.datafits.base import BaseMultitaskDatafit


class Multinomial(BaseMultitaskDatafit):
    """Mean cross-entropy of scores XW against one-hot labels Y; numba compiles it."""

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
        total = 0.0
        for i in range(len(Y)):
            total += np.log(np.exp(XW[i]).sum()) - (Y[i] * XW[i]).sum()
        return total / len(Y)

    def gradient_j(self, X, Y, W, XW, j):
        gradient = np.zeros(Y.shape[1])
        for i in range(len(Y)):
            odds = np.exp(XW[i])
            gradient += X[i, j] * (odds / odds.sum() - Y[i])
        return gradient / len(Y)

    def intercept_update_step(self, Y, XW):
        gradient = np.zeros(Y.shape[1])
        for i in range(len(Y)):
            odds = np.exp(XW[i])
            gradient += odds / odds.sum() - Y[i]
        return gradient / len(Y) / self.curvature
