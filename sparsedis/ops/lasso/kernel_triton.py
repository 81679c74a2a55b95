"""The Triton backend: a program per task on a CUDA or ROCm device, or interpreted on the CPU for the tests."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from sparsedis.ops.lasso import descent, reference
from sparsedis.ops.lasso.problem import Certificate, certificate
from sparsedis.ops.least_squares import normal_equations, shares
from sparsedis.ops.operation import in_parts
from sparsedis.ops.registry import Request
from sparsedis.ops.triton_device import TritonDevices
from sparsedis.solution import Status

# Largest number of features: a program holds their Gram matrix and its factor.
LARGEST = 64


class TritonBackend(TritonDevices, reference.ReferenceBackend):
    """See :mod:`sparsedis.ops.lasso` for the contract of ``solve`` and ``adjoint``; the latter is the reference's.

    The Gram matrices and the certificates are PyTorch's, on the same device; what iterates is one kernel. Tasks without
    lambda1 have nothing to iterate and are the reference's; so are those that the kernel, which sees the Gram matrix
    alone, has ended with but that are not certified: rounding in H is in their way. With TRITON_INTERPRET=1 in the
    environment before Triton is imported it takes CPU tensors. Nothing here imports Triton until it is needed.
    """

    def supports(self, request: Request) -> str | None:
        if reason := self.refuses_device(request):
            return reason
        if request.n_features > LARGEST:
            return f"it takes up to {LARGEST} features, got {request.n_features}"
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
            X, y = reference.working(X), reference.working(y)
            share = shares(weight, X.dtype)
            return reference.as_returned(
                X, y, share, l1, l2, *_solve(X, y, share, l1, l2, tol, max_iter), tol=tol, given=features.dtype
            )

        tensors = (features, targets, lambda1, lambda2, sample_weight)
        return in_parts(run, tensors, reference.task_bytes(features), reference.MEMORY)


def _solve(
    X: Tensor, y: Tensor, share: Tensor, lambda1: Tensor, lambda2: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, Certificate, Tensor, Tensor]:
    H, b = normal_equations(X, y[..., None], share, lambda2)
    half = (share * y**2).sum(1) / 2
    descend = import_module("sparsedis.ops.lasso.triton_descent").descend
    present = (share > 0).sum(1)
    w, n_iter = descend(H, b[..., 0].contiguous(), lambda1.contiguous(), half, present, tol, max_iter)
    at = certificate(X, y, share, lambda1, lambda2, w, torch.full_like(lambda1, torch.inf))
    certified = at.relative_gap <= tol
    columns = [w, *at, n_iter, torch.where(certified, int(Status.CERTIFIED), int(Status.MAX_ITER))]
    left = (lambda1 == 0) | (~certified & (n_iter < max_iter))
    if bool(left.any()):
        w, at, n_iter, status = descent.descend(
            X[left], y[left], share[left], lambda1[left], lambda2[left], tol, max_iter
        )
        for column, value in zip(columns, [w, *at, n_iter, status], strict=True):
            column[left] = value
    w, *fields, n_iter, status = columns
    return w, Certificate(*fields), n_iter, status
