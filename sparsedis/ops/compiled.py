"""The compiled modules: found, and the best instruction set chosen, or missing with the reason."""

from __future__ import annotations

import ctypes
import warnings
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_PACKAGE = "sparsedis.ops"


class Compiled:
    """The C++ kernels of all operations, imported when first asked for."""

    def __init__(self) -> None:
        self._kernels: ModuleType | None = None
        self._reason: str | None = None
        self._instruction_set = "baseline"
        self._loaded = False

    def available(self) -> str | None:
        """None where the kernels can run, else the reason why not; the first time, with a warning."""
        self._load()
        return self._reason

    @property
    def instruction_set(self) -> str:
        """The build in use: "avx512", "avx2" or "baseline"."""
        self._load()
        return self._instruction_set

    def function(self, name: str, dtype: torch.dtype) -> Any:
        """The kernel of that name for float32 or float64 features."""
        self._load()
        return getattr(self._kernels, f"{name}_{str(dtype).removeprefix('torch.')}")

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            baseline = import_module(f"{_PACKAGE}._cpp_baseline")
        except ImportError as error:
            self._reason = f"its kernels are not built ({error}); install with a C++17 compiler, SPARSEDIS_BUILD=cpu"
            warnings.warn(
                "sparsedis: the C++ kernels are missing, solves on the CPU take 10 to 100 times as long: "
                f"{self._reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        self._kernels = baseline
        for name in baseline.instruction_sets():
            try:
                self._kernels = import_module(f"{_PACKAGE}._cpp_{name}")
            except ImportError:
                continue  # built by a compiler that does not know it
            self._instruction_set = name
            break
        if openmp := _openmp():
            self._kernels.use_openmp(openmp)


def _openmp() -> int:
    """The address of GOMP_parallel in the OpenMP runtime that PyTorch loaded; 0 where it has none by that name."""
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value or 0
    except (AttributeError, OSError):
        return 0


COMPILED = Compiled()


class CompiledBackend:
    """What the C++ backends of all operations have in common."""

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
    """The features themselves, or half precision as float32."""
    return features.to(torch.promote_types(features.dtype, torch.float32)).resolve_neg()
