"""The Triton backend: tasks on a CUDA or ROCm device, or interpreted on the CPU for the tests. See docs/triton.md."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor

from sparsedis.ops.group_lasso_svm.kernel_triton import tiles
from sparsedis.ops.group_lasso_svm.reference import ReferenceBackend
from sparsedis.ops.registry import Request
from sparsedis.ops.triton_device import TritonDevices

_PACKAGE = "sparsedis.ops.group_lasso_svm.kernel_triton"


class TritonBackend(TritonDevices):
    """See :mod:`sparsedis.ops.group_lasso_svm` for the contract of ``solve`` and ``adjoint``.

    With TRITON_INTERPRET=1 in the environment before Triton is imported it takes CPU tensors, and only where it is
    named. Nothing here imports Triton until it is needed.
    """

    checks_values = False

    def supports(self, request: Request) -> str | None:
        if reason := self.refuses_device(request):
            return reason
        if request.solver not in ("newton", "fista"):
            return f"it has the solvers 'newton' and 'fista', got {request.solver!r}"
        n, k = request.n_samples, request.n_classes
        if tiles.tile_for(n, k) is None:
            sizes = ", ".join(f"{N} x {K}" for N, K in tiles.TILES)
            return f"it holds n x k in one of the tiles {sizes}, got {n} x {k}"
        return None

    def solve(self, *problem: Any) -> tuple[Tensor, ...]:
        return _module("run").solve(*problem)

    def adjoint(self, *solved: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _module("run").adjoint(*solved)

    def tangent(self, *solved: Tensor) -> Tensor:
        return ReferenceBackend().tangent(*solved)


def _module(name: str) -> ModuleType:
    """A module of this package that imports Triton."""
    return import_module(f"{_PACKAGE}.{name}")
