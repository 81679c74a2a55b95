"""Lasso and ridge regression: certificates, theorems, independent oracles, gradients, invalid input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedis import NotCertifiedError, Status, lasso_lambda1_max, solve_lasso, solve_ridge
from sparsedis.ops import lasso, ridge

F64 = torch.float64


@pytest.fixture(params=["cpp", "torch"], autouse=True)
def backend(request, monkeypatch):
    """The Lasso backend that "auto" tries first."""
    backends = lasso.OPERATION.backends
    first = [one.name for one in backends].index(request.param)
    if reason := backends[first].available():
        pytest.skip(f"backend {request.param!r} is not available: {reason}")
    monkeypatch.setattr(lasso.OPERATION, "backends", backends[first:])
    return request.param


def random_regression(seed, n=20, d=6, batch=2, useful=0.5, noise=0.3):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64)

    X = normal(batch, n, d)
    w = normal(batch, d, 1) * (torch.rand(batch, d, 1, generator=generator) < useful)
    return X, (X @ w)[..., 0] + noise * normal(batch, n)


def recomputed_gap(X, y, w, t, lambda1, lambda2, weight=None):
    """(P(w) - D(t)) / P(0) of one task, by definition in NumPy; for lambda2 = 0, t has to be feasible."""
    X, y, w, t = (value.detach().double().numpy() for value in (X, y, w, t))
    c = np.ones(len(y)) if weight is None else weight.double().numpy()
    c = c / c.sum()
    P = c @ (X @ w - y) ** 2 / 2 + lambda1 * np.abs(w).sum() + lambda2 / 2 * (w**2).sum()
    v = np.abs(X.T @ (c * t))
    if lambda2 == 0:
        assert v.max() <= lambda1 * (1 + 1e-9)
        conjugate = 0.0
    else:
        conjugate = (np.maximum(v - lambda1, 0) ** 2).sum() / (2 * lambda2)
    return (P - (c @ (t * y - t**2 / 2) - conjugate)) / (c @ y**2 / 2)


CASES = [
    # n, d, relative lambda1, lambda2
    (20, 6, 0.1, 0.0),
    (50, 6, 0.01, 0.3),
    (1, 1, 0.5, 0.0),
    (3, 6, 0.2, 0.0),
    (25, 64, 0.1, 0.0),
    (25, 100, 0.01, 0.0),
    (75, 100, 0.003, 0.0),
    (40, 100, 0.05, 0.01),
    (200, 65, 0.02, 0.0),
    (20, 300, 0.05, 0.0),
    (12, 150, 0.01, 0.5),  # more active features than samples
    (12, 150, 0.001, 1e-6),
]


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d", "relative", "lambda2"), CASES)
def test_certificates_agree_with_the_definition_of_the_gap(n, d, relative, lambda2, weighted):
    X, y = random_regression(n + d, n, d, batch=3)
    weight = torch.rand(3, n, generator=torch.Generator().manual_seed(0)) + 0.1 if weighted else None
    lambda1 = relative * lasso_lambda1_max(X, y, sample_weight=weight)
    solution = solve_lasso(X, y, lambda1=lambda1, lambda2=lambda2, sample_weight=weight)
    assert solution.certified.all()
    assert (solution.gap >= 0).all()
    assert (solution.relative_gap <= 1e-10).all()
    for i in range(3):
        own = None if weight is None else weight[i]
        gap = recomputed_gap(X[i], y[i], solution.weights[i], solution.dual[i], float(lambda1[i]), lambda2, own)
        assert -1e-12 <= gap <= 1e-10 + 1e-12
    assert torch.equal(solution.active, solution.weights != 0)
    torch.testing.assert_close(solution.sparsity, 1 - solution.active.double().mean(-1))


def nearly_dependent(kind, n, d):
    """Nearly dependent features, for which coordinate descent alone converges slowly."""
    X, y = random_regression(n + d, n, d)
    if kind == "not centred":
        X = X + 100
    elif kind == "positive":
        X, y = (X + 1).clamp_min(0), y + 3
    elif kind == "few directions":
        X = X[..., :4] @ random_regression(1, 4, d)[0] + 1e-3 * X
    elif kind == "ill-conditioned":
        X = X * torch.logspace(0, -8, d, dtype=F64) @ random_regression(1, d, d)[0]
    else:
        X, y = X.round(), y.round()
    return X, y


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["not centred", "positive", "few directions", "ill-conditioned", "integers"])
@pytest.mark.parametrize(("n", "d"), [(10, 59), (28, 92), (60, 40), (12, 150)])
@pytest.mark.parametrize("relative", [0.1, 1e-3, 1e-6])
def test_tasks_with_nearly_dependent_features_are_certified(kind, n, d, relative):
    X, y = nearly_dependent(kind, n, d)
    lambda1 = relative * lasso_lambda1_max(X, y)
    solution = solve_lasso(X, y, lambda1=lambda1)
    # At 1e-6 the worst conditioned features have weights of several thousand, whose rounding errors dominate the gap.
    floor = relative == 1e-6 and kind in ("few directions", "ill-conditioned")
    assert floor or solution.certified.all(), solution.messages()
    assert (solution.relative_gap <= 1e-8).all()
    for i in range(2):
        gap = recomputed_gap(X[i], y[i], solution.weights[i], solution.dual[i], float(lambda1[i]), 0.0)
        assert gap == pytest.approx(float(solution.relative_gap[i]), abs=1e-10)
    assert ((solution.weights != 0).sum(1) <= n).all()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "relative", "lambda2"), CASES)
def test_solutions_satisfy_the_optimality_conditions(n, d, relative, lambda2):
    """The subgradient conditions, to 1e-10."""
    X, y = random_regression(2 * n + d, n, d, batch=3)
    lambda1 = relative * lasso_lambda1_max(X, y)
    w = solve_lasso(X, y, lambda1=lambda1, lambda2=lambda2, tol=1e-14).weights
    slope = (X.mT @ (y - (X @ w[..., None])[..., 0])[..., None])[..., 0] / n - lambda2 * w
    scale = lasso_lambda1_max(X, y)[:, None]
    on = torch.where(w != 0, slope - lambda1[:, None] * w.sign(), 0)
    assert (on.abs() <= 1e-10 * scale).all()
    assert (slope.abs() <= lambda1[:, None] + 1e-10 * scale).all()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "relative", "lambda2"), CASES)
@pytest.mark.filterwarnings("ignore:Objective did not converge")  # scikit-learn's tolerance here is below rounding
def test_agrees_with_scikit_learns_elastic_net(n, d, relative, lambda2):
    linear = pytest.importorskip("sklearn.linear_model")
    X, y = random_regression(3 * n + d, n, d)
    lambda1 = relative * lasso_lambda1_max(X, y)
    solution = solve_lasso(X, y, lambda1=lambda1, lambda2=lambda2)
    for i in range(2):
        total = float(lambda1[i]) + lambda2
        oracle = linear.ElasticNet(
            alpha=total, l1_ratio=float(lambda1[i]) / total, fit_intercept=False, tol=1e-15, max_iter=10**6
        )
        oracle.fit(X[i].numpy(), y[i].numpy())
        np.testing.assert_allclose(solution.weights[i].numpy(), oracle.coef_, rtol=1e-5, atol=1e-6)


def test_agrees_with_scikit_learns_lasso_with_sample_weights():
    linear = pytest.importorskip("sklearn.linear_model")
    X, y = random_regression(0, 30, 8)
    weight = torch.rand(2, 30, generator=torch.Generator().manual_seed(1), dtype=F64)
    solution = solve_lasso(X, y, lambda1=0.05, sample_weight=weight)
    for i in range(2):
        oracle = linear.Lasso(alpha=0.05, fit_intercept=False, tol=1e-14, max_iter=10**6)
        oracle.fit(X[i].numpy(), y[i].numpy(), sample_weight=weight[i].numpy())
        np.testing.assert_allclose(solution.weights[i].numpy(), oracle.coef_, rtol=1e-8, atol=1e-9)


def test_weights_are_exactly_zero_from_lambda1_max_on():
    X, y = random_regression(1, 30, 10, batch=4)
    largest = lasso_lambda1_max(X, y)
    torch.testing.assert_close(largest, (X.mT @ y[..., None]).abs().amax((1, 2)) / 30)
    at = solve_lasso(X, y, lambda1=largest)
    assert (at.weights == 0).all()
    assert (at.sparsity == 1).all()
    assert at.certified.all()
    below = solve_lasso(X, y, lambda1=0.999 * largest)
    assert (below.active.sum(1) == 1).all()


# lambda1 is not slightly below its maximum, where w = 0 is certified as well.
@pytest.mark.slow
@given(
    seed=st.integers(0, 10**6),
    relative=st.floats(0.001, 0.99) | st.floats(1.001, 1.1),
    lambda2=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=20)
def test_permutations_and_scaling_act_on_the_solution(seed, relative, lambda2):
    X, y = random_regression(seed, 15, 8)
    generator = torch.Generator().manual_seed(seed)
    samples, features = torch.randperm(15, generator=generator), torch.randperm(8, generator=generator)
    lambda1 = relative * lasso_lambda1_max(X, y)
    base = solve_lasso(X, y, lambda1=lambda1, lambda2=lambda2).weights
    moved = solve_lasso(X[:, samples][..., features], y[:, samples], lambda1=lambda1, lambda2=lambda2).weights
    torch.testing.assert_close(moved, base[:, features], rtol=1e-7, atol=1e-8)
    # (X, y, lambda1, lambda2) -> (c X, b y, b c lambda1, c^2 lambda2) maps w to b/c w.
    for c, b in ((1e-4, 1e3), (1e5, 1e-4)):
        scaled = solve_lasso(c * X, b * y, lambda1=b * c * lambda1, lambda2=c**2 * lambda2).weights
        torch.testing.assert_close(c / b * scaled, base, rtol=1e-7, atol=1e-8)


def test_weight_zero_omits_a_sample_and_weight_two_duplicates_it():
    X, y = random_regression(2, 20, 6)
    weight = torch.ones(2, 20)
    weight[:, :3], weight[:, 3:6] = 0, 2
    there = torch.cat([X[:, 3:], X[:, 3:6]], 1), torch.cat([y[:, 3:], y[:, 3:6]], 1)
    overwritten = X.clone()
    overwritten[:, :3] = 1e100
    base = solve_lasso(*there, lambda1=0.1, relative=True)
    weighted = solve_lasso(overwritten, y, lambda1=0.1, relative=True, sample_weight=7 * weight)
    torch.testing.assert_close(weighted.weights, base.weights, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(weighted.objective, base.objective)
    assert (weighted.dual[:, :3] == 0).all()
    for relative in (False, True):
        base = solve_ridge(*there, lambda2=0.1, relative=relative)
        weighted = solve_ridge(X, y, lambda2=0.1, relative=relative, sample_weight=weight)
        torch.testing.assert_close(weighted.weights, base.weights)


@pytest.mark.parametrize("d", [6, 30])
def test_a_task_without_samples_has_zero_weights(d):
    X, y = random_regression(3, d=d)
    weight = torch.ones(2, 20)
    weight[1] = 0
    for solve in (
        lambda: solve_lasso(X, y, lambda1=0.1, sample_weight=weight, relative=True),
        lambda: solve_ridge(X, y, lambda2=0.1, sample_weight=weight),
    ):
        solution = solve()
        assert solution.certified.all()
        assert (solution.weights[1] == 0).all()
        assert solution.objective[1] == 0


def test_an_exact_fit_is_certified():
    """P(w) falls to zero; the gap is relative to P(0)."""
    X, _ = random_regression(4, 10, 30)
    y = X[..., 0] - X[..., 1]
    for lambda1 in (0.0, 1e-9):
        solution = solve_lasso(X, y, lambda1=lambda1)
        assert solution.certified.all()
        torch.testing.assert_close((X @ solution.weights[..., None])[..., 0], y, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(20, 6), (4, 9), (9, 130)])
def test_without_penalties_the_solution_is_least_squares_of_least_norm(n, d):
    X, y = random_regression(5, n, d)
    X = (
        X / X.square().mean(1, keepdim=True).sqrt()
    )  # equal scales, because the least norm depends on the features' units
    solution = solve_lasso(X, y, lambda1=0.0)
    assert solution.certified.all()
    expected = (torch.linalg.pinv(X) @ y[..., None])[..., 0]
    torch.testing.assert_close(solution.weights, expected, rtol=1e-9, atol=1e-10)


def test_degenerate_features_are_certified():
    X, y = random_regression(6, 20, 8)
    X[..., 1] = X[..., 0]  # a duplicate
    X[..., 2] = -2 * X[..., 0]  # and a multiple
    X[..., 3] = 0
    X[..., 4] *= 1e-6
    X.requires_grad_()
    for lambda1 in (0.0, 0.01, 0.5):
        solution = solve_lasso(X, y, lambda1=lambda1, relative=True)
        assert solution.certified.all()
        assert (solution.weights[:, 3] == 0).all()
        (grad,) = torch.autograd.grad(solution.weights.square().sum(), X)
        assert torch.isfinite(grad).all()
        distinct = X.detach()[..., [2, 4, 5, 6, 7]]
        same = solve_lasso(distinct, y, lambda1=lambda1 * lasso_lambda1_max(X, y))
        torch.testing.assert_close(solution.objective, same.objective, rtol=1e-9, atol=1e-12)


def test_zero_targets_or_features_have_zero_weights():
    X, _ = random_regression(7)
    zero = solve_lasso(X, torch.zeros(2, 20, dtype=F64), lambda1=0.1, relative=True)
    assert zero.certified.all()
    assert (zero.weights == 0).all()
    zero_features = torch.zeros(2, 20, 6, dtype=F64)
    for solution in (
        solve_lasso(zero_features, torch.ones(2, 20), lambda1=0.1, relative=True),
        solve_ridge(zero_features, torch.ones(2, 20), lambda2=0.1, relative=True),
    ):
        assert solution.certified.all()
        assert (solution.weights == 0).all()


@pytest.mark.parametrize(("n", "d"), [(30, 6), (6, 30)])
@pytest.mark.parametrize("relative", [False, True])
def test_ridge_agrees_with_scikit_learn(n, d, relative):
    linear = pytest.importorskip("sklearn.linear_model")
    X, _ = random_regression(8, n, d)
    Y = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    solution = solve_ridge(X, Y, lambda2=0.3, relative=relative)
    assert solution.weights.shape == (2, d, 3)
    assert solution.dual.shape == (2, n, 3)
    assert solution.certified.all()
    for i in range(2):
        lambda2 = 0.3 * float(X[i].square().sum()) / n if relative else 0.3
        oracle = linear.Ridge(alpha=lambda2 * n, fit_intercept=False, solver="svd").fit(X[i].numpy(), Y[i].numpy())
        np.testing.assert_allclose(solution.weights[i].numpy(), oracle.coef_.T, rtol=1e-10, atol=1e-12)
        w = solution.weights[i]
        loss = (X[i] @ w - Y[i]).square().sum() / (2 * n) + lambda2 / 2 * w.square().sum()
        torch.testing.assert_close(solution.objective[i], loss)
        t, v = solution.dual[i], X[i].T @ solution.dual[i] / n
        dual = ((t * Y[i] - t**2 / 2) / n).sum() - v.square().sum() / (2 * lambda2)
        assert abs(loss - dual) <= 1e-12 * loss
    one = solve_ridge(X, Y[..., 0], lambda2=0.3, relative=relative)
    torch.testing.assert_close(one.weights, solution.weights[..., 0])


def test_ridge_agrees_with_the_lasso_at_lambda1_zero():
    X, y = random_regression(9, 8, 12)
    a, b = solve_ridge(X, y, lambda2=0.2), solve_lasso(X, y, lambda1=0.0, lambda2=0.2)
    torch.testing.assert_close(a.weights, b.weights, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(a.objective, b.objective)
    assert b.certified.all()


@pytest.mark.parametrize("lambda2", [1e-14, 1e-30, 1e12])
def test_ridge_is_accurate_at_extreme_penalties(lambda2):
    for shape in ((20, 6), (6, 20)):
        X, y = random_regression(10, *shape)
        solution = solve_ridge(X, y, lambda2=lambda2)
        if lambda2 < 1:
            expected = (torch.linalg.pinv(X) @ y[..., None])[..., 0]
            if shape == (20, 6):
                torch.testing.assert_close(solution.weights, expected, rtol=1e-6, atol=1e-8)
        else:
            assert solution.certified.all()
            torch.testing.assert_close(solution.weights, (X.mT @ y[..., None])[..., 0] / (shape[0] * lambda2))
        assert torch.isfinite(solution.weights).all()


# Gradients.


def leaves(*values):
    return [torch.tensor(value, dtype=F64, requires_grad=True) for value in values]


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(12, 5), (6, 10), (6, 66)])
@pytest.mark.parametrize("lambda2", [0.0, 0.2])
def test_gradcheck_lasso(n, d, lambda2, weighted):
    X, y = random_regression(n + d, n, d)
    weight = torch.tensor([0.0, 2.0, 0.7] * (n // 3)).expand(2, -1) if weighted else None
    lambda1 = (0.2 * lasso_lambda1_max(X, y, sample_weight=weight)).tolist()
    inputs = [X.requires_grad_(), y.requires_grad_(), *leaves(lambda1, *([lambda2] if lambda2 else []))]

    def weights(X, y, *values):
        options = dict(zip(("lambda1", "lambda2"), values, strict=False))
        return solve_lasso(X, y, sample_weight=weight, tol=1e-14, **options).weights

    assert weights(*inputs).count_nonzero() > 2
    # Fast mode, for all tasks but the small weighted ones, checks along random directions.
    assert torch.autograd.gradcheck(weights, inputs, eps=1e-6, atol=1e-7, rtol=1e-6, fast_mode=d > 5 or not weighted)


@pytest.mark.slow
@pytest.mark.parametrize("targets", [None, 3])
@pytest.mark.parametrize(("n", "d"), [(12, 5), (6, 10)])
def test_gradcheck_ridge(n, d, targets):
    X, y = random_regression(n, n, d)
    if targets:
        y = torch.randn(2, n, targets, generator=torch.Generator().manual_seed(0), dtype=F64)
    weight = torch.tensor([0.0, 2.0, 0.7] * (n // 3)).expand(2, -1)
    inputs = [X.requires_grad_(), y.requires_grad_(), *leaves([0.05, 0.3])]
    assert torch.autograd.gradcheck(
        lambda X, y, l2: solve_ridge(X, y, lambda2=l2, sample_weight=weight).weights, inputs
    )


def test_relative_penalties_have_no_gradient_through_their_scale():
    X, y = random_regression(11)
    (eps,) = leaves(0.2)
    X.requires_grad_()
    scale = X.detach().square().sum((1, 2)) / 20
    for relative, absolute in (
        (
            solve_lasso(X, y, lambda1=eps, relative=True),
            solve_lasso(X, y, lambda1=eps * lasso_lambda1_max(X, y)),
        ),
        (solve_ridge(X, y, lambda2=eps, relative=True), solve_ridge(X, y, lambda2=eps * scale)),
    ):
        ours = torch.autograd.grad(relative.weights.square().sum(), (X, eps))
        theirs = torch.autograd.grad(absolute.weights.square().sum(), (X, eps))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
            assert a.abs().max() > 0


def test_gradients_are_zero_off_the_support():
    X, y = random_regression(12, 30, 8)
    X.requires_grad_()
    solution = solve_lasso(X, y, lambda1=0.3, relative=True)
    off = ~solution.active
    assert off.any()
    (grad,) = torch.autograd.grad(solution.weights.sum(), X)
    assert (grad[off[:, None].expand_as(grad)] == 0).all()


def test_at_lambda1_max_every_gradient_is_zero():
    X, y = random_regression(13)
    lambda1 = lasso_lambda1_max(X, y).requires_grad_()
    (lambda2,) = leaves(0.1)
    inputs = (X.requires_grad_(), y.requires_grad_(), lambda1, lambda2)
    grads = torch.autograd.grad(solve_lasso(X, y, lambda1=lambda1, lambda2=lambda2).weights.sum(), inputs)
    assert all((grad == 0).all() for grad in grads)


def test_padding_gets_no_gradient():
    X, y = random_regression(14)
    weight = torch.ones(2, 20)
    weight[:, :4] = 0
    for solve in (
        lambda: solve_lasso(X, y, lambda1=0.05, sample_weight=weight),
        lambda: solve_ridge(X, y, lambda2=0.05, sample_weight=weight),
    ):
        X.requires_grad_(), y.requires_grad_()
        for grad in torch.autograd.grad(solve().weights.sum(), (X, y)):
            assert (grad[:, :4] == 0).all()
            assert grad[:, 4:].abs().sum() > 0


def solvers():
    return (
        lambda X, y, value: solve_lasso(X, y, lambda1=value, lambda2=0.1),
        lambda X, y, value: solve_ridge(X, y, lambda2=value),
    )


@pytest.mark.parametrize("solve", solvers())
def test_a_second_derivative_raises(solve):
    X, y = random_regression(15)
    X.requires_grad_()
    (grad,) = torch.autograd.grad(solve(X, y, 0.1).weights.square().sum(), X, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivative only"):
        grad.sum().backward()


@pytest.mark.parametrize("solve", solvers())
def test_only_the_weights_carry_gradients(solve):
    X, y = random_regression(16)
    solution = solve(X.requires_grad_(), y, 0.1)
    assert solution.weights.requires_grad
    assert solution.intercept is None
    for name in ("dual", "gap", "relative_gap", "objective", "sparsity"):
        assert not getattr(solution, name).requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("solve", solvers())
def test_compile_vmap_and_autocast_agree_with_eager_solves(solve):
    X, y = random_regression(17, batch=3)
    expected = solve(X, y, 0.1).weights
    compiled = torch.compile(lambda X, y, v: solve(X, y, v).weights, fullgraph=True, backend="aot_eager")
    (value,) = leaves(0.1)
    inputs = (X.clone().requires_grad_(), y.clone().requires_grad_(), value)
    result = compiled(*inputs)
    torch.testing.assert_close(result, expected)
    ours = torch.autograd.grad(result.square().sum(), inputs)
    theirs = torch.autograd.grad(solve(*inputs).weights.square().sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)

    mapped = torch.func.vmap(lambda X, y: solve(X, y, 0.1).weights, in_dims=(1, 0))(X.movedim(0, 1), y)
    torch.testing.assert_close(mapped, expected)
    inner = torch.func.vmap(lambda v: solve(X, y, v).weights)(torch.tensor([0.1, 0.2], dtype=F64))
    torch.testing.assert_close(inner, torch.stack([expected, solve(X, y, 0.2).weights]))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(solve(X.float(), y.float(), 0.1).weights, expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solve", solvers())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_and_single_precision_agree_with_float64(solve, dtype):
    X, y = random_regression(18)
    X, y = X.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
    value = torch.tensor(0.1, requires_grad=True)
    solution = solve(X, y, value)
    assert solution.weights.dtype == torch.float32
    assert solution.dual.dtype == solution.gap.dtype == torch.float64
    torch.testing.assert_close(
        solution.weights.double(), solve(X.double(), y.double(), 0.1).weights, rtol=1e-5, atol=1e-6
    )
    grads = torch.autograd.grad(solution.weights.square().sum(), (X, y, value))
    assert [grad.dtype for grad in grads] == [dtype, dtype, torch.float32]


def test_one_task_has_no_batch_dimension():
    X, y = random_regression(19)
    solution = solve_lasso(X[0], y[0], lambda1=0.1)
    assert solution.weights.shape == (6,)
    assert solution.dual.shape == (20,)
    assert solution.gap.shape == solution.n_iter.shape == solution.sparsity.shape == ()
    assert lasso_lambda1_max(X[0], y[0]).shape == ()
    assert solution.messages() == [Status.CERTIFIED.message]
    assert solve_ridge(X[0], y[0], lambda2=0.1).weights.shape == (6,)
    assert solve_ridge(X[0], torch.stack([y[0], y[1]], 1), lambda2=0.1).weights.shape == (6, 2)


def test_strided_and_expanded_inputs():
    X, y = random_regression(20, batch=4)
    expected = solve_lasso(X, y, lambda1=0.1)
    strided = X.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    torch.testing.assert_close(solve_lasso(strided, y, lambda1=0.1).weights, expected.weights)
    one = solve_lasso(X[:1].expand(4, -1, -1), y[:1].expand(4, -1), lambda1=0.1)
    torch.testing.assert_close(one.weights, expected.weights[:1].expand(4, -1))


def test_throw_raises_where_max_iter_was_reached():
    X, y = random_regression(21, 75, 100, batch=1)
    with pytest.raises(NotCertifiedError, match=r"1 of 1 tasks .*task 0: relative gap .*MAX_ITER.*Increase max_iter"):
        solve_lasso(X, y, lambda1=1e-3, relative=True, max_iter=1, throw=True)
    reported = solve_lasso(X, y, lambda1=1e-3, relative=True, max_iter=1)
    assert reported.status.item() == Status.MAX_ITER
    assert reported.n_iter.item() == 1


def test_an_unreachable_tolerance_has_status_precision():
    X, y = random_regression(22, 40, 30)  # with this many terms the gap is never exactly 0
    solution = solve_lasso(X, y, lambda1=0.1, tol=1e-30)
    assert (solution.status == Status.PRECISION).all()
    assert (solution.relative_gap < 1e-13).all()


def test_solutions_do_not_depend_on_the_batch():
    X, y = random_regression(23, 30, 40, batch=5)
    lambda1 = torch.tensor([2.0, 0.5, 0.1, 0.01, 0.003], dtype=F64) * lasso_lambda1_max(X, y)
    together = solve_lasso(X, y, lambda1=lambda1)
    assert len(set(together.n_iter.tolist())) > 2
    for i in range(5):
        alone = solve_lasso(X[i], y[i], lambda1=lambda1[i])
        torch.testing.assert_close(alone.weights, together.weights[i], rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_opcheck(backend):
    X, y = random_regression(24)
    l1, l2 = torch.full((2,), 0.1, dtype=F64), torch.full((2,), 0.2, dtype=F64)
    weight = torch.ones(2, 20, dtype=F64)
    solution = solve_lasso(X, y, lambda1=0.1, lambda2=0.2)
    w = solution.weights
    options = lasso.Options(tol=1e-10, max_iter=100)
    solved = w, solution.dual, w
    torch.library.opcheck(lasso.OPERATION.adjoint.custom, (X, y, l1, l2, weight, *solved, *options, backend))
    torch.library.opcheck(lasso.lambda1_max.custom, (X, y, weight))
    solved = w[..., None], w[..., None]
    torch.library.opcheck(ridge.OPERATION.adjoint.custom, (X, y[..., None], l2, weight, *solved, 1e-10, "torch"))
    torch.library.opcheck(ridge.mean_square.custom, (X, weight))
    for needed in (False, True):
        described = [value.clone().requires_grad_(needed) for value in (X, y, l1, l2)]
        torch.library.opcheck(lasso.OPERATION.solve.custom, (*described, weight, *options, backend, False))
        X_, y_, _, l2_ = described
        given = X_, y_[..., None].detach(), l2_, weight, 1e-10, "torch", False
        torch.library.opcheck(ridge.OPERATION.solve.custom, given)


GOOD = {"features": torch.zeros(2, 6, 4), "targets": torch.zeros(2, 6), "lambda1": 1.0}
BAD = [
    ({"features": [[1.0]]}, TypeError, "features: expected a torch.Tensor, got list"),
    ({"features": torch.zeros(6)}, ValueError, r"features: expected shape \(B, n, d\) or \(n, d\), got \(6,\)"),
    ({"features": torch.full((2, 6, 4), torch.nan)}, ValueError, "features: expected finite values, got 48 NaN"),
    ({"features": torch.full((2, 6, 4), torch.inf)}, ValueError, "features: expected finite values"),
    ({"targets": [1.0]}, TypeError, "targets: expected a torch.Tensor, got list"),
    ({"targets": torch.zeros(2, 6, dtype=torch.int64)}, TypeError, "targets: expected a floating-point dtype"),
    ({"targets": torch.zeros(2, 5)}, ValueError, r"targets: expected shape \(2, 6\), got \(2, 5\)"),
    ({"targets": torch.zeros(2, 6, 1)}, ValueError, r"targets: expected shape \(2, 6\), got \(2, 6, 1\)"),
    ({"targets": torch.full((2, 6), torch.nan)}, ValueError, r"targets: expected finite values.*task 0, sample 0"),
    ({"targets": torch.zeros(2, 6, device="meta")}, ValueError, "targets: expected device cpu"),
    ({"lambda1": -1.0}, ValueError, "lambda1: expected a finite number >= 0, got -1.0"),
    ({"lambda1": torch.tensor([1.0, torch.nan])}, ValueError, "lambda1: expected a finite number >= 0, got nan"),
    ({"lambda1": torch.ones(3)}, ValueError, r"lambda1: expected a number, a 0-d tensor or shape \(2,\), got \(3,\)"),
    ({"lambda2": -0.1}, ValueError, "lambda2: expected a finite number >= 0, got -0.1"),
    ({"sample_weight": torch.ones(2, 5)}, ValueError, r"sample_weight: expected shape \(2, 6\), got \(2, 5\)"),
    ({"sample_weight": -torch.ones(2, 6)}, ValueError, "sample_weight: expected finite values >= 0, got -1.0"),
    ({"backend": "fortran"}, ValueError, "backend: expected 'auto' or one of .*'torch', got 'fortran'"),
    ({"tol": 0.0}, ValueError, "tol: expected a finite number > 0, got 0.0"),
    ({"max_iter": 0}, ValueError, "max_iter: expected a finite number > 0, got 0"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_invalid_input_of_the_lasso_is_rejected(change, error, message):
    with pytest.raises(error, match=message):
        solve_lasso(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda2": 0.0}, "lambda2: expected a finite number > 0, got 0.0"),
        ({"lambda2": torch.zeros(2)}, "lambda2: expected a finite number > 0, got 0.0"),
        ({"targets": torch.zeros(2, 6, 0)}, r"targets: expected shape \(2, 6\) or \(2, 6, m\), got \(2, 6, 0\)"),
        ({"targets": torch.zeros(6)}, r"targets: expected shape \(2, 6\) or \(2, 6, m\), got \(6,\)"),
    ],
)
def test_invalid_input_of_ridge_is_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        solve_ridge(**{"features": torch.zeros(2, 6, 4), "targets": torch.zeros(2, 6), "lambda2": 1.0, **change})
