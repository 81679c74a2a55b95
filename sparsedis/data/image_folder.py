"""Reader of images in one folder per class: CLASS/*.png, or SPLIT/CLASS/*.png with SPLIT train, val, valid, validation
or test.

The depth of the images decides between the two layouts, so that a class may be called "train". Without split folders
the classes are split by :func:`sparsedis.data.dataset.split_by_hash`.

Every image below the folder must belong to a class, otherwise the folder is rejected: images in other formats, outside
or too deep in class folders, or behind broken links would be missed silently. Other files, and those left by systems
(:mod:`sparsedis.data.system_files`), are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from sparsedis import paths
from sparsedis.data import image_cache, image_decoding, system_files
from sparsedis.data.dataset import SPLITS, FewShotData, check_disjoint, split_by_hash
from sparsedis.data.image_cache import Classes, Images

_ENDINGS = (".png", ".jpg", ".jpeg")
_OTHER_ENDINGS = (
    *(".apng", ".jpe", ".jfif", ".jp2", ".jxl", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".svg", ".exr", ".hdr", ".dng"),
)
_FOLDERS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_LAYOUT = "CLASS/*.png or SPLIT/CLASS/*.png (or .jpg), SPLIT being train, val, valid, validation or test"
_ADVICE = (
    "few-shot splits have no class in common. Rename the folders if these are different classes; if they are the same, "
    "put all images of a class into one folder CLASS, without split folders"
)


def classes(path: str | Path) -> dict[str, dict[str, list[Path]]]:
    """The image files by split and class, sorted.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: no images by class; an image outside a class or in another format; a folder that is neither a split
            nor a class; two folders for one split; a class in two splits.
    """
    path = paths.expanded(path)
    if not path.is_dir():
        raise FileNotFoundError(f"images: expected an existing folder, got {str(path)!r}")
    found: dict[tuple[str, ...], list[Path]] = {}
    for file in _images(path):
        found.setdefault(file.parent.relative_to(path).parts, []).append(file)
    if not found:
        raise ValueError(f"images: expected {_LAYOUT}, found none in {str(path)!r}")
    depths = {len(folders): members[0] for folders, members in found.items()}
    if depths.keys() not in ({1}, {2}):
        raise ValueError(f"images: expected {_LAYOUT}, got {' and '.join(map(str, depths.values()))}")
    return _by_split(path, found) if 2 in depths else _by_hash(path, found)


def load(path: str | Path, size: int | None = None) -> FewShotData:
    """Read a folder of PNG or JPEG images, which are decoded once, into the cache, as RGB.

    Args:
        path: the folder.
        size: crop every image to its largest central square and scale it to (size, size) pixels; default: no change,
            all images must have the same size.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: as in :func:`classes`; a damaged image, or images of different sizes. The message names the file.
        OSError: the cache cannot be written.
    """
    found = classes(path)
    sources = [file for by_name in found.values() for members in by_name.values() for file in members]
    return image_cache.load("images", "images", sources, {"size": size}, partial(_decode, found, size))


def _images(folder: Path, depth: int = 0) -> Iterator[Path]:
    """The images in and below a folder, sorted; ValueError for one that would be missed."""
    inside = sorted(entry for entry in folder.iterdir() if not system_files.is_one(entry.name))
    folders = {entry for entry in inside if entry.is_dir()}
    for entry in inside:
        ending = entry.suffix.lower()
        if entry in folders or ending not in _ENDINGS + _OTHER_ENDINGS:
            continue
        if ending in _OTHER_ENDINGS:
            raise ValueError(f"images: expected .png, .jpg or .jpeg, got {entry}; convert it, or move it away")
        if not entry.is_file():
            raise ValueError(f"images: expected a file, got a broken link, {entry}")
        if depth > 2:  # raise immediately, since links may be circular
            raise ValueError(f"images: expected {_LAYOUT}, got {entry}")
        yield entry
    for entry in sorted(folders):
        yield from _images(entry, depth + 1)


def _by_hash(path: Path, found: Mapping[tuple[str, ...], list[Path]]) -> dict[str, dict[str, list[Path]]]:
    by_name = {name: members for (name,), members in found.items()}
    splits = [name for name in by_name if name.lower() in _FOLDERS]
    if len(splits) > 1 or splits == list(by_name):
        raise ValueError(f"images: expected class folders in {splits[0]!r}, got images, in {str(path)!r}")
    return {split: {name: by_name[name] for name in names} for split, names in split_by_hash(by_name).items()}


def _by_split(path: Path, found: Mapping[tuple[str, ...], list[Path]]) -> dict[str, dict[str, list[Path]]]:
    by_split: dict[str, dict[str, list[Path]]] = {split: {} for split in SPLITS}
    folder_of: dict[str, str] = {}
    for (folder, name), members in found.items():
        split = _FOLDERS.get(folder.lower())
        if split is None:
            raise ValueError(f"images: expected {_LAYOUT}, got the folder {folder!r} of classes in {str(path)!r}")
        if folder_of.setdefault(split, folder) != folder:
            both = f"{folder_of[split]!r} and {folder!r}"
            raise ValueError(f"images: expected one folder of the {split} split, got {both} in {str(path)!r}")
        by_split[split][name] = members
    check_disjoint("images", path, by_split, _ADVICE)
    return {split: {f"{split}/{name}": by_name[name] for name in by_name} for split, by_name in by_split.items()}


def _decode(found: Mapping[str, Mapping[str, list[Path]]], size: int | None, images: Images) -> Classes:
    classes = Classes()
    for split, by_name in found.items():
        classes.add(split, list(by_name), [i for i, members in enumerate(by_name.values()) for _ in members])
        for file in (file for members in by_name.values() for file in members):
            images.add(image_decoding.decode_rgb(file.read_bytes(), str(file), size), partial(_mismatch, file))
    return classes


def _mismatch(file: Path, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
    return (
        f"images: expected {expected[2]}x{expected[1]} pixels, got {got[2]}x{got[1]} in {file}; "
        f"set image_size to scale them"
    )
