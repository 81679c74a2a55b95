"""Decoded images, kept in memory-mapped files, so that a data set is decoded once and shared by all processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_VERSION = 1
"""To be raised with every change of what the readers make of the same files."""

_IMAGES, _ABOUT = "images.npy", "about.json"


def folder() -> Path:
    """Where the cache is: $SPARSEDIS_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("SPARSEDIS_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "sparsedis"


def cached(
    kind: str,
    sources: Iterable[Path],
    options: Mapping[str, Any],
    build: Callable[[Path], Mapping[str, Any]],
) -> tuple[Tensor, dict[str, Any]]:
    """The images that ``build`` decodes, and what it says of them, from the cache where they are there.

    An entry is named after the readers' version, the kind, the options, and the path, size and time of every source. It
    is made beside the others and renamed when whole, so that readers see all of it or nothing, whoever else is making
    it.

    Args:
        kind: of reader.
        sources: the files that are decoded.
        options: what else the result depends on.
        build: takes the path at which to put the images, a .npy file of uint8 (N, C, H, W), and returns what JSON can
            hold.

    Returns:
        The images, mapped into memory, and what ``build`` returned.

    Raises:
        OSError: the cache cannot be written.
    """
    entry = folder() / f"{kind}-{_key(kind, sources, options)}"
    if (found := _read(entry)) is not None:
        return found
    entry.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=entry.parent))
    try:
        about = dict(build(part / _IMAGES))
        (part / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        for name in (_IMAGES, _ABOUT):
            with (part / name).open("rb") as file:
                os.fsync(file.fileno())
        if entry.exists() and _read(entry) is None:  # a damaged one
            shutil.rmtree(entry)
        try:
            part.rename(entry)
        except OSError:
            if _read(entry) is None:  # else another process was quicker
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    found = _read(entry)
    assert found is not None
    return found


def _read(entry: Path) -> tuple[Tensor, dict[str, Any]] | None:
    try:
        about = json.loads((entry / _ABOUT).read_text(encoding="utf-8"))
        # Copy-on-write: PyTorch has no read-only tensors, and nothing may reach the file.
        images = np.load(entry / _IMAGES, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return torch.from_numpy(images), about


def _key(kind: str, sources: Iterable[Path], options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, kind, dict(options)], sort_keys=True).encode())
    for source in sources:
        stat = source.stat()
        digest.update(json.dumps([str(source.absolute()), stat.st_size, stat.st_mtime_ns]).encode())
    return digest.hexdigest()[:32]
