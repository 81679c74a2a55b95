"""What all training runs share: the folder they live in, checkpoints, metrics, Ctrl-C.

config.json        the settings
metrics.jsonl      one line per logged step ("split": "train") and per validation ("split": "validation")
last.safetensors   everything that the next step depends on
best.safetensors   the learner that did best in validation; what is tested
curves.png         metrics.jsonl as a picture
results.json       the tests

A run goes on from there after any interruption as if there had been none. The batches of a step are functions of its
number, and so is the learning rate: the state of a run is its learner, its optimiser, the random state and the
progress.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sparsedis.metalearn import checkpoint

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
_OPTIMIZER, _RANDOM = "optimizer.", "random.torch"


class Config(Protocol):
    """The settings that the loop itself needs."""

    @property
    def iterations(self) -> int: ...
    @property
    def log_every(self) -> int: ...
    @property
    def validate_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...

    def as_json(self) -> dict[str, Any]: ...


@dataclass
class Progress:
    """How far a run is: steps done, and the step of the best validation so far; subclasses add what else counts."""

    iteration: int = 0
    best_iteration: int = 0


class Loop(ABC):
    """A run in its folder: steps, what is written of them, and where to go on from.

    Args:
        out: the folder; made here.
        config: the settings.
        learner: what is trained.
        optimizer: of its parameters.
        progress: that of a run that begins.
        console: where to report.
        resume: go on from what the folder holds.
        main: whether this process is the one that writes.

    Raises:
        ValueError: with ``resume``, a damaged checkpoint.
    """

    def __init__(
        self,
        out: Path,
        config: Config,
        learner: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        console: Console,
        resume: bool,
        main: bool = True,
    ) -> None:
        self.main = main
        self.out, self.config, self.learner, self.optimizer = out, config, learner, optimizer
        self.progress, self.console = progress, console
        if resume:
            self._restore()
        elif main:
            out.mkdir(parents=True, exist_ok=True)
            checkpoint.write_json(out / CONFIG, config.as_json())

    @abstractmethod
    def advance(self) -> dict[str, float | None]:
        """One step, which counts itself in the progress; what was measured."""

    @abstractmethod
    def validate(self, measured: dict[str, float | None], rate: float) -> None:
        """Measure, log and say how the learner does; :meth:`keep` it where it is the best so far.

        Args:
            measured: what the last step returned.
            rate: steps per second.
        """

    def state(self) -> dict[str, Any]:
        """What the next step depends on besides learner, optimiser, random state and progress, for JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027, nothing for most
        """The inverse of :meth:`state`."""

    def saved(self) -> None:  # noqa: B027, nothing for most
        """What is due after every checkpoint, in the process that writes."""

    def stopping(self, interrupted: bool) -> bool:
        """Whether to end after this step, Ctrl-C having been noted here or not."""
        return interrupted

    def finished(self) -> bool:
        """Whether there is no step left."""
        return self.progress.iteration >= self.config.iterations

    def run(self, title: str) -> None:
        """Steps from where the run stands to its end, with validations and checkpoints in between.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the step is ended and the state saved first.
        """
        first, start = self.progress.iteration, time.monotonic()
        self.say(title)
        with _bar(self.console) as bar, _interrupt_noted() as interrupted:
            task = bar.add_task("training", total=self.config.iterations, completed=first)
            while not self.finished():
                measured = self.advance()
                bar.update(task, completed=self.progress.iteration)
                if self._due(self.config.log_every):
                    self.log("train", measured)
                validated = self._due(self.config.validate_every)
                if validated:
                    self.validate(measured, (self.progress.iteration - first) / (time.monotonic() - start))
                stop = self.stopping(interrupted())
                if validated or self._due(self.config.save_every) or stop:
                    self._save()
                if stop:
                    raise KeyboardInterrupt

    def keep(self, about: Mapping[str, Any]) -> None:
        """Write the learner as the best so far, with a JSON object that says what it is."""
        self.progress.best_iteration = self.progress.iteration
        if self.main:
            checkpoint.save(self.out / BEST, prefixed(LEARNER, self.learner.state_dict()), about)

    def log(self, split: str, values: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        if not self.main:
            return
        line = json.dumps({"iteration": self.progress.iteration, "split": split, **values})
        with (self.out / METRICS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint must not be ahead of its metrics

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return _read_metrics(self.out / METRICS)

    def say(self, text: str) -> None:
        """A line on the console."""
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def _due(self, every: int) -> bool:
        return self.progress.iteration % every == 0 or self.finished()

    def _save(self) -> None:
        if not self.main:
            return
        tensors = {
            **prefixed(LEARNER, self.learner.state_dict()),
            **prefixed(_OPTIMIZER, checkpoint.optimizer_tensors(self.optimizer)),
            _RANDOM: torch.get_rng_state(),
        }
        checkpoint.save(self.out / LAST, tensors, {**asdict(self.progress), **self.state()})
        self.saved()

    def _restore(self) -> None:
        path = self.out / LAST
        if path.exists():  # else the run ended before its first checkpoint
            tensors, about = checkpoint.load(path)
            try:
                for field in fields(self.progress):
                    setattr(self.progress, field.name, about[field.name])
                if not 0 <= self.progress.best_iteration <= self.progress.iteration <= self.config.iterations:
                    raise ValueError(f"iterations {about}")
                torch.set_rng_state(tensors[_RANDOM])
                self.restore(about)
            except (ValueError, TypeError, KeyError, RuntimeError) as error:
                raise ValueError(f"checkpoint: {path} is damaged: {error}") from error
            state = with_prefix(tensors, LEARNER)
            checkpoint.check(self.learner.state_dict(), state, path)
            self.learner.load_state_dict(state)
            checkpoint.fill_optimizer(self.optimizer, with_prefix(tensors, _OPTIMIZER), path)
        if not self.main:
            return
        metrics = self.out / METRICS
        kept = [line for line in _read_metrics(metrics) if line["iteration"] <= self.progress.iteration]
        checkpoint.write(metrics, "".join(json.dumps(line) + "\n" for line in kept).encode())


def check_folder(out: Path, config: Any, resume: bool) -> None:
    """Whether a run with these settings may begin, or go on, in a folder.

    Args:
        out: the folder.
        config: has ``from_json`` and ``difference``, as :class:`sparsedis.metalearn.config.TrainConfig`.
        resume: go on.

    Raises:
        FileExistsError: the folder holds a run, and ``resume`` is not set.
        FileNotFoundError: there is no run to resume.
        ValueError: the run there is damaged or has other settings.
    """
    if not resume:
        if held := [name for name in FILES if (out / name).exists()]:
            raise FileExistsError(f"out: {out} already holds {held[0]}; resume that run, or choose another folder")
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


def device_named(name: str) -> torch.device:
    """The device, or ValueError where this machine or this PyTorch has none of that name."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch built without CUDA
        raise ValueError(f"device: {name!r} is not available: {str(error).splitlines()[0]}") from error
    return device


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, under longer names."""
    return {prefix + name: value for name, value in tensors.items()}


def with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The inverse of :func:`prefixed`, of those that have the prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # the line that was being written when the process was killed
                break
    return lines


def _bar(console: Console) -> Bar:
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.speed:.1f} steps/s", justify="right"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def _interrupt_noted() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is noted, for the loop to end between two steps; a second one interrupts at once."""
    noted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()  # the only one that may set handlers
    if not main or before in (signal.SIG_IGN, None):
        yield noted.is_set
        return

    def note(*_: object) -> None:
        noted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGINT, before)
