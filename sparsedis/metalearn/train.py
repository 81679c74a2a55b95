"""The outer loop. A run lives in one folder, and goes on from there after any interruption as if there had
been none.

config.json        the settings
metrics.jsonl      one line per logged step ("split": "train") and per validation ("split": "validation")
last.safetensors   everything that the next step depends on
best.safetensors   the learner that did best in validation; what is tested
curves.png         metrics.jsonl as a picture
results.json       the tests
tensorboard/       metrics.jsonl for TensorBoard, if asked for

Episodes are functions of their index and the learning rate is one of the step, so the state of a run is its
learner, its optimiser, the random state and the best validation so far. Several processes (``torchrun``, ``accelerate
launch``) share the episodes of a step out; only the first of them writes, and all of them read the folder to resume.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from sparsedis.data.dataset import FewShotData, absolute, load
from sparsedis.data.episodes import Episodes
from sparsedis.metalearn import checkpoint, recipe, report
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import Evaluation, encode, evaluate
from sparsedis.metalearn.learner import Learner
from sparsedis.metalearn.runtime import Runtime, runtime

_FILES = (
    "config.json",
    "metrics.jsonl",
    "last.safetensors",
    "best.safetensors",
    "curves.png",
    "results.json",
)
_CONFIG, _METRICS, _LAST, _BEST, _CURVES, _RESULTS = _FILES
_BOARD = "tensorboard"
_LEARNER, _OPTIMIZER, _RANDOM = "learner.", "optimizer.", "random.torch"


@dataclass(frozen=True)
class Results:
    """How a run ended; what results.json holds.

    Attributes:
        iteration: of the learner that did best in validation.
        validation: its accuracy there.
        tests: one evaluation on the test split per number of shots.
    """

    iteration: int
    validation: float
    tests: tuple[Evaluation, ...]


@dataclass
class _Progress:
    """How far a run is: steps done, and the best validation so far."""

    iteration: int = 0
    best_iteration: int = 0
    best_accuracy: float = -1.0


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    console: Console | None = None,
    encoder: nn.Module | None = None,
) -> Results:
    """Meta-train a learner, then test the one that did best in validation.

    The same settings give the same files, byte for byte on the same CPU, whether or not the run was
    interrupted and resumed; and the same losses, up to rounding, in any number of processes. The global random state is
    left as it was; the number of threads is set where ``config.threads`` says so.

    Args:
        config: the settings.
        out: the folder of the run; made when everything is known to be in order.
        resume: go on with the run in ``out``, from its last checkpoint.
        console: where to report; default: standard output.
        encoder: for ``config.encoder`` "custom": from images (N, *shape) to features (N, d). It is trained in place.

    Raises:
        ValueError: the data has too few classes or images; the run in ``out`` has other settings, or a
            damaged checkpoint; the loss is no longer finite; the device or a package is missing; the processes do not
            divide the batch.
        FileExistsError: ``out`` holds a run, and ``resume`` is not set.
        FileNotFoundError: the data, or the run to resume, is not there.
        KeyboardInterrupt: after Ctrl-C; the last checkpoint is saved first.
    """
    config = replace(config.settled(), data=absolute(config.data))
    out = Path(out)
    check_folder(out, config, resume)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = load(config.data, config.image_size)
    training = _episodes(config, data, "train", config.shot, config.query, config.iterations * config.batch)
    later = config.query if config.test_query is None else config.test_query
    shot = config.shot if config.validation_shot is None else config.validation_shot
    validation = _episodes(config, data, "validation", shot, later, config.validation_episodes)
    tests = [_episodes(config, data, "test", shot, later, config.test_episodes) for shot in config.test_shots]
    processes = runtime(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        learner = Learner(config, data.images.shape[1:], encoder).to(processes.device)
        run = _Run(out, config, learner, processes, console or Console(quiet=not processes.main), resume)
        run.loop(training, validation)
        return run.finish(tests, encoder)


def load_run(out: str | Path, encoder: nn.Module | None = None) -> tuple[Learner, TrainConfig]:
    """The learner of a run that did best in validation so far, on the CPU, and the run's settings.

    Args:
        out: folder of the run.
        encoder: a module like the one that was trained, for ``config.encoder`` "custom"; its parameters are replaced.

    Raises:
        FileNotFoundError: there is no such run, or it has not come to its first validation.
        ValueError: its checkpoint is damaged.
    """
    path = Path(out) / _BEST
    tensors, about = checkpoint.load(path)
    state = with_prefix(tensors, _LEARNER)
    try:
        config = TrainConfig.from_json(about.get("config"))
        shape = tuple(about["shape"])
        if len(shape) not in (1, 3) or not all(type(n) is int and 0 < n < 1 << 16 for n in shape):
            raise ValueError(f"shape {shape}")
        with torch.device("meta"):  # to compare shapes before any memory is taken
            expected = Learner(config, shape, encoder).state_dict()
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"checkpoint: {path} is damaged: {error}") from error
    checkpoint.check(expected, state, path)
    learner = Learner(config, shape, encoder)
    learner.load_state_dict(state)
    return learner.cpu().eval(), config


def results_of(out: str | Path) -> Results:
    """How a finished run ended.

    Raises:
        FileNotFoundError: there is no such run, or it is not finished.
        ValueError: its results are damaged.
    """
    path = Path(out) / _RESULTS
    try:
        held = json.loads(path.read_bytes())
        return Results(held["iteration"], held["validation"], tuple(Evaluation(**test) for test in held["tests"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"results: {path} is damaged: {error}") from error


class _Run:
    """A run in its folder: steps, what is written of them, and the tests at the end."""

    def __init__(
        self, out: Path, config: TrainConfig, learner: Learner, runtime: Runtime, console: Console, resume: bool
    ) -> None:
        self.out, self.config, self.learner, self.runtime, self.console = out, config, learner, runtime, console
        self.optimizer = recipe.optimizer(config, learner)
        self.progress = _Progress()
        if resume:
            self._restore()
        runtime.wait()  # nobody writes before all have looked
        if runtime.main and not resume:
            out.mkdir(parents=True, exist_ok=True)
            checkpoint.write_json(out / _CONFIG, config.as_json())
        self._module, self._stepper = runtime.prepare(learner, self.optimizer)
        self._board = (
            report.board(out / _BOARD, self.progress.iteration) if config.tensorboard and runtime.main else None
        )

    def loop(self, training: Episodes, validation: Episodes) -> None:
        """Steps from where the run stands to its end, with validations and checkpoints in between."""
        config, progress = self.config, self.progress
        first, start = progress.iteration, time.monotonic()
        self._say(
            f"{config.head} on {training.data.name}: {config.way}-way {config.shot}-shot, "
            f"iterations {first} to {config.iterations}, in {self.out}"
        )
        with _bar(self.console) as bar, _interrupt_noted() as interrupted:
            task = bar.add_task("training", total=config.iterations, completed=first)
            while progress.iteration < config.iterations:
                measured, stop = self._step(training, interrupted)
                bar.update(task, completed=progress.iteration)
                if self._due(config.log_every):
                    self._log("train", measured)
                validated = self._due(config.validate_every)
                if validated:
                    rate = (progress.iteration - first) / (time.monotonic() - start)
                    self._validate(validation, measured["loss"], rate)
                if validated or self._due(config.save_every) or stop:
                    self._save()
                if stop:
                    raise KeyboardInterrupt

    def finish(self, tests: list[Episodes], encoder: nn.Module | None) -> Results:
        """Test the best learner; write and show the results."""
        if self._board is not None:
            self._board.close()
        self.runtime.wait()
        learner, _ = load_run(self.out, encoder)
        learner.to(self.learner.device)
        features = encode(learner, tests[0].data, "test", self.runtime)
        results = Results(
            self.progress.best_iteration,
            self.progress.best_accuracy,
            tuple(evaluate(learner, features, episodes, self.runtime) for episodes in tests),
        )
        if self.runtime.main:
            checkpoint.write(self.out / _CURVES, report.curves(_read_metrics(self.out / _METRICS)))
            checkpoint.write_json(self.out / _RESULTS, asdict(results))
        validation = report.percent(results.validation)
        title = f"Test of the learner of iteration {results.iteration} (validation {validation})"
        self.console.print(report.table(results.tests, title))
        self.runtime.wait()
        return results

    def _step(self, training: Episodes, interrupted: Callable[[], bool]) -> tuple[dict[str, float | None], bool]:
        """One step; what was measured, over all processes, and whether any of them is to stop."""
        config, runtime, done = self.config, self.runtime, self.progress.iteration
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(config, done)
        share = config.batch // runtime.size
        first = done * config.batch + runtime.rank * share
        batch = training.raw(training.batch(first, first + share))
        self.learner.train()
        passes = config.batch // (config.micro_batch or config.batch)
        with self.learner.statistics.step(passes > 1, runtime.mean):
            output = self._module(batch, config.way, first)
            labels = batch.query_labels.to(self.learner.device)
            loss = recipe.loss(config, output.logits, labels)
            accuracy = (output.logits.argmax(-1) == labels).double().mean()
            used = (~output.sparsity).double().mean()
            certified = self.learner.certified()
            measured = torch.stack([loss.detach().double(), accuracy, used])
            rest = measured.new_tensor([0.0 if certified is None else certified, float(interrupted())])
            values = runtime.mean(torch.cat([measured, rest])).tolist()
            if not math.isfinite(values[0]):
                raise ValueError(f"iteration {done + 1}: the loss is {values[0]}; try a lower learning_rate")
            self._stepper.zero_grad()
            runtime.backward(loss)
        self._stepper.step()
        self.learner.step()
        self.progress.iteration += 1
        names = ("loss", "accuracy", "features_used", "certified")
        logged: dict[str, float | None] = dict(zip(names, values, strict=False))
        return {**logged, "certified": None if certified is None else values[3]}, values[4] > 0

    def _validate(self, validation: Episodes, loss: float | None, rate: float) -> None:
        features = encode(self.learner, validation.data, "validation", self.runtime)
        result = evaluate(self.learner, features, validation, self.runtime)
        progress, config = self.progress, self.config
        self._log(
            "validation",
            {
                "accuracy": result.accuracy,
                "ci95": result.ci95,
                "features_used": result.features_used,
                "certified": result.certified,
            },
        )
        self._say(
            f"iteration {progress.iteration}/{config.iterations}: loss {loss:.3f}, validation "
            f"{report.percent(result.accuracy)} ± {100 * result.ci95:.1f}, features used "
            f"{report.percent(result.features_used)}, certified {report.percent(result.certified)}; "
            f"{rate:.1f} steps/s, {(config.iterations - progress.iteration) / rate:.0f} s left"
        )
        if result.accuracy > progress.best_accuracy:
            progress.best_iteration, progress.best_accuracy = progress.iteration, result.accuracy
            about = {
                "iteration": progress.iteration,
                "accuracy": result.accuracy,
                "config": config.as_json(),
                "shape": list(self.learner.shape),
            }
            if self.runtime.main:
                checkpoint.save(self.out / _BEST, prefixed(_LEARNER, self.learner.state_dict()), about)

    def _due(self, every: int) -> bool:
        return self.progress.iteration % every == 0 or self.progress.iteration == self.config.iterations

    def _log(self, split: str, values: Mapping[str, float | None]) -> None:
        if not self.runtime.main:
            return
        if self._board is not None:
            for name, value in values.items():
                if value is not None:
                    self._board.add_scalar(f"{split}/{name}", value, self.progress.iteration)
        line = json.dumps({"iteration": self.progress.iteration, "split": split, **values})
        with (self.out / _METRICS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint must not be ahead of its metrics

    def _save(self) -> None:
        if not self.runtime.main:
            return
        tensors = {
            **prefixed(_LEARNER, self.learner.state_dict()),
            **prefixed(_OPTIMIZER, checkpoint.optimizer_tensors(self.optimizer)),
            _RANDOM: torch.get_rng_state(),
        }
        checkpoint.save(self.out / _LAST, tensors, {**asdict(self.progress), **self.runtime.state()})

    def _restore(self) -> None:
        path = self.out / _LAST
        if path.exists():  # else the run ended before its first checkpoint
            tensors, about = checkpoint.load(path)
            try:
                self.progress = _Progress(*(about[name] for name in asdict(self.progress)))
                if not 0 <= self.progress.best_iteration <= self.progress.iteration <= self.config.iterations:
                    raise ValueError(f"iterations {about}")
                torch.set_rng_state(tensors[_RANDOM])
                self.runtime.restore(about)
            except (ValueError, TypeError, KeyError, RuntimeError) as error:
                raise ValueError(f"checkpoint: {path} is damaged: {error}") from error
            state = with_prefix(tensors, _LEARNER)
            checkpoint.check(self.learner.state_dict(), state, path)
            self.learner.load_state_dict(state)
            checkpoint.fill_optimizer(self.optimizer, with_prefix(tensors, _OPTIMIZER), path)
        if not self.runtime.main:
            return
        metrics = self.out / _METRICS
        kept = [line for line in _read_metrics(metrics) if line["iteration"] <= self.progress.iteration]
        checkpoint.write(metrics, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


def check_folder(out: Path, config: TrainConfig, resume: bool) -> None:
    """Raise unless a run can begin in the folder, or go on there: as :func:`train`."""
    if not resume:
        if held := [name for name in _FILES if (out / name).exists()]:
            raise FileExistsError(f"out: {out} already holds {held[0]}; resume that run, or choose another folder")
        return
    path = out / _CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"resume: expected a run in {out}, found no {_CONFIG} there")
    try:
        before = TrainConfig.from_json(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"resume: {path} is damaged: {error}") from error
    if name := before.difference(config):
        ours, theirs = getattr(config, name), getattr(before, name)
        raise ValueError(f"resume: {name}: the run in {out} has {theirs!r}, got {ours!r}")


def _episodes(config: TrainConfig, data: FewShotData, split: str, shot: int, query: int, length: int) -> Episodes:
    return Episodes(data, split, way=config.way, shot=shot, query=query, seed=config.seed, length=length)


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # the line that was being written when the process was killed
                break
    return lines


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _bar(console: Console) -> Progress:
    return Progress(
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
