"""The outer loop of a run in its folder (:mod:`sparsedis.runs.folder`): steps, validations, checkpoints, interruption.

An interrupted or killed run that is resumed ends with the same files as an uninterrupted one. The batch and the
learning rate of a step are functions of its number, so that the state of a run consists of the learner, the optimiser,
the random state and the progress.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from sparsedis.checks import NotFiniteError
from sparsedis.runs import checkpoint, environment, files, folder, output, tables
from sparsedis.runs.config import RunConfig

_OPTIMIZER, _RANDOM = "optimizer.", "random.torch"
_STEPS_BEFORE_ESTIMATE = 10  # number of steps after which a run prints an estimate of its duration
_ALL_INACTIVE = (
    "no task uses any feature, so the encoder learns nothing. If this persists, start again with a smaller lambda1 or, "
    "if the features themselves are zero, a lower learning_rate"
)


@dataclass
class Progress:
    """Number of steps done, and step of the best validation; subclasses add other state that checkpoints must hold."""

    iteration: int = 0
    best_iteration: int = 0


class Loop(ABC):
    """The outer loop of a run.

    Args:
        out: folder of the run, created by :func:`folder.claim`.
        config: the settings.
        learner: the module to train.
        optimizer: of the learner's parameters.
        progress: initial progress of a new run.
        console: for output, in any encoding.
        resume: continue from the last checkpoint in the folder.
        main: whether this process writes the files.

    Raises:
        ValueError: with ``resume``, a damaged checkpoint, or a damaged line of metrics.jsonl.
    """

    def __init__(
        self,
        out: Path,
        config: RunConfig,
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
        output.replace_unencodable(console.file)
        self._warned_all_inactive = False
        if resume:
            self._restore()
        elif main:
            files.write_json(out / folder.CONFIG, config.as_json())
        self.clock = environment.Clock(out)
        if main:
            environment.write(out, next(learner.parameters()).device)

    @abstractmethod
    def learning_rate(self) -> float:
        """The learning rate of the next step."""

    @abstractmethod
    def advance(self) -> dict[str, float | None]:
        """Take one step of the optimiser; return the measurements to log."""

    @abstractmethod
    def validate(self, measured: dict[str, float | None], rate: float) -> None:
        """Validate the learner, log and print the result, and :meth:`keep` the learner if it is the best so far.

        Args:
            measured: the result of the last :meth:`advance`.
            rate: steps per second.
        """

    @property
    def validates(self) -> bool:
        """Whether every validation writes a line to metrics.jsonl."""
        return True

    def state(self) -> dict[str, Any]:
        """Further state that the next step depends on, as JSON: besides learner, optimiser, random state, progress."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027, optional
        """The inverse of :meth:`state`."""

    def stopping(self, interrupted: bool) -> bool:
        """Whether to stop after this step; ``interrupted``: this process has received SIGINT."""
        return interrupted

    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.progress.iteration >= self.config.iterations

    def run(self, title: str) -> None:
        """Run the remaining steps, with validations and checkpoints.

        Args:
            title: printed first.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once the step is complete and the checkpoint is saved.
            ValueError: the run diverged: loss, features or parameters are not finite. The last checkpoint precedes the
                divergence.
        """
        first, start = self.progress.iteration, time.monotonic()
        self.say(title)
        with _bar(self.console) as bar, _sigint_flag() as interrupted:
            task = bar.add_task("training", total=self.config.iterations, completed=first)
            while not self.finished():
                for group in self.optimizer.param_groups:
                    group["lr"] = self.learning_rate()
                with self._step(self.progress.iteration + 1):
                    measured = self.advance()
                self.progress.iteration += 1
                self._warn_if_all_inactive(measured)
                bar.update(task, completed=self.progress.iteration)
                if self.progress.iteration == first + _STEPS_BEFORE_ESTIMATE:
                    self.say(
                        f"about {tables.duration(self._time_left(first, start))} of training to go, by the first steps"
                    )
                if self._is_due(self.config.log_every):
                    self.log("train", measured)
                validated = self._is_due(self.config.validate_every)
                if validated:
                    self._check_parameters()
                    with self._step(self.progress.iteration):
                        self.validate(measured, (self.progress.iteration - first) / (time.monotonic() - start))
                stop = self.stopping(interrupted())
                if validated or self._is_due(self.config.save_every) or stop:
                    self._save()
                if stop:
                    raise KeyboardInterrupt

    def check_finite(self, loss: float) -> None:
        """NotFiniteError if the loss of the current step is infinite or NaN."""
        if not math.isfinite(loss):
            raise NotFiniteError(f"the loss is {loss}")

    def keep(self, metadata: Mapping[str, Any]) -> None:
        """Save the learner as the best so far, with a JSON object as metadata."""
        self.progress.best_iteration = self.progress.iteration
        if self.main:
            state = checkpoint.add_prefix(folder.LEARNER, self.learner.state_dict())
            checkpoint.save(self.out / folder.BEST, state, metadata)

    def log(self, split: str, values: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        if not self.main:
            return
        line = json.dumps({"iteration": self.progress.iteration, "split": split, **values})
        with (self.out / folder.METRICS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())  # metrics must be on disk before the checkpoint

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return folder.read_metrics(self.out / folder.METRICS)

    def say(self, text: str) -> None:
        """Print lines to the console."""
        tables.say(self.console, text)

    def report(self, text: str, rate: float) -> None:
        """Print a line for the last validation: step, ``text``, speed and estimated remaining time."""
        done, total = self.progress.iteration, self.config.iterations
        self.say(f"iteration {done}/{total}: {text}; {rate:.1f} steps/s, {(total - done) / rate:.0f} s left")

    def _time_left(self, first: int, start: float) -> float:
        """Remaining time in seconds, from the speed of the steps since ``first``, which began at ``start``."""
        done = self.progress.iteration
        return (self.config.iterations - done) * (time.monotonic() - start) / (done - first)

    def _is_due(self, every: int) -> bool:
        return self.progress.iteration % every == 0 or self.finished()

    @contextmanager
    def _step(self, iteration: int) -> Iterator[None]:
        """Convert NotFiniteError, wherever it is raised in a step, to an error that the run diverged."""
        try:
            yield
        except NotFiniteError as error:
            raise ValueError(
                f"the run diverged at iteration {iteration}: {error}; start again with a lower learning_rate, or with "
                "clip_norm, which bounds the gradient"
            ) from error

    def _check_parameters(self) -> None:
        """ValueError if a parameter is not finite, before it is validated and replaces a good checkpoint."""
        with self._step(self.progress.iteration):
            for name, value in self.learner.named_parameters():
                if not bool(torch.isfinite(value).all()):
                    raise NotFiniteError(f"{name} has NaN or infinite values")

    def _warn_if_all_inactive(self, measured: Mapping[str, float | None]) -> None:
        """Print once that all features are inactive in the last step, which explains a lack of progress."""
        if measured.get("features_used") == 0 and not self._warned_all_inactive:
            self._warned_all_inactive = True
            self.say(f"iteration {self.progress.iteration}: {_ALL_INACTIVE}")

    def _save(self) -> None:
        self._check_parameters()
        if not self.main:
            return
        tensors = {
            **checkpoint.add_prefix(folder.LEARNER, self.learner.state_dict()),
            **checkpoint.add_prefix(_OPTIMIZER, checkpoint.optimizer_tensors(self.optimizer)),
            _RANDOM: torch.get_rng_state(),
        }
        checkpoint.save(self.out / folder.LAST, tensors, {**asdict(self.progress), **self.state()})
        self.clock.save()

    def _restore(self) -> None:
        path = self.out / folder.LAST
        if path.exists():  # otherwise the run ended before its first checkpoint
            tensors, metadata = checkpoint.load(path)
            try:
                for field in fields(self.progress):
                    setattr(self.progress, field.name, metadata[field.name])
                if not 0 <= self.progress.best_iteration <= self.progress.iteration <= self.config.iterations:
                    raise ValueError(f"iterations {metadata}")
                torch.set_rng_state(tensors[_RANDOM])
                self.restore(metadata)
            except (ValueError, TypeError, KeyError, RuntimeError) as error:
                raise ValueError(f"checkpoint: {path} is damaged: {error}") from error
            state = checkpoint.select_prefix(folder.LEARNER, tensors)
            checkpoint.check(self.learner.state_dict(), state, path)
            self.learner.load_state_dict(state)
            checkpoint.fill_optimizer(self.optimizer, checkpoint.select_prefix(_OPTIMIZER, tensors), path)
        if not self.main:
            return
        # Drop the lines of steps after the checkpoint, which are run again.
        done = self.progress.iteration
        kept = [line for line in self.metrics() if line["iteration"] <= done]
        expected = {"train": self.config.log_every} | (
            {"validation": self.config.validate_every} if self.validates else {}
        )
        missing = {(i, split) for split, every in expected.items() for i in range(every, done + 1, every)}
        if missing := missing - {(line["iteration"], line["split"]) for line in kept}:
            self.say(f"{folder.METRICS} lacks {len(missing)} of its lines, the first of iteration {min(missing)[0]}")
        files.write(self.out / folder.METRICS, "".join(json.dumps(line) + "\n" for line in kept).encode())


class _Speed(ProgressColumn):
    """Steps per second; empty before the first step."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} steps/s")


def _bar(console: Console) -> Bar:
    columns: list[ProgressColumn] = [MofNCompleteColumn(), TimeRemainingColumn()]
    if console.width >= tables.LEAST:  # a narrower console would truncate these columns
        columns = [TextColumn("{task.description}"), BarColumn(), columns[0], _Speed(), columns[1]]
    return Bar(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def _sigint_flag() -> Iterator[Callable[[], bool]]:
    """A function that returns whether SIGINT was received. The first SIGINT sets a flag, the second one interrupts."""
    flag = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()  # the only thread that may set handlers
    if not main or before in (signal.SIG_IGN, None):
        yield flag.is_set
        return

    def handle(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)
