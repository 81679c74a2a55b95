"""Omniglot (Lake, Salakhutdinov and Tenenbaum, Science 2015), read from its published folders or zip files.

A class is a character of an alphabet; every class has 20 images by 20 drawers. The split by class is fixed by
a rule that needs no file and no random generator: characters are put in the order of the SHA-256 of
"ALPHABET/characterNN". Where both published parts are there, the evaluation part is the test set, and the
first 80% of the background characters in that order are for training, the rest for validation; where only one
is there, the first 60% are for training, the next 15% for validation and the last 25% for test.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops

from sparsedis.data.dataset import FewShotData

SIDE = 28
"""Height and width of the images, in pixels."""

_SOURCE_SIZE = (105, 105)
MAX_BYTES = 1 << 16
"""Limit of an image file; the published ones are below 1 KiB."""
_LAYOUT = "images_background*/ALPHABET/characterNN/*.png or images_evaluation/..., as folders or in .zip files"
_MEMBER = re.compile(r"(?:.*/)?images_(background|evaluation)[^/]*/([^/]+)/(character\d+)/([^/]+\.png)")


class _Key(NamedTuple):
    """Where an image belongs, as its path says; sorting these gives the order of classes and images."""

    alphabet: str
    character: str
    file: str
    part: str


def load(path: str | Path) -> FewShotData:
    """Read Omniglot: 105x105 one-bit images, inverted (ink is bright) and area averaged to 28x28 uint8.

    Nothing is written to disk. An image that is there twice (a folder beside its zip file; a "small" set
    beside the whole) counts once.

    Args:
        path: a zip file as published (images_background.zip, images_evaluation.zip,
            images_background_small1.zip...), one of the folders that these hold, or a folder with several of
            either.

    Returns:
        The data set, classes in alphabetical order, named "Alphabet/characterNN".

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: nothing of the published layout is there, or a file is broken; the message names it.
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
    order = sorted(part_of, key=lambda name: hashlib.sha256(name.encode()).digest())
    evaluation = [name for name in order if part_of[name] == "evaluation"]
    background = [name for name in order if part_of[name] == "background"]
    if evaluation and background:
        cut = len(background) * 4 // 5
        return {"train": background[:cut], "validation": background[cut:], "test": evaluation}
    first, second = len(order) * 3 // 5, len(order) * 3 // 4
    return {"train": order[:first], "validation": order[first:second], "test": order[second:]}


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
    """A member of an archive, up to one byte more than the limit; ValueError, with ``name``, if it is broken."""
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
    """A 105x105 PNG image as 28x28 uint8 with bright ink; ValueError, with ``name``, if it is none."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"omniglot: expected an image of at most {MAX_BYTES} bytes, got more in {name}")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            size = image.size  # known before a pixel is decoded
            if size == _SOURCE_SIZE:
                grey = ImageChops.invert(image.convert("L"))
    except Exception as error:  # Pillow documents no closed list of what a hostile file may raise
        raise ValueError(f"omniglot: expected a PNG image, got {name}: {error}") from error
    if size != _SOURCE_SIZE:
        raise ValueError(f"omniglot: expected 105x105 pixels, got {size[0]}x{size[1]} in {name}")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
