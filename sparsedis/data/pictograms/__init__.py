"""The embedded few-shot data set: concepts, each drawn independently by many icon designers.

docs/pictograms.md describes content and construction. Licences: NOTICE.md and licenses/ in this folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pictograms:
    """N images of C classes by F designer families; the arrays are read-only.

    Attributes:
        images: (N, 28, 28) uint8, bright ink on 0.
        labels: (N,) int16, index into ``class_names``.
        families: (N,) int16, index into ``family_names``; at most one image per class and family.
        class_names: C concepts, sorted.
        family_names: F designer families, sorted.
        split: (C,) int8, the class-disjoint split: 0 train, 1 validation, 2 test.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int16]
    families: NDArray[np.int16]
    class_names: tuple[str, ...]
    family_names: tuple[str, ...]
    split: NDArray[np.int8]


@cache
def load() -> Pictograms:
    """The data set, read from the package once and then shared."""
    with files(__package__).joinpath("pictograms.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for array in arrays.values():
        array.flags.writeable = False
    return Pictograms(
        images=arrays["images"],
        labels=arrays["labels"],
        families=arrays["families"],
        class_names=tuple(arrays["class_names"].tolist()),
        family_names=tuple(arrays["family_names"].tolist()),
        split=arrays["split"],
    )
