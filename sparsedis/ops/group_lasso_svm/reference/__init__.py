"""The pure-torch backend: any device, float64 inside. The truth that kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.group_lasso_svm.reference.adjoint import adjoint, tangent
from sparsedis.ops.group_lasso_svm.reference.bcd import bcd
from sparsedis.ops.group_lasso_svm.reference.fista import fista
from sparsedis.ops.group_lasso_svm.reference.hessian import DENSE_LIMIT, FEATURE_BLOCK, is_dense
from sparsedis.ops.group_lasso_svm.reference.newton import finished, newton
from sparsedis.ops.group_lasso_svm.returned import returned
from sparsedis.ops.operation import in_parts
from sparsedis.ops.registry import Request
from sparsedis.problem import certificate, normalised

SOLVERS = {"newton": newton, "fista": finished(fista), "bcd": finished(bcd)}

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
        exact: bool,
    ) -> tuple[Tensor, ...]:
        def run(X: Tensor, y: Tensor, l1: Tensor, l2: Tensor, reg: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            problem, scale = normalised(X, y, l1, l2, reg, weight, n_classes)
            done = SOLVERS[solver](problem, tol, max_iter, exact)
            at = certificate(problem, done.dual)
            weights = at.weights.to(torch.promote_types(features.dtype, torch.float32))
            rounded = weights.to(at.weights.dtype)
            scores = problem.features @ rounded
            return weights, *returned(problem, scale, done.dual, at, rounded, scores, done.n_iter, done.status, tol)

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
            used = _used(on, l1)
            problem, scale = normalised(X[..., used], y, l1, l2, reg, weight, L.shape[2])
            grad_used, *others = adjoint(problem, L, G[:, used].to(L.dtype))
            grad_X = torch.zeros_like(X, memory_format=torch.contiguous_format)
            grad_X[..., used] = grad_used.to(X.dtype)
            return grad_X, *(value / scale for value in others)

        tensors = (features, labels, lambda1, lambda2, dual_reg, sample_weight, dual, active, grad_weights)
        return in_parts(run, tensors, _task_bytes(features, dual.shape[2]), _MEMORY)  # type: ignore[return-value]

    def tangent(
        self,
        features: Tensor,
        labels: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        dual_reg: Tensor,
        sample_weight: Tensor,
        dual: Tensor,
        active: Tensor,
        by_features: Tensor,
        by_lambda1: Tensor,
        by_lambda2: Tensor,
        by_dual_reg: Tensor,
    ) -> Tensor:
        def run(
            X: Tensor,
            y: Tensor,
            l1: Tensor,
            l2: Tensor,
            reg: Tensor,
            weight: Tensor,
            L: Tensor,
            on: Tensor,
            *by: Tensor,
        ) -> tuple[Tensor]:
            used = _used(on, l1)
            problem, scale = normalised(X[..., used], y, l1, l2, reg, weight, L.shape[2])
            moved = tangent(problem, L, by[0][..., used].to(L.dtype), *(value / scale for value in by[1:]))
            W = torch.zeros(*X.shape[::2], L.shape[2], dtype=moved.dtype, device=X.device)
            W[:, used] = moved
            return (W.to(torch.promote_types(X.dtype, torch.float32)),)

        problem = features, labels, lambda1, lambda2, dual_reg, sample_weight
        tensors = *problem, dual, active, by_features, by_lambda1, by_lambda2, by_dual_reg
        return in_parts(run, tensors, _task_bytes(features, dual.shape[2]), _MEMORY)[0]


def _used(active: Tensor, lambda1: Tensor) -> Tensor:
    """Indices of the features that some task uses: the others have no part in W nor in its derivative."""
    return (active.any(0) | (lambda1 == 0).any()).nonzero()[:, 0]


def _task_bytes(features: Tensor, n_classes: int) -> int:
    """Scratch memory that a task takes."""
    _, n, d = features.shape
    order = n * (n_classes - 1)
    if is_dense(n, d, n_classes):
        system = 4 * order**2 + 2 * order * min(d, FEATURE_BLOCK)
    else:
        system = 4 * n_classes * n**2 + 4 * n_classes * n * min(n, d) + 6 * DENSE_LIMIT**2  # the finish's
    return 8 * (4 * n * d + 12 * d * n_classes + system)
