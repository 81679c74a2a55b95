"""The folder of a run.

config.json        the settings
metrics.jsonl      one line per logged step ("split": "train") and per validation ("split": "validation")
last.safetensors   everything that the next step depends on
best.safetensors   the learner with the best validation so far; the one that is tested
curves.png         metrics.jsonl as a figure
results.json       the tests; written last, so that a folder with it holds a finished run

While a process writes to the folder it holds the lock .lock there, and .lock-holder says which process that is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from sparsedis.runs import checkpoint, lock
from sparsedis.runs.config import RunConfig

FILES = (
    "config.json",
    "metrics.jsonl",
    "last.safetensors",
    "best.safetensors",
    "curves.png",
    "results.json",
)
CONFIG, METRICS, LAST, BEST, CURVES, RESULTS = FILES
LOCK = ".lock"
SPLITS = ("train", "validation")

LEARNER = "learner."
"""Prefix of the learner's tensors in both checkpoints."""

L = TypeVar("L", bound=torch.nn.Module)
C = TypeVar("C", bound=RunConfig)


def check(out: Path, config: RunConfig, resume: bool) -> None:
    """Whether a run with these settings may start in a folder, or with ``resume`` continue there.

    Raises:
        BlockingIOError: another process writes to the folder.
        FileExistsError: the folder holds a run or an evaluation, and ``resume`` is not set.
        FileNotFoundError: there is no run to resume.
        PermissionError: the folder cannot be written.
        ValueError: it is a file; the run there is damaged or has other settings.
    """
    _check_place(out)
    lock.check(out / LOCK, f"out: {out}")
    _check_run(out, config, resume)


def check_empty(out: Path) -> None:
    """Whether a folder can be made, or is there and has nothing in it that new files would mix with or replace.

    Raises:
        BlockingIOError: another process writes to the folder.
        FileExistsError: there is something in it.
        PermissionError: the folder cannot be written.
        ValueError: it is a file.
    """
    _check_place(out)
    lock.check(out / LOCK, f"out: {out}")
    _check_nothing(out)


@contextmanager
def claim(out: Path, config: RunConfig, resume: bool, main: bool = True) -> Iterator[None]:
    """Make the folder, where it is missing, and keep all others from it until the block ends.

    Args:
        out, config, resume: as for :func:`check`, which is to be called first, before anything that takes long.
        main: whether this process writes the files; if not, nothing is done.

    Raises:
        BlockingIOError, FileExistsError, FileNotFoundError, ValueError: as :func:`check`: since then another process
            has begun a run in the folder, or has ended one.
    """
    if not main:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with lock.held(out / LOCK, f"out: {out}"):
        _check_run(out, config, resume)
        yield


@contextmanager
def claim_empty(out: Path) -> Iterator[None]:
    """Make the folder, where it is missing, and keep all others from it until the block ends.

    Raises:
        BlockingIOError, FileExistsError: as :func:`check_empty`, which is to be called first: since then another
            process has begun to write to the folder, or has ended.
    """
    out.mkdir(parents=True, exist_ok=True)
    with lock.held(out / LOCK, f"out: {out}"):
        _check_nothing(out)
        yield


def _check_place(out: Path) -> None:
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"out: expected a folder, got {str(out)!r}, but {str(existing)!r} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"out: expected a folder that can be written, got {str(out)!r}")


def _check_nothing(out: Path) -> None:
    if out.is_dir() and not all(path.name.startswith(LOCK) for path in out.iterdir()):
        raise FileExistsError(f"out: expected a new or an empty folder, got {str(out)!r}, which is not empty")


def _check_run(out: Path, config: RunConfig, resume: bool) -> None:
    if not resume:
        existing = [name for name in FILES if (out / name).exists()]
        if CONFIG in existing:
            raise FileExistsError(f"out: {out} already holds {CONFIG}; resume that run, or choose another folder")
        if existing == [RESULTS]:
            raise FileExistsError(f"out: {out} holds an evaluation, not a run; choose another folder")
        if existing:
            raise FileExistsError(f"out: {out} already holds {existing[0]}; choose another folder")
        return
    path = out / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"resume: expected a run in {out}, found no {CONFIG} there")
    try:
        before = type(config).from_json(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"resume: {path} is damaged: {error}") from error
    if name := before.difference(config):
        ours, theirs = getattr(config, name), getattr(before, name)
        raise ValueError(f"resume: {name}: the run in {out} has {theirs!r}, got {ours!r}")


def complete(train: Callable[..., object], config: RunConfig, out: Path, console: Console) -> None:
    """Train unless the folder holds the finished run; resume an unfinished one.

    Args:
        train: called as ``train(config, out, resume=..., console=...)``.
        config: the settings, as config.json has them.
        out: the folder.
        console: where to report.

    Raises:
        ValueError: the run in the folder has other settings.
    """
    if (out / RESULTS).is_file():
        _check_run(out, config, resume=True)  # nothing is written there any more
    else:
        train(config, out, resume=(out / CONFIG).is_file(), console=console)


def load_best(out: str | Path, build: Callable[[Mapping[str, Any]], tuple[L, C]]) -> tuple[L, C]:
    """The learner with the best validation so far, on the CPU and in evaluation mode, and the settings of its run.

    Args:
        out: the folder.
        build: from the checkpoint's metadata to a new learner and the settings. Called twice: on the meta device, to
            compare shapes before memory is allocated, and then for the result.

    Raises:
        FileNotFoundError: there is no such run, or it has not reached its first validation.
        ValueError: its checkpoint is damaged.
    """
    path = Path(out) / BEST
    tensors, metadata = checkpoint.load(path)
    try:
        with torch.device("meta"):
            expected = build(metadata)[0].state_dict()
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"checkpoint: {path} is damaged: {error}") from error
    state = checkpoint.select_prefix(LEARNER, tensors)
    checkpoint.check(expected, state, path)
    learner, config = build(metadata)
    learner.load_state_dict(state)
    return learner.cpu().eval(), config


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without one that a killed process left incomplete; none if there is no file.

    Raises:
        ValueError: a line is damaged; the message names it.
    """
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")  # a line ends with its newline; the rest is of a killed process
    found = [_line_of_metrics(text) for text in lines]
    for number, (line, text) in enumerate(zip(found, lines, strict=True), 1):
        if line is None:
            raise ValueError(
                f"metrics: expected a JSON object with iteration and split in line {number} of {path}, got "
                f"{text.decode(errors='replace')[:40]!r}; correct that line, or remove it to go on without it"
            )
    return [line for line in (*found, _line_of_metrics(rest)) if line is not None]


def _line_of_metrics(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    fits = isinstance(line, dict) and type(line.get("iteration")) is int and line.get("split") in SPLITS
    return line if fits else None
