"""The Triton backend: one program per task on a CUDA or ROCm device, or interpreted on the CPU for tests."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from sparsedis.ops.common.backend import Request
from sparsedis.ops.common.least_squares import normal_equations
from sparsedis.ops.common.primal import Certificate
from sparsedis.ops.common.triton_device import TritonDevices
from sparsedis.ops.lasso.backend_torch import TorchBackend, descent
from sparsedis.ops.lasso.problem import certificate
from sparsedis.solution import Status

# Largest number of features: a program holds the Gram matrix and its factor in registers.
LARGEST = 64


def _descend(
    features: Tensor,
    targets: Tensor,
    weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Certificate, Tensor, Tensor]:
    H, b = normal_equations(features, targets[..., None], weight, lambda2)
    half = (weight * targets**2).sum(1) / 2
    descend = import_module("sparsedis.ops.lasso.backend_triton.kernel").descend
    present = (weight > 0).sum(1)
    w, n_iter = descend(H, b[..., 0].contiguous(), lambda1.contiguous(), half, present, tol, max_iter)
    at = certificate(features, targets, weight, lambda1, lambda2, w, torch.full_like(lambda1, torch.inf))
    certified = at.relative_gap <= tol
    columns = [w, *at, n_iter, torch.where(certified, int(Status.CERTIFIED), int(Status.MAX_ITER))]
    rest = (lambda1 == 0) | (~certified & (n_iter < max_iter))
    if bool(rest.any()):
        w, at, n_iter, status = descent.descend(
            features[rest],
            targets[rest],
            weight[rest],
            lambda1[rest],
            lambda2[rest],
            tol,
            max_iter,
        )
        for column, value in zip(columns, [w, *at, n_iter, status], strict=True):
            column[rest] = value
    w, *fields, n_iter, status = columns
    return w, Certificate(*fields), n_iter, status


class TritonBackend(TritonDevices, TorchBackend):
    """A Triton kernel for tensors on a CUDA or ROCm device; the derivatives are computed by the torch backend.

    torch computes the Gram matrices and the certificates on the same device, and a single kernel runs the iterations.
    The torch backend solves the tasks without lambda1, which need no iterations, and the tasks that the kernel cannot
    certify because it works from the rounded Gram matrix. With TRITON_INTERPRET=1, set before Triton is imported, CPU
    tensors are supported. Triton is imported on first use.
    """

    _descend = staticmethod(_descend)

    def supports(self, request: Request) -> str | None:
        if reason := self.refuses_device(request):
            return reason
        if request.n_features > LARGEST:
            return f"it takes up to {LARGEST} features, got {request.n_features}"
        return None
