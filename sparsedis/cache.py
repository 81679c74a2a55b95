"""The package's cache folder: decoded images and compiled kernels, shared between processes."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from pathlib import Path

from sparsedis import paths

_PART = ".part-"
_ABANDONED = 24 * 3600
"""Seconds without a change after which a partial file counts as abandoned."""


def folder() -> Path:
    """The cache folder: $SPARSEDIS_CACHE, else sparsedis in the user's cache folder. It may not exist yet.

    Raises:
        FileNotFoundError: the user has no home folder, or $SPARSEDIS_CACHE is below one that does not exist.
    """
    chosen = os.environ.get("SPARSEDIS_CACHE")
    try:
        return paths.expanded(chosen or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sparsedis")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"cache: {error}; set SPARSEDIS_CACHE to a folder that can be written") from error


def part(folder: Path, suffix: str = "") -> Path:
    """A unique path in ``folder`` for a file or folder that is still being written. Creates nothing.

    Files created there by ordinary calls have ordinary permissions and keep them when renamed; those of ``tempfile``
    would be unreadable for other users of the cache. Partial files of killed processes are removed a day after their
    last change.
    """
    _remove_abandoned(folder)
    return folder / f"{_PART}{uuid.uuid4().hex}{suffix}"


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists and can be removed."""
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
        except OSError:  # its process has just renamed or removed it
            continue
        if time.time() - changed > _ABANDONED:
            remove(path)
