"""Cache of decoded images in memory-mapped files: data sets are decoded once, and all processes map the same file."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from sparsedis import cache
from sparsedis.data.dataset import SPLITS, FewShotData

_VERSION = 2
"""Increase with every change in what the readers return for the same files, or in the format of an entry."""

_IMAGES, _DESCRIPTION = "images.uint8", "about.json"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_ALREADY_EXISTS = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


@dataclass
class Classes:
    """Labels, class names and splits of decoded images, collected split by split."""

    labels: list[int] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    splits: dict[str, list[int]] = field(default_factory=dict)

    def add(self, split: str, class_names: Sequence[str], labels: Sequence[int]) -> None:
        """Append a split; ``labels`` are those of its images, as indices into ``class_names``."""
        first = len(self.class_names)
        self.splits[split] = list(range(first, first + len(class_names)))
        self.labels += [first + label for label in labels]
        self.class_names += class_names


class Images:
    """Sequential writer of images of one shape into the cache.

    Images are written rather than copied into a mapped file, because on a full disk a write raises an error but a
    mapped page raises SIGBUS.

    Attributes:
        shape: (C, H, W) of every image; None before the first.
        count: number of images written.
    """

    def __init__(self, file: BinaryIO, folder: Path) -> None:
        self._file, self._folder = file, folder
        self.shape: tuple[int, ...] | None = None
        self.count = 0

    def add(self, image: np.ndarray, mismatch: Callable[[tuple[int, ...], tuple[int, ...]], str]) -> None:
        """Write an image.

        Args:
            image: uint8 (C, H, W).
            mismatch: returns the error message for an image of another shape than the previous ones, from the expected
                and the actual shape.

        Raises:
            ValueError: the shape differs from that of the previous images.
            OSError: the cache cannot be written.
        """
        self.shape = self.shape or image.shape
        if image.shape != self.shape:
            raise ValueError(mismatch(self.shape, image.shape))
        with _writing(self._folder):
            self._file.write(np.ascontiguousarray(image, np.uint8).data)
        self.count += 1


def load(
    name: str,
    reader: str,
    sources: Sequence[Path],
    options: Mapping[str, Any],
    decode: Callable[[Images], Classes],
) -> FewShotData:
    """The data set read by ``decode``, from the cache if possible.

    The name of an entry contains a digest of version, reader, options, and the path, size, modification time and change
    time of every source. An entry is written to a temporary folder and renamed when complete, so that other threads and
    processes see a complete entry or none, even if they decode the same data set concurrently. Damaged or foreign
    entries are replaced.

    Args:
        name: of the data set.
        reader: name of the reader.
        sources: the files to decode.
        options: everything else that the result depends on.
        decode: adds every image to its argument and returns the classes.

    Raises:
        OSError: the cache cannot be written.
    """
    entry = cache.folder() / f"{reader}-{_key(reader, sources, options)}"
    for _ in range(2):  # another process may replace a damaged entry right after this one is written
        if (found := _read(entry, name)) is not None:
            return found
        _write(entry, decode)
    return _opened(entry, name)


def _write(entry: Path, decode: Callable[[Images], Classes]) -> None:
    folder = entry.parent
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        part = cache.part(folder)
        part.mkdir()
    try:
        with _new_file(part / _IMAGES, folder) as file:
            images = Images(file, folder)
            classes = decode(images)
        about = {"shape": [images.count, *(images.shape or ())], **asdict(classes)}
        with _new_file(part / _DESCRIPTION, folder) as file, _writing(folder):
            file.write(json.dumps(about).encode())
        with _writing(folder):
            _publish(part, entry)
    finally:
        cache.remove(part)


@contextmanager
def _new_file(path: Path, folder: Path) -> Iterator[BinaryIO]:
    """A new file that is flushed to disk when the block ends. Errors in the block are not converted."""
    with _writing(folder):
        file = path.open("xb")
    try:
        yield file
        with _writing(folder):
            file.flush()
            os.fsync(file.fileno())
    finally:
        with _writing(folder):  # flushes buffered data after an error
            file.close()


def _publish(part: Path, entry: Path) -> None:
    """Rename a complete entry into place, unless another thread or process was faster."""
    while True:
        try:
            part.rename(entry)
            return
        except OSError as error:
            if error.errno not in _ALREADY_EXISTS:
                raise
        if _read(entry, "") is not None:
            return
        damaged = cache.part(entry.parent)
        try:
            entry.rename(damaged)  # atomic: one process succeeds, the others find nothing or the new entry
        except FileNotFoundError:
            continue
        cache.remove(damaged)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Convert errors to ones that name the cache and a remedy, since the system's name at most a file."""
    try:
        yield
    except OSError as error:
        advice = "free some space there, or set" if error.errno in _DISK_FULL else "set"
        reason = error.strerror or error
        raise OSError(
            f"cache: {folder} cannot be written ({reason}); {advice} SPARSEDIS_CACHE to another folder"
        ) from error


def _read(entry: Path, name: str) -> FewShotData | None:
    """The data set in an entry; None if the entry is missing or invalid."""
    try:
        return _opened(entry, name)
    except Exception:  # files with arbitrary content raise arbitrary errors
        return None


def _opened(entry: Path, name: str) -> FewShotData:
    about = json.loads((entry / _DESCRIPTION).read_text(encoding="utf-8"))
    shape, path = tuple(about["shape"]), entry / _IMAGES
    if path.stat().st_size != math.prod(shape) or not all(isinstance(x, str) for x in about["class_names"]):
        raise ValueError(f"cache: {entry} is damaged")
    return FewShotData(
        name=name,
        # Copy-on-write, since PyTorch has no read-only tensors and writes must not change the file.
        images=torch.from_numpy(np.memmap(path, np.uint8, "c", shape=shape)),
        labels=torch.tensor(about["labels"]),
        class_names=tuple(about["class_names"]),
        splits={split: tuple(about["splits"][split]) for split in SPLITS},
    )


def _key(reader: str, sources: Sequence[Path], options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, reader, dict(options)], sort_keys=True).encode())
    for source in sources:
        stat = source.stat()
        # Archives and copies preserve modification times, so other data may have the same size and modification time.
        times = (stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(json.dumps([str(source.absolute()), stat.st_size, *times]).encode())
    return digest.hexdigest()[:32]
