"""The SVM solvers: certificates, theorems, independent oracles, invalid input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsedis
from sparsedis import NotCertifiedError, Status, solve_svm, svm_lambda1_max
from sparsedis.ops.svm import naive
from tests.tasks import random_task

# Every test here runs with every backend.
pytestmark = pytest.mark.usefixtures("backend")

SOLVERS = ["newton", "fista", "bcd"]
# Tolerances that each solver reaches in a test's time; first-order methods converge slowly (docs/solvers.md).
REACHES = {"newton": 1e-10, "fista": 1e-7, "bcd": 1e-7}


def recomputed_gap(X, y, dual, lambda1, lambda2, dual_reg=0.0, weight=None):
    """Relative gap of one task, from the returned dual alone, by definition in NumPy."""
    X, y, L = X.double().numpy(), y.numpy(), dual.double().numpy()
    k = L.shape[1]
    Y, s = np.eye(k)[y], np.ones(len(y)) if weight is None else weight.double().numpy()
    rho = dual_reg / lambda2
    assert L.min() >= 0
    np.testing.assert_allclose(L.sum(1), 1, atol=1e-12)
    # The label's entry of Y - L is the sum of the others, because 1 - L_y suffers from cancellation at small lambda2.
    A = np.where(Y == 1, ((1 - Y) * L).sum(1, keepdims=True), -L)
    V = X.T @ (s[:, None] * A)
    norms = np.linalg.norm(V, axis=1)
    W = np.maximum(1 - lambda1 / np.maximum(norms, 1e-300), 0)[:, None] * V / lambda2
    F = X @ W
    m = 1 - Y + F - F[np.arange(len(y)), y][:, None]
    if rho == 0:
        phi = m.max(1)
    else:
        z = Y + m / rho
        u = -np.sort(-z, 1)
        excess = (np.cumsum(u, 1) - 1) / np.arange(1, k + 1)
        tau = excess[np.arange(len(z)), (u > excess).sum(1) - 1][:, None]
        a = np.maximum(z - tau, 0)
        phi = (a * m).sum(1) - rho / 2 * ((a - Y) ** 2).sum(1)
    P = s @ phi + lambda1 * np.linalg.norm(W, axis=1).sum() + lambda2 / 2 * (W**2).sum()
    D = s.sum() - (
        (np.maximum(norms - lambda1, 0) ** 2).sum() / (2 * lambda2)
        + s @ ((Y * L).sum(1) + rho / 2 * ((L - Y) ** 2).sum(1))
    )
    return (P - D) / P


def assert_certified(X, y, solution, lambda1, lambda2, tol, dual_reg=0.0, weight=None):
    assert solution.certified.all(), (solution.relative_gap, solution.status)
    assert (solution.relative_gap <= tol).all()
    per_task = torch.as_tensor(lambda1, dtype=torch.float64).expand(len(X))
    for i in range(len(X)):
        gap = recomputed_gap(
            X[i], y[i], solution.dual[i], float(per_task[i]), lambda2, dual_reg, None if weight is None else weight[i]
        )
        assert gap <= tol + 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dual_reg", [0.0, 3.0])
def test_solvers_certify(solver, dual_reg, backend):
    X, y = random_task(0, shots=3, d=12, batch=3)
    lambda1 = 0.2 * svm_lambda1_max(X, y)
    tol = REACHES[solver]
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=5.0, dual_reg=dual_reg, solver=solver, tol=tol)
    assert_certified(X, y, solution, lambda1, 5.0, tol, dual_reg)
    assert solution.solver == solver
    assert solution.backend == backend


@pytest.mark.slow
@pytest.mark.parametrize("dual_reg", [0.0, 3.0])
def test_solvers_agree(dual_reg):
    X, y = random_task(1, batch=3, d=12)
    lambda1 = 0.2 * svm_lambda1_max(X, y)
    solutions = {}
    for solver in SOLVERS:
        solutions[solver] = solve_svm(
            X, y, lambda1=lambda1, lambda2=5.0, dual_reg=dual_reg, solver=solver, tol=REACHES[solver], throw=True
        )
    # By strong convexity, lambda2/2 ||W - W*||^2 <= gap for both.
    exact = solutions["newton"]
    for solution in solutions.values():
        distance = (solution.weights - exact.weights).square().sum((1, 2)).sqrt()
        allowed = (2 * solution.gap / 5.0).sqrt() + (2 * exact.gap / 5.0).sqrt()
        assert (distance <= allowed).all()


GRID = [
    # way, shots, d, lambda2, lambda1 relative
    (2, 1, 1, 1.0, 0.1),
    (2, 30, 640, 1.0, 0.3),
    (5, 1, 640, 1.0, 0.0),
    (5, 5, 1, 1e4, 0.01),
    (5, 5, 640, 1e4, 0.2),
    (5, 5, 640, 1.0, 1.0),
    (5, 5, 640, 1.0, 1.5),
    (5, 15, 1600, 1.0, 0.1),
    (5, 30, 640, 100.0, 0.3),
    (5, (1, 9, 3, 20, 7), 333, 10.0, 0.05),
    (5, 5, 16000, 100.0, 0.3),
    (20, 1, 640, 1.0, 0.2),
    (20, 5, 640, 100.0, 0.1),
    (50, 1, 1600, 10.0, 0.2),
]


@pytest.mark.parametrize("lambda2", [1.0, 1e-3])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_separable_tasks_are_certified_in_float32(lambda2, mean):
    """Weights rounded to the wrong side of a margin cost more than the small objective, so they are lengthened."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(20) % 4).expand(2, -1)
    X = torch.randn(2, 20, 60, generator=generator) + mean
    solution = solve_svm(X, y, lambda1=0.0, lambda2=lambda2)
    assert solution.certified.all()
    assert (solution.relative_gap < 4e-6).all()
    exact = solve_svm(X.double(), y, lambda1=0.0, lambda2=lambda2).weights
    torch.testing.assert_close(solution.weights.double(), exact, rtol=3e-6, atol=1e-6 * float(exact.abs().max()))
    for i in range(len(X)):
        features, W, L = (value[i].numpy().astype(np.longdouble) for value in (X, solution.weights, solution.dual))
        Y = np.eye(4, dtype=np.longdouble)[y[i].numpy()]
        scores = features @ W
        hinge = (1 - Y + scores - (Y * scores).sum(1, keepdims=True)).max(1).sum()
        objective = hinge + lambda2 / 2 * (W**2).sum()
        off = L * (1 - Y)
        V = features.T @ (Y * off.sum(1, keepdims=True) - off)
        gap = objective - (off.sum() - (V**2).sum() / (2 * lambda2))
        assert gap / objective <= solution.relative_gap[i].numpy()


def test_weights_are_lengthened_only_for_their_rounding():
    """Not for the gap of an unconverged L, whose weights are W(L) up to rounding."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(20) % 4).expand(2, -1)
    X = torch.randn(2, 20, 60, generator=generator)
    lambda1 = 0.05 * svm_lambda1_max(X, y)
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=1.0, tol=1e-2, solver="fista")
    assert (solution.relative_gap > 1e-4).all()
    one = torch.ones((), dtype=torch.float64)
    for i in range(len(X)):
        L, Y = solution.dual[i].double(), torch.eye(4, dtype=torch.float64)[y[i]]
        exact = naive.weights(L, Y, torch.ones_like(Y[:, 0]), X[i].double(), lambda1[i].double(), one)
        torch.testing.assert_close(solution.weights[i].double(), exact, rtol=1e-7, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("way", "shots", "d", "lambda2", "relative"), GRID)
def test_newton_certifies_within_30_iterations(way, shots, d, lambda2, relative, dtype):
    X, y = random_task(d + way, way=way, shots=shots, d=d, dtype=dtype)
    tol = 1e-5 if dtype == torch.float32 else 1e-10
    lambda1 = relative * svm_lambda1_max(X, y)
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, tol=tol)
    assert_certified(X, y, solution, lambda1, lambda2, tol)
    assert solution.n_iter.max() <= 30
    assert solution.weights.dtype == dtype


@pytest.mark.slow
@pytest.mark.parametrize("lambda2", [1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("relative", [0.02, 0.2, 0.8])
def test_newton_certifies_at_small_lambda2(lambda2, relative):
    X, y = random_task(int(1 / lambda2), way=5, shots=5, d=400, batch=4)
    lambda1 = relative * svm_lambda1_max(X, y)
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, tol=1e-10)
    assert_certified(X, y, solution, lambda1, lambda2, 1e-10)
    assert solution.n_iter.max() <= 30


@pytest.mark.slow
def test_newton_solves_systems_that_are_too_large_to_factor():
    X, y = random_task(5, way=30, shots=5, d=320)
    lambda1 = 0.2 * svm_lambda1_max(X, y)
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=10.0, tol=1e-10)
    assert_certified(X, y, solution, lambda1, 10.0, 1e-10)
    assert solution.n_iter.max() <= 30


@pytest.mark.slow
@pytest.mark.parametrize("c", [1e-4, 1e4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_scaling_leaves_the_dual_unchanged(c, solver):
    X, y = random_task(2, d=12, batch=2)
    lambda1 = 0.2 * svm_lambda1_max(X, y)
    tol = REACHES[solver]
    base = solve_svm(X, y, lambda1=lambda1, lambda2=5.0, dual_reg=0.5, solver=solver, tol=tol)
    scaled = solve_svm(c * X, y, lambda1=c * lambda1, lambda2=5.0 * c**2, dual_reg=0.5 * c**2, solver=solver, tol=tol)
    assert base.certified.all()
    assert scaled.certified.all()
    torch.testing.assert_close(scaled.dual, base.dual, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(c * scaled.weights, base.weights, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), way=st.integers(2, 4), relative=st.floats(0, 1.1), lambda2=st.floats(0.1, 100))
@settings(max_examples=25)
def test_permutations_act_on_the_solution(seed, way, relative, lambda2):
    X, y = random_task(seed, way=way, d=12)
    generator = torch.Generator().manual_seed(seed)
    samples, features, classes = (torch.randperm(n, generator=generator) for n in (X.shape[1], 12, way))
    options = {"lambda1": relative * svm_lambda1_max(X, y), "lambda2": lambda2, "tol": 1e-11, "n_classes": way}
    base = solve_svm(X, y, **options)
    moved = solve_svm(X[:, samples][..., features], classes[y[:, samples]], **options)
    expected = torch.empty_like(base.weights)
    expected[..., classes] = base.weights[:, features]
    torch.testing.assert_close(moved.weights, expected, rtol=1e-3, atol=1e-5)


def test_at_lambda1_max_no_feature_is_active():
    X, y = random_task(3, batch=2)
    solution = solve_svm(X, y, lambda1=svm_lambda1_max(X, y), tol=1e-10)
    assert (solution.weights == 0).all()
    assert not solution.active.any()
    assert (solution.sparsity == 1).all()


def test_weight_zero_omits_a_sample():
    X, y = random_task(4, batch=2)
    padded_X = torch.cat([X, 100 * torch.randn(2, 3, X.shape[2], dtype=X.dtype)], 1)
    padded_y = torch.cat([y, torch.full((2, 3), -100)], 1)
    weight = torch.ones(padded_y.shape)
    weight[:, -3:] = 0
    options = {"lambda1": 2.0, "lambda2": 3.0, "tol": 1e-11}
    base = solve_svm(X, y, **options)
    padded = solve_svm(padded_X, padded_y, sample_weight=weight, **options)
    torch.testing.assert_close(padded.weights, base.weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded.objective, base.objective)
    torch.testing.assert_close(svm_lambda1_max(padded_X, padded_y, sample_weight=weight), svm_lambda1_max(X, y))


@pytest.mark.parametrize("seed", [312, 337])
def test_features_of_very_different_scales_are_certified(seed):
    """With scales over four decades, the gap stays near 1 for at least 36 iterations."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(1, 16, 15, generator=generator, dtype=torch.float64)
    X = X * 10.0 ** (4 * torch.rand(15, generator=generator, dtype=torch.float64) - 2)
    y = torch.arange(2).repeat_interleave(8)[None]
    solution = solve_svm(X, y, lambda1=1e-3 * svm_lambda1_max(X, y), lambda2=1e-3)
    assert solution.certified.all(), solution.relative_gap
    assert recomputed_gap(X[0], y[0], solution.dual[0], 1e-3 * float(svm_lambda1_max(X, y)), 1e-3) <= 1.1e-5


def test_features_of_low_rank_are_certified_by_default():
    """Low rank with little noise, lambda1 = 0 and a small lambda2 take the most iterations of all tasks found."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    X, y = normal(2, 28, 8) @ normal(2, 8, 86) + 1e-3 * normal(2, 28, 86), torch.arange(4).repeat(7).expand(2, -1)
    solution = solve_svm(X, y, lambda1=0.0, lambda2=1e-3)
    assert solution.certified.all(), solution.relative_gap


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_weight_two_duplicates_a_sample(solver):
    X, y = random_task(5, d=12, batch=2)
    weight = torch.ones(y.shape)
    weight[:, ::3] = 2
    options = {"lambda1": 2.0, "lambda2": 3.0, "dual_reg": 0.4, "tol": REACHES[solver] / 10, "solver": solver}
    weighted = solve_svm(X, y, sample_weight=weight, throw=True, **options)
    twice = solve_svm(torch.cat([X, X[:, ::3]], 1), torch.cat([y, y[:, ::3]], 1), throw=True, **options)
    torch.testing.assert_close(weighted.weights, twice.weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weighted.objective, twice.objective)


def test_a_task_without_samples_has_zero_weights():
    X, y = random_task(6, batch=2)
    weight = torch.ones(y.shape)
    weight[1] = 0
    X.requires_grad_()
    solution = solve_svm(X, y, lambda1=1.0, sample_weight=weight, n_classes=3)
    assert solution.certified.all()
    assert (solution.weights[1] == 0).all()
    solution.weights.sum().backward()
    assert torch.isfinite(X.grad).all()


@pytest.mark.parametrize("relative", [0.0, 0.2])
def test_degenerate_tasks_are_certified(relative):
    X, y = random_task(7, way=3, shots=6, d=40)
    X[:, 3:6] = X[:, :3]  # duplicated samples
    X[:, 9] = X[:, 0]  # the same point with two labels
    X[..., 5:15] = 0  # features that are always zero
    X[:, 8] = 0  # a sample that is zero
    X.requires_grad_()
    lambda1 = relative * svm_lambda1_max(X, y, n_classes=5)
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=0.5, n_classes=5, tol=1e-10)  # two classes without a sample
    assert_certified(X.detach(), y, solution, lambda1, 0.5, 1e-10)
    assert solution.n_iter.max() <= 30
    solution.weights.square().sum().backward()
    assert torch.isfinite(X.grad).all()


def test_zero_features_have_zero_weights():
    X, y = torch.zeros(1, 6, 4), torch.tensor([[0, 0, 1, 1, 2, 2]])
    assert svm_lambda1_max(X, y).item() == 0
    for solver in SOLVERS:
        solution = solve_svm(X, y, lambda1=0.0, solver=solver)
        assert solution.certified.all()
        assert (solution.weights == 0).all()


def test_tasks_stop_independently_of_their_batch():
    X, y = random_task(8, batch=3, d=60)
    lambda1 = torch.tensor([2.0, 0.3, 0.05], dtype=torch.float64) * svm_lambda1_max(X, y)
    together = solve_svm(X, y, lambda1=lambda1)
    assert len(set(together.n_iter.tolist())) > 1
    for i in range(3):
        alone = solve_svm(X[i], y[i], lambda1=lambda1[i])
        assert alone.n_iter == together.n_iter[i]
        torch.testing.assert_close(alone.weights, together.weights[i], rtol=1e-9, atol=1e-12)


def test_one_task_has_no_batch_dimension():
    X, y = random_task(9)
    solution = solve_svm(X[0], y[0], lambda1=1.0)
    assert solution.weights.shape == (30, 3)
    assert solution.dual.shape == (12, 3)
    assert solution.active.shape == (30,)
    scalars = ("gap", "relative_gap", "objective", "n_iter", "status", "sparsity")
    assert all(getattr(solution, name).shape == () for name in scalars)
    assert svm_lambda1_max(X[0], y[0]).shape == ()
    assert solution.messages() == [Status.CERTIFIED.message]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    X, y = random_task(10, dtype=torch.float32)
    X = X.to(dtype)
    solution = solve_svm(X, y, lambda1=1.0)
    assert solution.weights.dtype == torch.float32
    torch.testing.assert_close(solution.weights, solve_svm(X.float(), y, lambda1=1.0).weights)


def test_strided_features_have_the_same_solution():
    X, y = random_task(11, batch=2)
    strided = X.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(
        solve_svm(strided, y, lambda1=1.0).weights, solve_svm(X, y, lambda1=1.0).weights, rtol=1e-8, atol=1e-10
    )


def test_throw_names_the_task_and_its_gap():
    X, y = random_task(12, batch=3, d=60)
    lambda1 = torch.tensor([2.0, 0.1, 2.0], dtype=torch.float64) * svm_lambda1_max(X, y)
    with pytest.raises(NotCertifiedError, match=r"1 of 3 tasks .*task 1: relative gap .*MAX_ITER.*Increase max_iter"):
        solve_svm(X, y, lambda1=lambda1, lambda2=0.1, max_iter=5, throw=True)
    reported = solve_svm(X, y, lambda1=lambda1, lambda2=0.1, max_iter=5)
    assert reported.status.tolist() == [Status.CERTIFIED, Status.MAX_ITER, Status.CERTIFIED]
    assert reported.n_iter[1] == 5


@pytest.mark.slow
def test_an_unreachable_tolerance_has_status_precision():
    X, y = random_task(13)
    solution = solve_svm(X, y, lambda1=1.0, tol=1e-30, max_iter=200)
    assert solution.status.item() == Status.PRECISION
    assert solution.relative_gap < 1e-10


@pytest.mark.parametrize(("way", "C"), [(2, 0.1), (3, 1.0), (4, 0.03)])
def test_agrees_with_scikit_learns_crammer_singer_svm(way, C):
    """lambda1 = 0 is scikit-learn's LinearSVC(multi_class="crammer_singer") with C = 1/lambda2."""
    svm = pytest.importorskip("sklearn.svm")
    X, y = random_task(14 + way, way=way, shots=6, d=8)
    oracle = svm.LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=C, tol=1e-10, max_iter=10**6)
    oracle.fit(X[0].numpy(), y[0].numpy())
    coefficients = torch.as_tensor(oracle.coef_).T
    if way == 2:  # scikit-learn keeps the difference of the two classes only
        coefficients = torch.cat([-coefficients, coefficients], 1) / 2
    weights = solve_svm(X, y, lambda1=0.0, lambda2=1 / C, tol=1e-12).weights[0]
    torch.testing.assert_close(weights, coefficients - coefficients.mean(1, keepdim=True), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("lambda1", "lambda2"), [(0.5, 1.0), (3.0, 0.2), (1.0, 30.0)])
def test_agrees_with_a_conic_solver(lambda1, lambda2):
    """The primal as stated in the paper."""
    cp = pytest.importorskip("cvxpy")
    X, y = random_task(20, way=3, shots=4, d=9)
    x, labels, k = X[0].numpy(), y[0].numpy(), 3
    W = cp.Variable((9, k))
    margins = 1 - np.eye(k)[labels] + x @ W - cp.sum(cp.multiply(x @ W, np.eye(k)[labels]), axis=1, keepdims=True)
    objective = cp.sum(cp.max(margins, axis=1)) + lambda1 * cp.sum(cp.norm(W, 2, axis=1))
    problem = cp.Problem(cp.Minimize(objective + lambda2 / 2 * cp.sum_squares(W)))
    problem.solve(solver=cp.CLARABEL)
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, tol=1e-11)
    assert solution.objective.item() == pytest.approx(problem.value, rel=1e-7)
    torch.testing.assert_close(solution.weights[0], torch.as_tensor(W.value), rtol=1e-3, atol=1e-4)


GOOD = {"features": torch.zeros(2, 6, 4), "labels": torch.zeros(2, 6, dtype=torch.int64), "lambda1": 1.0}
BAD = [
    ({"features": [[1.0]]}, TypeError, "features: expected a torch.Tensor, got list"),
    ({"features": torch.zeros(2, 6, 4, dtype=torch.int64)}, TypeError, "features: expected a floating-point dtype"),
    ({"features": torch.zeros(6)}, ValueError, r"features: expected shape \(B, n, d\) or \(n, d\), got \(6,\)"),
    ({"features": torch.zeros(2, 0, 4)}, ValueError, "features: expected no empty dimension"),
    ({"features": torch.full((2, 6, 4), torch.nan)}, ValueError, "features: expected finite values, got 48 NaN"),
    ({"features": torch.full((2, 6, 4), torch.inf)}, ValueError, "features: expected finite values"),
    ({"labels": torch.zeros(2, 6)}, TypeError, "labels: expected an integer dtype .*, got torch.float32"),
    ({"labels": torch.zeros(2, 6, dtype=torch.bool)}, TypeError, "labels: expected an integer dtype"),
    ({"labels": torch.zeros(2, 5, dtype=torch.int64)}, ValueError, r"labels: expected shape \(2, 6\), got \(2, 5\)"),
    ({"labels": torch.full((2, 6), -1)}, ValueError, "labels: expected values from 0 to 1, got -1"),
    ({"labels": torch.full((2, 6), 3), "n_classes": 3}, ValueError, "labels: expected values from 0 to 2, got 3"),
    ({"labels": torch.zeros(2, 6, dtype=torch.int64, device="meta")}, ValueError, "labels: expected device cpu"),
    ({"n_classes": 1}, ValueError, "n_classes: expected at least 2 classes, got 1"),
    ({"n_classes": 2.0}, TypeError, "n_classes: expected an int, got float"),
    ({"lambda1": -1.0}, ValueError, "lambda1: expected a finite number >= 0, got -1.0"),
    ({"lambda1": torch.tensor([1.0, -2.0])}, ValueError, "lambda1: expected a finite number >= 0, got -2.0"),
    ({"lambda1": torch.ones(3)}, ValueError, r"lambda1: expected a number, a 0-d tensor or shape \(2,\), got \(3,\)"),
    ({"lambda1": "1"}, TypeError, "lambda1: expected a number or a torch.Tensor, got str"),
    ({"lambda1": float("nan")}, ValueError, "lambda1: expected a finite number"),
    ({"lambda2": 0.0}, ValueError, "lambda2: expected a finite number > 0, got 0.0"),
    ({"lambda2": torch.tensor(0.0)}, ValueError, "lambda2: expected a finite number > 0, got 0.0"),
    ({"dual_reg": -0.1}, ValueError, "dual_reg: expected a finite number >= 0, got -0.1"),
    ({"sample_weight": torch.ones(2, 5)}, ValueError, r"sample_weight: expected shape \(2, 6\), got \(2, 5\)"),
    ({"sample_weight": -torch.ones(2, 6)}, ValueError, "sample_weight: expected finite values >= 0, got -1.0"),
    ({"solver": "sgd"}, ValueError, "solver: expected one of 'auto', 'newton', 'fista', 'bcd', got 'sgd'"),
    ({"backend": "fortran"}, ValueError, "backend: expected 'auto' or one of .*'torch', got 'fortran'"),
    ({"tol": 0.0}, ValueError, "tol: expected a finite number > 0, got 0.0"),
    ({"max_iter": 0}, ValueError, "max_iter: expected a finite number > 0, got 0"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_invalid_input_is_rejected(change, error, message):
    for relative in (False, True):  # relative=True computes lambda1_max first, which must not raise other errors
        with pytest.raises(error, match=message):
            solve_svm(**{**GOOD, **change, "relative": relative})
    if change.keys() & {"features", "labels", "sample_weight", "n_classes"}:
        with pytest.raises(error, match=message):
            svm_lambda1_max(**{name: value for name, value in {**GOOD, **change}.items() if name != "lambda1"})


def test_public_names_exist():
    assert all(hasattr(sparsedis, name) for name in sparsedis.__all__)


@pytest.mark.parametrize(
    ("seed", "d", "lambda1", "lambda2"), [(0, 100, 0.1, 1.0), (1, 100, 0.1, 1e2), (2, 56, 0.01, 1e4)]
)
def test_features_of_large_means_are_solved_to_float32_precision(backend, seed, d, lambda1, lambda2):
    """With products and factors in float32, Newton systems in both forms would wander without stalling."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(25, d, generator=generator) + 1e4
    y = torch.arange(5).repeat(5)
    options = {"lambda1": lambda1 * svm_lambda1_max(X, y), "lambda2": lambda2}
    solution = solve_svm(X, y, **options)
    exact = solve_svm(X.double(), y, **options)
    assert exact.certified
    assert solution.status.item() in (Status.CERTIFIED, Status.PRECISION)
    assert solution.relative_gap < 1e-3
    torch.testing.assert_close(solution.objective, exact.objective, rtol=1e-3, atol=0)
