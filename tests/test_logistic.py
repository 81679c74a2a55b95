"""Group-Lasso logistic regression: certificates, theorems, independent oracles, gradients, invalid input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedis import Status, logistic_lambda1_max, solve_logistic
from sparsedis.ops.logistic import OPERATION, Options, lambda1_max
from tests.tasks import random_task

F64 = torch.float64


def objective(X, y, W, b, lambda1, lambda2, weight=None):
    """P of one task, with PyTorch's cross-entropy."""
    c = torch.ones(len(y), dtype=F64) if weight is None else weight.double()
    scores = X @ W + (0 if b is None else b)
    losses = torch.nn.functional.cross_entropy(scores, y, reduction="none")
    return (c * losses).sum() / c.sum() + lambda1 * W.norm(dim=1).sum() + lambda2 / 2 * W.square().sum()


def dual_objective(X, y, L, lambda1, lambda2, intercept, weight=None):
    """D of one task at a feasible L, by its definition in NumPy."""
    X, y, L = X.numpy(), y.numpy(), L.numpy()
    c = np.ones(len(y)) if weight is None else weight.double().numpy()
    c = c / c.sum()
    assert L.min() >= 0
    np.testing.assert_allclose(L.sum(1), 1, atol=1e-12)
    A = c[:, None] * (np.eye(L.shape[1])[y] - L)
    if intercept:
        np.testing.assert_allclose(A.sum(0), 0, atol=1e-14)
    norms = np.linalg.norm(X.T @ A, axis=1)
    entropy = -np.where(L > 0, L * np.log(np.maximum(L, 1e-300)), 0).sum(1)
    if lambda2 == 0:
        assert norms.max() <= lambda1 * (1 + 1e-12)
        return c @ entropy
    return c @ entropy - (np.maximum(norms - lambda1, 0) ** 2).sum() / (2 * lambda2)


CASES = [
    # way, shots, d, relative lambda1, lambda2
    (2, 6, 5, 0.1, 0.0),
    (3, 5, 8, 0.3, 0.1),
    (3, (2, 7, 4), 1, 0.5, 0.0),
    (5, 5, 64, 0.1, 0.0),
    (5, 3, 40, 0.01, 0.0),
    (4, 10, 6, 0.0, 0.05),
    (4, 25, 6, 0.003, 0.0),
    (3, 2, 40, 0.05, 0.1),  # more active rows than samples
    (5, 1, 60, 0.1, 1.0),
]


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("way", "shots", "d", "relative", "lambda2"), CASES)
def test_certificates_agree_with_the_definition_of_the_gap(way, shots, d, relative, lambda2, weighted, intercept):
    X, y = random_task(d, way=way, shots=shots, d=d, batch=2)
    weight = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) + 0.1 if weighted else None
    options = {"intercept": intercept, "sample_weight": weight}
    lambda1 = relative * logistic_lambda1_max(X, y, **options)
    solution = solve_logistic(X, y, lambda1=lambda1, lambda2=lambda2, **options)
    assert solution.certified.all(), solution.relative_gap
    assert (solution.gap >= 0).all()
    assert (solution.intercept is not None) == intercept
    torch.testing.assert_close(solution.weights.sum(-1), torch.zeros(2, d, dtype=F64), rtol=0, atol=1e-9)
    for i in range(2):
        own = None if weight is None else weight[i]
        b = solution.intercept[i] if intercept else None
        P = float(objective(X[i], y[i], solution.weights[i], b, float(lambda1[i]), lambda2, own))
        assert solution.objective[i].item() == pytest.approx(P, rel=1e-12)
        D = dual_objective(X[i], y[i], solution.dual[i], float(lambda1[i]), lambda2, intercept, own)
        assert -1e-12 <= P - D <= 1e-10 * np.log(way) + 1e-12


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("way", [2, 3, 5])
def test_agrees_with_scikit_learn_without_lambda1(way, intercept):
    """lambda1 = 0 is scikit-learn's LogisticRegression with C = 1/(n lambda2)."""
    linear = pytest.importorskip("sklearn.linear_model")
    X, y = random_task(way, way=way, shots=tuple(range(6, 6 + way)), d=5, batch=1)
    solution = solve_logistic(X, y, lambda1=0.0, lambda2=0.05, intercept=intercept)
    oracle = linear.LogisticRegression(
        C=1 / (0.05 * y.shape[1]), fit_intercept=intercept, tol=1e-12, max_iter=10**5, solver="newton-cg"
    )
    oracle.fit(X[0].numpy(), y[0].numpy())
    if way == 2:
        # scikit-learn's binary problem has one column v; our solution is (-v, v)/2, which halves the penalty.
        oracle.C = 2 * oracle.C
        oracle.fit(X[0].numpy(), y[0].numpy())
        expected, offset = np.concatenate([-oracle.coef_, oracle.coef_]).T / 2, oracle.intercept_[0]
        offset = np.array([-offset, offset]) / 2
    else:
        expected, offset = oracle.coef_.T, oracle.intercept_
    np.testing.assert_allclose(solution.weights[0].numpy(), expected, rtol=1e-6, atol=1e-7)
    if intercept:
        np.testing.assert_allclose(solution.intercept[0].numpy(), offset - offset.mean(), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(
    ("way", "n", "d", "shift", "relative"),
    [(4, 4, 60, 100, 0.1), (2, 31, 48, 10, 1e-3), (3, 20, 30, 100, 1e-2), (4, 20, 59, None, 1e-3)],
)
def test_tasks_with_nearly_dependent_features_are_certified(way, n, d, shift, relative, intercept):
    """Uncentred features and (None) features of low rank plus noise, for which sweeps alone converge slowly."""
    generator = torch.Generator().manual_seed(n)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64)

    X, y = normal(1, n, d), (torch.arange(n) % way)[None]
    X = normal(1, n, 5) @ normal(1, 5, d) + 1e-3 * X if shift is None else X + shift
    lambda1 = relative * logistic_lambda1_max(X, y, intercept=intercept)
    solution = solve_logistic(X, y, lambda1=lambda1, intercept=intercept)
    assert solution.certified.all(), solution.relative_gap
    b = solution.intercept[0] if intercept else None
    P = float(objective(X[0], y[0], solution.weights[0], b, float(lambda1[0]), 0.0))
    D = dual_objective(X[0], y[0], solution.dual[0], float(lambda1[0]), 0.0, intercept)
    assert -1e-12 <= P - D <= 1e-10 * np.log(way) + 1e-12


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(("relative", "lambda2"), [(0.3, 0.0), (0.1, 0.02), (0.7, 0.0)])
def test_agrees_with_a_conic_solver(relative, lambda2, intercept):
    cp = pytest.importorskip("cvxpy")
    X, y = random_task(7, way=3, shots=(4, 6, 5), d=6)
    lambda1 = float(relative * logistic_lambda1_max(X, y, intercept=intercept))
    x, labels, k = X[0].numpy(), y[0].numpy(), 3
    W, b = cp.Variable((6, k)), cp.Variable((1, k))
    scores = x @ W + (np.ones((len(x), 1)) @ b if intercept else 0)
    losses = cp.log_sum_exp(scores, axis=1) - cp.sum(cp.multiply(scores, np.eye(k)[labels]), axis=1)
    penalty = lambda1 * cp.sum(cp.norm(W, 2, axis=1)) + lambda2 / 2 * cp.sum_squares(W)
    problem = cp.Problem(cp.Minimize(cp.sum(losses) / len(x) + penalty))
    problem.solve(solver=cp.CLARABEL, tol_gap_rel=1e-11, tol_gap_abs=1e-12)
    solution = solve_logistic(X, y, lambda1=lambda1, lambda2=lambda2, intercept=intercept)
    assert solution.objective.item() == pytest.approx(problem.value, rel=1e-8)
    torch.testing.assert_close(solution.weights[0], torch.as_tensor(W.value), rtol=1e-3, atol=1e-4)
    assert solution.active[0].tolist() == (np.linalg.norm(W.value, axis=1) > 1e-4).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(
    ("way", "shots", "d", "relative"),
    # CASES with lambda2 = 0. The fourth has a larger lambda1, because skglm takes half a minute at 0.01.
    [(2, 6, 5, 0.1), (3, (2, 7, 4), 1, 0.5), (5, 5, 64, 0.1), (5, 3, 40, 0.05), (4, 25, 6, 0.003)],
)
def test_agrees_with_skglm(way, shots, d, relative, intercept, monkeypatch):
    """skglm's solver and penalty with our loss: the same active rows and weights."""
    from tests.multinomial_datafit import Multinomial  # isort: skip (before skglm)

    from skglm.penalties import L2_1
    from skglm.solvers import MultiTaskBCD

    # skglm compiles the loss and the penalty even with NUMBA_DISABLE_JIT.
    monkeypatch.setattr("skglm.solvers.base.compiled_clone", lambda value, **_: value)
    X, y = random_task(d, way=way, shots=shots, d=d)
    lambda1 = float(relative * logistic_lambda1_max(X, y, intercept=intercept))
    solution = solve_logistic(X, y, lambda1=lambda1, intercept=intercept)
    solver = MultiTaskBCD(tol=1e-10, fit_intercept=intercept, max_epochs=10**6)
    x, labels = np.asfortranarray(X[0].numpy()), np.asfortranarray(np.eye(way)[y[0].numpy()])
    W, _, violation = solver.solve(x, labels, Multinomial(), L2_1(lambda1))
    assert violation <= 1e-10
    np.testing.assert_allclose(solution.weights[0].numpy(), W[:d], rtol=0, atol=1e-7 * max(1.0, abs(W[:d]).max()))
    assert solution.active[0].tolist() == W[:d].any(1).tolist()
    if intercept:
        np.testing.assert_allclose(solution.intercept[0].numpy(), W[d] - W[d].mean(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("intercept", [False, True])
def test_weights_are_exactly_zero_from_lambda1_max_on(intercept):
    X, y = random_task(1, shots=(2, 5, 7), d=10, batch=3)
    largest = logistic_lambda1_max(X, y, intercept=intercept)
    at = solve_logistic(X, y, lambda1=largest, intercept=intercept)
    assert (at.weights == 0).all()
    assert at.certified.all()
    if intercept:
        frequencies = torch.bincount(y[0]).double() / y.shape[1]
        torch.testing.assert_close(at.intercept.softmax(-1), frequencies.expand(3, -1))
    below = solve_logistic(X, y, lambda1=0.995 * largest, intercept=intercept)
    assert (below.active.sum(1) == 1).all()


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), way=st.integers(2, 4), relative=st.floats(0.01, 1.1), intercept=st.booleans())
@settings(max_examples=15)
def test_permutations_and_scaling_act_on_the_solution(seed, way, relative, intercept):
    X, y = random_task(seed, way=way, d=7)
    generator = torch.Generator().manual_seed(seed)
    samples, features, classes = (torch.randperm(n, generator=generator) for n in (X.shape[1], 7, way))
    options = {"n_classes": way, "intercept": intercept, "tol": 1e-13}
    lambda1 = relative * logistic_lambda1_max(X, y, intercept=intercept)
    base = solve_logistic(X, y, lambda1=lambda1, lambda2=0.01, **options)
    moved = solve_logistic(
        X[:, samples][..., features], classes[y[:, samples]], lambda1=lambda1, lambda2=0.01, **options
    )
    expected = torch.empty_like(base.weights)
    expected[..., classes] = base.weights[:, features]
    torch.testing.assert_close(moved.weights, expected, rtol=1e-5, atol=1e-6)
    for c in (1e-3, 1e3):
        scaled = solve_logistic(c * X, y, lambda1=c * lambda1, lambda2=0.01 * c**2, **options)
        torch.testing.assert_close(c * scaled.weights, base.weights, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(scaled.objective, base.objective)


@pytest.mark.parametrize("intercept", [False, True])
def test_weight_zero_omits_a_sample_and_weight_two_duplicates_it(intercept):
    X, y = random_task(2, shots=6, d=8, batch=2)
    weight = torch.ones(y.shape)
    weight[:, :3], weight[:, 7:9] = 0, 2
    there = torch.cat([X[:, 3:], X[:, 7:9]], 1), torch.cat([y[:, 3:], y[:, 7:9]], 1)
    y[:, :3] = -100
    options = {"lambda1": 0.1, "lambda2": 0.01, "relative": True, "intercept": intercept, "n_classes": 3}
    base = solve_logistic(*there, **options)
    weighted = solve_logistic(X, y, sample_weight=3 * weight, **options)
    torch.testing.assert_close(weighted.weights, base.weights, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weighted.objective, base.objective)


def test_degenerate_tasks_are_certified():
    X, y = random_task(3, way=3, shots=6, d=12)
    X[:, 3:6] = X[:, :3]  # duplicated samples
    X[:, 9] = X[:, 0]  # the same point with two labels
    X[..., 5] = X[..., 4]  # duplicated features
    X[..., 6] = 0
    X.requires_grad_()
    for lambda2 in (0.0, 0.1):
        solution = solve_logistic(X, y, lambda1=0.05, lambda2=lambda2, relative=True, n_classes=5)  # two empty classes
        assert solution.certified.all()
        assert (solution.weights[:, 6] == 0).all()
        (grad,) = torch.autograd.grad(solution.weights.square().sum(), X)
        assert torch.isfinite(grad).all()


def test_a_task_without_samples_has_zero_weights():
    X, y = random_task(4, batch=2)
    weight = torch.ones(y.shape)
    weight[1] = 0
    for intercept in (False, True):
        solution = solve_logistic(X, y, lambda1=0.1, sample_weight=weight, intercept=intercept)
        assert solution.certified.all()
        assert (solution.weights[1] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(
    ("way", "shots", "d", "lambda2"), [(2, 5, 4, 0.05), (3, 4, 5, 0.0), (3, 3, 12, 0.02), (3, 2, 16, 0.5)]
)
def test_gradcheck(way, shots, d, lambda2, intercept):
    X, y = random_task(way + d, way=way, shots=shots, d=d)
    weight = torch.ones(y.shape)
    weight[:, 0], weight[:, 1] = 0, 2
    lambda1 = (0.2 * logistic_lambda1_max(X, y, sample_weight=weight, intercept=intercept)).tolist()
    values = [lambda1, *([lambda2] if lambda2 else [])]
    inputs = [X.requires_grad_(), *(torch.tensor(value, dtype=F64, requires_grad=True) for value in values)]

    def outputs(X, *values):
        options = dict(zip(("lambda1", "lambda2"), values, strict=False))
        solution = solve_logistic(X, y, sample_weight=weight, intercept=intercept, tol=1e-15, **options)
        return (solution.weights, solution.intercept) if intercept else solution.weights

    fast = d > 4 or not intercept  # along random directions
    assert torch.autograd.gradcheck(outputs, inputs, eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=fast)


def test_relative_lambda1_has_no_gradient_through_its_maximum():
    X, y = random_task(5, d=8)
    eps = torch.tensor(0.2, dtype=F64, requires_grad=True)
    X.requires_grad_()
    ours = solve_logistic(X, y, lambda1=eps, relative=True).weights
    theirs = solve_logistic(X, y, lambda1=eps * logistic_lambda1_max(X, y)).weights
    for a, b in zip(*(torch.autograd.grad(W.square().sum(), (X, eps)) for W in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)
    off = solve_logistic(X, y, lambda1=1.01 * eps / eps.detach(), relative=True)
    grads = torch.autograd.grad(off.weights.sum(), (X, eps))
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.slow
def test_compile_vmap_and_autocast_agree_with_eager_solves():
    X, y = random_task(6, d=8, batch=3)

    def solve(X, y, value, **options):
        solution = solve_logistic(X, y, lambda1=value, lambda2=0.01, n_classes=3, intercept=True, tol=1e-13)
        return torch.cat([solution.weights, solution.intercept[..., None, :]], -2)

    expected = solve(X, y, 0.05)
    compiled = torch.compile(solve, fullgraph=True, backend="aot_eager")
    inputs = X.clone().requires_grad_(), torch.tensor(0.05, dtype=F64, requires_grad=True)
    result = compiled(inputs[0], y, inputs[1])
    torch.testing.assert_close(result, expected)
    ours = torch.autograd.grad(result.square().sum(), inputs)
    theirs = torch.autograd.grad(solve(inputs[0], y, inputs[1]).square().sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(torch.func.vmap(lambda X, y: solve(X, y, 0.05))(X, y), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(solve(X.float(), y, 0.05), expected.float(), rtol=1e-4, atol=1e-5)


def test_shapes_and_dtypes():
    X, y = random_task(8)
    one = solve_logistic(X[0], y[0], lambda1=0.1, intercept=True)
    assert one.weights.shape == (30, 3)
    assert one.intercept.shape == (3,)
    assert one.dual.shape == (12, 3)
    assert one.active.shape == (30,)
    assert one.gap.shape == ()
    assert one.messages() == [Status.CERTIFIED.message]
    half = solve_logistic(X.bfloat16(), y, lambda1=0.1)
    assert half.weights.dtype == torch.float32
    torch.testing.assert_close(
        half.weights.double(), solve_logistic(X.bfloat16().double(), y, lambda1=0.1).weights, rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_status_reports_max_iter_and_precision():
    X, y = random_task(9, way=5, shots=5, d=60)
    assert solve_logistic(X, y, lambda1=1e-3, relative=True, max_iter=1).status.item() == Status.MAX_ITER
    limited = solve_logistic(X, y, lambda1=0.1, relative=True, tol=1e-30)
    assert limited.status.item() in (Status.PRECISION, Status.CERTIFIED)  # the gap may be exactly 0
    assert limited.relative_gap.item() < 1e-13


def test_a_second_derivative_raises():
    X, y = random_task(10)
    X.requires_grad_()
    (grad,) = torch.autograd.grad(solve_logistic(X, y, lambda1=0.1).weights.square().sum(), X, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivative only"):
        grad.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [False, True])
def test_opcheck(intercept):
    X, y = random_task(11, d=5, batch=2)
    l1, l2 = torch.full((2,), 0.05, dtype=F64), torch.full((2,), 0.01, dtype=F64)
    weight = torch.ones(y.shape, dtype=F64)
    W = torch.randn(2, 5 + intercept, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    p = torch.randn(*y.shape, 3, dtype=F64).softmax(-1)
    options = Options(n_classes=3, intercept=intercept, tol=1e-10, max_iter=100)
    torch.library.opcheck(OPERATION.adjoint.custom, (X, y, l1, l2, weight, W, p, W, *options, "torch"))
    torch.library.opcheck(lambda1_max.custom, (X, y, weight, 3, intercept))
    for needed in (False, True):
        described = [value.clone().requires_grad_(needed) for value in (X, l1, l2)]
        arguments = (described[0], y, *described[1:], weight, *options, "torch", False)
        torch.library.opcheck(OPERATION.solve.custom, arguments)


GOOD = {"features": torch.zeros(2, 6, 4), "labels": torch.zeros(2, 6, dtype=torch.int64), "lambda1": 1.0}
BAD = [
    ({"labels": torch.zeros(2, 6)}, TypeError, "labels: expected an integer dtype .*, got torch.float32"),
    ({"labels": torch.full((2, 6), 3), "n_classes": 3}, ValueError, "labels: expected values from 0 to 2, got 3"),
    ({"features": torch.full((2, 6, 4), torch.nan)}, ValueError, "features: expected finite values, got 48 NaN"),
    ({"lambda1": 0.0}, ValueError, "lambda1, lambda2: expected one of them > 0 in every task, got 0 for both"),
    ({"lambda1": -1.0}, ValueError, "lambda1: expected a finite number >= 0, got -1.0"),
    ({"intercept": True}, ValueError, "with an intercept every class needs a sample, class 1 of task 0 has none"),
    ({"n_classes": 1}, ValueError, "n_classes: expected at least 2 classes, got 1"),
    ({"backend": "fortran"}, ValueError, "backend: expected 'auto' or one of 'torch', got 'fortran'"),
    ({"tol": -1.0}, ValueError, "tol: expected a finite number > 0, got -1.0"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_invalid_input_is_rejected(change, error, message):
    with pytest.raises(error, match=message):
        solve_logistic(**{**GOOD, **change})
