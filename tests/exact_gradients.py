"""Gradients of solutions up to rounding, by Newton's method on the support and the implicit function theorem.

All derivatives are PyTorch's, of the objectives as defined here; no code is shared with the package. The given support
is a guess, which is checked against the optimality conditions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

F64 = torch.float64
Objective = Callable[..., Tensor]


class Exact(NamedTuple):
    """One task's solution, the gradients of <cotangent, solution> in its inputs, and the distance to a kink."""

    solution: Tensor
    gradients: tuple[Tensor, ...]
    margin: float


def lasso(
    X: Tensor, y: Tensor, lambda1: float, lambda2: float, weight: Tensor, near: Tensor, cotangent: Tensor
) -> Exact:
    """Gradients in X (n, d), y (n,), lambda1, lambda2; ``near`` (d,) has the support of the solution."""
    X, y, weight, near, cotangent = (value.detach().to(F64) for value in (X, y, weight, near, cotangent))
    on = near != 0
    sign = near[on].sign()

    def fit(w: Tensor, X: Tensor, y: Tensor) -> Tensor:
        return (weight * (X @ w - y) ** 2).sum() / (2 * weight.sum())

    def objective(w: Tensor, X: Tensor, y: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
        return fit(w, X[:, on], y) + l1 * (sign * w).sum() + l2 / 2 * (w**2).sum()

    theta = (X, y, _scalar(lambda1), _scalar(lambda2))
    w_on, gradients = _implicit(objective, near[on], theta, cotangent[on])
    w = torch.zeros_like(near)
    w[on] = w_on
    assert (w_on.sign() == sign).all()
    slope = torch.func.grad(fit)(w, X, y)
    curvature = (weight[:, None] * X**2).sum(0) / weight.sum() + lambda2
    return Exact(w, gradients, _margin(slope[~on].abs(), curvature[on] * w_on.abs(), lambda1))


def ridge(X: Tensor, y: Tensor, lambda2: float, weight: Tensor, cotangent: Tensor) -> Exact:
    """Gradients in X (n, d), y (n, m), lambda2."""
    X, y, weight, cotangent = (value.detach().to(F64) for value in (X, y, weight, cotangent))

    def objective(w: Tensor, X: Tensor, y: Tensor, l2: Tensor) -> Tensor:
        loss = (weight[:, None] * (X @ w.reshape(cotangent.shape) - y) ** 2).sum() / (2 * weight.sum())
        return loss + l2 / 2 * (w**2).sum()

    w, gradients = _implicit(
        objective, torch.zeros(cotangent.numel(), dtype=F64), (X, y, _scalar(lambda2)), cotangent.flatten()
    )
    return Exact(w.reshape(cotangent.shape), gradients, torch.inf)


def logistic(
    X: Tensor,
    labels: Tensor,
    lambda1: float,
    lambda2: float,
    weight: Tensor,
    near: Tensor,
    cotangent: Tensor,
    intercept: bool,
) -> Exact:
    """Gradients in X (n, d), lambda1, lambda2; ``near``, (d, k) or with an intercept (d + 1, k), has the support."""
    X, weight, near, cotangent = (value.detach().to(F64) for value in (X, weight, near, cotangent))
    d, k = X.shape[1], near.shape[1]
    on = near[:d].any(1) | torch.tensor(lambda1 == 0)
    rows = torch.cat([on, on.new_ones(int(intercept))])
    # The rows sum to zero, so the unknowns are coordinates in an orthonormal basis of that subspace.
    basis = torch.linalg.svd(torch.eye(k, dtype=F64) - 1 / k)[0][:, : k - 1]

    def loss(W: Tensor, X: Tensor) -> Tensor:
        scores = X @ W[: X.shape[1]] + (W[-1] if intercept else 0)
        return (weight * torch.nn.functional.cross_entropy(scores, labels, reduction="none")).sum() / weight.sum()

    def objective(z: Tensor, X: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
        W = z.reshape(-1, k - 1) @ basis.T
        shown = W[: int(on.sum())]
        penalty = l2 / 2 * (shown**2).sum()
        if lambda1 > 0:
            penalty = penalty + l1 * shown.square().sum(1).sqrt().sum()
        return loss(W, X[:, on]) + penalty

    theta = (X, _scalar(lambda1), _scalar(lambda2))
    z, gradients = _implicit(objective, (near[rows] @ basis).flatten(), theta, (cotangent[rows] @ basis).flatten())
    W = torch.zeros_like(near)
    W[rows] = z.reshape(-1, k - 1) @ basis.T
    if lambda1 == 0:
        return Exact(W, gradients, torch.inf)
    slope = torch.func.grad(loss)(W, X)[:d]
    curvature = (weight[:, None] * X**2).sum(0) / weight.sum() / 2 + lambda2
    return Exact(W, gradients, _margin(slope[~on].norm(dim=1), curvature[on] * W[:d][on].norm(dim=1), lambda1))


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def _margin(off: Tensor, on: Tensor, lambda1: float) -> float:
    """Smallest relative distance of a soft threshold's argument to lambda1; fails if an inactive one exceeds it."""
    if lambda1 == 0:
        return torch.inf
    assert (off <= lambda1 * (1 + 1e-12)).all()
    return float(torch.cat([1 - off / lambda1, on / lambda1]).min())


def _implicit(
    objective: Objective, z: Tensor, theta: tuple[Tensor, ...], cotangent: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The minimiser near z, and the gradients of <cotangent, minimiser> in theta."""
    slope, curvature = torch.func.grad(objective), torch.func.hessian(objective)
    for _ in range(30):
        step = torch.linalg.solve(curvature(z, *theta), slope(z, *theta)) if len(z) else z
        z = z - step
        if not len(z) or step.norm() <= 1e-14 * z.norm():
            break
    else:
        # At the minimiser, rounding errors alone do not cause a longer Newton step.
        assert step.norm() <= 1e-10 * z.norm()
    q = torch.linalg.solve(curvature(z, *theta), cotangent) if len(z) else z
    theta = tuple(value.clone().requires_grad_() for value in theta)
    along = -(slope(z, *theta) * q).sum()
    given = torch.autograd.grad(along, theta, allow_unused=True) if along.requires_grad else [None] * len(theta)
    return z, tuple(torch.zeros_like(t) if g is None else g for g, t in zip(given, theta, strict=True))
