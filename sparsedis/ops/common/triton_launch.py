"""Kernel launches: the number of programs per task, compile options, and recording of launches for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton.language as tl

from sparsedis.ops.common import triton_device

REAL = {torch.float32: tl.float32, torch.float64: tl.float64}


class Launch(NamedTuple):
    """The arguments of a kernel launch."""

    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int


_recorder: Callable[[Launch], None] | None = None


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Context manager in which launches are recorded instead of executed, so that they can be inspected without a GPU.

    NaNs in the tensor arguments are replaced by 0, in place of the outputs that the kernels would have written.
    """
    global _recorder
    launches: list[Launch] = []
    _recorder = launches.append
    try:
        yield launches
    finally:
        _recorder = None


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int = 4, **constants: Any) -> None:
    """Start ``kernel`` on ``grid``; ``constants`` are its compile-time parameters."""
    if _recorder is not None:
        _recorder(Launch(kernel, arguments, constants, num_warps))
        for value in arguments:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                value.nan_to_num_()
        return
    # Triton launches on the current device, which may differ from the tensors' device.
    with torch.cuda.device_of(next(value for value in arguments if isinstance(value, torch.Tensor))):
        kernel[grid](*arguments, **constants, **options(num_warps, amd=triton_device.AMD))


def options(num_warps: int, *, amd: bool) -> dict[str, int]:
    """Compile options of a kernel.

    A single pipeline stage: more resident programs hide the same latency as a deeper pipeline would, without its
    registers and shared memory. The register limit is the maximum per thread, because NVIDIA's assembler otherwise
    spills registers to raise occupancy.
    """
    return {"num_warps": num_warps, "num_stages": 1} | ({} if amd else {"maxnreg": min(255, 2048 // num_warps)})


def splits(batch: int, d: int, block: int, device: torch.device) -> int:
    """Number of programs among which a task's features are split, so that a small batch fills the GPU.

    The target is two programs per multiprocessor. Every program keeps at least four blocks of features; with fewer,
    its fixed cost dominates.
    """
    if device.type != "cuda":
        wanted = 2  # so that the interpreter also exercises the split path
    else:
        wanted = -(-2 * torch.cuda.get_device_properties(device).multi_processor_count // batch)
    return max(1, min(wanted, d // (4 * block)))


def span(d: int, parts: int, block: int) -> int:
    """Features per program if ``parts`` programs share d features, rounded up to a multiple of ``block``."""
    return -(-d // (parts * block)) * block
