"""Derivatives of the solution by implicit differentiation: one linear solve, independent of the solver."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.svm.backend_torch.finish import bound_multipliers, free_entries
from sparsedis.ops.svm.backend_torch.hessian import (
    DENSE_LIMIT,
    Coordinates,
    Curvature,
    FreeSystem,
    IterativeSystem,
    NewtonSystem,
    active_curvature,
    newton_matrix,
)
from sparsedis.ops.svm.problem import Certificate, Problem, certificate, correlation, residual

# Relative residual to which the adjoint system is solved.
TOLERANCE = 1e-12
# Lower bound on the entries of L in the denominator of Z/L.
_FLOOR = 1e-100


def adjoint(problem: Problem, dual: Tensor, grad_weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a loss from its gradient in W, ``grad_weights`` (B, d, k), at the solution L, ``dual`` (B, n, k).

    V, the active features and the free entries are recomputed from L. Only free entries move with the problem. If L is
    accurate to rounding error, they are all positive entries; otherwise (no entry of an interior point is 0) they are
    those that a Newton step would keep positive.

    Returns:
        Gradients in the features (B, n, d), lambda1, lambda2 and rho * lambda2 = dual_reg, (B,) each.
    """
    at = certificate(problem, dual)
    curvature = active_curvature(problem, at)
    present = (problem.weight > 0).to(dual.dtype)
    J = _link_derivative(curvature, grad_weights)
    system = _system(problem, curvature, at, dual)
    q = present * system.solve(-problem.weight * (problem.features @ J), TOLERANCE)
    c = grad_weights + correlation(problem, problem.weight * q)
    Jc = _link_derivative(curvature, c)
    A = residual(problem, dual)
    grad_features = A @ Jc.mT + (problem.weight * q) @ at.weights.mT

    active = (curvature.beta > 0) | (curvature.alpha > 0)
    along = (c * curvature.unit).sum(-1)
    lambda2 = problem.lambda2
    smoothing = (problem.weight * q * (dual - problem.targets)).sum((1, 2))
    grad_lambda1 = -torch.where(active, along, 0).sum(1) / lambda2
    grad_lambda2 = (-(c * at.weights).sum((1, 2)) + problem.rho * smoothing) / lambda2
    grad_dual_reg = -smoothing / lambda2
    return grad_features, grad_lambda1, grad_lambda2, grad_dual_reg


def tangent(
    problem: Problem,
    dual: Tensor,
    by_features: Tensor,
    by_lambda1: Tensor,
    by_lambda2: Tensor,
    by_dual_reg: Tensor,
) -> Tensor:
    """Tangent of W (B, d, k) for tangents of features (B, n, d), lambda1, lambda2 and dual_reg, (B,) each.

    It is the transpose of :func:`adjoint` and solves the same system: W and the dual gradient change at constant L,
    and L then changes so that its optimality conditions remain satisfied.
    """
    at = certificate(problem, dual)
    curvature = active_curvature(problem, at)
    system = _system(problem, curvature, at, dual)

    active = (curvature.beta > 0) | (curvature.alpha > 0)
    by_lambda1, by_lambda2, by_dual_reg = (value[:, None, None] for value in (by_lambda1, by_lambda2, by_dual_reg))
    lambda2, rho = problem.lambda2[:, None, None], problem.rho[:, None, None]
    by_penalties = by_lambda1 * torch.where(active[..., None], curvature.unit, 0) + by_lambda2 * at.weights
    dW_at_fixed_dual = _link_derivative(curvature, by_features.mT @ residual(problem, dual)) - by_penalties / lambda2

    present = (problem.weight > 0).to(dual.dtype)
    by_rho = (by_dual_reg - rho * by_lambda2) / lambda2
    scores = by_features @ at.weights + problem.features @ dW_at_fixed_dual
    gradient = problem.weight * (by_rho * (dual - problem.targets) - scores)
    d_dual = present * system.solve(-gradient, TOLERANCE)
    return dW_at_fixed_dual - _link_derivative(curvature, correlation(problem, problem.weight * d_dual))


def _system(problem: Problem, curvature: Curvature, at: Certificate, dual: Tensor) -> NewtonSystem:
    """H on the free entries; if that is too large to factor, the interior point's H, with Z/L on all entries."""
    multipliers = bound_multipliers(problem, dual, at.scores)
    coordinates = Coordinates(dual, free_entries(problem, dual, multipliers, curvature))
    smoothing = (problem.weight * problem.rho[:, None, None]).expand_as(dual)
    if coordinates.class_index.shape[1] <= DENSE_LIMIT:
        return FreeSystem(newton_matrix(problem, curvature, smoothing, coordinates), coordinates)
    return IterativeSystem(problem, curvature, multipliers / dual.clamp_min(_FLOOR) + smoothing, dual)


def _link_derivative(curvature: Curvature, c: Tensor) -> Tensor:
    """J_j(c) = [(1 - t_j) c_j + t_j u_j <u_j, c_j>] / lambda2 on the active features, 0 elsewhere."""
    along = (c * curvature.unit).sum(-1, keepdim=True)
    return curvature.alpha[..., None] * c + curvature.beta[..., None] * along * curvature.unit
