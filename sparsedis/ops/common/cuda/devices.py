"""NVIDIA GPUs: kernels compiled for the architecture of the device, launched on PyTorch's current stream."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from sparsedis.ops.common.cuda import nvrtc
from sparsedis.ops.common.cuda.nvrtc import checked
from sparsedis.ops.common.cuda.programs import Program, cached
from sparsedis.ops.common.cuda.protocol import Kernel, Limits

_LOGGER = logging.getLogger("sparsedis")


class Devices:
    """All CUDA devices that PyTorch sees."""

    def available(self) -> str | None:
        if torch.version.hip:
            return "this PyTorch is built for AMD's devices"
        if not torch.version.cuda:
            return "this PyTorch is built without CUDA"
        if not torch.cuda.is_available():
            return "there is no CUDA device"
        reason = nvrtc.available()
        if reason is None and not torch.compiler.is_compiling():
            return _driver_too_old()
        return reason

    def devices(self) -> list[torch.device]:
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]

    def limits(self, device: torch.device) -> Limits:
        return _limits(_index(device))

    def kernel(self, program: Program, device: torch.device) -> Kernel:
        key = (program, _index(device))
        if key not in _KERNELS:
            _KERNELS[key] = _loaded(*key)
        return _KERNELS[key]

    def loaded(self, program: Program, device: torch.device) -> bool:
        return (program, _index(device)) in _KERNELS

    def code(self) -> list[Path]:
        """The files of all loaded kernels."""
        return [kernel.code for kernel in _KERNELS.values()]

    def capturing(self, device: torch.device) -> bool:
        with _current(_index(device)):
            return torch.cuda.is_current_stream_capturing()


class _DeviceKernel:
    """A kernel on one device. The driver loads the context-independent library into PyTorch's context at launch."""

    def __init__(self, code: Path, name: str, index: int) -> None:
        from cuda.bindings import driver

        self.code = code
        self._driver, self._index = driver, index
        self._library = checked(driver.cuLibraryLoadFromFile(str(code).encode(), [], [], 0, [], [], 0))
        self._kernel = checked(driver.cuLibraryGetKernel(self._library, name.encode()))
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        checked(driver.cuKernelSetAttribute(attribute, _limits(index).shared_bytes, self._kernel, _handle(index)))
        self._function = driver.CUfunction(int(self._kernel))  # the driver API accepts a kernel in place of a function
        self._resident: dict[tuple[int, int], int] = {}

    def resident_blocks(self, threads: int, shared_bytes: int) -> int:
        key = (threads, shared_bytes)
        if key not in self._resident:
            with _current(self._index):
                function = checked(self._driver.cuKernelGetFunction(self._kernel))
                blocks = checked(self._driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, *key))
            self._resident[key] = max(1, blocks)
        return self._resident[key]

    def launch(self, arguments: ctypes.Structure, blocks: int, threads: int, shared_bytes: int) -> None:
        addresses = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        with _current(self._index):
            stream = torch._C._cuda_getCurrentRawStream(self._index)
            grid = (blocks, 1, 1, threads, 1, 1)
            launched = self._driver.cuLaunchKernel(
                self._function, *grid, shared_bytes, stream, ctypes.addressof(addresses), 0
            )
            checked(launched)


# Loaded kernels by program and device index.
_KERNELS: dict[tuple[Program, int], _DeviceKernel] = {}


# Per thread: the devices whose context has been made current in it.
_SEEN = threading.local()


def _current(index: int) -> AbstractContextManager[object]:
    """Make the device current; in a thread that has not used the device yet, also its primary context."""
    seen = vars(_SEEN).setdefault("indices", set())
    if index in seen and torch.cuda.current_device() == index:
        return nullcontext()
    seen.add(index)
    return _made_current(index)


@contextmanager
def _made_current(index: int) -> Iterator[None]:
    from cuda.bindings import driver

    with torch.cuda.device(index):
        if not int(checked(driver.cuCtxGetCurrent())):
            checked(driver.cuCtxSetCurrent(checked(driver.cuDevicePrimaryCtxRetain(_handle(index)))))
        yield


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _loaded(program: Program, index: int) -> _DeviceKernel:
    """Load the kernel from the disk cache, compiling it first if necessary."""
    torch.cuda.init()
    architecture = nvrtc.architecture(torch.cuda.get_device_capability(index))

    def compile_to(path: Path) -> None:
        _LOGGER.warning("compiling the CUDA kernel %s for %s; the result is cached", program.kernel, architecture)
        start = perf_counter()
        path.write_bytes(nvrtc.compile_program(program, architecture).code)
        _LOGGER.info("compiled %s in %.1f s", program.kernel, perf_counter() - start)

    code = cached(program, nvrtc.description(architecture), ".cubin", compile_to)
    return _DeviceKernel(code, program.kernel, index)


@cache
def _driver_too_old() -> str | None:
    from cuda.bindings import driver

    most, version = checked(driver.cuDriverGetVersion()) // 1000, nvrtc.version()
    if version[0] <= most:
        return None
    return f"NVRTC {version[0]}.{version[1]} is installed, and the driver is for CUDA {most}: install NVRTC {most}"


@cache
def _limits(index: int) -> Limits:
    from cuda.bindings import driver

    attributes = driver.CUdevice_attribute
    wanted = (
        attributes.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    )
    return Limits(*(checked(driver.cuDeviceGetAttribute(attribute, _handle(index))) for attribute in wanted))


@cache
def _handle(index: int) -> Any:
    """The driver's device of that index; PyTorch and the driver number the visible devices alike."""
    from cuda.bindings import driver

    checked(driver.cuInit(0))
    return checked(driver.cuDeviceGet(index))
