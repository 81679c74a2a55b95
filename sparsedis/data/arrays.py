"""Numeric arrays from .npz files; loading cannot execute code, and every defect raises ValueError."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np


def load(path: Path, reader: str, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays with the given names that the file contains.

    Args:
        path: of the file.
        reader: prefix of the error messages.
        names: of the arrays.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged or contains objects.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                found = {name: archive[name] for name in names if name in archive.files}
        # NumPy, zipfile and zlib document no complete list of exceptions; MemoryError is due to a shape in a header.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"{reader}: {path} is damaged or not a .npz file of numbers: {reason}") from error
    for name, values in found.items():
        if not isinstance(values, np.ndarray):  # for a member that is not an array NumPy returns bytes
            raise ValueError(f"{reader}: expected an array under {name!r}, got a file of another kind in {path}")
    return found
