"""The outer loop. A run lives in one folder, and goes on from there after any interruption as if there had
been none.

config.json        the settings
metrics.jsonl      one line per logged step ("split": "train") and per validation ("split": "validation")
last.safetensors   everything that the next step depends on
best.safetensors   the learner that did best in validation; what is tested
curves.png         metrics.jsonl as a picture
results.json       the tests

Episodes are functions of their index and the learning rate is one of the step, so the state of a run is its
learner, its optimiser, the random state and the best validation so far.
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
from torch.nn import functional as F

from sparsedis.data.dataset import FewShotData, absolute, load
from sparsedis.data.episodes import Episodes
from sparsedis.metalearn import checkpoint, report
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import Evaluation, encode, evaluate
from sparsedis.metalearn.learner import Learner

_FILES = (
    "config.json",
    "metrics.jsonl",
    "last.safetensors",
    "best.safetensors",
    "curves.png",
    "results.json",
)
_CONFIG, _METRICS, _LAST, _BEST, _CURVES, _RESULTS = _FILES
_LEARNER, _OPTIMIZER, _RANDOM = "learner.", "optimizer.", "random.torch"


@dataclass(frozen=True)
class Results:
    """How a run ended.

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


def train(config: TrainConfig, out: str | Path, *, resume: bool = False, console: Console | None = None) -> Results:
    """Meta-train a learner, then test the one that did best in validation.

    The same settings give the same files, byte for byte on the same CPU, whether or not the run was
    interrupted and resumed. The global random state is left as it was; the number of threads is set where
    ``config.threads`` says so.

    Args:
        config: the settings.
        out: the folder of the run; made when everything is known to be in order.
        resume: go on with the run in ``out``, from its last checkpoint.
        console: where to report; default: standard output.

    Raises:
        ValueError: the data has too few classes or images; the run in ``out`` has other settings, or a
            damaged checkpoint; the loss is no longer finite.
        FileExistsError: ``out`` holds a run, and ``resume`` is not set.
        FileNotFoundError: the data, or the run to resume, is not there.
        KeyboardInterrupt: after Ctrl-C; the last checkpoint is saved first.
    """
    config = replace(config, data=absolute(config.data))
    out = Path(out)
    _check_folder(out, config, resume)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = load(config.data)
    training = _episodes(config, data, "train", config.shot, config.iterations * config.batch)
    validation = _episodes(config, data, "validation", config.shot, config.validation_episodes)
    tests = [_episodes(config, data, "test", shot, config.test_episodes) for shot in config.test_shots]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        learner = Learner(config, data.images.shape[1]).to(_device(config.device))
        run = _Run(out, config, learner, console or Console(), resume)
        run.loop(training, validation)
        return run.finish(tests)


def load_run(out: str | Path) -> tuple[Learner, TrainConfig]:
    """The learner of a run that did best in validation so far, on the CPU, and the run's settings.

    Raises:
        FileNotFoundError: there is no such run, or it has not come to its first validation.
        ValueError: its checkpoint is damaged.
    """
    path = Path(out) / _BEST
    tensors, about = checkpoint.load(path)
    try:
        config = TrainConfig.from_json(about.get("config"))
        first = tensors[_LEARNER + "encoder.blocks.0.0.weight"]
        with torch.device("meta"):  # to compare shapes before any memory is taken
            learner = Learner(config, first.shape[1])
        state = learner.state_dict()
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"checkpoint: {path} is damaged: {error}") from error
    checkpoint.check(state, _with_prefix(tensors, _LEARNER), path)
    learner = Learner(config, first.shape[1])
    learner.load_state_dict(_with_prefix(tensors, _LEARNER))
    return learner.eval(), config


class _Run:
    """A run in its folder: steps, what is written of them, and the tests at the end."""

    def __init__(self, out: Path, config: TrainConfig, learner: Learner, console: Console, resume: bool) -> None:
        self.out, self.config, self.learner, self.console = out, config, learner, console
        self.optimizer = torch.optim.Adam(learner.parameters(), lr=config.learning_rate)
        self.progress = _Progress()
        if resume:
            self._restore()
        else:
            out.mkdir(parents=True, exist_ok=True)
            checkpoint.write_json(out / _CONFIG, config.as_json())

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
                measured = self._step(training)
                bar.update(task, completed=progress.iteration)
                if self._due(config.log_every):
                    self._log("train", measured)
                validated = self._due(config.validate_every)
                if validated:
                    rate = (progress.iteration - first) / (time.monotonic() - start)
                    self._validate(validation, measured["loss"], rate)
                if validated or self._due(config.save_every) or interrupted():
                    self._save()
                if interrupted():
                    raise KeyboardInterrupt

    def finish(self, tests: list[Episodes]) -> Results:
        """Test the best learner; write and show the results."""
        checkpoint.write(self.out / _CURVES, report.curves(_read_metrics(self.out / _METRICS)))
        learner, _ = load_run(self.out)
        learner.to(self.learner.device)
        features = encode(learner, tests[0].data, "test")
        results = Results(
            self.progress.best_iteration,
            self.progress.best_accuracy,
            tuple(evaluate(learner, features, episodes) for episodes in tests),
        )
        checkpoint.write_json(self.out / _RESULTS, asdict(results))
        validation = report.percent(results.validation)
        title = f"Test of the learner of iteration {results.iteration} (validation {validation})"
        self.console.print(report.table(results.tests, title))
        return results

    def _step(self, training: Episodes) -> dict[str, float | None]:
        config, done = self.config, self.progress.iteration
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 + math.cos(math.pi * done / config.iterations)) / 2
        batch = training.images(training.batch(done * config.batch, (done + 1) * config.batch))
        self.learner.train()
        output = self.learner(batch, config.way)
        labels = batch.query_labels.to(self.learner.device)
        loss = F.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"iteration {done + 1}: the loss is {loss.item()}; try a lower learning_rate")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.progress.iteration += 1
        return {
            "loss": loss.item(),
            "accuracy": (output.logits.argmax(-1) == labels).double().mean().item(),
            "features_used": (~output.sparsity).double().mean().item(),
            "certified": self.learner.certified(),
        }

    def _validate(self, validation: Episodes, loss: float | None, rate: float) -> None:
        features = encode(self.learner, validation.data, "validation")
        result = evaluate(self.learner, features, validation)
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
            about = {"iteration": progress.iteration, "accuracy": result.accuracy, "config": config.as_json()}
            checkpoint.save(self.out / _BEST, _prefixed(_LEARNER, self.learner.state_dict()), about)

    def _due(self, every: int) -> bool:
        return self.progress.iteration % every == 0 or self.progress.iteration == self.config.iterations

    def _log(self, split: str, values: Mapping[str, float | None]) -> None:
        line = json.dumps({"iteration": self.progress.iteration, "split": split, **values})
        with (self.out / _METRICS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint must not be ahead of its metrics

    def _save(self) -> None:
        tensors = {
            **_prefixed(_LEARNER, self.learner.state_dict()),
            **_prefixed(_OPTIMIZER, checkpoint.optimizer_tensors(self.optimizer)),
            _RANDOM: torch.get_rng_state(),
        }
        checkpoint.save(self.out / _LAST, tensors, asdict(self.progress))

    def _restore(self) -> None:
        path = self.out / _LAST
        if path.exists():  # else the run ended before its first checkpoint
            tensors, about = checkpoint.load(path)
            try:
                self.progress = _Progress(*(about[name] for name in asdict(self.progress)))
                if not 0 <= self.progress.best_iteration <= self.progress.iteration <= self.config.iterations:
                    raise ValueError(f"iterations {about}")
                torch.set_rng_state(tensors[_RANDOM])
            except (ValueError, TypeError, KeyError, RuntimeError) as error:
                raise ValueError(f"checkpoint: {path} is damaged: {error}") from error
            state = _with_prefix(tensors, _LEARNER)
            checkpoint.check(self.learner.state_dict(), state, path)
            self.learner.load_state_dict(state)
            checkpoint.fill_optimizer(self.optimizer, _with_prefix(tensors, _OPTIMIZER), path)
        metrics = self.out / _METRICS
        kept = [line for line in _read_metrics(metrics) if line["iteration"] <= self.progress.iteration]
        checkpoint.write(metrics, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


def _check_folder(out: Path, config: TrainConfig, resume: bool) -> None:
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


def _episodes(config: TrainConfig, data: FewShotData, split: str, shot: int, length: int) -> Episodes:
    return Episodes(data, split, way=config.way, shot=shot, query=config.query, seed=config.seed, length=length)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch built without CUDA
        raise ValueError(f"device: {name!r} is not available: {str(error).splitlines()[0]}") from error
    return device


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # the line that was being written when the process was killed
                break
    return lines


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
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
