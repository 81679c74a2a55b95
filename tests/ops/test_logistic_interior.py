"""The interior-point start of logistic regression's Newton steps for tasks on which sweeps do not converge."""

import pytest
import torch

from sparsedis import Status, logistic_lambda1_max, solve_logistic
from sparsedis.ops.logistic.backend_torch import interior
from sparsedis.ops.logistic.problem import Problem, certificate, probabilities, row_norms, zero_threshold
from sparsedis.ops.logistic.signature import Inputs
from tools import hunt_operations

F64 = torch.float64


def drawn(seed, intercept=False):
    """The tasks with lambda1 > 0 of a batch of tools/hunt_operations.py."""
    batch = hunt_operations.draw("logistic", seed)
    penalties = batch.options["lambda1"], batch.options["lambda2"]
    inputs = Inputs(batch.features, batch.targets, *penalties, batch.sample_weight)
    problem = Problem.of(inputs, batch.options["n_classes"], intercept)
    return problem.take((problem.lambda1 > 0).any(1))


def random_problem(*, n, d, k, relative, lambda2, batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(batch, n, d, generator=generator, dtype=F64)
    y = torch.arange(k).repeat(n // k + 1)[:n].expand(batch, n)
    l2 = torch.full((batch,), lambda2, dtype=F64)
    problem = Problem.of(Inputs(X, y, torch.ones(batch, dtype=F64), l2, torch.ones(batch, n, dtype=F64)), k, False)
    lambda1 = relative * zero_threshold(problem)
    return Problem.of(Inputs(X, y, lambda1, l2, torch.ones(batch, n, dtype=F64)), k, False)


# Two samples, low rank with noise, few samples, uncentred features, and others; lambda1 down to 1e-6 of its maximum.
@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 5, 6, 7, 12, 19, 27, 32, 36])
def test_few_steps_lead_close_to_the_solution(seed, monkeypatch):
    problem, steps = drawn(seed), []
    taken = interior._step

    def counted(*args):
        steps.append(None)
        return taken(*args)

    monkeypatch.setattr(interior, "_step", counted)
    monkeypatch.setattr(interior, "_sparse", lambda part, point: (point.W, certificate(part, point.W).relative_gap))
    gap = certificate(problem, interior._interior_point(problem)).relative_gap
    assert gap.max() < 1e-4
    assert gap.median() < 1e-11
    assert len(steps) < 90


@pytest.mark.slow
def test_tasks_with_an_intercept_converge():
    problem = drawn(36, intercept=True)
    W = interior.interior_point(problem, problem.start())
    assert certificate(problem, W).relative_gap.median() < 1e-9
    assert W[:, -1].sum(-1).abs().max() < 1e-13 * W[:, -1].abs().max()  # the least-norm intercept


@pytest.mark.slow
def test_inactive_rows_are_exactly_zero():
    problem = random_problem(n=20, d=100, k=4, relative=0.2, lambda2=1e-3)
    W = interior.interior_point(problem, problem.start())
    assert certificate(problem, W).relative_gap.max() < 1e-9
    on = (row_norms(W) > 0).sum(1)
    assert (on > 3).all()
    assert (on < 60).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [12, 18, 27])
def test_active_rows_of_small_norm_are_kept(seed):
    """Multipliers cannot identify rows with a tiny share of the objective, but a proximal step does."""
    problem = drawn(seed)
    W = interior.interior_point(problem, problem.start())
    assert certificate(problem, W).relative_gap.max() < 1e-9


@pytest.mark.slow
def test_the_pool_grows_until_few_rows_outside_violate_their_conditions():
    problem = random_problem(n=10, d=2000, k=3, relative=1e-3, lambda2=1e-2)
    first = 10 * 3
    W = interior.interior_point(problem, problem.start())
    on = row_norms(W) > 0
    assert (on.sum(1) > 2 * first).all()  # more than in the first pool
    _, slope = probabilities(problem, problem.features @ W)
    violated = row_norms(problem.features.mT @ slope) > (1 + interior._VIOLATION) * problem.lambda1
    assert ((violated & ~on).sum(1) <= 0.2 * on.sum(1)).all()


def test_oversized_systems_are_not_solved(monkeypatch):
    problem = random_problem(n=6, d=10, k=3, relative=0.1, lambda2=0)
    monkeypatch.setattr(interior, "_LARGEST_ORDER", 17)
    assert not interior.interior_point(problem, problem.start()).any()
    monkeypatch.setattr(interior, "_LARGEST_ORDER", 18)
    assert interior.interior_point(problem, problem.start()).any()


@pytest.mark.slow
def test_oversized_tasks_are_solved_without_the_interior_point(monkeypatch):
    batch = hunt_operations.draw("logistic", 35)
    arguments = (batch.features, batch.targets)
    options = batch.options | {"sample_weight": batch.sample_weight}
    usual = solve_logistic(*arguments, **options)
    monkeypatch.setattr(interior, "_LARGEST_ORDER", 1)
    monkeypatch.delattr(interior, "_interior_point")
    without = solve_logistic(*arguments, **options)
    assert usual.certified.all()
    assert without.certified.all()
    assert usual.n_iter.max() < without.n_iter.max()


def test_step_lengths_end_at_the_boundary_of_the_cones():
    generator = torch.Generator().manual_seed(3)
    W = torch.randn(200, 5, 3, generator=generator, dtype=F64)
    t = row_norms(W) * (1 + torch.rand(200, 5, generator=generator, dtype=F64))
    dt = 1 + 2 * torch.randn(200, 5, generator=generator, dtype=F64)
    dW = torch.randn(200, 5, 3, generator=generator, dtype=F64)
    cone = torch.ones(200, 5, dtype=torch.bool)
    cone[:, -1] = False
    longest = interior._to_boundary(cone, t, W, dt, dW)

    def inside(step):
        a = step[:, None]
        return ((t + a * dt >= row_norms(W + a[..., None] * dW)) | ~cone).all(1)

    meets = longest.isfinite()
    assert 50 < meets.sum() < 200
    assert inside(longest.clamp_max(1e9) * (1 - 1e-9)).all()
    assert not inside(torch.where(meets, longest, 0) * (1 + 1e-6))[meets].any()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [6, 7, 32])  # without this start, 25 to 121 iterations of up to 30 Newton steps
def test_tasks_that_sweeps_do_not_solve_take_few_iterations(seed):
    batch = hunt_operations.draw("logistic", seed)
    solution = solve_logistic(batch.features, batch.targets, sample_weight=batch.sample_weight, **batch.options)
    assert solution.certified.all()
    assert solution.n_iter.max() <= 16


@pytest.mark.slow
def test_a_gap_above_tol_due_to_rounding_has_status_precision():
    """Weights of about 1e5 whose scores nearly cancel."""
    batch = hunt_operations.draw("logistic", 116)
    options = {key: value[41] if torch.is_tensor(value) else value for key, value in batch.options.items()}
    arguments = batch.features[41], batch.targets[41]
    weight = batch.sample_weight[41]
    assert solve_logistic(*arguments, sample_weight=weight, **options | {"tol": 1e-14}).status == Status.PRECISION
    solution = solve_logistic(*arguments, sample_weight=weight, **options | {"tol": 1e-9})
    assert solution.certified
    assert solution.weights.abs().max() > 9e4


@pytest.mark.slow
@pytest.mark.parametrize("relative", [0.02, 1e-3])
def test_weak_penalties_without_lambda2_take_few_iterations(relative):
    """Sweeps alone took 28 s per task, because 600 active rows are not determined by 25 samples."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(5).repeat(5).expand(2, -1)
    X = torch.randn(2, 25, 640, generator=generator).relu()
    lambda1 = relative * logistic_lambda1_max(X, y)
    solution = solve_logistic(X, y, lambda1=lambda1, lambda2=0.0)
    assert solution.certified.all()
    assert solution.n_iter.max() <= 6
    assert (solution.active.sum(1) <= 100).all()
