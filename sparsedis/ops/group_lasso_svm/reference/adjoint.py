"""Gradients of the solution by implicit differentiation: one linear solve, whatever the solver did."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.group_lasso_svm.reference.hessian import Curvature, newton_system
from sparsedis.ops.group_lasso_svm.reference.newton import active_curvature
from sparsedis.problem import Problem, certificate, correlation, dual_gradient, residual

# Bound entries are floored here before Z/L is formed: L = 0 is common after a projection.
_FLOOR = 1e-100
# Relative residual of the adjoint system where it is solved by iteration.
_TOLERANCE = 1e-12


def adjoint(problem: Problem, dual: Tensor, grad_weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a loss whose gradient in W is ``grad_weights`` (B, d, k), at the solution L ``dual`` (B, n, k).

    Everything is made again from L: V, the active features, and the multipliers of the bounds, which at a solution are
    the dual gradient above its smallest entry in the row. An entry at its bound drops out because Z/L is huge there.

    Returns:
        Gradients in the features (B, n, d), lambda1, lambda2 and rho * lambda2 = dual_reg, (B,) each.
    """
    at = certificate(problem, dual)
    curvature = active_curvature(problem, at)
    system = newton_system(problem, curvature, bound_diagonal(problem, dual, at.scores), dual)

    present = (problem.weight > 0).to(dual.dtype)
    J = _link_derivative(curvature, grad_weights)
    q = present * system.solve(-problem.weight * (problem.features @ J), _TOLERANCE)
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


def bound_diagonal(problem: Problem, dual: Tensor, scores: Tensor) -> Tensor:
    """Z/L + s rho at a solution, (B, n, k): the multiplier Z of a bound is the gradient above its row's smallest."""
    gradient = dual_gradient(problem, dual, scores)
    multipliers = gradient - gradient.amin(-1, keepdim=True)
    return multipliers / dual.clamp_min(_FLOOR) + problem.weight * problem.rho[:, None, None]


def _link_derivative(curvature: Curvature, c: Tensor) -> Tensor:
    """J_j(c) = [(1 - t_j) c_j + t_j u_j <u_j, c_j>] / lambda2 on the active features, 0 elsewhere."""
    along = (c * curvature.unit).sum(-1, keepdim=True)
    return curvature.alpha[..., None] * c + curvature.beta[..., None] * along * curvature.unit
