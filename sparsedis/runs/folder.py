"""The folder of a run.

config.json        the settings
metrics.jsonl      one line per logged step ("split": "train") and per validation ("split": "validation")
last.safetensors   everything that the next step depends on
best.safetensors   the learner with the best validation so far; the one that is tested
curves.png         metrics.jsonl as a figure
results.json       the tests; written last, so that a folder with it holds a finished run
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from sparsedis.runs import checkpoint
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

LEARNER = "learner."
"""Prefix of the learner's tensors in both checkpoints."""

L = TypeVar("L", bound=torch.nn.Module)
C = TypeVar("C", bound=RunConfig)


def check(out: Path, config: RunConfig, resume: bool) -> None:
    """Whether a run with these settings may start in a folder, or with ``resume`` continue there.

    Raises:
        FileExistsError: the folder holds a run, and ``resume`` is not set.
        FileNotFoundError: there is no run to resume.
        ValueError: the run there is damaged or has other settings.
    """
    if not resume:
        if existing := [name for name in FILES if (out / name).exists()]:
            raise FileExistsError(f"out: {out} already holds {existing[0]}; resume that run, or choose another folder")
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
        check(out, config, resume=True)
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
    """The lines of metrics.jsonl, up to one that a killed process left incomplete; none if there is no file."""
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines
