"""The pure-torch backend: any device, float64 inside. The truth that kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.lasso.descent import descend
from sparsedis.ops.lasso.problem import Certificate, certificate, kink_margin
from sparsedis.ops.least_squares import differentiate, normal_equations, perturbed, shares
from sparsedis.ops.operation import in_parts, status_as_returned
from sparsedis.ops.registry import Request
from sparsedis.ops.restricted import least_step
from sparsedis.problem import working_dtype

# Scratch memory, in bytes, that the tasks solved together may take.
MEMORY = 1 << 29


class ReferenceBackend:
    """See :mod:`sparsedis.ops.lasso` for the contract of ``solve`` and ``adjoint``."""

    name = "reference"
    checks_values = False

    def available(self) -> str | None:
        return None

    def supports(self, request: Request) -> str | None:
        return None

    def solve(
        self,
        features: Tensor,
        targets: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        sample_weight: Tensor,
        tol: float,
        max_iter: int,
    ) -> tuple[Tensor, ...]:
        def run(X: Tensor, y: Tensor, l1: Tensor, l2: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            X, y = working(X), working(y)
            share = shares(weight, X.dtype)
            return as_returned(
                X, y, share, l1, l2, *descend(X, y, share, l1, l2, tol, max_iter), tol=tol, given=features.dtype
            )

        return in_parts(run, (features, targets, lambda1, lambda2, sample_weight), task_bytes(features), MEMORY)

    def adjoint(
        self,
        features: Tensor,
        targets: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        sample_weight: Tensor,
        weights: Tensor,
        dual: Tensor,
        grad_weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        def run(
            X: Tensor, y: Tensor, l2: Tensor, weight: Tensor, w: Tensor, residual: Tensor, grad_w: Tensor
        ) -> tuple[Tensor, ...]:
            X, y, w = working(X), working(y)[..., None], working(w)[..., None]
            share = shares(weight, X.dtype)
            H, _ = normal_equations(X, y, share, l2)
            q = least_step(H, w[..., 0] != 0, working(grad_w))[..., None]
            grad_X, grad_y = differentiate(X, residual[..., None], share, w, q)
            by_lambda1, by_lambda2 = -(q * w.sign()).sum((1, 2)), -(q * w).sum((1, 2))
            return grad_X.to(features.dtype), grad_y[..., 0].to(targets.dtype), by_lambda1, by_lambda2

        tensors = (features, targets, lambda2, sample_weight, weights, dual, grad_weights)
        return in_parts(run, tensors, task_bytes(features), MEMORY)  # type: ignore[return-value]

    def tangent(
        self,
        features: Tensor,
        targets: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        sample_weight: Tensor,
        weights: Tensor,
        dual: Tensor,
        by_features: Tensor,
        by_targets: Tensor,
        by_lambda1: Tensor,
        by_lambda2: Tensor,
    ) -> Tensor:
        def run(
            X: Tensor, y: Tensor, l2: Tensor, weight: Tensor, w: Tensor, residual: Tensor, *by: Tensor
        ) -> tuple[Tensor]:
            dX, dy, dl1, dl2 = by
            X, dX = working(X), working(dX)
            y, w, dy = (working(value)[..., None] for value in (y, w, dy))
            share = shares(weight, X.dtype)
            H, _ = normal_equations(X, y, share, l2)
            by_penalties = dl1[:, None, None] * w.sign() + dl2[:, None, None] * w
            right = perturbed(X, residual[..., None], share, w, dX, dy) - by_penalties
            return (least_step(H, w[..., 0] != 0, right[..., 0]).to(weights.dtype),)

        problem = features, targets, lambda2, sample_weight
        tensors = *problem, weights, dual, by_features, by_targets, by_lambda1, by_lambda2
        return in_parts(run, tensors, task_bytes(features), MEMORY)[0]


def as_returned(
    X: Tensor,
    y: Tensor,
    share: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    w: Tensor,
    at: Certificate,
    n_iter: Tensor,
    status: Tensor,
    *,
    tol: float,
    given: torch.dtype,
) -> tuple[Tensor, ...]:
    """What ``solve`` returns for features of dtype ``given``, from the solver's w (B, d) and its certificate.

    Weights are rounded, and the certificate becomes that of the rounded ones.
    """
    weights = w.to(torch.promote_types(given, torch.float32))
    if weights.dtype != w.dtype:
        at = certificate(X, y, share, lambda1, lambda2, w, at.gap, weights.to(w.dtype))
        status = status_as_returned(status, at.relative_gap, tol)
    return weights, *at, n_iter, status, weights != 0, kink_margin(X, y, share, lambda1, w)


def working(value: Tensor) -> Tensor:
    """In the precision that all is computed in."""
    return value.to(working_dtype(value.device))


def task_bytes(features: Tensor) -> int:
    """Scratch memory that a task takes."""
    _, n, d = features.shape
    return 8 * (3 * n * d + 5 * d * d)
