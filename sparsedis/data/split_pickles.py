"""Reader of pickles with one split each, the format of miniImageNet, tieredImageNet, CIFAR-FS and FC100.

For every split, a folder contains either one file with images and labels, or one file for each:

    *train.pickle, *val.pickle, *test.pickle          dict: "data" (N, H, W, 3) uint8 or a list of encoded images, and
                                                       "labels"; or "image_data", and "class_dict" (class: indices)
    train_images_png.pkl and train_labels.pkl, ...     list of encoded images; dict with "labels" or "label_specific";
    train_images.npz and train_labels.pkl, ...         a .npz file contains "images"

An encoded image is the content of an image file, as bytes or as an array: uint8 (n,), or (n, 1) as written by OpenCV
before 4.5.4. The names are those of the releases (miniImageNet_category_split_train_phase_train.pickle,
CIFAR_FS_train.pickle...), of which the last word is the split. Files of the phases "train_phase_val" and
"train_phase_test" hold other images of the training classes and are ignored, as are system files.

A class is identified by its name ("label_specific_str", "catname2label", "class_dict"), or if it has none by its label.
In the releases, no label is in two splits, or where labels start from 0 in every split, no name.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparsedis import paths
from sparsedis.data import arrays, image_cache, image_decoding, safe_pickle, system_files
from sparsedis.data.dataset import SPLITS, FewShotData, check_disjoint
from sparsedis.data.image_cache import Classes, Images

_FILE = re.compile(
    r"(?:.*[_-])?(?P<split>train|val|valid|validation|test)"
    r"(?:[_-](?P<part>images|labels)(?:[_-]png)?)?\.(?P<end>pickle|pkl|npz)"
)
_OTHER_PHASE = re.compile(r".*train_phase_(?!train).*")
_LAYOUT = "files named *train, *val and *test, or *train_images, *train_labels..., ending in .pickle, .pkl or .npz"
_IMAGES = ("data", "image_data", "images")
_LABELS = ("labels", "label_specific")
_ADVICE = (
    "few-shot splits have no class in common. If these are different classes, give them names, as "
    '"label_specific_str", or different labels; if they are the same, their images belong into one file'
)


def files(path: str | Path) -> dict[str, dict[str, Path]]:
    """The files of a folder in this format: by split, then by content ("all", "images", "labels").

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: a split has no files, images or labels only, or several files of one kind.
    """
    path = paths.expanded(path)
    if not path.is_dir():
        raise FileNotFoundError(f"pickles: expected an existing folder, got {str(path)!r}")
    found: dict[str, dict[str, Path]] = {split: {} for split in SPLITS}
    for file in sorted(path.iterdir()):
        match = _FILE.fullmatch(file.name.lower())
        if match is None or system_files.is_one(file.name) or _OTHER_PHASE.fullmatch(file.name.lower()):
            continue
        split = "validation" if match["split"].startswith("val") else match["split"]
        part = match["part"] or "all"
        if part in found[split]:
            raise ValueError(f"pickles: expected one file of each, got {found[split][part].name} and {file.name}")
        found[split][part] = file
    for split, parts in found.items():
        if set(parts) not in ({"all"}, {"images", "labels"}):
            names = ", ".join(file.name for file in parts.values()) or "none"
            raise ValueError(f"pickles: expected {_LAYOUT} in {str(path)!r}, got {names} for the {split} split")
    return found


def load(path: str | Path, name: str = "pickles") -> FewShotData:
    """Read a folder of pickles, which are decoded once, into the cache.

    Reading does not execute code from the pickles (:mod:`sparsedis.data.safe_pickle`).

    Args:
        path: the folder.
        name: of the data set.

    Returns:
        Images (N, C, H, W) uint8, memory-mapped, with classes ordered by split and label.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: files are missing, damaged or have other content; a class is in two splits.
        OSError: the cache cannot be written.
    """
    found = files(path)
    sources = [file for parts in found.values() for file in parts.values()]
    return image_cache.load(name, "pickles", sources, {}, partial(_decode, found))


def _decode(found: Mapping[str, Mapping[str, Path]], images: Images) -> Classes:
    classes = Classes()
    known: dict[str, list[str]] = {}
    for split, files_of in found.items():
        content = {part: _read(file) for part, file in files_of.items()}
        where = next(iter(files_of.values()))
        values, names = _labels(content.get("all", content.get("labels")), where)
        rows = _images(content.get("all", content.get("images")), where)
        if len(rows) != len(values):
            raise ValueError(
                f"pickles: expected as many images as labels, got {len(rows)} and {len(values)} in {where}"
            )
        if not len(rows):
            raise ValueError(f"pickles: expected images, got none in {where}")
        distinct = sorted(set(values))
        known[split] = [names.get(value, str(value)) for value in distinct]
        check_disjoint("pickles", where.parent, known, _ADVICE)
        index = {value: i for i, value in enumerate(distinct)}
        classes.add(
            split,
            [names.get(value, f"{split}/{value}") for value in distinct],
            [index[value] for value in values],
        )
        for i, image in enumerate(_pixels(rows, where)):
            images.add(image, partial(_mismatch, where, i))
        del content, rows  # frees gigabytes before the next split
    return classes


def _mismatch(where: Path, i: int, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
    return f"pickles: expected images of shape {expected}, got {got} in {where}, image {i}"


def _read(file: Path) -> Any:
    if file.suffix.lower() != ".npz":
        return safe_pickle.load(file)
    return arrays.load(file, "pickles", (*_IMAGES, *_LABELS))


def _images(content: Any, where: Path) -> np.ndarray | Sequence[Any]:
    content = _item(content, _IMAGES)
    if not isinstance(content, list) and (not isinstance(content, np.ndarray) or content.ndim == 0):
        raise ValueError(f"pickles: expected images, got {type(content).__name__} in {where}")
    return content


def _pixels(rows: np.ndarray | Sequence[Any], where: Path) -> Iterator[np.ndarray]:
    """Every image as (C, H, W) uint8."""
    for i, row in enumerate(rows):
        if isinstance(row, np.ndarray) and row.dtype == np.uint8 and row.ndim in (2, 3) and row.shape[1:] != (1,):
            if row.ndim == 3 and row.shape[-1] not in (1, 3):
                raise ValueError(f"pickles: expected 1 or 3 channels, got shape {row.shape} in {where}, image {i}")
            if not row.size:
                raise ValueError(f"pickles: expected pixels, got shape {row.shape} in {where}, image {i}")
            yield row[None] if row.ndim == 2 else row.transpose(2, 0, 1)
            continue
        if isinstance(row, np.ndarray) and row.dtype == np.uint8 and row.ndim in (1, 2):
            row = row.tobytes()
        elif isinstance(row, str):  # bytes written by Python 2
            try:
                row = row.encode("latin1")
            except UnicodeEncodeError:
                row = None
        if not isinstance(row, bytes):
            what = f"{row.dtype} of shape {row.shape}" if isinstance(row, np.ndarray) else type(row).__name__
            raise ValueError(f"pickles: expected pixels or an image file's bytes, got {what} in {where}, image {i}")
        yield image_decoding.decode_rgb(row, f"{where}, image {i}")


def _labels(content: Any, where: Path) -> tuple[list[int], dict[int, str]]:
    """The label of every image, and the names of labels, if any."""
    if isinstance(class_indices := _item(content, ("class_dict",)), dict):
        return _labels_from_indices(class_indices, where)
    labels = _item(content, _LABELS)
    values = _listed(labels)
    if values is None:
        raise ValueError(f"pickles: expected a list of labels, got {type(labels).__name__} in {where}")
    if invalid := [value for value in values if type(value) is not int]:
        raise ValueError(f"pickles: expected whole numbers as labels, got {reprlib.repr(invalid[0])} in {where}")
    return values, _names(content)


def _labels_from_indices(class_indices: Mapping[Any, Any], where: Path) -> tuple[list[int], dict[int, str]]:
    label_of_index: dict[int, int] = {}
    for label, indices in enumerate(map(_listed, class_indices.values())):
        if indices is None or any(type(index) is not int or index in label_of_index for index in indices):
            raise ValueError(f"pickles: expected every image in one class, got another class_dict in {where}")
        label_of_index |= dict.fromkeys(indices, label)
    if sorted(label_of_index) != list(range(len(label_of_index))):
        raise ValueError(f"pickles: expected every image in one class, got another class_dict in {where}")
    return [label_of_index[i] for i in range(len(label_of_index))], {
        i: _text(name) for i, name in enumerate(class_indices)
    }


def _names(content: Any) -> dict[int, str]:
    if not isinstance(content, dict):
        return {}
    if (listed := _listed(_item(content, ("label_specific_str",)))) is not None:
        return {i: _text(name) for i, name in enumerate(listed)}
    if isinstance(named := _item(content, ("catname2label",)), dict):
        return {_plain(value): _text(name) for name, value in named.items() if type(_plain(value)) is int}
    return {}


def _listed(values: Any) -> list[Any] | None:
    """A list, or a one-dimensional array as a list; None for anything else."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values.tolist()
    return [_plain(value) for value in values] if isinstance(values, list) else None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _text(name: Any) -> str:
    """A name as text; Python 2 may have written bytes."""
    if isinstance(name, bytes):
        return name.decode("utf-8", "replace")
    return name if isinstance(name, str) else reprlib.repr(name)  # abbreviated, since nesting may be deep


def _item(content: Any, keys: Iterable[str]) -> Any:
    """The entry under one of the keys (or their bytes, from Python 2); content that is not a dict is returned."""
    if not isinstance(content, dict):
        return None if keys == ("class_dict",) else content
    return next((content[key] for name in keys for key in (name, name.encode()) if key in content), None)
