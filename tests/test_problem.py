"""The formulas against their definitions and theorems, without a solver."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedis.ops.svm.problem import (
    block_soft_threshold,
    certificate,
    dual_gradient,
    normalised,
    residual,
    row_norms,
    simplex_projection,
    zero_threshold,
)
from sparsedis.ops.svm.signature import Inputs
from tests.tasks import random_task


def make(seed, *, lambda1, lambda2=1.0, dual_reg=0.0, way=3, batch=2, weight=None, **task):
    X, y = random_task(seed, way=way, batch=batch, **task)
    per_task = [torch.full((batch,), float(value), dtype=torch.float64) for value in (lambda1, lambda2, dual_reg)]
    weight = torch.ones(y.shape, dtype=torch.float64) if weight is None else weight
    problem, _ = normalised(Inputs(X, y, *per_task, weight), way)
    return problem


def feasible(problem, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(problem.targets.shape, generator=generator, dtype=torch.float64)
    return (5 * draw).softmax(-1)


def dual_objective(problem, dual):
    """f(L), by its definition."""
    V = problem.features.mT @ (problem.weight * (problem.targets - dual))
    excess = (row_norms(V) - problem.lambda1[:, None]).clamp_min(0)
    rho = problem.rho[:, None]
    linear = (problem.targets * dual).sum(-1) + rho / 2 * ((dual - problem.targets) ** 2).sum(-1)
    return (excess**2).sum(1) / (2 * problem.lambda2) + (problem.weight[..., 0] * linear).sum(1)


def primal_objective(problem, weights):
    """P(W), by its definition; the smoothed hinge is a maximum over the simplex, attained at a projection."""
    scores = problem.features @ weights
    own = (scores * problem.targets).sum(-1, keepdim=True)
    m = 1 - problem.targets + scores - own
    rho = problem.rho[:, None, None]
    if bool((rho > 0).all()):
        a, _ = simplex_projection(problem.targets + m / rho)
        phi = (a * m).sum(-1) - rho[..., 0] / 2 * ((a - problem.targets) ** 2).sum(-1)
    else:
        phi = m.amax(-1)
    penalty = problem.lambda1 * row_norms(weights).sum(1) + problem.lambda2 / 2 * (weights**2).sum((1, 2))
    return (problem.weight[..., 0] * phi).sum(1) + penalty


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), lambda1=st.floats(0, 20), lambda2=st.floats(1e-3, 1e3), reg=st.floats(0, 10))
def test_the_gap_is_primal_minus_dual_and_never_negative(seed, lambda1, lambda2, reg):
    problem = make(seed, lambda1=lambda1, lambda2=lambda2, dual_reg=reg if reg > 0.01 else 0.0)
    dual = feasible(problem, seed)
    at = certificate(problem, dual)
    assert (at.gap >= 0).all()
    # D(L) = sum s - f(L), where the constant comes from the terms 1 - Y of the margins.
    D = problem.weight.sum((1, 2)) - dual_objective(problem, dual)
    torch.testing.assert_close(at.objective, primal_objective(problem, at.weights), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(at.gap, at.objective - D, rtol=1e-8, atol=1e-9 * float(at.objective.max()))


@pytest.mark.parametrize("reg", [0.0, 0.7])
def test_the_gap_is_primal_minus_dual_with_sample_weights(reg):
    weight = torch.tensor([[0.0, 2.0, 0.5, 1.0] * 3] * 2, dtype=torch.float64)
    problem = make(1, lambda1=2.0, dual_reg=reg, weight=weight)
    dual = feasible(problem, 1)
    at = certificate(problem, dual)
    D = problem.weight.sum((1, 2)) - dual_objective(problem, dual)
    torch.testing.assert_close(at.gap, at.objective - D, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reg", [0.0, 0.7])
def test_dual_gradient_is_the_derivative_of_the_dual_objective(reg):
    problem = make(2, lambda1=2.0, dual_reg=reg)
    dual = feasible(problem, 2).requires_grad_()
    (expected,) = torch.autograd.grad(dual_objective(problem, dual).sum(), dual)
    at = certificate(problem, dual.detach())
    torch.testing.assert_close(dual_gradient(problem, dual.detach(), at.scores), expected)


def test_residual_keeps_its_accuracy_near_a_vertex():
    problem = make(3, lambda1=1.0, way=2, batch=1)
    tiny = 1e-30
    dual = problem.targets + tiny * (1 - 2 * problem.targets)
    A = residual(problem, dual)
    torch.testing.assert_close(A.abs(), torch.full_like(A, tiny), rtol=1e-12, atol=0)
    assert (A.sum(-1) == 0).all()


@pytest.mark.slow
@given(st.lists(st.floats(-50, 50), min_size=2, max_size=9))
def test_simplex_projection_satisfies_the_optimality_conditions(point):
    z = torch.tensor([point], dtype=torch.float64)
    a, tau = simplex_projection(z)
    assert (a >= 0).all()
    torch.testing.assert_close(a.sum(-1), torch.ones(1, dtype=torch.float64))
    # Together with the two conditions above, a = (z - tau)_+ characterises the projection.
    torch.testing.assert_close(a, (z - tau).clamp_min(0))


def test_block_soft_threshold_of_a_zero_row_is_zero():
    values = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.3, 0.4]]], dtype=torch.float64)
    result = block_soft_threshold(values, row_norms(values), torch.tensor([1.0], dtype=torch.float64))
    expected = torch.tensor([[[0.0, 0.0], [2.4, 3.2], [0.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(result, expected)


def test_zero_threshold_certifies_the_zero_solution():
    problem = make(4, lambda1=0.0)
    bound = zero_threshold(problem.features, problem.targets.argmax(-1), problem.weight[..., 0], 3)
    # L uniform over the other classes is feasible, with all norms of V below the bound.
    L = (1 - problem.targets) / (problem.targets.shape[2] - 1)
    at = certificate(make(4, lambda1=float(bound.max()) * (1 + 1e-12)), L)
    assert (at.weights == 0).all()
    assert (at.gap <= 1e-12 * at.objective).all()
