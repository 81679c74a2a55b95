"""All backends against the naive implementation: solutions, objectives and gradients in float64."""

import pytest
import torch

from sparsedis import (
    lasso_lambda1_max,
    logistic_lambda1_max,
    solve_lasso,
    solve_logistic,
    solve_ridge,
    solve_svm,
    svm_lambda1_max,
)
from sparsedis.ops.lasso import naive as lasso
from sparsedis.ops.logistic import naive as logistic
from sparsedis.ops.registry import OPERATIONS
from sparsedis.ops.ridge import naive as ridge
from sparsedis.ops.svm import naive as svm

F64 = torch.float64


def scalars(*values):
    return tuple(torch.tensor(float(value), dtype=F64) for value in values)


def for_backends_of(operation):
    """Parametrise a test by the backends of an operation."""
    return pytest.mark.parametrize("backend", [backend.name for backend in OPERATIONS[operation].backends])


def skip_unless_available(operation, name):
    if reason := OPERATIONS[operation].backend(name).available():
        pytest.skip(f"backend {name!r} is not available: {reason}")


def one_task(seed, n, d, k):
    """A random task with unequal sample weights, one of them 0; the last class may be empty."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=generator, dtype=F64)
    labels = torch.randint(k, (n,), generator=generator)
    s = torch.rand(n, generator=generator, dtype=F64) + 0.5
    s[0] = 0
    grad = torch.randn(d, k, generator=generator, dtype=F64)
    return X, labels, s, grad


def assert_gradients(loss, inputs, expected, tolerance):
    for got, wanted in zip(torch.autograd.grad(loss, inputs), expected, strict=True):
        assert (got - wanted).norm() <= tolerance * wanted.norm().clamp_min(1e-3)


@for_backends_of("svm")
@pytest.mark.parametrize(
    ("n", "d", "k", "share", "dual_reg"),
    [(7, 13, 3, 0.2, 0.0), (11, 5, 4, 0.1, 0.7), (6, 17, 2, 0.5, 0.0), (9, 3, 3, 0.0, 0.4), (5, 9, 5, 0.3, 2.0)],
)
def test_svm_agrees_with_the_naive_implementation(backend, n, d, k, share, dual_reg):
    skip_unless_available("svm", backend)
    X, labels, s, grad = one_task(n, n, d, k)
    lambda1 = share * svm_lambda1_max(X, labels, sample_weight=s, n_classes=k)
    hyper = (lambda1, *scalars(2.0, dual_reg))
    W, L = svm.solve(X, labels, s, *hyper, k)
    inputs = [value.clone().requires_grad_() for value in (X, *hyper)]
    names = ("lambda1", "lambda2", "dual_reg")
    solution = solve_svm(
        inputs[0],
        labels,
        **dict(zip(names, inputs[1:], strict=True)),
        n_classes=k,
        sample_weight=s,
        tol=1e-12,
        backend=backend,
    )
    # By strong convexity, lambda2/2 ||W - W*||^2 is at most the gap.
    assert (solution.weights - W).norm() <= (2 * solution.gap / hyper[1]).sqrt() + 1e-8 * W.norm()
    Y = torch.nn.functional.one_hot(labels, k).to(F64)
    torch.testing.assert_close(solution.objective, svm.objective(W, Y, s, X, *hyper), rtol=1e-9, atol=0)
    assert_gradients((grad * solution.weights).sum(), inputs, svm.gradients(L, grad, X, labels, s, *hyper), 1e-5)


@for_backends_of("lasso")
@pytest.mark.parametrize(("n", "d", "share", "lambda2"), [(15, 7, 0.1, 0.0), (9, 13, 0.3, 0.05), (30, 11, 0.02, 0.0)])
def test_lasso_agrees_with_the_naive_implementation(backend, n, d, share, lambda2):
    skip_unless_available("lasso", backend)
    X, _, s, grad = one_task(n, n, d, 2)
    y = X[:, 0] - X[:, -1] + grad.new_tensor([0.1, -0.1]).repeat(n)[:n]
    hyper = (share * lasso_lambda1_max(X, y, sample_weight=s), *scalars(lambda2))
    w = lasso.solve(X, y, s, *hyper)
    inputs = [value.clone().requires_grad_() for value in (X, y, *hyper)]
    solution = solve_lasso(
        *inputs[:2], lambda1=inputs[2], lambda2=inputs[3], sample_weight=s, tol=1e-12, backend=backend
    )
    assert (solution.weights - w).norm() <= 1e-8 * w.norm()
    torch.testing.assert_close(solution.objective, lasso.objective(w, X, y, s, *hyper), rtol=1e-9, atol=0)
    loss = (grad[:, 0] * solution.weights).sum()
    assert_gradients(loss, inputs, lasso.gradients(w, grad[:, 0], X, y, s, *hyper), 1e-6)


@for_backends_of("ridge")
@pytest.mark.parametrize(("n", "d", "m"), [(7, 13, 3), (13, 7, 1)])
def test_ridge_agrees_with_the_naive_implementation(backend, n, d, m):
    X, _, s, grad = one_task(n, n, d, m)
    Y = X[:, :m] + torch.linspace(-1, 1, n, dtype=F64)[:, None]
    (lambda2,) = scalars(0.3)
    theirs = [value.clone().requires_grad_() for value in (X, Y, lambda2)]
    w = ridge.solve(*theirs[:2], s, theirs[2])
    ours = [value.clone().requires_grad_() for value in (X, Y, lambda2)]
    solution = solve_ridge(*ours[:2], lambda2=ours[2], sample_weight=s, backend=backend)
    assert (solution.weights - w).norm() <= 1e-10 * w.norm()
    torch.testing.assert_close(solution.objective, ridge.objective(w, X, Y, s, lambda2), rtol=1e-9, atol=0)
    expected = torch.autograd.grad((grad * w).sum(), theirs)
    assert_gradients((grad * solution.weights).sum(), ours, expected, 1e-9)


@for_backends_of("logistic")
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(("n", "d", "k", "share", "lambda2"), [(12, 7, 3, 0.2, 0.1), (9, 13, 3, 0.4, 0.0)])
def test_logistic_agrees_with_the_naive_implementation(backend, n, d, k, share, lambda2, intercept):
    X, _, s, grad = one_task(n, n, d, k)
    labels = torch.arange(n) % k
    options = {"n_classes": k, "sample_weight": s, "intercept": intercept}
    hyper = (share * logistic_lambda1_max(X, labels, **options), *scalars(lambda2))
    W = logistic.solve(X, labels, s, *hyper, k, intercept)
    inputs = [value.clone().requires_grad_() for value in (X, *hyper)]
    solution = solve_logistic(
        inputs[0], labels, lambda1=inputs[1], lambda2=inputs[2], **options, tol=1e-12, backend=backend
    )
    assert (solution.weights - W[:d]).norm() <= 1e-7 * W.norm()
    expected = logistic.objective(W, X, labels, s, *hyper, intercept)
    torch.testing.assert_close(solution.objective, expected, rtol=1e-9, atol=0)
    loss = (grad * solution.weights).sum()
    padded = torch.cat([grad, grad.new_zeros(int(intercept), k)])
    if intercept:
        torch.testing.assert_close(solution.intercept, W[d], rtol=1e-6, atol=1e-8)
        padded[d] = torch.arange(float(k))
        loss = loss + (padded[d] * solution.intercept).sum()
    assert_gradients(loss, inputs, logistic.gradients(W, padded, X, labels, s, *hyper, intercept), 1e-5)
