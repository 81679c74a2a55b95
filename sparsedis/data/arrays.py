"""Arrays of numbers from .npz files, which cannot run code and are refused with one kind of error."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np


def load(path: Path, reader: str, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays with these names, those that the file has.

    Args:
        path: of the file.
        reader: with which messages begin.
        names: of the arrays.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, or holds objects.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                found = {name: archive[name] for name in names if name in archive.files}
        # NumPy, zipfile and zlib document no closed list either; a MemoryError is of a shape that a header announces.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"{reader}: {path} is damaged or not a .npz file of numbers: {reason}") from error
    for name, values in found.items():
        if not isinstance(values, np.ndarray):  # NumPy returns the bytes of a member that is no array
            raise ValueError(f"{reader}: expected an array under {name!r}, got a file of another kind in {path}")
    return found
