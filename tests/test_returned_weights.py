"""Base-learners: the certificate holds for the returned weights, including their rounding to float32.

Gaps P(w) - D(t) are recomputed from the returned solution by their definitions, in extended precision.
"""

import numpy as np
import pytest
import torch

from sparsedis import (
    NotCertifiedError,
    Status,
    lasso_lambda1_max,
    logistic_lambda1_max,
    solve_lasso,
    solve_logistic,
    solve_ridge,
)
from sparsedis.ops.registry import OPERATIONS

F64 = torch.float64
LASSO_BACKENDS = ["cpp", "torch", "triton"]


@pytest.fixture(params=LASSO_BACKENDS)
def backend(request):
    reason = OPERATIONS["lasso"].backend(request.param).available()
    if reason:
        pytest.skip(f"backend {request.param!r} is not available: {reason}")
    return request.param


def extended(*values):
    return tuple(value.detach().cpu().to(F64).numpy().astype(np.longdouble) for value in values)


def shares_of(weight):
    return weight / weight.sum()


def lasso_gap(X, y, w, t, lambda1, lambda2, weight):
    """(P(w) - D(t)) / P(0) and P(w) of one task; for lambda2 = 0, t is scaled to be feasible."""
    X, y, w, t, weight = extended(X, y, w, t, weight)
    c = shares_of(weight)
    P = c @ (X @ w - y) ** 2 / 2 + lambda1 * np.abs(w).sum() + lambda2 / 2 * (w**2).sum()
    v = np.abs(X.T @ (c * t))
    if lambda2 == 0:
        t = t * min(1, lambda1 / max(v.max(), np.finfo(float).tiny))
        conjugate = 0
    else:
        conjugate = (np.maximum(v - lambda1, 0) ** 2).sum() / (2 * lambda2)
    D = c @ (t * y - t**2 / 2) - conjugate
    return float((P - D) / (c @ y**2 / 2)), float(P)


def logistic_gap(X, y, W, b, L, lambda1, lambda2, weight):
    """(P(W, b) - D(L)) / P(0) and P of one task; for lambda2 = 0, L is moved towards the labels to be feasible."""
    k = W.shape[1]
    labels = y.numpy()
    X, W, b, L, weight = extended(X, W, torch.zeros(k) if b is None else b, L, weight)
    X, labels, L, weight = (value[weight > 0] for value in (X, labels, L, weight))
    c, Y = shares_of(weight), np.eye(k, dtype=np.longdouble)[labels]
    scores = X @ W + b
    top = scores.max(1, keepdims=True)
    losses = np.log(np.exp(scores - top).sum(1)) + top[:, 0] - (Y * scores).sum(1)
    norms = np.sqrt((W**2).sum(1))
    P = c @ losses + lambda1 * norms.sum() + lambda2 / 2 * (norms**2).sum()
    # The label's entry of Y - L is the sum of the others, which avoids cancellation.
    off = L * (1 - Y)

    def correlations(off):
        return np.sqrt(((X.T @ (c[:, None] * (Y * off.sum(1, keepdims=True) - off))) ** 2).sum(1))

    v = correlations(off)
    if lambda2 == 0:
        off = off * min(1, lambda1 / max(v.max(), np.finfo(float).tiny))
        conjugate = 0
    else:
        conjugate = (np.maximum(v - lambda1, 0) ** 2).sum() / (2 * lambda2)
    others = off.sum(1)
    entropy = -(off * np.log(np.maximum(off, np.finfo(np.longdouble).tiny))).sum(1) - (1 - others) * np.log1p(-others)
    if b.any():
        frequencies = c @ Y
        at_zero = -(frequencies * np.log(frequencies)).sum()
    else:
        at_zero = np.log(np.longdouble(k))
    return float((P - (c @ entropy - conjugate)) / at_zero), float(P)


def regression(kind, dtype, seed=0, batch=2):
    """Features (B, n, d), targets and sample weights (B, n), of kinds that are difficult numerically."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64)

    n, d = {"one feature": (10, 1), "few samples": (2, 6), "one sample": (1, 3)}.get(kind, (20, 6))
    X, w, weight = normal(batch, n, d), normal(batch, d, 1), torch.ones(batch, n, dtype=F64)
    if kind == "integers":
        X = (2 * X).round()
    elif kind == "binary":
        X = (X > 0).to(F64)
    elif kind == "weights":
        weight = torch.rand(batch, n, generator=generator, dtype=F64) + 0.1
    elif kind == "padding":
        X[:, :4], weight[:, :4] = 1e30, 0
    y = (X * (weight > 0)[..., None] @ w)[..., 0] + 0.3 * normal(batch, n)
    if kind in ("integers", "binary"):
        y = y.round()
    if kind == "mean":  # targets do not depend on it, so X w cancels
        X = X + 1e4
    return X.to(dtype), y.to(dtype), weight


KINDS = ["mean", "centred", "integers", "binary", "one feature", "few samples", "one sample", "weights", "padding"]


def check(solution, i, recomputed, tol, exact):
    """Task i reports at least the recomputed gap, up to rounding, and if ``exact`` also at most that."""
    gap, objective = recomputed
    reported = float(solution.relative_gap[i])
    assert gap <= reported * (1 + 1e-6) + 1e-12
    if exact:
        assert gap >= reported * (1 - 1e-6) - 1e-12
    assert solution.objective[i].item() == pytest.approx(objective, rel=1e-9, abs=1e-12)
    assert (solution.status[i] == Status.CERTIFIED) == (reported <= tol)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("relative", "lambda2"), [(0.1, 0.0), (0.01, 0.05), (0.0, 0.05)])
@pytest.mark.parametrize("kind", KINDS)
def test_lasso_reports_the_gap_of_the_returned_weights(kind, relative, lambda2, dtype, backend):
    every = regression(kind, dtype)
    for number, tol in enumerate((1e-5, 1e-10)):
        # The interpreter takes half a second per task, so each tol gets one of the two.
        X, y, weight = (value[number : number + 1] for value in every) if backend == "triton" else every
        lambda1 = relative * lasso_lambda1_max(X, y, sample_weight=weight)
        solution = solve_lasso(X, y, lambda1=lambda1, lambda2=lambda2, sample_weight=weight, tol=tol, backend=backend)
        for i in range(len(X)):
            again = lasso_gap(X[i], y[i], solution.weights[i], solution.dual[i], float(lambda1[i]), lambda2, weight[i])
            check(solution, i, again, tol, exact=lambda2 == 0)
        assert torch.equal(solution.active, solution.weights != 0)
        if dtype == F64:
            assert solution.certified.all()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", KINDS)
def test_ridge_reports_the_gap_of_the_returned_weights(kind, dtype):
    X, y, weight = regression(kind, dtype)
    for tol in (1e-5, 1e-10):
        solution = solve_ridge(X, y, lambda2=0.05, sample_weight=weight, tol=tol)
        for i in range(len(X)):
            again = lasso_gap(X[i], y[i], solution.weights[i], solution.dual[i], 0.0, 0.05, weight[i])
            check(solution, i, again, tol, exact=True)
        if dtype == F64:
            assert solution.certified.all()


def classification(kind, dtype):
    X, _, weight = regression(kind, dtype)
    labels = (torch.arange(X.shape[1]) % 3).expand(len(X), -1).clone()
    return X, labels, weight


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(("relative", "lambda2"), [(0.1, 0.0), (0.03, 0.05), (0.0, 0.05)])
@pytest.mark.parametrize("kind", KINDS)
def test_logistic_reports_the_gap_of_the_returned_weights(kind, relative, lambda2, intercept, dtype):
    X, labels, weight = classification(kind, dtype)
    if intercept and X.shape[1] < 3:
        pytest.skip("with an intercept every class needs a sample")
    options = {"intercept": intercept, "sample_weight": weight, "n_classes": 3}
    lambda1 = relative * logistic_lambda1_max(X, labels, **options)
    for tol in (1e-5, 1e-10):
        solution = solve_logistic(X, labels, lambda1=lambda1, lambda2=lambda2, tol=tol, **options)
        for i in range(len(X)):
            b = solution.intercept[i] if intercept else None
            again = logistic_gap(
                X[i], labels[i], solution.weights[i], b, solution.dual[i], float(lambda1[i]), lambda2, weight[i]
            )
            check(solution, i, again, tol, exact=lambda2 == 0)
        assert torch.equal(solution.active, solution.weights.any(-1))
        if dtype == F64:
            assert solution.certified.all()


def check_not_certified_due_to_rounding(X, y, solve):
    """float32 weights miss the tolerance by rounding alone; with float64 or centred features the task is certified."""
    solution = solve(X, y, tol=1e-10)
    assert (solution.status == Status.PRECISION).all(), solution.relative_gap
    assert (solution.relative_gap > 1e-9).all()
    assert "Centre the features" in solution.messages()[0]
    with pytest.raises(NotCertifiedError, match=r"PRECISION.*Centre the features .* float64"):
        solve(X, y, tol=1e-10, throw=True)
    exact = solve(X.double(), y.double() if y.is_floating_point() else y, tol=1e-10)
    assert exact.certified.all(), exact.relative_gap
    torch.testing.assert_close(solution.weights, exact.weights.float(), rtol=1e-4, atol=1e-9)
    assert solve(X - X.mean(1, keepdim=True), y, tol=1e-10).certified.all()


@pytest.mark.slow
def test_lasso_weights_are_not_certified_if_float32_rounds_too_coarsely(backend):
    X, y, _ = regression("mean", torch.float32)
    if backend == "triton":  # the interpreter takes seconds for a larger task
        X, y = X[:1, :10, :3], y[:1, :10]
    check_not_certified_due_to_rounding(
        X, y, lambda X, y, **options: solve_lasso(X, y, lambda1=0.01, lambda2=0.05, backend=backend, **options)
    )


def test_ridge_weights_are_not_certified_if_float32_rounds_too_coarsely():
    X, y, _ = regression("mean", torch.float32)
    check_not_certified_due_to_rounding(X, y, lambda X, y, **options: solve_ridge(X, y, lambda2=0.05, **options))


def test_logistic_weights_are_not_certified_if_float32_rounds_too_coarsely():
    X, y, _ = classification("mean", torch.float32)
    check_not_certified_due_to_rounding(
        X, y, lambda X, y, **options: solve_logistic(X, y, lambda1=0.01, lambda2=0.05, n_classes=3, **options)
    )


def test_lasso_weights_that_overflow_float32_are_not_certified(backend):
    X, y, _ = regression("centred", torch.float32)
    check_overflow(solve_lasso(1e-15 * X, 1e30 * y, lambda1=0.1, relative=True, backend=backend))


def test_ridge_weights_that_overflow_float32_are_not_certified():
    X, y, _ = regression("centred", torch.float32)
    check_overflow(solve_ridge(1e-15 * X, 1e30 * y, lambda2=0.05, relative=True))


def check_overflow(solution):
    assert solution.weights.isinf().any(-1).all()
    assert (solution.status == Status.PRECISION).all()
    assert solution.relative_gap.isinf().all()
    assert solution.objective.isinf().all()
