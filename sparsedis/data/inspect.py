"""What a data set needs, where it is looked for, whether its files are the known ones, and what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparsedis.data import dataset
from sparsedis.data.dataset import SPLITS, FewShotData

_SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class File:
    """A file of a data set.

    Attributes:
        path, size: where it is, and how many bytes it has.
        sha256: its digest, in hexadecimal.
        known: whether the digest is the known one; None where none is known.
    """

    path: Path
    size: int
    sha256: str
    known: bool | None


def files(spec: str) -> list[File]:
    """The files of a data set, each with its digest; a folder's own, not those of the folders in it.

    A digest is known from the package, or from a file SHA256SUMS beside, as sha256sum writes it.

    Raises:
        ValueError: an unknown name or a path that is missing.
        FileNotFoundError: the path does not exist.
    """
    name, path = dataset.place(spec)
    if not path:
        return []
    root = Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"data: expected {dataset.SOURCES[name].needs}, found nothing at {path!r}")
    folder = root if root.is_dir() else root.parent
    sums = {**dataset.SOURCES[name].sha256, **_sums(folder / _SUMS)}
    found = sorted(root.iterdir()) if root.is_dir() else [root]
    return [_file(file, sums) for file in found if file.is_file() and file.name != _SUMS]


def counts(data: FewShotData) -> dict[str, tuple[int, int]]:
    """Classes and images of every split."""
    per_class = data.labels.bincount(minlength=len(data.class_names))
    return {split: (len(data.splits[split]), int(per_class[list(data.splits[split])].sum())) for split in SPLITS}


def _sums(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {words[1].lstrip("*").strip(): words[0].lower() for words in lines if len(words) == 2}


def _file(path: Path, sums: Mapping[str, str]) -> File:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    known = sums[path.name] == found if path.name in sums else None
    return File(path, path.stat().st_size, found, known)
