"""Versions, devices and available backends: python -m sparsedis.info."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import torch

import sparsedis
from sparsedis.ops.registry import OPERATIONS, backends
from sparsedis.ops.svm.backend_cuda import CudaBackend

_ALIGNED = 60  # minimum terminal width, in columns, at which values are aligned


def report(columns: int | None = None) -> str:
    """The report, one fact per line.

    Args:
        columns: width of the terminal, to which lines are wrapped between words. Default: no wrapping.
    """
    facts = [
        ("sparsedis", sparsedis.__version__),
        ("location", str(Path(sparsedis.__file__).parent)),
        ("python", f"{platform.python_version()} ({platform.platform()})"),
        ("torch", torch.__version__),
        *((name, installed_version(name)) for name in ("numpy", "triton", "cuda-bindings")),
        ("cpu", f"{processor()}, {torch.get_num_threads()} threads"),
        ("cuda", _cuda()),
        ("mps", "available" if torch.backends.mps.is_available() else "not available"),
    ]
    for operation in OPERATIONS:
        for backend in backends(operation):
            reason = backend.available()
            state = "available" if reason is None else f"not available: {reason}"
            if reason is None and (detail := getattr(backend, "instruction_set", None)):
                state += f" ({detail})"
            facts.append((f"{operation}, {backend.name}", state))
    width = max(len(name) for name, _ in facts)
    if columns is None or columns >= _ALIGNED:
        lines = [f"{name:<{width}}  {value}" for name, value in facts]
    else:
        lines = [f"{name}: {value}" for name, value in facts]
    if columns is not None:
        lines = [textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False) for line in lines]
    return "\n".join(lines)


def warm(ways: Sequence[int]) -> None:
    """Compile the CUDA kernels for float32 features, for every device and these numbers of classes; print the time.

    Raises:
        ValueError: the kernels cannot run on this machine, or do not support a number of classes.
    """
    backend = CudaBackend()
    if reason := backend.available():
        raise ValueError(f"--warm: the CUDA kernels cannot run here: {reason}")
    for way in ways:
        start = perf_counter()
        backend.warm(torch.float32, way)
        print(f"compiled for {way} classes, or found compiled, in {perf_counter() - start:.1f} s")


def installed_version(package: str) -> str:
    """The version of an installed distribution, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cuda() -> str:
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        return "no device" if built else "this PyTorch is built without CUDA or ROCm"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


if __name__ == "__main__":
    print(report())
