"""Files and folders that a system or an editor leaves in every folder and archive; they are no data."""

from __future__ import annotations

from collections.abc import Iterable

_NAMES = {
    *("__macosx", "icon\r"),  # macOS; "._x.png" beside x.png and .DS_Store are hidden
    *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
    *("@eadir", "#recycle", "lost+found"),  # file servers and file systems
}


def is_one(name: str) -> bool:
    """Whether a name, without a path, is hidden (.ipynb_checkpoints, ._x.png) or of the system (Thumbs.db)."""
    return name.startswith(".") or name.lower() in _NAMES


def among(parts: Iterable[str]) -> bool:
    """Whether one of the names of a path is: a file below such a folder is no data either."""
    return any(map(is_one, parts))
