"""Where kernels start: how many programs share a task, and what was started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton.language as tl

from sparsedis.ops.common import triton_device

REAL = {torch.float32: tl.float32, torch.float64: tl.float64}


class Launch(NamedTuple):
    """What a kernel was started with."""

    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int


_recorder: Callable[[Launch], None] | None = None


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Inside, kernels are not run but noted: what a call would launch is known without a device.

    What they should have written becomes 0 where it was NaN.
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
    # Triton starts kernels on the current device, which need not be the tensors'.
    with torch.cuda.device_of(next(value for value in arguments if isinstance(value, torch.Tensor))):
        kernel[grid](*arguments, **constants, **options(num_warps, amd=triton_device.AMD))


def options(num_warps: int, *, amd: bool) -> dict[str, int]:
    """How a kernel is compiled.

    One stage: what a deeper pipeline would hold in registers and shared memory, more programs side by side hide too.
    All registers that a thread can have: NVIDIA's assembler otherwise spills some to let more programs in.
    """
    return {"num_warps": num_warps, "num_stages": 1} | ({} if amd else {"maxnreg": min(255, 2048 // num_warps)})


def splits(batch: int, d: int, block: int, device: torch.device) -> int:
    """Programs that share a task's features, so that a small batch fills the chip: about two for each multiprocessor.

    Every program keeps at least four blocks of features: below that its fixed cost shows.
    """
    if device.type != "cuda":
        wanted = 2  # so that the interpreter takes this way too
    else:
        wanted = -(-2 * torch.cuda.get_device_properties(device).multi_processor_count // batch)
    return max(1, min(wanted, d // (4 * block)))


def span(d: int, parts: int, block: int) -> int:
    """Features for each of ``parts`` programs, a multiple of ``block``."""
    return -(-d // (parts * block)) * block
