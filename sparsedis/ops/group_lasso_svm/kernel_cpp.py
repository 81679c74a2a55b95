"""The C++ backend: a thread per task on the CPU, at the best instruction set that the processor has."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis import checks
from sparsedis.ops.compiled import CompiledBackend, readable
from sparsedis.ops.group_lasso_svm.reference import ReferenceBackend
from sparsedis.ops.operation import empty_solution
from sparsedis.ops.registry import Request

# Largest order n (k-1) of the Newton matrix, which is held and factored in double: 16 MiB a thread.
LARGEST_ORDER = 2048


class CppBackend(CompiledBackend):
    """See :mod:`sparsedis.ops.group_lasso_svm` for the contract of ``solve`` and ``adjoint``.

    Results do not depend on the number of threads, ``torch.get_num_threads()``, nor on how a batch is cut. Scratch
    memory per thread: (n (k-1))^2/2 doubles for the Newton matrix, as much for its parts, some 20 k (n + d), and at
    most 3 MiB of gathered features (or 256 features, where those take more); kept for the next call up to 16 MiB.
    """

    def supports(self, request: Request) -> str | None:
        if request.device.type != "cpu":
            return f"it takes CPU tensors, got {request.device.type}"
        order = request.n_samples * (request.n_classes - 1)
        if request.solver == "newton" and order > LARGEST_ORDER:
            return f"it factors matrices of order n (k - 1) up to {LARGEST_ORDER}, got {order}"
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
        features = readable(features)
        _, n, d = features.shape
        out = empty_solution(features, lambda1, (d, n_classes), (n, n_classes))
        problem = _Problem(features, n_classes, labels, lambda1, lambda2, dual_reg, sample_weight)
        solve = self._compiled.function("solve", features.dtype)
        addresses = [value.data_ptr() for value in out]
        try:
            solve(*problem.arguments, solver, tol, max_iter, exact, torch.get_num_threads(), addresses)
        except ValueError:  # the kernel saw a bad value: say which
            checks.values(features, labels, lambda1, lambda2, dual_reg, sample_weight, n_classes)
            raise
        return out

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
        given, features = features, readable(features)
        out = features.new_empty(features.shape), *(torch.empty_like(lambda1) for _ in range(3))
        problem = _Problem(features, dual.shape[2], labels, lambda1, lambda2, dual_reg, sample_weight)
        dual, active = dual.contiguous(), active.contiguous()
        grad_weights = grad_weights.to(features.dtype).contiguous()
        adjoint = self._compiled.function("adjoint", features.dtype)
        adjoint(
            *problem.arguments,
            [dual.data_ptr(), active.data_ptr()],
            grad_weights.data_ptr(),
            torch.get_num_threads(),
            [value.data_ptr() for value in out],
        )
        return (out[0].to(given.dtype), *out[1:])  # type: ignore[return-value]

    def tangent(self, *solved: Tensor) -> Tensor:
        return ReferenceBackend().tangent(*solved)


class _Problem:
    """A call's leading arguments; holds the tensors that the addresses point into."""

    def __init__(self, features: Tensor, n_classes: int, *others: Tensor) -> None:
        """others: labels, lambda1, lambda2, dual_reg, sample_weight."""
        self._held = [value.contiguous() for value in others]
        addresses = [value.data_ptr() for value in self._held]
        self.arguments = (
            (*features.shape, n_classes),
            features.stride(),
            features.data_ptr(),
            addresses[0],
            addresses[1:],
        )
