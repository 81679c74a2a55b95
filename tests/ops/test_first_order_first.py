"""First-order steps before Newton's method for large matrices: same solutions, and newton if they do not converge."""

import pytest
import torch

from sparsedis import solve_svm
from sparsedis.ops.svm import OPERATION, thresholds
from sparsedis.ops.svm.backend_torch.fista import first_order_steps, lipschitz
from sparsedis.ops.svm.problem import normalised
from sparsedis.ops.svm.signature import Inputs
from tests.tasks import random_task

F64 = torch.float64
needs_cpp = pytest.mark.skipif(
    OPERATION.backend("cpp").available() is not None, reason="the compiled kernels are not available"
)
BACKENDS = [pytest.param("cpp", marks=needs_cpp), "torch"]
# With max_iter below NEWTON_ITERATIONS, newton takes no first-order steps.
FEW, MANY = thresholds.NEWTON_ITERATIONS - 1, thresholds.NEWTON_ITERATIONS

KINDS = {
    "plain": {},
    "smoothed": {"dual_reg": 0.5},
    "dense": {"lambda1": 0.0},
    "dense, separable": {"lambda1": 0.0, "lambda2": 1.0, "d": 640, "way": 20, "shots": 4},
    "fewer features than samples": {"d": 20},
    "fewer features, dense": {"d": 20, "lambda1": 0.0},
    "float32": {"dtype": torch.float32},
    "padded": {"weight": True, "way": 20, "shots": 6},
}


def solve(way=12, shots=7, d=90, dtype=F64, weight=False, batch=2, **options):
    X, y = random_task(way, way=way, shots=shots, d=d, batch=batch, dtype=dtype)
    X.requires_grad_()
    sample_weight = torch.ones(y.shape, dtype=F64)
    if weight:
        sample_weight[0, ::5], sample_weight[1, ::3] = 0, 1.5
    options = {"lambda1": 0.2, "lambda2": 2.0, "relative": True, **options}
    solution = solve_svm(X, y, n_classes=way, sample_weight=sample_weight, **options)
    (gradient,) = torch.autograd.grad(solution.weights.square().sum(), X)
    return solution, gradient


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_solutions_and_gradients_agree_with_newton(kind, backend):
    first, gradient = solve(backend=backend, max_iter=MANY, **KINDS[kind])
    newton, expected = solve(backend=backend, max_iter=FEW, **KINDS[kind])
    assert first.certified.all()
    assert newton.certified.all()
    # A few iterations of the finish and none of the interior-point method, so the first-order steps solved the task.
    assert (first.n_iter < newton.n_iter).all()
    assert (first.n_iter <= 6).all()
    assert first.relative_gap.max() <= (1e-6 if KINDS[kind].get("dtype") else 1e-11)
    assert torch.equal(first.active, newton.active)
    torch.testing.assert_close(first.weights, newton.weights, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@needs_cpp
def test_separable_tasks_of_many_classes_need_no_newton_iteration():
    # More steps are expected than pay off, and at rounding the finish finds no descent direction.
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(80) % 16).expand(8, -1)
    X = torch.randn(8, 80, 640, generator=generator) + torch.randn(8, 16, 640, generator=generator)[:, y[0]]
    solution = solve_svm(X, y, lambda1=0.0, lambda2=1.0, backend="cpp")
    assert (solution.n_iter <= 4).all()
    assert (solution.relative_gap < 1e-4).all()  # with weights rounded to float32


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_newton_takes_over_if_the_steps_do_not_converge(backend):
    hard = {"lambda2": 1e-3, "backend": backend, "batch": 1}
    first, gradient = solve(max_iter=MANY, **hard)
    newton, expected = solve(max_iter=FEW, **hard)
    assert first.certified.all()
    # The steps' last point is discarded, so the results are bitwise equal.
    assert torch.equal(first.n_iter, newton.n_iter)
    assert torch.equal(first.weights, newton.weights)
    assert torch.equal(gradient, expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loose_tolerance_needs_no_finish(backend):
    solution, _ = solve(backend=backend, tol=1e-2, max_iter=MANY)
    assert solution.certified.all()
    X, y = random_task(12, way=12, shots=7, d=90, batch=2)
    solution = solve_svm(X, y, lambda1=0.2, relative=True, lambda2=2.0, backend=backend, tol=1e-2)
    assert solution.certified.all()
    assert (solution.n_iter == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_solutions_do_not_depend_on_the_batch(backend):
    X, y = random_task(3, way=12, shots=7, d=90, batch=3)
    options = {"lambda1": 0.1, "relative": True, "lambda2": torch.tensor([1.0, 1e-3, 30.0]), "backend": backend}
    together = solve_svm(X, y, **options)
    assert together.certified.all()
    for index in range(3):
        alone = solve_svm(X[index], y[index], **{**options, "lambda2": float(options["lambda2"][index])})
        torch.testing.assert_close(alone.weights, together.weights[index], rtol=1e-9, atol=1e-10)
        if backend == "cpp":
            assert torch.equal(alone.weights, together.weights[index])


@needs_cpp
@pytest.mark.parametrize(("way", "shots", "d"), [(2, 500, 5), (30, 4, 40)])
def test_the_compiled_kernels_solve_tasks_of_order_thousands(way, shots, d):
    solution, gradient = solve(way=way, shots=shots, d=d, batch=1, backend="cpp")
    assert solution.certified.all()
    assert solution.relative_gap.max() < 1e-11
    assert torch.isfinite(gradient).all()


def test_steps_are_taken_if_they_cost_less():
    def allowed(way, shots, d, lambda2=1.0, lambda1=1.0):
        X, y = random_task(1, way=way, shots=shots, d=d)
        one, weight = torch.ones(1, dtype=F64), torch.ones(y.shape, dtype=F64)
        problem, _ = normalised(Inputs(X, y, lambda1 * one, lambda2 * one, 0 * one, weight), way)
        return int(first_order_steps(problem))

    assert allowed(5, 15, 640) == 0 < allowed(12, 7, 90)  # a small matrix
    assert allowed(20, 5, 640) < allowed(20, 8, 640) < allowed(20, 8, 100)
    assert allowed(20, 5, 16000) == 0
    assert allowed(20, 5, 640, 1e-3) == 0
    assert allowed(2, 600, 20) == 0  # many samples per class
    # For lambda1 = 0 some steps are allowed however many are expected.
    assert allowed(20, 8, 640, lambda1=0.0) == allowed(20, 8, 640)
    assert 0 < allowed(20, 8, 640, 1e-3, lambda1=0.0) < allowed(20, 8, 640) / 3
    assert allowed(5, 15, 640, 1e-3, lambda1=0.0) == 0


@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30), (1, 5), (40, 40)])
def test_the_lipschitz_constant_is_the_largest_eigenvalue(n, d):
    generator = torch.Generator().manual_seed(n)
    X = torch.randn(2, n, d, generator=generator, dtype=F64) + 3
    y = torch.arange(n).expand(2, n) % 2
    weight = torch.rand(2, n, generator=generator, dtype=F64)
    one = torch.ones(2, dtype=F64)
    problem, _ = normalised(Inputs(X, y, one, 2 * one, 0.5 * one, weight), 2)
    weighted = problem.weight * X
    expected = torch.linalg.matrix_norm(weighted, 2) ** 2 / problem.lambda2 + problem.rho
    torch.testing.assert_close(lipschitz(problem), expected)


@needs_cpp
@pytest.mark.parametrize(("n", "d"), [(70, 300), (300, 20), (3, 2), (1, 3)])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_the_compiled_steps_agree_with_the_torch_backend(n, d, mean):
    generator = torch.Generator().manual_seed(n)
    X = torch.randn(n, d, generator=generator, dtype=F64) + mean
    y = torch.arange(n) % 3
    options = {"lambda1": 0.1, "relative": True, "lambda2": 10.0, "n_classes": 3, "solver": "fista", "max_iter": 30}
    ours, theirs = (solve_svm(X, y, backend=backend, **options) for backend in ("cpp", "torch"))
    torch.testing.assert_close(ours.dual, theirs.dual, rtol=1e-6, atol=1e-7)
