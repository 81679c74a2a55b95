"""Where what takes long to make is kept from one process to the next: decoded images, compiled kernels."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from pathlib import Path

from sparsedis import paths

_PART = ".part-"
_ABANDONED = 24 * 3600
"""Seconds without a change after which a part belongs to nobody."""


def folder() -> Path:
    """The folder of the cache: $SPARSEDIS_CACHE, else the user's cache folder. It need not exist.

    Raises:
        FileNotFoundError: the user has no home folder, or $SPARSEDIS_CACHE is below one that does not exist.
    """
    chosen = os.environ.get("SPARSEDIS_CACHE")
    try:
        return paths.expanded(chosen or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sparsedis")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"cache: {error}; set SPARSEDIS_CACHE to a folder that can be written") from error


def part(folder: Path, suffix: str = "") -> Path:
    """A path in ``folder`` for what is not complete yet, which no other thread or process is given. Nothing is made.

    What is made there has the modes of ordinary files and keeps them when it is renamed; ``tempfile`` would keep other
    users of the cache out. What was left by processes that were killed is removed, a day after its last change.
    """
    _remove_abandoned(folder)
    return folder / f"{_PART}{uuid.uuid4().hex}{suffix}"


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink()
        except OSError:
            return


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{_PART}*"):
        try:
            changed = max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
        except OSError:  # its owner has just renamed or removed it
            continue
        if time.time() - changed > _ABANDONED:
            remove(path)
