"""The interface of the machines that run CUDA kernels."""

from __future__ import annotations

import ctypes
from typing import NamedTuple, Protocol

import torch

from sparsedis.ops.common.cuda.programs import Program


class Limits(NamedTuple):
    """Limits of a device."""

    shared_bytes: int  # maximum shared memory per block, in bytes
    multiprocessors: int


class Kernel(Protocol):
    """A compiled kernel on one device."""

    def resident_blocks(self, threads: int, shared_bytes: int) -> int:
        """Maximum number of resident blocks per multiprocessor, at least 1."""
        ...

    def launch(self, arguments: ctypes.Structure, blocks: int, threads: int, shared_bytes: int) -> None:
        """Launch asynchronously on the device's current stream."""
        ...


class Machine(Protocol):
    """The NVIDIA GPUs, or their emulation."""

    def available(self) -> str | None:
        """None if kernels can run, else the reason why not."""
        ...

    def devices(self) -> list[torch.device]: ...

    def limits(self, device: torch.device) -> Limits: ...

    def kernel(self, program: Program, device: torch.device) -> Kernel:
        """The kernel, compiled at first use and cached afterwards.

        Raises:
            RuntimeError: the program does not compile; the message contains the compiler's log.
        """
        ...

    def loaded(self, program: Program, device: torch.device) -> bool:
        """Whether the kernel is loaded, so that :meth:`kernel` neither compiles nor loads it."""
        ...

    def capturing(self, device: torch.device) -> bool:
        """Whether launches are captured in a CUDA graph, during which synchronising is not allowed."""
        ...
