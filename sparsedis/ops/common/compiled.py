"""Import of the compiled C++ kernels, for the best instruction set of the CPU, or the reason why they are missing."""

from __future__ import annotations

import ctypes
import warnings
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sparsedis.ops.common.precision import returned_dtype

_PACKAGE = "sparsedis.ops"


class Compiled:
    """The C++ kernels of all operations.

    They are imported with the package: the first call may run in several threads at once or inside torch.compile.
    """

    def __init__(self) -> None:
        self._kernels: ModuleType | None = None
        self._reason: str | None = None
        self._warned = False
        self.instruction_set = "baseline"
        try:
            baseline = import_module(f"{_PACKAGE}._cpp_baseline")
        except ImportError as error:
            self._reason = f"its kernels are not built ({error}); install with a C++17 compiler, SPARSEDIS_BUILD=cpu"
            return
        self._kernels = baseline
        for name in baseline.instruction_sets():
            try:
                self._kernels = import_module(f"{_PACKAGE}._cpp_{name}")
            except ImportError:
                continue  # the compiler of this build did not support the instruction set
            self.instruction_set = name
            break
        if openmp := _openmp():
            self._kernels.use_openmp(openmp)

    def available(self) -> str | None:
        """None if the kernels can run, else the reason why not; the first such call also warns."""
        if self._reason and not self._warned and not torch.compiler.is_compiling():
            self._warned = True
            warnings.warn(
                "sparsedis: the C++ kernels are missing, so that solves on the CPU take 10 to 100 times as long: "
                f"{self._reason}",
                RuntimeWarning,
                stacklevel=2,
            )
        return self._reason

    def function(self, name: str, dtype: torch.dtype) -> Any:
        """The kernel of that name for features of that dtype, float32 or float64."""
        return getattr(self._kernels, f"{name}_{str(dtype).removeprefix('torch.')}")


def _openmp() -> int:
    """Address of GOMP_parallel in the OpenMP runtime that PyTorch loaded; 0 if the runtime has no such symbol."""
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value or 0
    except (AttributeError, OSError):
        return 0


COMPILED = Compiled()


class CompiledBackend:
    """Base class of the C++ backends."""

    name = "cpp"
    checks_values = True

    def __init__(self, compiled: Compiled = COMPILED) -> None:
        self._compiled = compiled

    def available(self) -> str | None:
        return self._compiled.available()

    @property
    def instruction_set(self) -> str:
        """The build in use: "avx512", "avx2" or "baseline"."""
        return self._compiled.instruction_set


def readable(features: Tensor) -> Tensor:
    """Features in a dtype that the kernels read: half precision converted to float32, a lazy negation resolved."""
    return features.to(returned_dtype(features.dtype)).resolve_neg()
