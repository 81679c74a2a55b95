"""The C++ backend: one thread per task on the CPU, compiled for the best instruction set of the processor."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.backend import Outputs, Request, empty_outputs
from sparsedis.ops.common.compiled import CompiledBackend, readable
from sparsedis.ops.svm.backend_torch import TorchBackend
from sparsedis.ops.svm.signature import Differentials, Inputs, Options, Saved, check_values, shapes

# Largest order n (k-1) of the Newton matrix; in float64 such a matrix takes up to 0.8 GiB per thread.
LARGEST_ORDER = 8192


class CppBackend(CompiledBackend):
    """Compiled kernels for CPU tensors.

    Results depend neither on the number of threads, ``torch.get_num_threads()``, nor on the split of a batch. Scratch
    memory per thread, in doubles: (n (k-1))^2/2 + n^2 for the Newton matrix, 150 n k for its terms, about 20 k (n + d);
    and at most 3 MiB of gathered features (or 256 features if these take more). Up to 16 MiB is kept between calls.
    """

    def supports(self, request: Request) -> str | None:
        if request.device.type != "cpu":
            return f"it takes CPU tensors, got {request.device.type}"
        order = request.n_samples * (request.n_classes - 1)
        if request.solver == "newton" and order > LARGEST_ORDER:
            return f"it factors matrices of order n (k - 1) up to {LARGEST_ORDER}, got {order}"
        return None

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        X = readable(inputs.features)
        out = empty_outputs(X, inputs.lambda1, *shapes(inputs, options))
        problem = _Problem(X, options.n_classes, *inputs[1:])
        solve = self._compiled.function("solve", X.dtype)
        addresses = [value.data_ptr() for value in out]
        try:
            solve(*problem.arguments, *options[1:], torch.get_num_threads(), addresses)
        except ValueError:  # the kernel found an invalid value; check_values names it
            check_values(inputs, options)
            raise
        return out

    def adjoint(self, inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
        X = readable(inputs.features)
        out = Differentials(X.new_empty(X.shape), *(inputs.lambda1.new_empty(len(X)) for _ in range(3)))
        problem = _Problem(X, options.n_classes, *inputs[1:])
        dual, active = (value.contiguous() for value in saved)
        grad_weights = grad_weights.to(X.dtype).contiguous()
        adjoint = self._compiled.function("adjoint", X.dtype)
        adjoint(
            *problem.arguments,
            [dual.data_ptr(), active.data_ptr()],
            grad_weights.data_ptr(),
            torch.get_num_threads(),
            [value.data_ptr() for value in out],
        )
        return out._replace(features=out.features.to(inputs.features.dtype))

    def tangent(self, inputs: Inputs, options: Options, saved: Saved, tangents: Differentials) -> Tensor:
        return TorchBackend().tangent(inputs, options, saved, tangents)


class _Problem:
    """The leading arguments of a kernel call; keeps the tensors alive to which the addresses point."""

    def __init__(self, features: Tensor, n_classes: int, *others: Tensor) -> None:
        """others: labels, lambda1, lambda2, dual_reg, sample_weight."""
        self._tensors = [value.contiguous() for value in others]
        addresses = [value.data_ptr() for value in self._tensors]
        self.arguments = (
            (*features.shape, n_classes),
            features.stride(),
            features.data_ptr(),
            addresses[0],
            addresses[1:],
        )
