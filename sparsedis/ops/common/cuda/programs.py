"""The kernels' source, and a cache on disk of what it compiles to."""

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
    """One file with one kernel, to be compiled with these macros."""

    kernel: str  # the function's name
    path: str  # in sources()
    macros: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, kernel: str, path: str, macros: Mapping[str, object]) -> Program:
        return cls(kernel, path, tuple((name, str(value)) for name, value in sorted(macros.items())))

    def flags(self) -> list[str]:
        """The macros as every compiler takes them."""
        return [f"-D{name}={value}" for name, value in self.macros]


@cache
def sources() -> Path:
    """The folder csrc: part of an installed package, beside the package where it is not installed but checked out.

    Raises:
        RuntimeError: it is missing.
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
    """The file that ``compile_to(path)`` writes, from the cache where it was compiled before.

    The cache is :func:`sparsedis.cache.folder`, or a temporary folder where that cannot be written.

    Args:
        program: what to compile.
        compiler: everything else that the result depends on: the compiler, its version, options and target.
        suffix: of the file's name.
        compile_to: called with the path of a temporary file; two processes may compile at once, the last one's stays.
    """
    key = hashlib.sha256(repr((program, compiler, _digest_of_sources())).encode()).hexdigest()[:32]
    folder = _cache_folder()
    path = folder / f"{program.kernel}-{key}{suffix}"
    if not path.is_file():
        handle, name = tempfile.mkstemp(suffix, f"{program.kernel}-", folder)
        os.close(handle)
        try:
            compile_to(Path(name))
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    return path


def _cache_folder() -> Path:
    folder = caches.folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return _temporary_folder()


@cache
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="sparsedis-"))
