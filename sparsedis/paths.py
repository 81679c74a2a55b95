"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path, with ``~`` and ``~user`` replaced by home folders.

    Raises:
        FileNotFoundError: there is no such home folder: no such user, or one without.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"expected a path below an existing home folder, got {str(path)!r}") from error
