"""The pure-torch backend: any device, float64 inside. The truth that kernels are tested against."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparsedis.ops.lasso.descent import descend
from sparsedis.ops.least_squares import differentiate, normal_equations, shares
from sparsedis.ops.registry import Request
from sparsedis.ops.restricted import least_step
from sparsedis.problem import working_dtype

# Scratch memory that the tasks solved together may take, in bytes; a task that needs more is solved by itself.
_MEMORY = 1 << 29


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
        parts = []
        for part in chunks(features):
            X, y = working(features[part]), working(targets[part])
            share = shares(sample_weight[part], X.dtype)
            w, certificate, n_iter, status = descend(X, y, share, lambda1[part], lambda2[part], tol, max_iter)
            weights = w.to(torch.promote_types(features.dtype, torch.float32))
            parts.append((weights, *certificate, n_iter, status, w != 0))
        weights, dual, gap, relative_gap, objective, n_iter, status, active = (
            torch.cat(column) for column in zip(*parts, strict=True)
        )
        return weights, dual, gap, relative_gap, objective, n_iter, status, active

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
        parts = []
        for part in chunks(features):
            X, y = working(features[part]), working(targets[part])[..., None]
            w = working(weights[part])[..., None]
            share = shares(sample_weight[part], X.dtype)
            H, _ = normal_equations(X, y, share, lambda2[part])
            q = least_step(H, w[..., 0] != 0, working(grad_weights[part]))[..., None]
            grad_features, grad_targets = differentiate(X, y - X @ w, share, w, q)
            parts.append(
                (
                    grad_features.to(features.dtype),
                    grad_targets[..., 0].to(targets.dtype),
                    -(q * w.sign()).sum((1, 2)),
                    -(q * w).sum((1, 2)),
                )
            )
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]


def working(value: Tensor) -> Tensor:
    """In the precision that all is computed in."""
    return value.to(working_dtype(value.device))


def chunks(features: Tensor) -> Iterator[slice]:
    """Slices of the batch whose scratch tensors fit in the memory allowed."""
    batch, n, d = features.shape
    step = max(1, _MEMORY // (8 * (3 * n * d + 5 * d * d)))
    for start in range(0, batch, step):
        yield slice(start, start + step)
