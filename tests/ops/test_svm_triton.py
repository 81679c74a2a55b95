"""The Triton backend against the torch backend, interpreted without a GPU; refusals; compilation for all targets."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sparsedis
from sparsedis import solve_svm, svm_lambda1_max
from sparsedis.ops import svm
from sparsedis.ops.common import triton_device
from sparsedis.ops.common.backend import Request
from sparsedis.ops.common.triton_device import interpreted
from sparsedis.ops.svm.backend_torch.adjoint import adjoint as torch_adjoint
from sparsedis.ops.svm.backend_torch.fista import fista as torch_fista
from sparsedis.ops.svm.backend_torch.hessian import Coordinates, active_curvature
from sparsedis.ops.svm.backend_torch.newton import minimise_on_segment
from sparsedis.ops.svm.backend_torch.newton import newton as torch_newton
from sparsedis.ops.svm.backend_triton import TritonBackend, tiles
from sparsedis.ops.svm.problem import certificate, normalised, simplex_projection
from tests import compiler, interpreter
from tests.oracle import duality_gap
from tests.tasks import random_task

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    svm.OPERATION.backend("triton").available() is not None,
    reason="Triton has neither a GPU nor its interpreter",
)

if interpreted():
    interpreter.speed_up()

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from sparsedis.ops.common.triton_launch import launch  # noqa: E402
from sparsedis.ops.svm.backend_triton import device, hessian, newton, products  # noqa: E402
from sparsedis.ops.svm.backend_triton.adjoint import adjoint  # noqa: E402
from sparsedis.ops.svm.backend_triton.certify import Progress, check  # noqa: E402
from sparsedis.ops.svm.backend_triton.fista import fista  # noqa: E402
from sparsedis.ops.svm.backend_triton.tasks import as_tasks  # noqa: E402
from tools import triton_errors  # noqa: E402
from tools.triton_report import SHAPES, TARGETS  # noqa: E402

OPERATION = svm.OPERATION
DEVICE = "cuda" if torch.cuda.is_available() and not interpreted() else "cpu"
F32, F64 = torch.float32, torch.float64


@pytest.fixture(autouse=True)
def poisoned():
    """Fill outputs with NaN, so that entries that a kernel does not write are found."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


def task(*arguments, **options):
    """A random task on the device."""
    return [value.to(DEVICE) for value in random_task(*arguments, **options)]


def problems(n, d, k, batch=2, dtype=F64, lambda1=0.2, lambda2=5.0, rho=(0.0, 0.4), seed=0):
    """The same tasks for the kernels and the torch backend, with sample weights 0 and 2 and zero features."""
    generator = torch.Generator().manual_seed(seed + 1000 * n + d + k)
    X = torch.randn(batch, n, d, generator=generator, dtype=F64)
    X[..., :: max(d // 3, 2)] *= d % 2
    y = torch.randint(k, (batch, n), generator=generator)
    weight = torch.ones(batch, n, dtype=F64)
    if n > 2:
        weight[0, 1], weight[-1, 2] = 0, 2
    X = X.to(dtype)
    l1 = lambda1 * svm.lambda1_max(X, y, weight, k, True)
    one = torch.ones(batch, dtype=F64)
    l2 = lambda2 * one
    arguments = [value.to(DEVICE) for value in (X, y, l1, l2, torch.tensor(rho, dtype=F64)[:batch] * l2, weight)]
    tasks, _ = as_tasks(svm.Inputs(*arguments), k)
    problem, _ = normalised(svm.Inputs(*arguments), k)
    return tasks, problem


def dual_point(problem, seed=1):
    """A random point of the simplices with some bound entries."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(problem.targets.shape, generator=generator, dtype=F64).to(problem.targets.device)
    return simplex_projection(2 * points)[0]


def all_tasks(tasks):
    return torch.ones_like(tasks.labels[:, 0])


def error(ours, exact):
    """Largest error relative to the largest entry; infinite for NaN."""
    ours, exact = ours.to(F64), exact.to(F64)
    difference = (ours - exact).abs().max() / exact.abs().max().clamp_min(1e-30)
    return float("inf") if not torch.isfinite(difference) else difference.item()


SIZES = [(1, 1, 2), (7, 63, 3), (25, 640, 5), (75, 63, 5), (7, 1601, 20), (25, 63, 33)]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "k"), SIZES)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_the_certificate_agrees_with_the_torch_backend(n, d, k, dtype):
    tasks, problem = problems(n, d, k)
    dual = dual_point(problem)
    exact = certificate(problem, dual)
    at = check(tasks, dual, all_tasks(tasks), dtype, store=True)
    scale = tasks.scale[:, None]
    tolerance = 1e-5 if dtype == F32 else 1e-13
    assert error(at.V, scale[..., None] * exact.V) < tolerance
    assert error(at.norms, scale * exact.norms) < tolerance
    assert error(at.scores, exact.scores) < tolerance
    assert error(at.gap, exact.gap) < tolerance
    assert error(at.objective, exact.objective) < tolerance
    assert torch.equal(at.norms > tasks.lambda1[:, None], exact.norms > problem.lambda1[:, None])


@triton.jit
def project_kernel(points, projected, thresholds, rows, k, N: tl.constexpr, K: tl.constexpr, REAL: tl.constexpr):
    tile = device.load_rows(points, rows, k, N, K, REAL)
    result, tau = device.project(tile, k, K)
    device.store_rows(projected, result, rows, k, N, K)
    i = tl.arange(0, N)
    tl.store(thresholds + i, tau, mask=i < rows)


@pytest.mark.parametrize("k", [2, 3, 5, 20, 33, 64])
def test_the_projection_agrees_with_the_torch_backend(k):
    points = torch.randn(25, k, generator=torch.Generator().manual_seed(k), dtype=F64)
    points[0], points[1] = 0.0, 1e6 * points[1]  # ties; a single positive entry
    points[2, : k // 2] = points[2, 0]
    points[3] = torch.full((k,), 1 / k) + 1e-9 * points[3]  # no entry becomes zero
    points = points.to(DEVICE)
    projected, tau = torch.full_like(points, torch.nan), torch.full_like(points[:, 0], torch.nan)
    launch(project_kernel, (1,), points, projected, tau, 25, k, N=32, K=64 if k > 32 else 32, REAL=tl.float64)
    expected, expected_tau = simplex_projection(points)
    torch.testing.assert_close(projected, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(tau, expected_tau[:, 0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("n", "d", "k", "dtype"),
    [
        *((*shape, dtype) for shape in ((1, 1, 2), (7, 63, 3)) for dtype in (F32, F64)),
        # The other tiles.
        *(pytest.param(25, 63, 5, dtype, marks=pytest.mark.slow) for dtype in (F32, F64)),
        pytest.param(75, 33, 5, F32, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        pytest.param(7, 17, 20, F64, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        pytest.param(2, 17, 33, F32, marks=pytest.mark.slow),
    ],
)
def test_the_newton_matrix_agrees_with_its_definition(n, d, k, dtype):
    tasks, problem = problems(n, d, k, batch=2 if n * k < 60 else 1)
    dual = dual_point(problem)
    curvature = active_curvature(problem, certificate(problem, dual))
    bounds = 1 + torch.rand(dual.shape, generator=torch.Generator().manual_seed(2), dtype=F64).to(DEVICE)
    at = check(tasks, dual, all_tasks(tasks), F64, store=True)
    ours = active_curvature(tasks, at)
    assert error(ours.unit * (ours.beta > 0)[..., None], curvature.unit * (curvature.beta > 0)[..., None]) < 1e-13
    pivot = dual.argmax(-1)
    matrix = hessian.newton_matrix(tasks, ours, bounds, pivot, all_tasks(tasks), dtype)
    # M e, column by column, by its definition.
    kept = Coordinates(dual).class_index.view(*dual.shape[:2], k - 1)
    B, order = len(pivot), n * (k - 1)
    directions = torch.zeros(B, order, n, k, dtype=F64, device=DEVICE)
    column = torch.arange(order, device=DEVICE)
    for b in range(B):
        directions[b, column, column // (k - 1), kept[b].flatten()] = 1
        directions[b, column, column // (k - 1), pivot[b, column // (k - 1)]] -= 1
    weighted = problem.weight[:, None] * directions
    V = torch.einsum("bnd,bcnk->bcdk", problem.features, weighted)
    along = (curvature.unit[:, None] * V).sum(-1, keepdim=True)
    V = curvature.alpha[:, None, :, None] * V + curvature.beta[:, None, :, None] * along * curvature.unit[:, None]
    result = problem.weight[:, None] * torch.einsum("bnd,bcdk->bcnk", problem.features, V)
    result = result + bounds[:, None] * directions
    expected = torch.einsum("bcnk,benk->bce", directions, result)
    assert error(matrix, expected) < (1e-6 if dtype == F32 else 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [F32, F64])
def test_gram_matrix_products_and_starting_line(dtype):
    for n, d, k in ((33, 63, 3), (5, 1601, 5)):
        tasks, problem = problems(n, d, k)
        tolerance = 1e-6 if dtype == F32 else 1e-13
        scale = tasks.scale[:, None, None]
        assert error(hessian.gram(tasks, dtype), scale**2 * problem.features @ problem.features.mT) < tolerance
        rows = torch.randn(problem.targets.shape, generator=torch.Generator().manual_seed(3), dtype=F64).to(DEVICE)
        weights = scale * problem.features.mT @ rows
        assert error(products.correlation(tasks, rows, all_tasks(tasks), dtype), weights) < tolerance
        scores = products.scores(tasks, weights, all_tasks(tasks), dtype)
        assert error(scores, scale * problem.features @ weights) < tolerance
    form = newton.KernelLightForm(tasks, all_tasks(tasks), F64)
    torch.testing.assert_close(form._minimise_on_segment(), minimise_on_segment(problem), rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("make", [newton.KernelLightForm, newton.KernelFullForm])
def test_newton_steps_agree_with_the_torch_backend(make):
    tasks, problem = problems(7, 40, 3, lambda2=1.0)
    ours = make(tasks, all_tasks(tasks), F64)
    theirs = next(base for base in make.__mro__ if base.__name__ == make.__name__.removeprefix("Kernel"))(problem)
    for _ in range(2):
        at = check(ours.problem, ours.dual, all_tasks(tasks), F64, store=True)
        ours.advance(at)
        theirs.advance(certificate(theirs.problem, theirs.dual))
        for a, b in zip(ours.variables, theirs.variables, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_finished_tasks_are_not_modified():
    tasks, _ = problems(7, 40, 3)
    going = torch.tensor([0, 1], dtype=torch.int32, device=DEVICE)
    form = newton.KernelLightForm(tasks, all_tasks(tasks), F64)
    form.going = going
    before = [value.clone() for value in form.variables]
    at = check(tasks, form.dual, going, F64, store=True)
    assert torch.isnan(at.gap[0])  # never written
    assert torch.isfinite(at.gap[1])
    form.advance(at)
    for value, old in zip(form.variables, before, strict=True):
        assert torch.equal(value[0], old[0])
        assert not torch.equal(value[1], old[1])


def test_a_failed_factorisation_stops_only_its_task():
    tasks, _ = problems(7, 40, 3)
    form = newton.KernelLightForm(tasks, all_tasks(tasks), F64)
    at = check(tasks, form.dual, all_tasks(tasks), F64, store=True)
    form.variables[1][0] = -1e6  # negative multipliers: an indefinite matrix
    before = [value.clone() for value in form.variables]
    form.advance(at)
    assert form.failed.tolist() == [1, 0]
    assert form.ridge[0] > form.ridge[1]
    for value, old in zip(form.variables, before, strict=True):
        assert torch.equal(value[0], old[0])
        assert not torch.equal(value[1], old[1])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fused", "shared"])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_first_order_steps_agree_with_the_torch_backend(variant, dtype):
    tasks, problem = problems(25, 300, 5, lambda1=0.1, lambda2=50.0)
    for value in (tasks.lambda1, problem.lambda1):
        value[1] *= 20  # above lambda1_max: no active features, and certified long before the other
    ours, theirs = fista(tasks, 1e-6, 25, dtype, variant), torch_fista(problem, 1e-6, 25)
    assert ours.n_iter.tolist() == theirs.n_iter.tolist()
    assert ours.status(1e-6).tolist() == theirs.status.tolist() == [1, 0]
    assert error(ours.exact, theirs.dual) < (1e-4 if dtype == F32 else 1e-12)
    torch.testing.assert_close(ours.exact.sum(-1), torch.ones_like(ours.exact[..., 0]), rtol=0, atol=1e-14)


def test_float32_steps_are_certified_in_float64():
    """A gap that is small enough in float32 is recomputed, and the task continues if it is too large."""
    tasks, problem = problems(7, 63, 3, dtype=F32, lambda2=200.0, batch=1)
    for tol in (1e-4, 1e-7):  # float32 cannot resolve the second
        progress = fista(tasks, tol, 150, F32)
        gap = certificate(problem, progress.exact).relative_gap
        torch.testing.assert_close(progress.exact_gap, gap, rtol=1e-6, atol=1e-12)
        assert (gap <= tol).all() or tol < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "d", "k"),
    [
        *((1, 1, 2), (7, 63, 3), (2, 640, 3)),
        *(pytest.param(*shape, marks=pytest.mark.exhaustive) for shape in ((75, 20, 5), (3, 40, 20))),
    ],
)
def test_the_adjoint_agrees_with_the_torch_backend(n, d, k):
    tasks, problem = problems(n, d, k)
    dual = torch_newton(problem, 1e-10, 50).dual
    grad = torch.randn(2, d, k, generator=torch.Generator().manual_seed(4), dtype=F64).to(DEVICE)
    *ours, ours_of_reg = adjoint(tasks, dual, grad)
    *theirs, theirs_of_reg = torch_adjoint(problem, dual, grad)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm() + 1e-12
    # The first task has dual_reg = 0, and its derivative is not unique if the dual point is not.
    assert (ours_of_reg - theirs_of_reg)[1].abs() <= 1e-6 * theirs_of_reg[1].abs() + 1e-12


def gradients(X, y, backend, **options):
    """The solution, and the gradients of a fixed linear loss in X, lambda1, lambda2 and dual_reg."""
    X = X.detach().requires_grad_()
    values = {name: options.pop(name).clone().requires_grad_() for name in ("lambda1", "lambda2", "dual_reg")}
    solution = solve_svm(X, y, backend=backend, **values, **options)
    loss = torch.randn(solution.weights.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    return solution, torch.autograd.grad((solution.weights.double() * loss.to(DEVICE)).sum(), [X, *values.values()])


CASES = [
    # way, shots, d, dtype, lambda2, tol, solver
    pytest.param(3, 3, 63, F64, 2.0, 1e-11, "newton", marks=pytest.mark.slow),
    pytest.param(5, 2, 130, F32, 20.0, 1e-5, "newton", marks=[pytest.mark.slow, pytest.mark.exhaustive]),
    pytest.param(3, (4, 1, 2), 5, F64, 0.5, 1e-10, "newton", marks=pytest.mark.slow),
    (3, 2, 63, F32, 50.0, 1e-3, "fista"),
]


@pytest.mark.parametrize(("way", "shots", "d", "dtype", "lambda2", "tol", "solver"), CASES)
def test_solutions_and_gradients_agree_with_the_torch_backend(way, shots, d, dtype, lambda2, tol, solver):
    X, y = task(d, way=way, shots=shots, d=d, batch=2, dtype=dtype)
    X[..., 2] = 0
    weight = torch.ones(y.shape, device=DEVICE)
    weight[0, 1], weight[1, 2] = 0, 2
    # The second task has no active features and is certified at once.
    options = {
        "lambda1": torch.tensor([0.2, 1.5], dtype=F64, device=DEVICE) * svm_lambda1_max(X, y, sample_weight=weight),
        "lambda2": torch.full((2,), lambda2, dtype=F64, device=DEVICE),
        "dual_reg": torch.tensor([0.3, 0.0], dtype=F64, device=DEVICE),
    }
    fixed = {"sample_weight": weight, "tol": tol, "solver": solver}
    ours, our_grads = gradients(X, y, "triton", **options, **fixed)
    theirs, their_grads = gradients(X, y, "torch", **options, **fixed)
    assert ours.backend == "triton"
    assert ours.certified.all()
    assert torch.equal(ours.status, theirs.status)
    assert (ours.n_iter - theirs.n_iter).abs().max() <= 1
    assert ours.weights.dtype == theirs.weights.dtype
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.objective, theirs.objective)
    assert not ours.active[1].any()
    assert (ours.weights[1] == 0).all()
    problem, _ = normalised(svm.Inputs(X, y, *options.values(), weight.double()), way)
    assert (certificate(problem, ours.dual).relative_gap <= tol * (1 + 1e-9)).all()
    for a, b in zip(our_grads, their_grads, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm() <= (1e-6 if dtype == F64 else 1e-3) * b.norm() + 1e-12


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_the_projection_ends_if_entries_differ_by_one_up_to_rounding(k, dtype):
    """Supports only shrink, so the projection cannot cycle; for integers, binary values, and their neighbours."""
    generator = torch.Generator().manual_seed(k)
    whole = torch.randint(-3, 4, (40, k), generator=generator)
    binary = torch.randint(0, 2, (40, k), generator=generator)
    points = torch.cat([whole, binary]).to(dtype) / torch.tensor([1.0, 3.0], dtype=dtype).repeat(40)[:, None]
    points += torch.finfo(dtype).eps * torch.randint(-2, 3, points.shape, generator=generator).to(dtype)
    points = points.to(DEVICE)
    projected, tau = torch.full_like(points, torch.nan), torch.full_like(points[:, 0], torch.nan)
    real = tl.float32 if dtype == F32 else tl.float64
    launch(project_kernel, (1,), points, projected, tau, 80, k, N=128, K=8, REAL=real)
    expected, _ = simplex_projection(points)
    torch.testing.assert_close(projected, expected, rtol=0, atol=8 * torch.finfo(dtype).eps)


TIES = [
    # Features of ten samples, and dual_reg: integers, one feature, binary features.
    ([0, -1, 0, 1, 0, -1, -2, -2, 2, -2, 2, -2, -1, 0, 2, 0, 0, 0, 2, 2, 2, 1, -2, -1, 0, 2, 0, 0, 0, 1], 1.0),
    ([0, -2, -2, -1, 2, -1, 0, 1, -2, 2], 0.0),
    ([0, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0], 0.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("features", "dual_reg"), TIES)
@pytest.mark.parametrize("solver", ["newton", "fista"])
def test_solvers_end_on_integer_features(features, dual_reg, solver):
    X = torch.tensor(features, dtype=F32, device=DEVICE).view(10, -1)
    y = torch.arange(5, device=DEVICE).repeat(2)
    options = {"lambda1": 0.0, "dual_reg": dual_reg, "tol": 1e-4}
    solution = solve_svm(X, y, backend="triton", solver=solver, max_iter=300, **options)
    exact = solve_svm(X, y, backend="torch", **options)
    assert solution.certified or solver == "fista"
    torch.testing.assert_close(solution.objective, exact.objective, rtol=1e-2 if solver == "fista" else 1e-5, atol=0)


def test_separable_tasks_are_certified_in_float32():
    """Lengthening the rounded weights keeps every sample on the right side of its margin."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(2, 20, 60, generator=generator).to(DEVICE)
    y = (torch.arange(20, device=DEVICE) % 4).expand(2, -1)
    ours, theirs = (solve_svm(X, y, lambda1=0.0, lambda2=1e-3, backend=backend) for backend in ("triton", "torch"))
    assert ours.certified.all()
    assert (ours.relative_gap < 4e-6).all()
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=3e-6, atol=1e-6 * float(theirs.weights.abs().max()))


@pytest.mark.parametrize(
    ("way", "shots", "d"),
    [
        pytest.param(2, 1, 4, marks=pytest.mark.slow),
        # The interior-point method neither converges nor stalls in float32.
        pytest.param(3, 2, 8, marks=pytest.mark.exhaustive),
        pytest.param(3, 4, 20, marks=pytest.mark.exhaustive),
    ],
)
def test_the_certificate_holds_for_the_returned_weights(way, shots, d):
    """With float32 features of mean 1e4, the gap is that of the rounded W, and the status PRECISION."""
    X, y = task(9, way=way, shots=shots, d=d, dtype=F32)
    X = X + 1e4
    options = {"lambda1": 0.1 * svm_lambda1_max(X, y), "lambda2": 100.0, "tol": 1e-7}
    ours = solve_svm(X, y, backend="triton", **options)
    theirs = solve_svm(X, y, backend="torch", **options)
    assert ours.status.item() == theirs.status.item() == sparsedis.Status.PRECISION
    for solution in (ours, theirs):
        # Compare each with its own weights, because such features amplify differences in the last bits.
        weights, dual = (value[0].double().numpy() for value in (solution.weights, solution.dual))
        gap, objective = duality_gap(
            X[0].double().numpy(),
            y[0].numpy(),
            options["lambda1"].item(),
            options["lambda2"],
            0.0,
            weights,
            dual,
            np.ones(len(y[0])),
        )
        assert solution.relative_gap.item() == pytest.approx(gap / objective, rel=1e-2)


@pytest.mark.slow
def test_a_task_that_stalls_is_solved_by_another_solver(monkeypatch):
    monkeypatch.setattr(newton, "NEWTON_PATIENCE", 10)  # 60 iterations do not come closer
    X = torch.tensor([[3.0, -2, -3, -2], [-1, 1, -1, 2]], dtype=F64, device=DEVICE)
    y = torch.tensor([2, 0], device=DEVICE)
    solution = solve_svm(X, y, lambda1=0.3 * svm_lambda1_max(X, y, n_classes=3), n_classes=3, backend="triton")
    assert solution.certified
    assert solution.relative_gap < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["newton", "fista"])
def test_gradients_are_accurate_at_a_loose_tolerance(solver):
    X, y = task(13, way=3, shots=3, d=40, batch=2, dtype=F32)

    def gradient(X, **options):
        X = X.detach().requires_grad_()
        weights = solve_svm(X, y, lambda1=0.1 * svm_lambda1_max(X, y), lambda2=20.0, **options).weights
        return torch.autograd.grad(weights.square().sum(), X)[0].double()

    exact = gradient(X.double(), backend="torch", tol=1e-13)
    assert error(gradient(X, backend="triton", tol=1e-2, solver=solver), exact) < 1e-6


@pytest.mark.slow
def test_extreme_scales_are_certified():
    X, y = task(7, way=3, shots=2, d=40)
    lambda1 = 0.3 * svm_lambda1_max(X, y)
    exact = solve_svm(X, y, lambda1=lambda1, lambda2=20.0, tol=1e-9, backend="torch")
    for c in (1e-25, 1e10):
        scaled = solve_svm((c * X).float(), y, lambda1=c * lambda1, lambda2=20.0 * c**2, tol=1e-4, backend="triton")
        assert scaled.certified.all()
        torch.testing.assert_close(c * scaled.weights.double(), exact.weights, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_strided_features_are_supported(dtype):
    X, y = task(10, way=2, shots=2, d=40, batch=2, dtype=F32)
    wide = torch.full((2, 5, 85), torch.nan, dtype=dtype, device=DEVICE)
    view = wide[:, 1:, 3:83:2]
    view.copy_(X)
    ours = solve_svm(view, y, lambda1=1.0, backend="triton")
    assert ours.weights.dtype == F32
    theirs = solve_svm(view.float(), y, lambda1=1.0, backend="torch")
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-4, atol=1e-5)


def test_reaching_max_iter_is_reported():
    X, y = task(12, d=60, way=2, shots=3)
    for solver in ("newton", "fista"):
        solution = solve_svm(X, y, lambda1=0.1, lambda2=0.01, solver=solver, max_iter=2, backend="triton")
        assert solution.status.item() == sparsedis.Status.MAX_ITER
        assert solution.n_iter.item() == 2


@pytest.mark.slow
def test_iterations_converge_without_synchronisation():
    """A fixed number of iterations without reading results on the host, as in a CUDA graph."""
    tasks, problem = problems(7, 40, 3)
    progress = Progress(tasks, 1e-9, F64)
    form = newton.KernelLightForm(tasks, progress.going, F64)
    for _ in range(12):
        newton.iterate_once(form, progress, 50)
    assert progress.going.tolist() == [0, 0]
    assert (certificate(problem, progress.dual).relative_gap <= 1e-9).all()


def arguments(requires_grad):
    X, y = task(11, way=2, shots=2, d=20)
    one = torch.ones(1, dtype=F64, device=DEVICE)
    values = [value.requires_grad_(requires_grad) for value in (one.clone(), 2 * one, 0.5 * one)]
    return [X.requires_grad_(requires_grad), y, *values, torch.ones(y.shape, dtype=F64, device=DEVICE)]


OPTIONS = svm.Options(n_classes=2, solver="newton", tol=1e-6, max_iter=2, exact=False)


@pytest.mark.slow
def test_opcheck_compile_and_autocast():
    torch.library.opcheck(
        OPERATION.solve.custom,
        [*arguments(True), *OPTIONS, "triton", False],
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    X, y, *rest = arguments(False)
    dual = torch.full((1, 4, 2), 0.5, dtype=F64, device=DEVICE)
    active = torch.ones(1, 20, dtype=torch.bool, device=DEVICE)
    grad = torch.ones(1, 20, 2, dtype=F64, device=DEVICE)
    torch.library.opcheck(OPERATION.adjoint.custom, [X, y, *rest, dual, active, grad, *OPTIONS, "triton"])

    def loss(X):
        return solve_svm(X, y, lambda1=1.0, n_classes=2, tol=1e-2, backend="triton").weights.square().sum()

    expected = loss(X)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(X), expected)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        torch.testing.assert_close(loss(X), expected)


def request(**changes):
    base = Request(torch.device("cuda"), F32, 25, 640, 5, "newton")
    return base._replace(**changes)


def test_refusals_state_the_reason():
    supports = TritonBackend().supports
    assert supports(request()) is None
    assert "it holds n x k in one of the tiles 32 x 8, " in supports(request(n_classes=65))
    assert supports(request(n_samples=300)).endswith("got 300 x 5")
    assert supports(request(n_samples=100, n_classes=20)).endswith("got 100 x 20")
    assert supports(request(n_samples=60, n_classes=20)) is None
    assert supports(request(solver="bcd")) == "it has the solvers 'newton' and 'fista', got 'bcd'"
    assert supports(request(device=torch.device("mps"))) == "it takes CUDA and ROCm tensors, got mps"


def test_auto_chooses_torch_if_triton_refuses():
    with pytest.raises(ValueError, match="backend 'triton' cannot run this: it holds n x k in one of the tiles"):
        OPERATION.choose("triton", request(n_classes=65))
    assert OPERATION.choose("auto", request()) == "triton"
    assert OPERATION.choose("auto", request(n_classes=65)) == "torch"
    assert OPERATION.choose("auto", request(solver="bcd")) == "torch"


def test_auto_on_the_cpu_does_not_interpret():
    cpu = request(device=torch.device("cpu"))
    assert OPERATION.choose("auto", cpu) != "triton"
    if interpreted():
        assert OPERATION.choose("triton", cpu) == "triton"


@pytest.mark.slow
def test_without_triton_the_backend_names_the_extra(tmp_path):
    (tmp_path / "triton.py").write_text("raise ImportError('no such thing')")
    script = "from sparsedis.ops.svm import OPERATION\n"
    script += "print(OPERATION.backend('triton').available())"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == "Triton is not installed (no such thing); pip install 'sparsedis[triton]'\n"


def test_without_a_device_the_backend_is_not_available(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TritonBackend().available().startswith("there is no CUDA or ROCm device")
    assert "CPU tensors under TRITON_INTERPRET=1 only" in TritonBackend().supports(request(device=torch.device("cpu")))


def defined_kernels():
    files = Path(sparsedis.__file__).parent.glob("ops/svm/backend_triton/*.py")
    return {name for file in files for name in re.findall(r"^def (\w+_kernel)\(", file.read_text(), re.MULTILINE)}


def check_compiled(rows, target):
    assert {row["target"] for row in rows} == {target}
    assert not [row for row in rows if row["failure"]]
    assert {row["kernel"] for row in rows} == defined_kernels()
    assert all(row["spills"] == 0 and row["registers"] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["sm_80", *(pytest.param(x, marks=pytest.mark.exhaustive) for x in ("sm_100", "gfx942"))]
)
def test_kernels_compile_without_spills(target, tmp_path):
    """Every kernel once, for NVIDIA's oldest and newest target and AMD's; the exhaustive test below covers the rest."""
    check_compiled(compiler.compiled(tmp_path, tiles="25x5", targets=target, once=True), target)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("features", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", TARGETS)
def test_every_configuration_compiles_without_spills(target, shape, features, tmp_path):
    if target == "gfx942" and shape == "200x5":
        pytest.skip("this tile exceeds AMD's registers, so the backend refuses it there")
    check_compiled(compiler.compiled(tmp_path, tiles=shape, targets=target, features=features), target)


def test_every_tile_is_compiled_for_some_shape(monkeypatch):
    assert {tuple(tiles.tile_for(*map(int, shape.split("x"))))[:2] for shape in SHAPES} == set(tiles.TILES)
    monkeypatch.setattr(triton_device, "AMD", True)
    assert tiles.tile_for(200, 5) is None


@pytest.mark.skipif(not interpreted(), reason="documents the errors of interpreted kernels")
def test_the_documented_errors_can_be_measured(monkeypatch):
    monkeypatch.setattr(triton_errors, "SIZES", ((3, 9, 2),))
    errors = triton_errors.measured()
    assert errors.keys() >= {"pass_kernel: V", "gram_kernel: X X^T", "gradient_kernel: lambda1"}
    assert all(error < 1e-6 for entry in errors.values() for error in entry.values())
