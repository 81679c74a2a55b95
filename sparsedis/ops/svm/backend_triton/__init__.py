"""The Triton backend: CUDA or ROCm devices, or interpreted on the CPU for tests. See docs/triton.md."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from torch import Tensor

from sparsedis.ops.common.backend import Outputs, Request
from sparsedis.ops.common.triton_device import TritonDevices
from sparsedis.ops.svm.backend_torch import TorchBackend
from sparsedis.ops.svm.backend_triton import tiles
from sparsedis.ops.svm.signature import Differentials, Inputs, Options, Saved

_PACKAGE = "sparsedis.ops.svm.backend_triton"


class TritonBackend(TritonDevices):
    """Triton kernels for tensors on a CUDA or ROCm device.

    With TRITON_INTERPRET=1, set before Triton is imported, it accepts CPU tensors, but only if selected by name. Triton
    is imported on first use.
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

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        return _module("run").solve(inputs, options)

    def adjoint(self, inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
        return _module("run").adjoint(inputs, options, saved, grad_weights)

    def tangent(self, inputs: Inputs, options: Options, saved: Saved, tangents: Differentials) -> Tensor:
        return TorchBackend().tangent(inputs, options, saved, tangents)


def _module(name: str) -> ModuleType:
    """Import a module of this package that imports Triton."""
    return import_module(f"{_PACKAGE}.{name}")
