"""Reader of pickles that hold one split each, the format of miniImageNet, tieredImageNet, CIFAR-FS and FC100.

A folder holds, for every split, either one file with images and labels, or one file of each:

    *train.pickle, *val.pickle, *test.pickle          dict: "data" (N, H, W, 3) uint8 or a list of image files' bytes,
                                                       and "labels"; or "image_data", and "class_dict" (class: places)
    train_images_png.pkl and train_labels.pkl, ...     list of image files' bytes (or uint8 arrays of them); dict with
    train_images.npz and train_labels.pkl, ...         "labels" or "label_specific"; a .npz file holds "images"

The names are those of the releases (miniImageNet_category_split_train_phase_train.pickle, CIFAR_FS_train.pickle...):
the last word is the split. Files of the phases "train_phase_val" and "train_phase_test" hold other images of the
training classes and are ignored.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparsedis.data import image_cache, image_decoding, safe_pickle
from sparsedis.data.dataset import SPLITS, FewShotData
from sparsedis.data.image_cache import Classes

_FILE = re.compile(
    r"(?:.*[_-])?(?P<split>train|val|validation|test)(?:[_-](?P<part>images|labels)(?:[_-]png)?)?\.(?P<end>pickle|pkl|npz)"
)
_OTHER_PHASE = re.compile(r".*train_phase_(?!train).*")
_LAYOUT = "files named *train, *val and *test, or *train_images, *train_labels..., ending in .pickle, .pkl or .npz"


def files(path: str | Path) -> dict[str, dict[str, Path]]:
    """The files of a folder that belong to the format: by split, then by content (all, images, labels).

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a split has no files, only images or labels, or several files of one kind.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"pickles: expected an existing folder, got {str(path)!r}")
    found: dict[str, dict[str, Path]] = {split: {} for split in SPLITS}
    for file in sorted(path.iterdir()):
        match = _FILE.fullmatch(file.name.lower())
        if match is None or _OTHER_PHASE.fullmatch(file.name.lower()):
            continue
        split = "validation" if match["split"] == "val" else match["split"]
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
    """Read a folder of pickles; they are decoded once, into the cache.

    The pickles cannot run code (:mod:`sparsedis.data.safe_pickle`).

    Args:
        path: the folder.
        name: of the data set.

    Returns:
        Images (N, C, H, W) uint8, mapped into memory; classes in the order of the splits and of their labels.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: files are missing, damaged, or hold something else.
    """
    found = files(path)
    sources = [file for parts in found.values() for file in parts.values()]
    return image_cache.load(name, "pickles", sources, {}, lambda target: _decode(found, target))


def _decode(found: Mapping[str, Mapping[str, Path]], target: Path) -> Classes:
    classes = Classes()
    parts: list[Path] = []
    shape: tuple[int, ...] | None = None
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
        index = {value: i for i, value in enumerate(distinct)}
        classes.add(
            split,
            [str(names.get(value, f"{split}/{value}")) for value in distinct],
            [index[value] for value in values],
        )
        parts.append(target.with_name(f"{split}.npy"))
        mismatch = partial(_mismatch, where)
        shape = image_cache.write_images(parts[-1], _pixels(rows, where), len(rows), shape, mismatch)
        del content, rows  # gigabytes
    _join(target, parts, (len(classes.labels), *(shape or ())))
    return classes


def _mismatch(where: Path, expected: tuple[int, ...], got: tuple[int, ...], i: int) -> str:
    return f"pickles: expected images of shape {expected}, got {got} in {where}, image {i}"


def _join(target: Path, parts: Sequence[Path], shape: tuple[int, ...]) -> None:
    """Concatenate .npy files, one after the other in memory, and remove them."""
    out = np.lib.format.open_memmap(target, "w+", np.uint8, shape)
    start = 0
    for part in parts:
        rows = np.load(part, mmap_mode="r")
        out[start : start + len(rows)] = rows
        start += len(rows)
        del rows
        part.unlink()
    out.flush()


def _read(file: Path) -> Any:
    if file.suffix.lower() != ".npz":
        return safe_pickle.load(file)
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"pickles: {file} is damaged or not a .npz file of numbers: {error}") from error


def _images(content: Any, where: Path) -> np.ndarray | Sequence[Any]:
    content = _item(content, ("data", "image_data", "images"))
    if not isinstance(content, np.ndarray | list):
        raise ValueError(f"pickles: expected images, got {type(content).__name__} in {where}")
    return content


def _pixels(rows: np.ndarray | Sequence[Any], where: Path) -> Iterator[np.ndarray]:
    """Every image as (C, H, W) uint8."""
    for i, row in enumerate(rows):
        if isinstance(row, np.ndarray) and row.dtype == np.uint8 and row.ndim in (2, 3):
            if row.ndim == 3 and row.shape[-1] not in (1, 3):
                raise ValueError(f"pickles: expected 1 or 3 channels, got shape {row.shape} in {where}, image {i}")
            yield row[None] if row.ndim == 2 else row.transpose(2, 0, 1)
            continue
        if isinstance(row, np.ndarray) and row.dtype == np.uint8 and row.ndim == 1:
            row = row.tobytes()
        elif isinstance(row, str):  # bytes, as Python 2 wrote them
            try:
                row = row.encode("latin1")
            except UnicodeEncodeError:
                row = None
        if not isinstance(row, bytes):
            what = f"{row.dtype} of shape {row.shape}" if isinstance(row, np.ndarray) else type(row).__name__
            raise ValueError(f"pickles: expected pixels or an image file's bytes, got {what} in {where}, image {i}")
        yield image_decoding.decode_rgb(row, f"{where}, image {i}")


def _labels(content: Any, where: Path) -> tuple[list[int], dict[int, str]]:
    """The label of every image, and names of labels where there are some."""
    if isinstance(places := _item(content, ("class_dict",)), dict):
        return _from_places(places, where)
    values = _item(content, ("labels", "label_specific"))
    values = values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else values
    if not isinstance(values, list):
        raise ValueError(f"pickles: expected a list of labels, got {type(values).__name__} in {where}")
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    if odd := [value for value in plain if type(value) is not int]:
        raise ValueError(f"pickles: expected whole numbers as labels, got {odd[0]!r:.80} in {where}")
    return plain, _names(content)


def _from_places(places: Mapping[Any, Any], where: Path) -> tuple[list[int], dict[int, str]]:
    by_place: dict[int, int] = {}
    for label, members in enumerate(places.values()):
        members = members.tolist() if isinstance(members, np.ndarray) else members
        if not isinstance(members, list) or any(type(place) is not int or place in by_place for place in members):
            raise ValueError(f"pickles: expected every image in one class, got another class_dict in {where}")
        by_place |= dict.fromkeys(members, label)
    if sorted(by_place) != list(range(len(by_place))):
        raise ValueError(f"pickles: expected every image in one class, got another class_dict in {where}")
    return [by_place[i] for i in range(len(by_place))], {i: str(name) for i, name in enumerate(places)}


def _names(content: Any) -> dict[int, str]:
    if not isinstance(content, dict):
        return {}
    if isinstance(listed := content.get("label_specific_str"), list):
        return {i: str(name) for i, name in enumerate(listed)}
    if isinstance(named := content.get("catname2label"), dict):
        return {value: str(name) for name, value in named.items() if isinstance(value, int)}
    return {}


def _item(content: Any, keys: Sequence[str]) -> Any:
    """The entry under one of the keys; Python 2 may have written them as bytes. Else the content, if no dict."""
    if not isinstance(content, dict):
        return None if keys == ("class_dict",) else content
    return next((content[key] for name in keys for key in (name, name.encode()) if key in content), None)
