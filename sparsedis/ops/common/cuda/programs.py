"""The source of the CUDA kernels, and a disk cache of the compiled code."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sparsedis import cache as caches


class Program(NamedTuple):
    """A source file with one kernel, compiled with the given macros."""

    kernel: str  # name of the function
    path: str  # relative to sources()
    macros: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, kernel: str, path: str, macros: Mapping[str, object]) -> Program:
        return cls(kernel, path, tuple((name, str(value)) for name, value in sorted(macros.items())))

    def flags(self) -> list[str]:
        """Compiler flags that define the macros."""
        return [f"-D{name}={value}" for name, value in self.macros]


@cache
def sources() -> Path:
    """The folder csrc: inside an installed package, or next to the package in a source checkout.

    Raises:
        RuntimeError: the folder is missing.
    """
    package = Path(__file__).parents[3]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "common" / "cuda").is_dir():
            return folder
    raise RuntimeError(f"the source of the CUDA kernels is missing: expected {package / 'csrc'}")


@cache
def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(sources().rglob("*")):
        if path.suffix in (".hpp", ".cu") or path.name == "emulation.cpp":
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def cached(program: Program, compiler: str, suffix: str, compile_to: Callable[[Path], None]) -> Path:
    """The file written by ``compile_to(path)``, from the cache if it has been compiled before.

    The cache is :func:`sparsedis.cache.folder`, or a temporary folder if that is not writable.

    Args:
        program: what to compile.
        compiler: everything else that the result depends on: the compiler, its version, options and target.
        suffix: of the file name.
        compile_to: called with a temporary path. If two processes compile at once, the later result is kept.
    """
    key = hashlib.sha256(repr((program, compiler, _digest_of_sources())).encode()).hexdigest()[:32]
    name = f"{program.kernel}-{key}{suffix}"
    path = _folder_of(name) / name
    if not _complete(path):
        part = caches.part(path.parent, suffix)
        try:
            compile_to(part)
            os.replace(part, path)
        finally:
            caches.remove(part)
    return path


def _folder_of(name: str) -> Path:
    """The cache folder if it holds the file or is writable, else a temporary folder."""
    try:
        folder = caches.folder()
        if _complete(folder / name):
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))  # a full disk can still create empty files
        return folder
    except OSError:
        return _temporary_folder()


def _complete(path: Path) -> bool:
    """Whether the file is readable and not empty, as a file written just before a power failure may be."""
    return os.access(path, os.R_OK) and path.stat().st_size > 0


@cache
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="sparsedis-"))
