"""Omniglot (Lake, Salakhutdinov and Tenenbaum, Science 2015), read from its published folders or zip files.

A class is a character of an alphabet, "ALPHABET/characterNN", with 20 images by 20 drawers; its group is the alphabet.
If both published parts are present, the evaluation part is the test split, and the background characters in the order
of :func:`sparsedis.data.dataset.in_hash_order` are split into training (80%) and validation (20%). If only one part is
present, its classes are split by :func:`sparsedis.data.dataset.split_by_hash`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops

from sparsedis import paths
from sparsedis.data import image_decoding, system_files
from sparsedis.data.dataset import FewShotData, check_disjoint, in_hash_order, leave_out, split_by_hash

SIDE = 28
"""Default height and width of the images, in pixels."""

_SOURCE_SIDE = 105
MAX_BYTES = 1 << 16
"""Largest accepted size of an image file in bytes; the published ones are below 1 KiB."""
_LAYOUT = "images_background*/ALPHABET/characterNN/*.png or images_evaluation/..., as folders or in .zip files"
_MEMBER = re.compile(r"(?:.*/)?images_(background|evaluation)[^/]*/([^/]+)/(character\d+)/([^/]+\.png)")


class _Key(NamedTuple):
    """The class and file of an image, from its path; their sorting order is that of classes and images."""

    alphabet: str
    character: str
    file: str
    part: str

    @property
    def name(self) -> str:
        return f"{self.alphabet}/{self.character}"


def load(path: str | Path, image_size: int | None = None, left_out: Sequence[str] | None = None) -> FewShotData:
    """Read Omniglot: 105x105 one-bit images, inverted (ink is bright) and scaled by area averaging, uint8.

    Nothing is written to disk. Duplicates of an image (in a folder and its zip file, or in a "small" set and the
    complete one) are dropped.

    Args:
        path: a published zip file (images_background.zip, images_background_small1.zip, images_evaluation.zip...), one
            of the folders in these files, or a folder that contains several of either.
        image_size: height and width after averaging, at most 105; default: 28.
        left_out: alphabets. If given, their characters (if empty, those of the evaluation part) form the test split,
            all other background characters the training split; there is no validation split.

    Returns:
        The data set, with classes in alphabetical order, named "Alphabet/characterNN".

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: nothing in the published layout; a damaged file, which the message names; duplicates that differ; a
            character in both parts; a size out of range; an unknown alphabet; no class left to train on.
    """
    path = paths.expanded(path)
    if not path.exists():
        raise FileNotFoundError(f"omniglot: expected an existing folder or .zip file, got {str(path)!r}")
    side = SIDE if image_size is None else image_size
    if not 1 <= side <= _SOURCE_SIDE:
        raise ValueError(f"image_size: expected a number from 1 to {_SOURCE_SIDE} for omniglot, got {side}")
    images: dict[_Key, tuple[np.ndarray, str]] = {}
    for key, name, content in _files(path):
        image = decode(name, content, side)
        first, where = images.setdefault(key, (image, name))
        if not np.array_equal(first, image):
            raise ValueError(f"omniglot: expected an image once, got two different ones, {where} and {name}")
    if not images:
        raise ValueError(f"omniglot: expected {_LAYOUT}, found none in {str(path)!r}")
    keys = sorted(images)
    parts = {part: {key.name: None for key in keys if key.part == part} for part in ("background", "evaluation")}
    check_disjoint("omniglot", path, parts, "no character is in both published parts")
    class_names = tuple(dict.fromkeys(key.name for key in keys))
    index = {name: i for i, name in enumerate(class_names)}
    groups = tuple(name.partition("/")[0] for name in class_names)
    if left_out is None:
        named = _split(list(parts["background"]), list(parts["evaluation"]))
        splits = {split: tuple(sorted(index[name] for name in names)) for split, names in named.items()}
    else:
        splits = leave_out(groups, left_out, {index[name] for name in parts["evaluation"]})
    return FewShotData(
        name="omniglot",
        images=torch.from_numpy(np.stack([images[key][0] for key in keys])),
        labels=torch.tensor([index[key.name] for key in keys]),
        class_names=class_names,
        splits=splits,
        groups=groups,
    )


def _split(background: list[str], evaluation: list[str]) -> dict[str, list[str]]:
    if not background or not evaluation:
        return split_by_hash(background + evaluation)
    background = in_hash_order(background)
    cut = len(background) * 4 // 5
    return {"train": background[:cut], "validation": background[cut:], "test": evaluation}


def _files(path: Path) -> Iterator[tuple[_Key, str, bytes]]:
    """(key, name for messages, content) of every image at ``path``."""
    if path.is_dir():
        for file in sorted(path.rglob("*.png")):
            if system_files.among(file.relative_to(path).parts):
                continue
            if match := _MEMBER.fullmatch(file.absolute().as_posix()):
                yield _key(match), str(file), read(file)
        for archive in sorted(path.glob("*.zip")):
            if not system_files.is_one(archive.name):
                yield from _members(archive)
    else:
        yield from _members(path)


def read(file: Path) -> bytes:
    """The content of a file, up to one byte more than the limit."""
    with file.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _members(path: Path) -> Iterator[tuple[_Key, str, bytes]]:
    with opened(path, "omniglot") as archive:
        for member in archive.infolist():
            name, parts = f"{path}: {member.filename!r}", PurePosixPath(member.filename).parts
            if member.filename.startswith("/") or ".." in parts:
                raise ValueError(f"omniglot: expected members inside the archive, got {name}")
            if system_files.among(parts):
                continue
            if match := _MEMBER.fullmatch(member.filename):
                yield _key(match), name, extract(archive, member, name)


@contextmanager
def opened(path: Path, reader: str) -> Iterator[zipfile.ZipFile]:
    """An open zip file; ValueError, with prefix ``reader``, if it is not one. Errors in the block are unchanged."""
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # zipfile documents no complete list of exceptions for malicious files
            raise ValueError(f"{reader}: expected a zip file, got {path}: {error}") from error
        with archive:
            yield archive


def extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> bytes:
    """The content of an archive member, up to one byte more than the limit; ValueError with ``name`` if damaged."""
    try:
        with archive.open(member) as stream:  # the size in the header is not trusted
            return stream.read(MAX_BYTES + 1)
    except Exception as error:  # encrypted, unknown compression, truncated...
        raise ValueError(f"omniglot: broken member {name}: {error}") from error


def _key(match: re.Match[str]) -> _Key:
    part, alphabet, character, file = match.groups()
    return _Key(alphabet, character, file, part)


def decode(name: str, content: bytes, side: int = SIDE) -> np.ndarray:
    """Decode a 105x105 PNG image to side x side uint8 with bright ink.

    Raises:
        ValueError: the file is damaged, too large, or of another size; the message contains ``name``.
    """
    image = image_decoding.decode(
        content, name, "L", reader="omniglot", formats=("PNG",), max_bytes=MAX_BYTES, size=(_SOURCE_SIDE, _SOURCE_SIDE)
    )
    return np.asarray(ImageChops.invert(image).resize((side, side), Image.Resampling.BOX))
