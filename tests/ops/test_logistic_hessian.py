"""Linear systems with the logistic Hessian, for all methods of solution."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsedis.ops.logistic.backend_torch import hessian
from sparsedis.ops.logistic.backend_torch.rows import Rows
from sparsedis.ops.logistic.problem import Problem, loss, penalty, probabilities
from sparsedis.ops.logistic.signature import Inputs

F64 = torch.float64


def task(*, n, d, k, lambda1, lambda2, off=0, batch=3, intercept=False):
    """A problem, weights with zero row sums of which ``off`` rows vanish in the first task, and the other rows."""
    generator = torch.Generator().manual_seed(n + d + k)
    X = torch.randn(batch, n, d, generator=generator, dtype=F64)
    y = torch.randint(k, (batch, n), generator=generator)
    weight = torch.rand(batch, n, generator=generator, dtype=F64) + 0.5
    weight[:, 0] = 0
    penalties = torch.full((batch,), lambda1, dtype=F64), torch.full((batch,), lambda2, dtype=F64)
    problem = Problem.of(Inputs(X, y, *penalties, weight), k, intercept)
    W = torch.randn(batch, d + intercept, k, generator=generator, dtype=F64) / 3
    W = W - W.mean(-1, keepdim=True)
    W[0, d - off : d] = 0
    return problem, W, W.any(-1)


def product(problem, W, q):
    """H q by automatic differentiation of the objective."""
    W = W.detach().clone().requires_grad_()
    value = (loss(problem, problem.features @ W) + penalty(problem, W)).sum()
    (gradient,) = torch.autograd.grad(value, W, create_graph=True)
    return torch.autograd.grad(gradient, W, q)[0]


@pytest.mark.parametrize("solve", [hessian.damped_step, hessian.least_step])
@pytest.mark.parametrize("memory", [1, 1 << 30])
@pytest.mark.parametrize(
    ("n", "d", "k", "lambda2", "in_samples"),
    [
        (8, 30, 4, 0.1, True),
        (5, 40, 2, 0.01, True),
        (6, 25, 5, 1e-6, True),  # near the limit of conditioning
        (6, 25, 5, 1e-8, False),
        (30, 8, 3, 0.1, False),
        (30, 8, 3, 0.0, False),
    ],
)
def test_the_step_solves_the_system(solve, memory, n, d, k, lambda2, in_samples, monkeypatch):
    monkeypatch.setattr(hessian, "_MEMORY", memory)
    problem, W, chosen = task(n=n, d=d, k=k, lambda1=0.05, lambda2=lambda2, off=3)
    rows = Rows.of(problem, W, chosen)
    assert hessian._fewer_samples(rows) == in_samples
    p, _ = probabilities(problem, problem.features @ W)
    right = rows.take(torch.randn(W.shape, generator=torch.Generator().manual_seed(0), dtype=F64))
    right = right - right.mean(-1, keepdim=True)
    step = solve(rows, p, right)
    torch.testing.assert_close(
        step.sum(-1), torch.zeros_like(step[..., 0]), rtol=0, atol=1e-9 * step.abs().max().item()
    )
    assert not step[~rows.present].any()
    # The norm is not differentiable at zero rows; a constant added to a row does not change the loss.
    shown = torch.where(chosen[..., None], W, 1e-3)
    got = rows.take(product(problem, shown, rows.scatter(step, W.shape[1])))
    got = got - got.mean(-1, keepdim=True)
    # Rounding errors are relative to the terms of H times the step.
    size = step.abs().max().item()
    torch.testing.assert_close(got, right, rtol=0, atol=1e-12 * max(1.0, size))


@pytest.mark.parametrize(("n", "d", "k", "lambda2"), [(8, 30, 4, 0.1), (30, 8, 3, 0.1), (60, 30, 5, 0.0)])
def test_large_systems_are_solved_by_conjugate_gradients(n, d, k, lambda2, monkeypatch):
    problem, W, chosen = task(n=n, d=d, k=k, lambda1=0.05, lambda2=lambda2, off=3)
    rows = Rows.of(problem, W, chosen)
    p, _ = probabilities(problem, problem.features @ W)
    right = rows.take(torch.randn(W.shape, generator=torch.Generator().manual_seed(0), dtype=F64))
    right = right - right.mean(-1, keepdim=True)
    expected = hessian.damped_step(rows, p, right)
    monkeypatch.setattr(hessian, "_LARGE", 0)
    with monkeypatch.context() as without_factor:
        without_factor.delattr(hessian, "_solve")
        by_products = hessian.damped_step(rows, p, right)
    error = torch.linalg.vector_norm(by_products - expected) / torch.linalg.vector_norm(expected)
    assert 0 < error < 1e-6
    assert not by_products[~rows.present].any()
    # The first task ends after few products, as its right-hand side is zero; the others use the factor.
    monkeypatch.setattr(hessian, "_PRODUCTS", 2)
    right[0] = 0
    expected[0] = 0
    mixed = hessian.damped_step(rows, p, right)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-9 * expected.abs().max().item())


def test_systems_with_an_intercept_use_the_factor():
    """A system in the samples would divide by the penalty, which the intercept lacks."""
    problem, W, chosen = task(n=6, d=20, k=3, lambda1=0.05, lambda2=0.1, intercept=True)
    assert not hessian._fewer_samples(Rows.of(problem, W, chosen))


# PyTorch's batched LU hangs for orders above 150 with MKL and several threads (PyTorch #141358).
MANY_CLASSES = """
import torch, sparsedis
torch.set_num_threads(2)
features = torch.randn(2, 160, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
labels = torch.arange(160).expand(2, -1)
solution = sparsedis.solve_logistic(features, labels, lambda1=0.3, lambda2=0.01, relative=True)
assert bool(solution.certified.all()), solution.relative_gap
"""


@pytest.mark.slow
def test_many_classes_on_two_threads_do_not_hang():
    """In a subprocess, because a hang in MKL cannot be interrupted otherwise; the solve takes two seconds."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", MANY_CLASSES], cwd=root, check=True, timeout=180)


def test_the_package_does_not_use_batched_lu():
    """See MANY_CLASSES; naive implementations solve a single task."""
    package = Path(hessian.__file__).parents[3]
    assert package.name == "sparsedis"
    used = [
        f"{path.relative_to(package)}:{number}"
        for path in sorted(package.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if path.name != "naive.py"
        and any(name in line for name in ("linalg.lu", "linalg.solve(", "linalg.solve_ex", "linalg.inv"))
    ]
    assert not used
