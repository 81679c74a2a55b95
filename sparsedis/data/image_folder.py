"""Folders of images by class: CLASS/*.png, or SPLIT/CLASS/*.png with the splits train, val or validation, and test.

Without split folders the classes are put in the order of the SHA-256 of their names: the first 60% are for training,
the next 15% for validation, the last 25% for test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsedis.data import cache, images
from sparsedis.data.dataset import SPLITS, FewShotData

_ENDINGS = (".png", ".jpg", ".jpeg")
_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def classes(path: str | Path) -> dict[str, dict[str, list[Path]]]:
    """For every split its classes, and the image files of each, sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no images by class.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"images: expected an existing folder, got {str(path)!r}")
    inside = sorted(entry for entry in path.iterdir() if entry.is_dir())
    if any(entry.name in _FOLDERS for entry in inside):
        found: dict[str, dict[str, list[Path]]] = {split: {} for split in SPLITS}
        for entry in inside:
            if entry.name in _FOLDERS:
                split = _FOLDERS[entry.name]
                found[split] |= {f"{split}/{name}": members for name, members in _classes(entry).items()}
    else:
        together = _classes(path)
        order = sorted(together, key=lambda name: hashlib.sha256(name.encode()).digest())
        cuts = [0, len(order) * 3 // 5, len(order) * 3 // 4, len(order)]
        chosen = [sorted(order[a:b]) for a, b in pairwise(cuts)]
        found = {split: {name: together[name] for name in names} for split, names in zip(SPLITS, chosen, strict=True)}
    if not any(found.values()):
        raise ValueError(f"images: expected CLASS/*.png or SPLIT/CLASS/*.png (or .jpg), found none in {str(path)!r}")
    return found


def load(path: str | Path, size: int | None = None) -> FewShotData:
    """Read a folder of PNG or JPEG images; they are decoded once, into the cache, as RGB.

    Args:
        path: the folder.
        size: every image is cropped to its largest central square and scaled to (size, size); default: all must have
            the same size already.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no images by class, a broken one, or different sizes; the message names the file.
    """
    found = classes(path)
    sources = [file for by_name in found.values() for members in by_name.values() for file in members]
    pixels, about = cache.cached(
        "images", sources, {"size": size}, lambda target: _decode(found, sources, size, target)
    )
    return FewShotData(
        name="images",
        images=pixels,
        labels=torch.tensor(about["labels"]),
        class_names=tuple(about["class_names"]),
        splits={split: tuple(about["splits"][split]) for split in SPLITS},
    )


def _classes(path: Path) -> dict[str, list[Path]]:
    found = {}
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            members = sorted(file for file in entry.iterdir() if file.suffix.lower() in _ENDINGS and file.is_file())
            if members:
                found[entry.name] = members
    return found


def _decode(
    found: Mapping[str, Mapping[str, list[Path]]], sources: list[Path], size: int | None, target: Path
) -> dict[str, Any]:
    out = None
    for i, file in enumerate(sources):
        row = images.decode(file.read_bytes(), str(file), size)
        if out is None:
            out = np.lib.format.open_memmap(target, "w+", np.uint8, (len(sources), *row.shape))
        if row.shape != out.shape[1:]:
            expected, came = (f"{shape[2]}x{shape[1]}" for shape in (out.shape[1:], row.shape))
            raise ValueError(f"images: expected {expected} pixels, got {came} in {file}; set image_size to scale them")
        out[i] = row
    assert out is not None
    out.flush()
    labels: list[int] = []
    class_names: list[str] = []
    splits: dict[str, list[int]] = {}
    for split, by_name in found.items():
        splits[split] = list(range(len(class_names), len(class_names) + len(by_name)))
        for name, members in by_name.items():
            labels += [len(class_names)] * len(members)
            class_names.append(name)
    return {"labels": labels, "class_names": class_names, "splits": splits}
