"""The pure-torch backend: any device, float64 inside. The truth that kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.group_lasso_svm.reference.adjoint import adjoint
from sparsedis.ops.group_lasso_svm.reference.bcd import bcd
from sparsedis.ops.group_lasso_svm.reference.fista import fista
from sparsedis.ops.group_lasso_svm.reference.hessian import FEATURE_BLOCK, is_dense
from sparsedis.ops.group_lasso_svm.reference.newton import newton
from sparsedis.ops.operation import in_parts
from sparsedis.ops.registry import Request
from sparsedis.problem import certificate, normalised

SOLVERS = {"newton": newton, "fista": fista, "bcd": bcd}

# Scratch memory, in bytes, that the tasks solved together may take.
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
        def run(X: Tensor, y: Tensor, l1: Tensor, l2: Tensor, reg: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            problem, scale = normalised(X, y, l1, l2, reg, weight, n_classes)
            done = SOLVERS[solver](problem, tol, max_iter)
            at = certificate(problem, done.dual)
            weights = at.weights.to(torch.promote_types(features.dtype, torch.float32))
            active = at.norms > problem.lambda1[:, None]
            gap, objective = scale * at.gap, scale * at.objective
            return weights, done.dual, gap, at.relative_gap, objective, done.n_iter, done.status, active

        tensors = (features, labels, lambda1, lambda2, dual_reg, sample_weight)
        return in_parts(run, tensors, _task_bytes(features, n_classes), _MEMORY)

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
        def run(
            X: Tensor, y: Tensor, l1: Tensor, l2: Tensor, reg: Tensor, weight: Tensor, L: Tensor, on: Tensor, G: Tensor
        ) -> tuple[Tensor, ...]:
            # A feature that no task uses has no part in W nor in its derivative.
            used = (on.any(0) | (l1 == 0).any()).nonzero()[:, 0]
            problem, scale = normalised(X[..., used], y, l1, l2, reg, weight, L.shape[2])
            grad_used, *others = adjoint(problem, L, G[:, used].to(L.dtype))
            grad_X = torch.zeros_like(X, memory_format=torch.contiguous_format)
            grad_X[..., used] = grad_used.to(X.dtype)
            return grad_X, *(value / scale for value in others)

        tensors = (features, labels, lambda1, lambda2, dual_reg, sample_weight, dual, active, grad_weights)
        return in_parts(run, tensors, _task_bytes(features, dual.shape[2]), _MEMORY)  # type: ignore[return-value]


def _task_bytes(features: Tensor, n_classes: int) -> int:
    """Scratch memory that a task takes."""
    _, n, d = features.shape
    order = n * (n_classes - 1)
    if is_dense(n, d, n_classes):
        system = 4 * order**2 + 2 * order * min(d, FEATURE_BLOCK)
    else:
        system = 4 * n_classes * n**2 + 4 * n_classes * n * min(n, d)
    return 8 * (4 * n * d + 12 * d * n_classes + system)
