"""Reader of all_runs.zip, the 20 tasks of within-alphabet one-shot classification (Lake et al., Science 2015).

The paper calls a task a run.

run01/class_labels.txt              lines "run01/test/item01.png run01/training/class03.png"
run01/training/class01.png ...      one image of every character
run01/test/item01.png ...           an image by another drawer, to be classified
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsedis import paths
from sparsedis.data import omniglot, system_files
from sparsedis.data.omniglot import SIDE

_LABELS = re.compile(r"(?P<root>(?:.*/)?)(?P<run>run\d+)/class_labels\.txt")


class Run(NamedTuple):
    """One run: a task with one image per class.

    Attributes:
        name: "run01"...
        training: uint8 (k, 1, side, side), bright ink; image i belongs to class i.
        test: uint8 (q, 1, side, side).
        labels: int64 (q,), the class of every test image.
    """

    name: str
    training: Tensor
    test: Tensor
    labels: Tensor


def load(path: str | Path, side: int = SIDE) -> list[Run]:
    """Read the runs in order. Images are prepared as in :func:`sparsedis.data.omniglot.load`.

    Args:
        path: all_runs.zip, or its extracted folder.
        side: height and width of the images.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: no run, or a damaged or incomplete one; the message names the file.
    """
    path = paths.expanded(path)
    if not path.exists():
        raise FileNotFoundError(f"omniglot runs: expected all_runs.zip or its folder, got {str(path)!r}")
    with ExitStack() as stack:
        everything, content = _folder(path) if path.is_dir() else _archive(path, stack)
        names = [name for name in everything if not system_files.among(PurePosixPath(name).parts)]
        found = [match for match in map(_LABELS.fullmatch, sorted(names)) if match]
        if not found:
            raise ValueError(f"omniglot runs: expected runNN/class_labels.txt, found none in {str(path)!r}")
        if len({match["run"] for match in found}) < len(found):
            raise ValueError(f"omniglot runs: expected every run once, found one twice in {str(path)!r}")
        return [_run(match, names, content, side) for match in found]


def _folder(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    if not any(map(_LABELS.fullmatch, names)) and (path / "class_labels.txt").is_file():  # the path is a single run
        names = [f"{path.absolute().name}/{name}" for name in names]
        path = path.absolute().parent

    def content(name: str) -> bytes:
        file = path / name
        if not file.is_file():
            raise ValueError(f"omniglot runs: expected the file {file}, found none")
        return omniglot.read(file)

    return names, content


def _archive(path: Path, stack: ExitStack) -> tuple[list[str], Callable[[str], bytes]]:
    archive = stack.enter_context(omniglot.opened(path, "omniglot runs"))

    def content(name: str) -> bytes:
        try:
            member = archive.getinfo(name)
        except KeyError as error:
            raise ValueError(f"omniglot runs: expected the member {name!r} in {path}, found none") from error
        return omniglot.extract(archive, member, f"{path}: {name!r}")

    return archive.namelist(), content


def _run(match: re.Match[str], names: list[str], content: Callable[[str], bytes], side: int) -> Run:
    root, run = match["root"], match["run"]
    raw = content(match[0])
    if len(raw) > omniglot.MAX_BYTES:
        raise ValueError(f"omniglot runs: expected at most {omniglot.MAX_BYTES} bytes, got more in {match[0]}")
    pairs = [_pair(line, run, match[0]) for line in raw.decode("ascii", "replace").splitlines() if line.strip()]
    classes = sorted({training for _, training in pairs})
    tests = [test for test, _ in pairs]
    if len(classes) < 2:
        raise ValueError(f"omniglot runs: expected two classes or more, got {len(classes)} in {match[0]}")
    if len(set(tests)) < len(tests):
        raise ValueError(f"omniglot runs: expected every test image once, got one twice in {match[0]}")
    present = {name.removeprefix(root) for name in names if name.startswith(f"{root}{run}/") and name.endswith(".png")}
    if unlisted := sorted(present - {*classes, *tests}):  # a truncated list would make the task easier
        raise ValueError(f"omniglot runs: expected every image in {match[0]}, found no {unlisted[0]}")
    return Run(
        run,
        _images(root, classes, content, side),
        _images(root, tests, content, side),
        torch.tensor([classes.index(training) for _, training in pairs]),
    )


def _pair(line: str, run: str, name: str) -> tuple[str, str]:
    parts = [PurePosixPath(word).parts for word in line.split()]
    if [part[:-1] for part in parts] != [(run, "test"), (run, "training")]:
        raise ValueError(f"omniglot runs: expected '{run}/test/FILE {run}/training/FILE', got {line!r:.80} in {name}")
    return "/".join(parts[0]), "/".join(parts[1])


def _images(root: str, names: list[str], content: Callable[[str], bytes], side: int) -> Tensor:
    decoded = [omniglot.decode(root + name, content(root + name), side) for name in names]
    return torch.from_numpy(np.stack(decoded))[:, None]
