"""The files of a run's folder.

config.json        the settings
metrics.jsonl      one line per logged step ("split": "train") and per validation ("split": "validation")
last.safetensors   the full state that the next step depends on
best.safetensors   the learner with the best validation so far, which is tested
curves.png         a figure of metrics.jsonl
results.json       the test results; written last, so that its presence marks a finished run

A process that writes to the folder holds the lock .lock; .lock-holder names that process.
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
    """Check that a run with these settings may start in a folder, or with ``resume`` continue there.

    Raises:
        BlockingIOError: another process writes to the folder.
        FileExistsError: the folder holds a run or an evaluation, and ``resume`` is not set.
        FileNotFoundError: with ``resume``, the folder holds no run.
        PermissionError: the folder is not writable.
        ValueError: ``out`` is a file; the run there is damaged or has other settings.
    """
    _check_writable(out)
    lock.check(out / LOCK, f"out: {out}")
    _check_run(out, config, resume)


def check_empty(out: Path) -> None:
    """Check that a folder can be created, or exists and is empty except for the lock.

    Raises:
        BlockingIOError: another process writes to the folder.
        FileExistsError: the folder is not empty.
        PermissionError: the folder is not writable.
        ValueError: ``out`` is a file.
    """
    _check_writable(out)
    lock.check(out / LOCK, f"out: {out}")
    _check_no_files(out)


@contextmanager
def claim(out: Path, config: RunConfig, resume: bool, main: bool = True) -> Iterator[None]:
    """Create the folder if it is missing and hold its lock until the block ends.

    Args:
        out, config, resume: as in :func:`check`, which should be called first, before any expensive work.
        main: whether this process writes the files; if not, the function does nothing.

    Raises:
        BlockingIOError, FileExistsError, FileNotFoundError, ValueError: as in :func:`check`, if another process has
            started or finished a run in the folder since then.
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
    """Create the folder if it is missing and hold its lock until the block ends.

    Raises:
        BlockingIOError, FileExistsError: as in :func:`check_empty`, which should be called first, if another process
            has written to the folder since then.
    """
    out.mkdir(parents=True, exist_ok=True)
    with lock.held(out / LOCK, f"out: {out}"):
        _check_no_files(out)
        yield


def _check_writable(out: Path) -> None:
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"out: expected a folder, got {str(out)!r}, but {str(existing)!r} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"out: expected a folder that can be written, got {str(out)!r}")


def _check_no_files(out: Path) -> None:
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
    """Train unless the folder holds a finished run; resume an unfinished one.

    Args:
        train: called as ``train(config, out, resume=..., console=...)``.
        config: the settings.
        out: the folder.
        console: for output.

    Raises:
        ValueError: the run in the folder has other settings.
    """
    if (out / RESULTS).is_file():
        _check_run(out, config, resume=True)  # no lock is needed, as nothing is written
    else:
        train(config, out, resume=(out / CONFIG).is_file(), console=console)


def load_best(out: str | Path, build: Callable[[Mapping[str, Any]], tuple[L, C]]) -> tuple[L, C]:
    """The learner with the best validation so far, on the CPU and in evaluation mode, and its run's settings.

    Args:
        out: the folder.
        build: maps the checkpoint's metadata to a new learner and the settings. It is called first on the meta device,
            to compare shapes before memory is allocated, and then for the result.

    Raises:
        FileNotFoundError: the folder holds no run, or the run has not reached its first validation.
        ValueError: the checkpoint is damaged.
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
    """The lines of metrics.jsonl, without a last line that a killed process left incomplete; none without the file.

    Raises:
        ValueError: a line is damaged; the message names it.
    """
    if not path.exists():
        return []
    *lines, incomplete = path.read_bytes().split(b"\n")  # text after the last newline is from a killed process
    parsed = [_line_of_metrics(text) for text in lines]
    for number, (line, text) in enumerate(zip(parsed, lines, strict=True), 1):
        if line is None:
            raise ValueError(
                f"metrics: expected a JSON object with iteration and split in line {number} of {path}, got "
                f"{text.decode(errors='replace')[:40]!r}; correct that line, or remove it to continue without it"
            )
    return [line for line in (*parsed, _line_of_metrics(incomplete)) if line is not None]


def _line_of_metrics(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    valid = isinstance(line, dict) and type(line.get("iteration")) is int and line.get("split") in SPLITS
    return line if valid else None
