"""The C++ backend: a thread per task on the CPU, at the best instruction set that the processor has."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.compiled import CompiledBackend, readable
from sparsedis.ops.lasso.problem import check_values
from sparsedis.ops.lasso.reference import ReferenceBackend
from sparsedis.ops.operation import empty_solution
from sparsedis.ops.registry import Request

# Largest number of features: their Gram matrix and a factor of it are held in double, 16 MiB a thread.
LARGEST = 1024


class CppBackend(CompiledBackend):
    """See :mod:`sparsedis.ops.lasso` for the contract of ``solve`` and ``adjoint``.

    Results do not depend on the number of threads, ``torch.get_num_threads()``, nor on how a batch is cut. Scratch
    memory per thread: some 2 d (n + d) doubles.
    """

    def supports(self, request: Request) -> str | None:
        if request.device.type != "cpu":
            return f"it takes CPU tensors, got {request.device.type}"
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
        X = readable(features)
        _, n, d = X.shape
        out = empty_solution(X, lambda1, (d,), (n,))
        problem = _Problem(X, targets, lambda1, lambda2, sample_weight)
        run = self._compiled.function("solve_lasso", X.dtype)
        addresses = [value.data_ptr() for value in out]
        try:
            run(*problem.arguments, tol, max_iter, torch.get_num_threads(), addresses)
        except ValueError:  # the kernel saw a bad value: say which
            check_values(features, targets, lambda1, lambda2, sample_weight)
            raise
        return out

    def adjoint(
        self,
        features: Tensor,
        targets: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        sample_weight: Tensor,
        weights: Tensor,
        dual: Tensor,
        grad_weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        X = readable(features)
        out = (
            X.new_empty(X.shape),
            X.new_empty(targets.shape, dtype=torch.float64),
            torch.empty_like(lambda1, memory_format=torch.contiguous_format),
            torch.empty_like(lambda2, memory_format=torch.contiguous_format),
        )
        problem = _Problem(X, targets, lambda1, lambda2, sample_weight)
        weights, grad_weights = (value.to(X.dtype).contiguous() for value in (weights, grad_weights))
        residual = dual.contiguous()
        self._compiled.function("adjoint_lasso", X.dtype)(
            *problem.arguments,
            weights.data_ptr(),
            residual.data_ptr(),
            grad_weights.data_ptr(),
            torch.get_num_threads(),
            [value.data_ptr() for value in out],
        )
        return out[0].to(features.dtype), out[1].to(targets.dtype), out[2], out[3]

    def tangent(self, *solved: Tensor) -> Tensor:
        return ReferenceBackend().tangent(*solved)


class _Problem:
    """A call's leading arguments; holds the tensors that the addresses point into."""

    def __init__(self, features: Tensor, *others: Tensor) -> None:
        """others: targets, lambda1, lambda2, sample_weight."""
        self._held = [features, *(value.to(torch.float64).contiguous().resolve_neg() for value in others)]
        addresses = [value.data_ptr() for value in self._held]
        self.arguments = (features.shape, features.stride(), addresses[0], addresses[1:])
