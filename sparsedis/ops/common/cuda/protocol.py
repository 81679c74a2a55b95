"""What a backend asks of the machine that runs its kernels."""

from __future__ import annotations

import ctypes
from typing import NamedTuple, Protocol

import torch

from sparsedis.ops.common.cuda.programs import Program


class Limits(NamedTuple):
    """Of a device."""

    shared_bytes: int  # of a block, at most
    multiprocessors: int


class Kernel(Protocol):
    """A compiled kernel on one device."""

    def resident_blocks(self, threads: int, shared_bytes: int) -> int:
        """How many blocks a multiprocessor runs at once; at least 1."""
        ...

    def launch(self, arguments: ctypes.Structure, blocks: int, threads: int, shared_bytes: int) -> None:
        """Launch on the device's current stream, without waiting for it."""
        ...


class Machine(Protocol):
    """NVIDIA's devices, or their emulation."""

    def available(self) -> str | None:
        """None where it can run, else the reason why not."""
        ...

    def devices(self) -> list[torch.device]: ...

    def limits(self, device: torch.device) -> Limits: ...

    def kernel(self, program: Program, device: torch.device) -> Kernel:
        """Compiled at first use, then from the cache.

        Raises:
            RuntimeError: the program does not compile; with the compiler's messages.
        """
        ...

    def loaded(self, program: Program, device: torch.device) -> bool:
        """Whether :meth:`kernel` neither compiles nor loads anything."""
        ...

    def capturing(self, device: torch.device) -> bool:
        """Whether launches are recorded in a CUDA graph, which must not be waited for."""
        ...
