"""The C++ backend: one thread per task on the CPU, compiled for the best instruction set of the processor."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.backend import Outputs, Request, empty_outputs
from sparsedis.ops.common.compiled import CompiledBackend, readable
from sparsedis.ops.lasso.backend_torch import TorchBackend
from sparsedis.ops.lasso.signature import Differentials, Inputs, Options, Saved, check_values, shapes


class CppBackend(CompiledBackend):
    """Compiled kernels for CPU tensors.

    Results depend neither on the number of threads, ``torch.get_num_threads()``, nor on the split of a batch. Scratch
    memory per thread: about 2 n d doubles and, for up to max(n, 64) features, another 2 d^2.
    """

    def supports(self, request: Request) -> str | None:
        if request.device.type != "cpu":
            return f"it takes CPU tensors, got {request.device.type}"
        return None

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        X = readable(inputs.features)
        out = empty_outputs(X, inputs.lambda1, *shapes(inputs, options))
        problem = _Problem(X, *inputs[1:])
        run = self._compiled.function("solve_lasso", X.dtype)
        addresses = [value.data_ptr() for value in out]
        try:
            run(*problem.arguments, *options, torch.get_num_threads(), addresses)
        except ValueError:  # the kernel found an invalid value; check_values names it
            check_values(inputs, options)
            raise
        return out

    def adjoint(self, inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
        X = readable(inputs.features)
        out = Differentials(
            features=X.new_empty(X.shape),
            targets=X.new_empty(inputs.targets.shape, dtype=torch.float64),
            lambda1=X.new_empty(len(X), dtype=torch.float64),
            lambda2=X.new_empty(len(X), dtype=torch.float64),
        )
        problem = _Problem(X, *inputs[1:])
        weights, grad_weights = (value.to(X.dtype).contiguous() for value in (saved.weights, grad_weights))
        residual = saved.dual.contiguous()
        self._compiled.function("adjoint_lasso", X.dtype)(
            *problem.arguments,
            weights.data_ptr(),
            residual.data_ptr(),
            grad_weights.data_ptr(),
            torch.get_num_threads(),
            [value.data_ptr() for value in out],
        )
        return out._replace(
            features=out.features.to(inputs.features.dtype), targets=out.targets.to(inputs.targets.dtype)
        )

    def tangent(self, inputs: Inputs, options: Options, saved: Saved, tangents: Differentials) -> Tensor:
        return TorchBackend().tangent(inputs, options, saved, tangents)


class _Problem:
    """The leading arguments of a kernel call; keeps the tensors alive to which the addresses point."""

    def __init__(self, features: Tensor, *others: Tensor) -> None:
        """others: targets, lambda1, lambda2, sample_weight."""
        self._tensors = [features, *(value.to(torch.float64).contiguous().resolve_neg() for value in others)]
        addresses = [value.data_ptr() for value in self._tensors]
        self.arguments = (features.shape, features.stride(), addresses[0], addresses[1:])
