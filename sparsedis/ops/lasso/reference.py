"""The pure-torch backend: any device, float64 inside. The truth that kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.lasso.descent import descend
from sparsedis.ops.least_squares import differentiate, normal_equations, shares
from sparsedis.ops.operation import in_parts
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
            w, certificate, n_iter, status = descend(X, y, shares(weight, X.dtype), l1, l2, tol, max_iter)
            weights = w.to(torch.promote_types(features.dtype, torch.float32))
            return weights, *certificate, n_iter, status, w != 0

        return in_parts(run, (features, targets, lambda1, lambda2, sample_weight), task_bytes(features), MEMORY)

    def adjoint(
        self,
        features: Tensor,
        targets: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        sample_weight: Tensor,
        weights: Tensor,
        grad_weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        def run(X: Tensor, y: Tensor, l2: Tensor, weight: Tensor, w: Tensor, grad_w: Tensor) -> tuple[Tensor, ...]:
            X, y, w = working(X), working(y)[..., None], working(w)[..., None]
            share = shares(weight, X.dtype)
            H, _ = normal_equations(X, y, share, l2)
            q = least_step(H, w[..., 0] != 0, working(grad_w))[..., None]
            grad_X, grad_y = differentiate(X, y - X @ w, share, w, q)
            by_lambda1, by_lambda2 = -(q * w.sign()).sum((1, 2)), -(q * w).sum((1, 2))
            return grad_X.to(features.dtype), grad_y[..., 0].to(targets.dtype), by_lambda1, by_lambda2

        tensors = (features, targets, lambda2, sample_weight, weights, grad_weights)
        return in_parts(run, tensors, task_bytes(features), MEMORY)  # type: ignore[return-value]


def working(value: Tensor) -> Tensor:
    """In the precision that all is computed in."""
    return value.to(working_dtype(value.device))


def task_bytes(features: Tensor) -> int:
    """Scratch memory that a task takes."""
    _, n, d = features.shape
    return 8 * (3 * n * d + 5 * d * d)
