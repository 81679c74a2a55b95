"""Reader of folders of images by class: CLASS/*.png, or SPLIT/CLASS/*.png with SPLIT train, val(idation) or test.

Without split folders the classes are split by :func:`sparsedis.data.dataset.split_by_hash`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sparsedis.data import image_cache, image_decoding
from sparsedis.data.dataset import SPLITS, FewShotData, split_by_hash
from sparsedis.data.image_cache import Classes

_ENDINGS = (".png", ".jpg", ".jpeg")
_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def classes(path: str | Path) -> dict[str, dict[str, list[Path]]]:
    """The image files by split and class, sorted.

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
        by_name = _classes(path)
        found = {split: {name: by_name[name] for name in names} for split, names in split_by_hash(by_name).items()}
    if not any(found.values()):
        raise ValueError(f"images: expected CLASS/*.png or SPLIT/CLASS/*.png (or .jpg), found none in {str(path)!r}")
    return found


def load(path: str | Path, size: int | None = None) -> FewShotData:
    """Read a folder of PNG or JPEG images; they are decoded once, into the cache, as RGB.

    Args:
        path: the folder.
        size: crop every image to its largest central square and scale it to (size, size) pixels; default: all must have
            the same size already.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no images by class, a damaged one, or different sizes; the message names the file.
    """
    found = classes(path)
    sources = [file for by_name in found.values() for members in by_name.values() for file in members]
    return image_cache.load("images", "images", sources, {"size": size}, lambda target: _decode(found, size, target))


def _classes(path: Path) -> dict[str, list[Path]]:
    found = {}
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            members = sorted(file for file in entry.iterdir() if file.suffix.lower() in _ENDINGS and file.is_file())
            if members:
                found[entry.name] = members
    return found


def _decode(found: Mapping[str, Mapping[str, list[Path]]], size: int | None, target: Path) -> Classes:
    classes = Classes()
    sources: list[Path] = []
    for split, by_name in found.items():
        classes.add(split, list(by_name), [i for i, members in enumerate(by_name.values()) for _ in members])
        sources += [file for members in by_name.values() for file in members]

    def mismatch(expected: tuple[int, ...], got: tuple[int, ...], i: int) -> str:
        return (
            f"images: expected {expected[2]}x{expected[1]} pixels, got {got[2]}x{got[1]} in {sources[i]}; "
            f"set image_size to scale them"
        )

    images = (image_decoding.decode_rgb(file.read_bytes(), str(file), size) for file in sources)
    image_cache.write_images(target, images, len(sources), None, mismatch)
    return classes
