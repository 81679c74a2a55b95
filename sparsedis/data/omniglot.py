"""Omniglot (Lake, Salakhutdinov and Tenenbaum, Science 2015), read from its published folders or zip files.

A class is a character of an alphabet, "ALPHABET/characterNN"; every class has 20 images by 20 drawers. With both
published parts, the evaluation part is the test set, and the first 80% of the background characters in the order of
:func:`sparsedis.data.dataset.in_hash_order` are for training, the rest for validation; with only one part, the classes
are split by :func:`sparsedis.data.dataset.split_by_hash`.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops

from sparsedis.data import image_decoding
from sparsedis.data.dataset import FewShotData, in_hash_order, split_by_hash

SIDE = 28
"""Height and width of the images, in pixels."""

_SOURCE_SIZE = (105, 105)
MAX_BYTES = 1 << 16
"""Limit of an image file; the published ones are below 1 KiB."""
_LAYOUT = "images_background*/ALPHABET/characterNN/*.png or images_evaluation/..., as folders or in .zip files"
_MEMBER = re.compile(r"(?:.*/)?images_(background|evaluation)[^/]*/([^/]+)/(character\d+)/([^/]+\.png)")


class _Key(NamedTuple):
    """The class of an image, from its path; the sorting order of these is that of classes and images."""

    alphabet: str
    character: str
    file: str
    part: str


def load(path: str | Path) -> FewShotData:
    """Read Omniglot: 105x105 one-bit images, inverted (ink is bright) and area averaged to 28x28 uint8.

    Nothing is written to disk. Of an image that occurs twice (a folder beside its zip file; a "small" set beside the
    complete one) the first is kept.

    Args:
        path: a published zip file (images_background.zip, images_background_small1.zip, images_evaluation.zip...), or
            one of the folders that these hold, or a folder with several of either.

    Returns:
        The data set, classes in alphabetical order, named "Alphabet/characterNN".

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: there is nothing in the published layout, or a damaged file, which the message names.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"omniglot: expected an existing folder or .zip file, got {str(path)!r}")
    images: dict[_Key, np.ndarray] = {}
    for key, name, content in _files(path):
        if key not in images:
            images[key] = decode(name, content)
    if not images:
        raise ValueError(f"omniglot: expected {_LAYOUT}, found none in {str(path)!r}")
    keys = sorted(images)
    part_of = {f"{key.alphabet}/{key.character}": key.part for key in keys}
    class_names = tuple(part_of)
    index = {name: i for i, name in enumerate(class_names)}
    return FewShotData(
        name="omniglot",
        images=torch.from_numpy(np.stack([images[key] for key in keys])),
        labels=torch.tensor([index[f"{key.alphabet}/{key.character}"] for key in keys]),
        class_names=class_names,
        splits={split: tuple(sorted(index[name] for name in names)) for split, names in _split(part_of).items()},
    )


def _split(part_of: dict[str, str]) -> dict[str, list[str]]:
    evaluation = [name for name in part_of if part_of[name] == "evaluation"]
    if not evaluation or len(evaluation) == len(part_of):
        return split_by_hash(part_of)
    background = in_hash_order(name for name in part_of if part_of[name] == "background")
    cut = len(background) * 4 // 5
    return {"train": background[:cut], "validation": background[cut:], "test": evaluation}


def _files(path: Path) -> Iterator[tuple[_Key, str, bytes]]:
    """(key, name for messages, content) of every image at ``path``."""
    if path.is_dir():
        for file in sorted(path.rglob("*.png")):
            if match := _MEMBER.fullmatch(file.absolute().as_posix()):
                yield _key(match), str(file), read(file)
        for archive in sorted(path.glob("*.zip")):
            yield from _members(archive)
    else:
        yield from _members(path)


def read(file: Path) -> bytes:
    """A file, up to one byte more than the limit."""
    with file.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _members(path: Path) -> Iterator[tuple[_Key, str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = f"{path}: {member.filename!r}"
                if member.filename.startswith("/") or ".." in PurePosixPath(member.filename).parts:
                    raise ValueError(f"omniglot: expected members inside the archive, got {name}")
                if match := _MEMBER.fullmatch(member.filename):
                    yield _key(match), name, extract(archive, member, name)
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"omniglot: expected a zip file, got {path}: {error}") from error


def extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> bytes:
    """A member of an archive, up to one byte more than the limit; ValueError, with ``name``, if it is damaged."""
    # The size in the header may lie, so the limit is on what is read. RuntimeError: the member is encrypted.
    try:
        with archive.open(member) as stream:
            return stream.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"omniglot: broken member {name}: {error}") from error


def _key(match: re.Match[str]) -> _Key:
    part, alphabet, character, file = match.groups()
    return _Key(alphabet, character, file, part)


def decode(name: str, content: bytes) -> np.ndarray:
    """A 105x105 PNG image as 28x28 uint8 with bright ink.

    Raises:
        ValueError: the file is damaged, too large, or of another size; the message has ``name``.
    """
    image = image_decoding.decode(
        content, name, "L", reader="omniglot", formats=("PNG",), max_bytes=MAX_BYTES, size=_SOURCE_SIZE
    )
    return np.asarray(ImageChops.invert(image).resize((SIDE, SIDE), Image.Resampling.BOX))
