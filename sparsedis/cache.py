"""Where what takes long to make is kept from one process to the next: decoded images, compiled kernels."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """The folder of the cache: $SPARSEDIS_CACHE, else the user's cache folder. It need not exist."""
    if chosen := os.environ.get("SPARSEDIS_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "sparsedis"
