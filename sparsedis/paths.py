"""User-supplied paths."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path, with ``~`` and ``~user`` replaced by home folders.

    Raises:
        FileNotFoundError: the user does not exist or has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"expected a path below an existing home folder, got {str(path)!r}") from error
