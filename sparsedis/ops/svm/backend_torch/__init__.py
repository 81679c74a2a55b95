"""The torch backend: any device, working precision; the reference that the kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.any_device import AnyDevice
from sparsedis.ops.common.backend import Outputs
from sparsedis.ops.common.batches import apply_in_slices
from sparsedis.ops.common.precision import returned_dtype
from sparsedis.ops.svm.backend_torch.adjoint import adjoint, tangent
from sparsedis.ops.svm.backend_torch.bcd import bcd
from sparsedis.ops.svm.backend_torch.fista import fista
from sparsedis.ops.svm.backend_torch.hessian import DENSE_LIMIT, FEATURE_BLOCK, is_dense
from sparsedis.ops.svm.backend_torch.newton import finished, newton
from sparsedis.ops.svm.outputs import outputs
from sparsedis.ops.svm.problem import certificate, normalised
from sparsedis.ops.svm.signature import Differentials, Inputs, Options, Saved

SOLVERS = {"newton": newton, "fista": finished(fista), "bcd": finished(bcd)}

# Budget of scratch memory for the tasks that are solved together, in bytes.
_MEMORY = 1 << 30


class TorchBackend(AnyDevice):
    """newton, fista and bcd in torch operations."""

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        def run(*tensors: Tensor) -> Outputs:
            problem, scale = normalised(Inputs(*tensors), options.n_classes)
            done = SOLVERS[options.solver](problem, options.tol, options.max_iter, options.exact)
            at = certificate(problem, done.dual)
            return outputs(
                problem,
                scale,
                done.dual,
                at,
                lambda weights: problem.features @ weights,
                done.n_iter,
                done.status,
                options.tol,
                returned_dtype(inputs.features.dtype),
            )

        return Outputs(*apply_in_slices(run, inputs, _task_bytes(inputs.features, options.n_classes), _MEMORY))

    def adjoint(self, inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
        def run(*tensors: Tensor) -> Differentials:
            part, (L, active, grad_W) = Inputs(*tensors[:-3]), tensors[-3:]
            columns = _active_indices(active, part.lambda1)
            problem, scale = normalised(part._replace(features=part.features[..., columns]), options.n_classes)
            grad_columns, *others = adjoint(problem, L, grad_W[:, columns].to(L.dtype))
            grad_X = torch.zeros_like(part.features, memory_format=torch.contiguous_format)
            grad_X[..., columns] = grad_columns.to(grad_X.dtype)
            return Differentials(grad_X, *(value / scale for value in others))

        tensors = (*inputs, *saved, grad_weights)
        return Differentials(*apply_in_slices(run, tensors, _task_bytes(inputs.features, options.n_classes), _MEMORY))

    def tangent(self, inputs: Inputs, options: Options, saved: Saved, tangents: Differentials) -> Tensor:
        def run(*tensors: Tensor) -> tuple[Tensor]:
            part, rest = Inputs(*tensors[: len(inputs)]), tensors[len(inputs) :]
            (L, active), along = rest[:2], Differentials(*rest[2:])
            columns = _active_indices(active, part.lambda1)
            problem, scale = normalised(part._replace(features=part.features[..., columns]), options.n_classes)
            dX, *others = along
            dW = tangent(problem, L, dX[..., columns].to(L.dtype), *(value / scale for value in others))
            W = torch.zeros(*part.features.shape[::2], L.shape[2], dtype=dW.dtype, device=dW.device)
            W[:, columns] = dW
            return (W.to(returned_dtype(part.features.dtype)),)

        tensors = (*inputs, *saved, *tangents)
        return apply_in_slices(run, tensors, _task_bytes(inputs.features, options.n_classes), _MEMORY)[0]


def _active_indices(active: Tensor, lambda1: Tensor) -> Tensor:
    """Indices of the features that are active in some task; the others affect neither W nor its derivative."""
    return (active.any(0) | (lambda1 == 0).any()).nonzero()[:, 0]


def _task_bytes(features: Tensor, n_classes: int) -> int:
    """Scratch memory per task, in bytes."""
    _, n, d = features.shape
    order = n * (n_classes - 1)
    if is_dense(n, d, n_classes):
        system = 4 * order**2 + 2 * order * min(d, FEATURE_BLOCK)
    else:
        system = 4 * n_classes * n**2 + 4 * n_classes * n * min(n, d) + 6 * DENSE_LIMIT**2  # last: the finish
    return 8 * (4 * n * d + 12 * d * n_classes + system)
