"""The gradient oracle against central differences of its own solutions, and its errors at kinks."""

import numpy as np
import pytest
import torch

from sparsedis import svm_lambda1_max
from tests import oracle
from tests.oracle import NotSmoothError, exact
from tests.tasks import random_task

# way, shots, d, relative lambda1, lambda2, dual_reg, sample weights, classes without samples
TASKS = {
    "5-way 5-shot": (5, 5, 640, 0.1, 100.0, 0.0, False, 0),
    "5-way 10-shot": (5, 10, 300, 0.1, 10.0, 0.0, False, 0),
    "2-way 1-shot": (2, 1, 20, 0.1, 1.0, 0.0, False, 0),
    "10-way 3-shot, small lambda2": (10, 3, 60, 0.2, 0.1, 0.0, False, 0),
    "smoothed": (5, 5, 100, 0.05, 0.1, 1.0, False, 0),
    "smoothed and weighted": (5, 5, 100, 0.05, 3.0, 1.0, True, 0),
    "weighted": (4, (3, 9, 1, 6), 80, 0.2, 30.0, 0.0, True, 0),
    "fewer features than samples": (4, 15, 20, 0.1, 1.0, 0.0, False, 0),
    "fewer features than samples, smoothed": (4, 15, 20, 0.2, 1.0, 0.5, False, 0),
    "dense": (3, 4, 9, 0.0, 1.0, 0.0, False, 0),
    "dense, smoothed": (4, 10, 20, 0.0, 50.0, 5.0, True, 0),
    "dense, strongly regularised": (4, 6, 12, 0.0, 2000.0, 0.0, False, 0),
    "a class without samples": (3, 4, 50, 0.1, 10.0, 0.0, True, 1),
    "20-way 1-shot": (20, 1, 100, 0.1, 10.0, 0.0, False, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_gradients_agree_with_central_differences(name):
    way, shots, d, relative, lambda2, dual_reg, weighted, empty = TASKS[name]
    X, y = random_task(sorted(TASKS).index(name), way=way, shots=shots, d=d)
    k = way + empty
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.2, 2, y.shape[1]) if weighted else np.ones(y.shape[1])
    weight[0] = 0 if weighted else 1
    lambda1 = relative * svm_lambda1_max(X, y, n_classes=k, sample_weight=torch.from_numpy(weight)[None]).item()
    X, y = X[0].numpy(), y[0].numpy()
    cotangent = rng.standard_normal((d, k))
    at = exact(X, y, lambda1, lambda2, dual_reg, k, cotangent, weight)
    assert at.gap < 1e-12
    direction = rng.standard_normal(X.shape)
    step = 1e-6 * min(1, 1e3 * at.margin)

    def slope(*moves: float) -> float:
        """Derivative of the loss along (direction, lambda1, lambda2, dual_reg), relative in the last three."""

        def loss(h: float) -> float:
            factors = [1 + h * move for move in moves[1:]]
            values = (value * factor for value, factor in zip((lambda1, lambda2, dual_reg), factors, strict=True))
            return (exact(X + h * moves[0] * direction, y, *values, k, cotangent, weight).weights * cotangent).sum()

        return (loss(step) - loss(-step)) / (2 * step)

    size = abs(at.weights * cotangent).sum()
    found = [
        (at.grad_features * direction).sum(),
        lambda1 * at.grad_lambda1,
        lambda2 * at.grad_lambda2,
        dual_reg * at.grad_dual_reg,
    ]
    for i, value in enumerate(found):
        np.testing.assert_allclose(value, slope(*np.eye(4)[i]), rtol=1e-5, atol=1e-6 * size)


@pytest.mark.slow
def test_many_features_are_solved():
    X, y = random_task(0, way=5, shots=15, d=16000)
    lambda1 = 0.1 * svm_lambda1_max(X, y).item()
    at = exact(X[0].numpy(), y[0].numpy(), lambda1, 100.0, 0.0, 5, np.ones((16000, 5)))
    assert at.gap < 1e-12
    assert 0 < at.active < 1000


@pytest.mark.slow
@pytest.mark.parametrize("kink", ["duplicated point", "feature about to become active"])
def test_a_task_at_a_kink_is_refused(kink):
    X, y = random_task(0, way=3, shots=4, d=30)
    X, y = X[0].numpy(), y[0].numpy()
    cotangent = np.ones((30, 3))
    if kink == "duplicated point":
        X[1] = X[0]
        lambda1 = 1.0
    else:
        # The smallest lambda1 at which no feature is active, by bisection.
        low, high = 0.0, svm_lambda1_max(torch.from_numpy(X), torch.from_numpy(y)).item()
        while high - low > 1e-9 * high:
            middle = (low + high) / 2
            try:
                on = exact(X, y, middle, 5.0, 0.0, 3, cotangent).active > 0
            except NotSmoothError:
                low = high = middle
                break
            low, high = (middle, high) if on else (low, middle)
        lambda1 = high
    with pytest.raises(NotSmoothError):
        exact(X, y, lambda1, 5.0, 0.0, 3, cotangent)


def test_a_task_closer_to_a_kink_than_the_limit_is_refused(monkeypatch):
    X, y = random_task(0, way=3, shots=4, d=30)
    arguments = (X[0].numpy(), y[0].numpy(), 2.0, 5.0, 0.0, 3, np.ones((30, 3)))
    margin = exact(*arguments).margin
    monkeypatch.setattr(oracle, "KINK", 1.01 * margin)
    with pytest.raises(NotSmoothError, match="expected a margin of at least"):
        exact(*arguments)
