"""SHA-256 digests of a data set's files, and their comparison with known ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparsedis import paths
from sparsedis.data import sources, system_files

_SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class File:
    """A file of a data set.

    Attributes:
        path: of the file.
        size: in bytes.
        sha256: its digest, in hexadecimal.
        known: whether the digest equals the known one; None if none is known.
    """

    path: Path
    size: int
    sha256: str
    known: bool | None


def files(spec: str) -> list[File]:
    """The files of a data set with their digests; for a folder the files directly in it.

    Known digests come from the package or from a file SHA256SUMS in the same folder, in the format of sha256sum.

    Raises:
        ValueError: an unknown name, or a missing path.
        FileNotFoundError: the path does not exist.
    """
    name, path = sources.resolve(spec)
    if not path:
        return []
    root = paths.expanded(path)
    if not root.exists():
        raise FileNotFoundError(f"data: expected {sources.SOURCES[name].needs}, found nothing at {path!r}")
    folder = root if root.is_dir() else root.parent
    sums = {**sources.SOURCES[name].sha256, **_sums(folder / _SUMS)}
    found = sorted(root.iterdir()) if root.is_dir() else [root]
    wanted = (file for file in found if file.is_file() and file.name != _SUMS and not system_files.is_one(file.name))
    return [_file(file, sums) for file in wanted]


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
