"""NVRTC through NVIDIA's Python bindings: compiles a program for one architecture. Needs no GPU and no CUDA toolkit."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch

from sparsedis import extras
from sparsedis.ops.common.cuda.programs import Program, sources

# --split-compile=0: compile with as many threads as cores.
OPTIONS: tuple[str, ...] = ("--std=c++17", "--split-compile=0")


class Compiled(NamedTuple):
    code: bytes  # a cubin, or PTX for a virtual architecture
    log: str


def available() -> str | None:
    """None if NVRTC can be loaded, else the reason why not. Inside torch.compile only the bindings are imported."""
    try:
        import cuda.bindings.nvrtc  # noqa: F401

        if not torch.compiler.is_compiling():
            version()
    except (ImportError, RuntimeError, OSError) as error:
        return f"NVRTC, which compiles its kernels, cannot be loaded ({error}); {extras.command('cuda')}"
    return None


@cache
def version() -> tuple[int, int]:
    from cuda.bindings import nvrtc

    major, minor = checked(nvrtc.nvrtcVersion())
    return major, minor


def description(architecture: str) -> str:
    """A string that identifies everything besides the program that the compiled code depends on."""
    return f"NVRTC {version()} {OPTIONS} {architecture}"


def compile_program(program: Program, architecture: str, *extra: str) -> Compiled:
    """Compile for an architecture such as "sm_90".

    Raises:
        RuntimeError: the program does not compile; the message contains the compiler's log.
    """
    from cuda.bindings import nvrtc

    path = sources() / program.path
    options = [f"--gpu-architecture={architecture}", *OPTIONS, f"-I{path.parent}", *program.flags(), *extra]
    encoded = [option.encode() for option in options]
    handle = checked(nvrtc.nvrtcCreateProgram(path.read_bytes(), str(path).encode(), 0, [], []))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(handle, len(encoded), encoded)
        log = bytearray(checked(nvrtc.nvrtcGetProgramLogSize(handle)))
        checked(nvrtc.nvrtcGetProgramLog(handle, log))
        text = log.rstrip(b"\0").decode(errors="replace")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{program.path} does not compile for {architecture} ({status.name}):\n{text}")
        if architecture.startswith("sm_"):
            code = bytearray(checked(nvrtc.nvrtcGetCUBINSize(handle)))
            checked(nvrtc.nvrtcGetCUBIN(handle, code))
        else:
            code = bytearray(checked(nvrtc.nvrtcGetPTXSize(handle)))
            checked(nvrtc.nvrtcGetPTX(handle, code))
    finally:
        nvrtc.nvrtcDestroyProgram(handle)
    return Compiled(bytes(code), text)


def architecture(capability: tuple[int, int]) -> str:
    """The architecture to compile for: the device's own, or the newest virtual architecture that this NVRTC supports.

    In the second case the driver compiles the PTX for the device.
    """
    from cuda.bindings import nvrtc

    number = 10 * capability[0] + capability[1]
    known = checked(nvrtc.nvrtcGetSupportedArchs())
    return f"sm_{number}" if number in known else f"compute_{max(known)}"


def checked(result: tuple[Any, ...]) -> Any:
    """The result of a call to NVIDIA's bindings, without its status.

    Raises:
        RuntimeError: the call failed.
    """
    status, *values = result
    if status:
        raise RuntimeError(f"CUDA: {status.name}")
    return values[0] if len(values) == 1 else tuple(values)
