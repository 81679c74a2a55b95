"""Files and folders that operating systems and editors create in any folder or archive, and that are not data."""

from __future__ import annotations

from collections.abc import Iterable

_NAMES = {
    *("__macosx", "icon\r"),  # macOS; "._x.png" beside x.png and .DS_Store are hidden
    *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
    *("@eadir", "#recycle", "lost+found"),  # file servers and file systems
}


def is_one(name: str) -> bool:
    """Whether a file name is hidden (.ipynb_checkpoints, ._x.png) or a system file (Thumbs.db)."""
    return name.startswith(".") or name.lower() in _NAMES


def among(parts: Iterable[str]) -> bool:
    """Whether a component of a path is such a name; files below such folders are not data either."""
    return any(map(is_one, parts))
