"""A cache of decoded images in memory-mapped files: a data set is decoded once, and all processes map the same file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedis import cache
from sparsedis.data.dataset import SPLITS, FewShotData

_VERSION = 1
"""Increase it with every change to what the readers make of the same files."""

_IMAGES, _ABOUT = "images.npy", "about.json"


@dataclass
class Classes:
    """Labels, class names and splits of decoded images, collected split by split."""

    labels: list[int] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    splits: dict[str, list[int]] = field(default_factory=dict)

    def add(self, split: str, class_names: Sequence[str], labels: Sequence[int]) -> None:
        """Append a split; ``labels`` are those of its images, as indices into its own ``class_names``."""
        first = len(self.class_names)
        self.splits[split] = list(range(first, first + len(class_names)))
        self.labels += [first + label for label in labels]
        self.class_names += class_names


def load(
    name: str,
    reader: str,
    sources: Iterable[Path],
    options: Mapping[str, Any],
    decode: Callable[[Path], Classes],
) -> FewShotData:
    """The data set that ``decode`` reads, from the cache if it is there.

    An entry is named by a digest of the version, the reader, the options, and the path, size and modification time of
    every source. It is written to a temporary folder and renamed when complete, so that other processes see the whole
    entry or none, even if they decode the same data set at the same time.

    Args:
        name: of the data set.
        reader: name of the reader.
        sources: the files that are decoded.
        options: what else the result depends on.
        decode: writes the images to the path it is given, as a .npy file of uint8 (N, C, H, W), and returns their
            classes.

    Raises:
        OSError: the cache cannot be written.
    """
    entry = cache.folder() / f"{reader}-{_key(reader, sources, options)}"
    images, about = _read(entry) or _write(entry, decode)
    return FewShotData(
        name=name,
        images=images,
        labels=torch.tensor(about["labels"]),
        class_names=tuple(about["class_names"]),
        splits={split: tuple(about["splits"][split]) for split in SPLITS},
    )


def write_images(
    path: Path,
    images: Iterable[np.ndarray],
    count: int,
    shape: tuple[int, ...] | None,
    mismatch: Callable[[tuple[int, ...], tuple[int, ...], int], str],
) -> tuple[int, ...]:
    """Write images of one shape to a .npy file, one at a time.

    Args:
        path: of the file.
        images: uint8, each (C, H, W).
        count: how many there are, 1 or more.
        shape: that all must have; default: that of the first.
        mismatch: the message of the error for an image of another shape, from the expected shape, the one that it has,
            and its index.

    Returns:
        The shape of the images.

    Raises:
        ValueError: an image has another shape.
    """
    out = None
    for i, image in enumerate(images):
        shape = shape or image.shape
        if image.shape != shape:
            raise ValueError(mismatch(shape, image.shape, i))
        if out is None:
            out = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *shape))
        out[i] = image
    assert out is not None
    assert shape is not None
    out.flush()
    return shape


def _write(entry: Path, decode: Callable[[Path], Classes]) -> tuple[Tensor, dict[str, Any]]:
    entry.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=entry.parent))
    try:
        classes = decode(part / _IMAGES)
        (part / _ABOUT).write_text(json.dumps(asdict(classes)), encoding="utf-8")
        for name in (_IMAGES, _ABOUT):
            with (part / name).open("rb") as file:
                os.fsync(file.fileno())
        if entry.exists() and _read(entry) is None:  # a damaged one
            shutil.rmtree(entry)
        try:
            part.rename(entry)
        except OSError:
            if _read(entry) is None:  # else another process was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    found = _read(entry)
    assert found is not None
    return found


def _read(entry: Path) -> tuple[Tensor, dict[str, Any]] | None:
    try:
        about = json.loads((entry / _ABOUT).read_text(encoding="utf-8"))
        # Copy-on-write: PyTorch has no read-only tensors, and a write to them must not change the file.
        images = np.load(entry / _IMAGES, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return torch.from_numpy(images), about


def _key(reader: str, sources: Iterable[Path], options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, reader, dict(options)], sort_keys=True).encode())
    for source in sources:
        stat = source.stat()
        digest.update(json.dumps([str(source.absolute()), stat.st_size, stat.st_mtime_ns]).encode())
    return digest.hexdigest()[:32]
