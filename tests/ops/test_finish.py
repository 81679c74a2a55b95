"""The finish of the torch backend: convergence to rounding, gradients at default settings, oversized systems."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedis import Status, solve_svm, svm_lambda1_max
from sparsedis.ops.svm.backend_torch import SOLVERS, finish, progress
from sparsedis.ops.svm.backend_torch.finish import finish_solution, free_entries, project_on_free_simplex
from sparsedis.ops.svm.backend_torch.hessian import (
    Coordinates,
    DenseSystem,
    FreeSystem,
    active_curvature,
    newton_matrix,
)
from sparsedis.ops.svm.problem import certificate, dual_gradient, normalised, simplex_projection
from sparsedis.ops.svm.signature import Inputs
from sparsedis.ops.svm.thresholds import FINISH_GAP
from tests.tasks import random_task

F64 = torch.float64


def problem_of(X, y, k, *, relative, lambda2, dual_reg=0.0, weight=None):
    weight = torch.ones(y.shape, dtype=F64) if weight is None else weight
    lambda1 = relative * svm_lambda1_max(X, y, n_classes=k, sample_weight=weight)
    one = torch.ones(len(X), dtype=F64)
    return normalised(Inputs(X, y, lambda1, lambda2 * one, dual_reg * one, weight), k)[0]


KINDS = {
    "plain": {},
    "smoothed": {"dual_reg": 0.5},
    "dense": {"relative": 0.0},
    "small lambda2": {"lambda2": 0.01},
    "fewer features than samples": {"d": 7},
    "fewer features, dense": {"d": 7, "relative": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [2, 5])
def test_tasks_converge_to_rounding_by_default(kind, way):
    options = {"relative": 0.15, "lambda2": 2.0, "d": 60, **KINDS[kind]}
    X, y = random_task(way, way=way, shots=6, d=options.pop("d"), batch=6)
    weight = torch.ones(y.shape, dtype=F64)
    weight[0, ::3], weight[1, ::2], weight[2, ::4] = 0.0, 2.0, 0.3
    problem = problem_of(X, y, way, weight=weight, **options)
    done = SOLVERS["newton"](problem, 1e-5, 200)
    assert (done.status == Status.CERTIFIED).all()
    assert (certificate(problem, done.dual).relative_gap <= 1e-11).all()
    assert done.n_iter.max() <= 40
    absent = (weight == 0)[..., None].expand_as(done.dual)
    assert (done.dual[~absent] == 0).any()  # bound entries are exactly zero


def test_requires_grad_does_not_change_the_default_solution():
    X, y = random_task(1, way=4, shots=5, d=50, batch=3)
    options = {"lambda1": 0.1 * svm_lambda1_max(X, y), "lambda2": 3.0, "backend": "torch"}
    plain = solve_svm(X, y, **options)
    differentiable = solve_svm(X.requires_grad_(), y, **options)
    assert torch.equal(plain.dual, differentiable.dual)
    assert torch.equal(plain.weights, differentiable.weights.detach())


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["newton", "fista", "bcd"])
def test_a_loose_tolerance_applies_only_without_gradients(solver):
    X, y = random_task(2, way=3, shots=4, d=40, batch=3)
    options = {"lambda1": 0.2 * svm_lambda1_max(X, y), "lambda2": 20.0, "backend": "torch", "solver": solver}
    loose = solve_svm(X, y, tol=FINISH_GAP, **options)
    assert loose.certified.all()
    assert (loose.relative_gap > 1e-9).all()
    exact = solve_svm(X.requires_grad_(), y, tol=FINISH_GAP, **options)
    assert (exact.relative_gap < 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["newton", "fista", "bcd"])
@pytest.mark.parametrize("dual_reg", [0.0, 1.0])
def test_gradients_are_accurate_at_default_settings(solver, dual_reg):
    """float32 features at the default tolerance against float64 features at 1e-13."""
    X, y = random_task(3, way=4, shots=4, d=80, batch=4, dtype=torch.float32)
    lambda1 = 0.1 * svm_lambda1_max(X, y)
    cotangent = torch.randn(4, 80, 4, generator=torch.Generator().manual_seed(0), dtype=F64)

    def gradient(X, **options):
        X = X.clone().requires_grad_()
        weights = solve_svm(X, y, lambda1=lambda1, lambda2=20.0, dual_reg=dual_reg, backend="torch", **options).weights
        return torch.autograd.grad((weights.double() * cotangent).sum(), X)[0].double()

    exact, ours = gradient(X.double(), tol=1e-13), gradient(X, solver=solver)
    assert ((ours - exact).norm(dim=(1, 2)) <= 2e-7 * exact.norm(dim=(1, 2))).all()


def test_a_task_that_stalls_is_solved_by_another_solver():
    """With two samples and an empty class, both forms of newton alone stall at a gap of 0.9."""
    X = torch.tensor([[3.0, -2, -3, -2], [-1, 1, -1, 2]], dtype=F64)
    y = torch.tensor([2, 0])
    lambda1 = 0.3 * svm_lambda1_max(X, y, n_classes=3)
    solution = solve_svm(X, y, lambda1=lambda1, n_classes=3, backend="torch")
    assert solution.certified
    assert solution.relative_gap < 1e-12


def test_oversized_tasks_are_left_unfinished(monkeypatch):
    X, y = random_task(4, way=4, shots=5, d=50, batch=2)
    problem = problem_of(X, y, 4, relative=0.1, lambda2=3.0)
    rough = SOLVERS["newton"](problem, FINISH_GAP, 100).dual
    assert finish_solution(problem, rough).settled.all()
    monkeypatch.setattr(finish, "DENSE_LIMIT", 10)
    done = finish_solution(problem, rough)
    assert done.oversized.all()
    assert not done.settled.any()
    # newton then ends at tol or, if a gradient is required, at its own rounding.
    tight = SOLVERS["newton"](problem, 1e-5, 100, exact=True)
    assert (SOLVERS["newton"](problem, 1e-5, 100).relative_gap > 1e-12).any()
    assert (tight.relative_gap <= 1e-11).all()


def test_entries_that_a_newton_step_makes_negative_are_held_at_zero():
    """From a rough point there are many of them; the step of the others is Newton's with these held at zero."""
    X, y = random_task(10, way=6, shots=8, d=32)
    problem = problem_of(X, y, 6, relative=0.1, lambda2=0.2, dual_reg=0.05)
    dual = SOLVERS["newton"](problem, 0.05, 100).dual
    at = certificate(problem, dual)
    curvature, free = active_curvature(problem, at), torch.ones_like(dual, dtype=torch.bool)
    gradient = dual_gradient(problem, dual, at.scores)
    coordinates = Coordinates(dual, free)
    smoothing = (problem.weight * problem.rho[:, None, None]).expand_as(dual)
    matrix = newton_matrix(problem, curvature, smoothing, coordinates)
    plain = FreeSystem(matrix, coordinates).solve(-gradient, 1e-12)
    assert coordinates.take((dual + plain < 0).to(F64)).sum() > 20
    step = finish._direction(problem, at, dual, free, gradient)
    ahead = coordinates.take(dual + step)
    held = ahead.abs() < 1e-15
    assert held.sum() > 20
    assert (ahead[~held] < 0).sum() <= 0.1 * held.sum()  # after three rounds the projection handles the rest
    residual = (matrix @ coordinates.take(step)[..., None])[..., 0] + coordinates.reduce(gradient)
    assert residual[~held].abs().max() <= 1e-8 * residual[held].abs().max()


def test_bound_entries_become_free_if_the_derivative_requires_it():
    """Starting at corners of the simplices, with a single free entry in every row."""
    X, y = random_task(11, way=4, shots=5, d=50, batch=2)
    problem = problem_of(X, y, 4, relative=0.1, lambda2=30.0)
    rough = SOLVERS["newton"](problem, FINISH_GAP, 100).dual
    done = finish.finish(problem, rough, torch.full_like(rough, 1e9))
    assert done.settled.all()
    assert (done.relative_gap <= 1e-12).all()


def test_the_number_of_turns_is_limited_per_task():
    X, y = random_task(5, way=4, shots=5, d=50, batch=2)
    problem = problem_of(X, y, 4, relative=0.1, lambda2=3.0)
    rough = SOLVERS["newton"](problem, FINISH_GAP, 100).dual
    at = certificate(problem, rough)
    multipliers = finish.bound_multipliers(problem, rough, at.scores)
    done = finish.finish(problem, rough, multipliers, torch.tensor([0, 1]))
    assert done.n_iter.tolist() == [0, 1]


def test_restart_resets_the_patience():
    problem = problem_of(*random_task(6), 3, relative=0.1, lambda2=1.0)
    record = progress.Progress(problem, 1e-5, patience=3)
    index, dual = torch.tensor([0]), problem.targets
    gap = torch.tensor([1.0], dtype=F64)
    assert [record.record(index, dual, gap, i).item() for i in range(4)] == [True, True, True, False]
    record.restart(index)
    assert record.record(index, dual, gap, 4)


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_projection_onto_the_free_entries_agrees_with_the_simplex_projection(seed, k):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(6, k, generator=generator, dtype=F64)
    free = torch.rand(6, k, generator=generator) < 0.6
    free[:, 0] = True
    missing = 1 - torch.where(free, points, 0).sum(1)
    ours = project_on_free_simplex(points[None], free[None], missing[None])[0]
    for row, chosen, result in zip(points, free, ours, strict=True):
        torch.testing.assert_close(result[chosen], simplex_projection(row[chosen])[0])
        assert (result[~chosen] == 0).all()


def test_the_projection_is_relatively_accurate_for_small_entries():
    """In a row near its label's corner, entries of about 1e-12 are shifted by others of that size, to twelve digits."""
    tiny = torch.tensor([[[1.0, 3e-12, -1e-12, 2e-12]]], dtype=F64)
    result = project_on_free_simplex(tiny, torch.ones_like(tiny, dtype=torch.bool), torch.zeros(1, 1, dtype=F64))
    expected = torch.tensor([3e-12 - 1e-12 / 3, 0.0, 2e-12 - 1e-12 / 3], dtype=F64)
    torch.testing.assert_close(result[0, 0, 1:], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dual_reg", [0.0, 0.7])
def test_the_free_system_equals_the_full_one_with_bound_entries_held(dual_reg):
    X, y = random_task(7, way=4, shots=3, d=40, batch=2)
    problem = problem_of(X, y, 4, relative=0.1, lambda2=3.0, dual_reg=dual_reg)
    dual = SOLVERS["newton"](problem, 1e-5, 100).dual
    at = certificate(problem, dual)
    curvature = active_curvature(problem, at)
    free = free_entries(problem, dual, finish.bound_multipliers(problem, dual, at.scores), curvature)
    assert torch.equal(free, dual > 0)
    smoothing = (problem.weight * problem.rho[:, None, None]).expand_as(dual)
    coordinates = Coordinates(dual, free)
    assert coordinates.valid.sum(1).unique().numel() == 2  # one of the two is padded
    rhs = torch.randn(dual.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    ours = FreeSystem(newton_matrix(problem, curvature, smoothing, coordinates), coordinates).solve(rhs, 1e-13)
    assert (ours[~free] == 0).all()
    held = DenseSystem(problem, curvature, torch.where(free, smoothing, 1e14), dual).solve(rhs, 0.0)
    torch.testing.assert_close(ours, held, rtol=1e-6, atol=1e-8)


def test_consistent_singular_systems_are_solved():
    """With a sample repeated three times L is not unique, and shifts between the copies have no curvature."""
    X, y = random_task(8, way=3, shots=3, d=40)
    X, y = X[:, [0, 0, 0, 3, 4, 6, 7]], y[:, [0, 0, 0, 3, 4, 6, 7]]
    problem = problem_of(X, y, 3, relative=0.05, lambda2=1.0)
    dual = SOLVERS["newton"](problem, 1e-5, 100).dual
    dual[:, :3] = dual[:, :3].mean(1, keepdim=True)  # in the interior
    at = certificate(problem, dual)
    coordinates = Coordinates(dual, dual > 0)
    matrix = newton_matrix(problem, active_curvature(problem, at), torch.zeros_like(dual), coordinates)
    values = torch.linalg.eigvalsh(matrix)[0]
    assert values[0] < 1e-12 * values[-1]
    move = coordinates.expand(torch.randn(coordinates.class_index.shape, dtype=F64), dual)
    rhs = coordinates.expand(torch.zeros(coordinates.class_index.shape, dtype=F64), dual)
    reduced = (matrix @ coordinates.take(move)[..., None])[..., 0]
    rhs = rhs.flatten(1).scatter(1, coordinates.sample * 3 + coordinates.class_index, reduced).view_as(dual)
    found = FreeSystem(matrix, coordinates).solve(rhs, 1e-12)
    torch.testing.assert_close((matrix @ coordinates.take(found)[..., None])[..., 0], reduced, rtol=1e-9, atol=1e-9)
    assert found.abs().max() < 1e3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_certificate_holds_for_the_returned_weights(dtype):
    """Even if W has to be rounded to float32 with features of mean 1e4, which is reported as PRECISION."""
    X, y = random_task(9, way=3, shots=4, d=20, dtype=dtype)
    X = X + 1e4
    lambda1, lambda2, tol = 0.1 * svm_lambda1_max(X, y).item(), 100.0, 1e-7
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, tol=tol, backend="torch")
    W, exact, L = solution.weights[0].double(), X[0].double(), solution.dual[0]
    scores = exact @ W
    Y = torch.nn.functional.one_hot(y[0], 3).double()
    hinge = (1 - Y + scores - (scores * Y).sum(1, keepdim=True)).amax(1).sum()
    primal = hinge + lambda1 * W.norm(dim=1).sum() + lambda2 / 2 * (W**2).sum()
    norms = (exact.T @ (Y - L)).norm(dim=1)
    dual = len(L) - (norms - lambda1).clamp_min(0).square().sum() / (2 * lambda2) - (Y * L).sum()
    torch.testing.assert_close(solution.objective[0], primal)
    torch.testing.assert_close(solution.gap[0], primal - dual, rtol=1e-3, atol=1e-9 * primal.item())
    if dtype == torch.float32:
        assert solution.status.item() == Status.PRECISION
        assert solution.relative_gap > tol
    else:
        assert solution.certified
