"""CPU emulation of the CUDA kernels for tests: built by the system's C++ compiler, with a block's threads as fibers."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch

from sparsedis.ops.common.cuda.programs import Program, cached, sources
from sparsedis.ops.common.cuda.protocol import Kernel, Limits

# Limits of an H100.
_LIMITS = Limits(shared_bytes=227 << 10, multiprocessors=132)


class Emulation:
    """A device that runs on one CPU thread, one block at a time."""

    def available(self) -> str | None:
        if not torch.compiler.is_compiling() and _compiler() is None:
            return "no C++ compiler was found to emulate it (g++, clang++ or the environment's CXX)"
        return None

    def devices(self) -> list[torch.device]:
        return [torch.device("cpu")]

    def limits(self, device: torch.device) -> Limits:
        return _LIMITS

    def kernel(self, program: Program, device: torch.device) -> Kernel:
        return _EmulatedKernel(_library(program), program.kernel)

    def loaded(self, program: Program, device: torch.device) -> bool:
        return True

    def capturing(self, device: torch.device) -> bool:
        return False


class _EmulatedKernel:
    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self._launch = library.emulation_launch
        self._launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t]
        self._kernel = ctypes.cast(library[name], ctypes.c_void_p)

    def resident_blocks(self, threads: int, shared_bytes: int) -> int:
        return 1

    def launch(self, arguments: ctypes.Structure, blocks: int, threads: int, shared_bytes: int) -> None:
        self._launch(self._kernel, ctypes.addressof(arguments), blocks, threads, shared_bytes)


def _compiler() -> list[str] | None:
    for name in (os.environ.get("CXX", ""), "g++", "clang++"):
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    return None


@cache
def _library(program: Program) -> ctypes.CDLL:
    compiler = _compiler()
    assert compiler is not None
    folder = sources()
    kernel = ["-x", "c++", str(folder / program.path), str(folder / "common" / "cuda" / "emulation.cpp")]
    command = [*compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-Wno-unknown-pragmas", "-DSPARSEDIS_EMULATION"]
    command += program.flags()

    def compile_to(path: Path) -> None:
        done = subprocess.run([*command, *kernel, "-o", str(path)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{program.path} does not compile for the emulation:\n{done.stderr}")

    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    return ctypes.CDLL(str(cached(program, f"{command} {version}", ".so", compile_to)))
