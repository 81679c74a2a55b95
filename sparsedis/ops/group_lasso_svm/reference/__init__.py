"""The pure-torch backend: any device, float64 inside. The truth that kernels are tested against."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparsedis.ops.group_lasso_svm.reference.adjoint import adjoint
from sparsedis.ops.group_lasso_svm.reference.bcd import bcd
from sparsedis.ops.group_lasso_svm.reference.fista import fista
from sparsedis.ops.group_lasso_svm.reference.hessian import FEATURE_BLOCK, is_dense
from sparsedis.ops.group_lasso_svm.reference.newton import newton
from sparsedis.ops.registry import Request
from sparsedis.problem import certificate, normalised

SOLVERS = {"newton": newton, "fista": fista, "bcd": bcd}

# Scratch memory that the tasks solved together may take, in bytes; a task that needs more is solved by itself.
_MEMORY = 1 << 30


class ReferenceBackend:
    """See :mod:`sparsedis.ops.group_lasso_svm` for the contract of ``solve`` and ``adjoint``."""

    name = "reference"
    checks_values = False

    def available(self) -> str | None:
        return None

    def supports(self, request: Request) -> str | None:
        return None

    def solve(
        self,
        features: Tensor,
        labels: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        dual_reg: Tensor,
        sample_weight: Tensor,
        n_classes: int,
        solver: str,
        tol: float,
        max_iter: int,
    ) -> tuple[Tensor, ...]:
        parts = []
        for part in _chunks(features, n_classes):
            problem, scale = normalised(
                features[part],
                labels[part],
                lambda1[part],
                lambda2[part],
                dual_reg[part],
                sample_weight[part],
                n_classes,
            )
            done = SOLVERS[solver](problem, tol, max_iter)
            at = certificate(problem, done.dual)
            weights = at.weights.to(torch.promote_types(features.dtype, torch.float32))
            active = at.norms > problem.lambda1[:, None]
            gap, objective = scale * at.gap, scale * at.objective
            parts.append((weights, done.dual, gap, at.relative_gap, objective, done.n_iter, done.status, active))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def adjoint(
        self,
        features: Tensor,
        labels: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        dual_reg: Tensor,
        sample_weight: Tensor,
        dual: Tensor,
        active: Tensor,
        grad_weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        parts = []
        for part in _chunks(features, dual.shape[2]):
            # A feature that no task uses has no part in W nor in its derivative.
            used = (active[part].any(0) | (lambda1[part] == 0).any()).nonzero()[:, 0]
            problem, scale = normalised(
                features[part][..., used],
                labels[part],
                lambda1[part],
                lambda2[part],
                dual_reg[part],
                sample_weight[part],
                dual.shape[2],
            )
            grad_used, *others = adjoint(problem, dual[part], grad_weights[part][:, used].to(dual.dtype))
            grad_features = torch.zeros_like(features[part], memory_format=torch.contiguous_format)
            grad_features[..., used] = grad_used.to(features.dtype)
            parts.append((grad_features, *(value / scale for value in others)))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]


def _chunks(features: Tensor, n_classes: int) -> Iterator[slice]:
    """Slices of the batch whose scratch tensors fit in the memory allowed."""
    batch, n, d = features.shape
    order = n * (n_classes - 1)
    if is_dense(n, d, n_classes):
        system = 4 * order**2 + 2 * order * min(d, FEATURE_BLOCK)
    else:
        system = 4 * n_classes * n**2 + 4 * n_classes * n * min(n, d)
    size = 8 * (4 * n * d + 12 * d * n_classes + system)
    step = max(1, _MEMORY // size)
    for start in range(0, batch, step):
        yield slice(start, start + step)
