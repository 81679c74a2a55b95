"""Meta-training: the outer loop over episodes.

In addition to the files of every run (:mod:`sparsedis.runs.folder`) and those of :mod:`sparsedis.metalearn.results`,
``config.tensorboard`` writes tensorboard/, the content of metrics.jsonl for TensorBoard. With several processes
(``torchrun``, ``accelerate launch``), each handles a part of the episodes of a step; only the first one writes files,
and all of them read the folder to resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from sparsedis.data import Episodes, FewShotData
from sparsedis.data.sources import absolute
from sparsedis.extras import need
from sparsedis.metalearn import figures, optimization, report, tables, tasks
from sparsedis.metalearn.config import HEAD_TITLES, TrainConfig
from sparsedis.metalearn.distributed import Processes, processes
from sparsedis.metalearn.evaluate import encode, evaluate, examine, patterns
from sparsedis.metalearn.learner import Learner
from sparsedis.metalearn.learner import load_run as load_run
from sparsedis.metalearn.results import PATTERNS, Results
from sparsedis.runs import files, folder, loop
from sparsedis.runs.device import set_threads
from sparsedis.runs.report import write_on_exit
from sparsedis.runs.tables import console as standard_output
from sparsedis.runs.tables import percent

_BOARD = "tensorboard"


@dataclass
class _Progress(loop.Progress):
    best_accuracy: float = -1.0


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    console: Console | None = None,
    encoder: nn.Module | None = None,
) -> Results:
    """Meta-train a learner, then test the one with the best validation, or without validation classes the last one.

    Equal settings give the same files, byte for byte on the same CPU (except seconds.json, environment.json and
    report.html, which depend on time and machine), whether or not the run was interrupted and resumed; and the same
    losses, up to rounding, in any number of processes. The global random state is restored; the number of threads is
    changed if ``config.threads`` is set.

    Args:
        config: the settings.
        out: folder of the run; created after all checks.
        resume: continue the run in ``out`` from its last checkpoint.
        console: for output; default: standard output.
        encoder: for ``config.encoder`` "custom": a module from images ``(N, *shape)`` to features (N, d); trained in
            place.

    Returns:
        The results of the tests.

    Raises:
        ValueError: the data has too few classes or images; the run in ``out`` has other settings or is damaged; the
            run diverged; the device is not available; the number of processes does not divide the batch.
        ImportError: an optional package is missing.
        BlockingIOError: another process writes to ``out``.
        FileExistsError: ``out`` holds a run and ``resume`` is not set.
        FileNotFoundError: the data, or the run to resume, is missing.
        KeyboardInterrupt: after Ctrl-C; the last checkpoint is saved first.
    """
    config = replace(config.settled(), data=absolute(config.data))
    out = Path(out)
    folder.check(out, config, resume)
    set_threads(config.threads)
    data = tasks.read(config)
    training = tasks.of_training(config, data, config.iterations * config.batch)
    validation, tests = tasks.of_validation(config, data), tasks.of_tests(config, data)
    group = processes(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        learner = Learner(config, data.images.shape[1:], encoder).to(group.device)
        group.barrier()  # all processes check the folder before one writes to it
        output = console or standard_output(quiet=not group.main)
        with folder.claim(out, config, resume, group.main):
            run = _Run(out, config, learner, training, validation, group, output, resume)
            report_writer = (
                write_on_exit(out, lambda: report.write_run(out, data, encoder), output)
                if group.main
                else nullcontext()
            )
            with report_writer:
                run.run(_introduction(run, data))
                return run.finish(tests, encoder)


class _Run(loop.Loop):
    """A run in its folder: steps, validations, and the tests at the end."""

    config: TrainConfig
    learner: Learner
    progress: _Progress

    def __init__(
        self,
        out: Path,
        config: TrainConfig,
        learner: Learner,
        training: Episodes,
        validation: Episodes | None,
        processes: Processes,
        console: Console,
        resume: bool,
    ) -> None:
        self.training, self.validation, self.processes = training, validation, processes
        optimizer = optimization.optimizer(config, learner)
        super().__init__(out, config, learner, optimizer, _Progress(), console, resume, processes.main)
        self._module, self._stepper = processes.prepare(learner, optimizer)
        self._board = (
            _tensorboard(out / _BOARD, self.progress.iteration) if config.tensorboard and processes.main else None
        )

    def finish(self, tests: list[Episodes], encoder: nn.Module | None) -> Results:
        """Test the best learner, and write and print the results."""
        if self._board is not None:
            self._board.close()
        self.processes.barrier()
        learner, _ = load_run(self.out, encoder)
        learner.to(self.learner.device)
        examined = []
        if tests:
            features = encode(learner, tests[0].data, "test", self.processes)
            examined = [examine(learner, features, episodes, self.processes) for episodes in tests]
        results = Results(
            self.progress.best_iteration,
            None if self.validation is None else self.progress.best_accuracy,
            tuple(evaluation for evaluation, _ in examined),
        )
        if self.main:
            files.write(self.out / folder.CURVES, figures.curves(self.metrics()))
            if tests:
                files.write(self.out / PATTERNS, patterns(examined[-1][1], tests[-1].data.class_names))
            self.clock.save()
            files.write_json(self.out / folder.RESULTS, asdict(results))
        if tests:
            chosen = "the last" if results.validation is None else f"validation {percent(results.validation)}"
            title = f"Test of the learner of iteration {results.iteration} ({chosen})"
            self.console.print(tables.evaluations(results.tests, title))
        else:
            self.say(report.NO_TESTS)
        self.processes.barrier()
        return results

    def learning_rate(self) -> float:
        return optimization.learning_rate(self.config, self.progress.iteration)

    def advance(self) -> dict[str, float | None]:
        config, processes, training = self.config, self.processes, self.training
        part = config.batch // processes.size
        first = self.progress.iteration * config.batch + processes.rank * part
        batch = training.raw(training.batch(first, first + part))
        self.learner.train()
        passes = config.batch // (config.micro_batch or config.batch)
        with self.learner.statistics.step(passes > 1, processes.mean):
            output = self._module(batch, config.way, first)
            labels = batch.query_labels.to(self.learner.device)
            loss = optimization.loss(config, output.logits, labels)
            all_support = slice(-len(labels), None)  # the logits of the fits to all support images
            accuracy = (output.logits[all_support].argmax(-1) == labels).double().mean()
            used = output.active[all_support].double().mean()
            certified = self.learner.certified()
            measured = torch.stack([loss.detach().double(), accuracy, used])
            fraction = measured.new_tensor([0.0 if certified is None else certified])
            values = processes.mean(torch.cat([measured, fraction])).tolist()
            self.check_finite(values[0])
            self._stepper.zero_grad()
            processes.backward(loss)
        if config.clip_norm is not None:
            processes.clip(self.learner, config.clip_norm)
        self._stepper.step()
        self.learner.step()
        names = ("loss", "accuracy", "features_used", "certified")
        logged: dict[str, float | None] = dict(zip(names, values, strict=True))
        return {**logged, "certified": None if certified is None else values[3]}

    def stopping(self, interrupted: bool) -> bool:
        """Whether any process has received SIGINT."""
        return self.processes.sum(torch.tensor(float(interrupted), device=self.learner.device)).item() > 0

    def state(self) -> dict[str, Any]:
        return self.processes.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.processes.restore(dict(state))

    def log(self, split: str, values: Mapping[str, Any]) -> None:
        if self._board is not None:
            for name, value in values.items():
                if value is not None:
                    self._board.add_scalar(f"{split}/{name}", value, self.progress.iteration)
        super().log(split, values)

    @property
    def validates(self) -> bool:
        return self.validation is not None

    def validate(self, measured: dict[str, float | None], rate: float) -> None:
        if self.validation is None:
            accuracy, used = percent(measured["accuracy"]), percent(measured["features_used"])
            self.report(f"loss {measured['loss']:.3f}, training accuracy {accuracy}, features used {used}", rate)
            self._save_best(None)
            return
        features = encode(self.learner, self.validation.data, "validation", self.processes)
        result = evaluate(self.learner, features, self.validation, self.processes)
        self.log(
            "validation",
            {
                "accuracy": result.accuracy,
                "ci95": result.ci95,
                "features_used": result.features_used,
                "certified": result.certified,
            },
        )
        self.report(
            f"loss {measured['loss']:.3f}, validation {tables.with_interval(result.accuracy, result.ci95, 1)}, "
            f"features used {percent(result.features_used)}, certified {percent(result.certified)}",
            rate,
        )
        if result.accuracy > self.progress.best_accuracy:
            self.progress.best_accuracy = result.accuracy
            self._save_best(result.accuracy)

    def _save_best(self, accuracy: float | None) -> None:
        """Save the learner as the one to test, with its validation accuracy."""
        metadata = {
            "iteration": self.progress.iteration,
            "accuracy": accuracy,
            "config": self.config.as_json(),
            "shape": list(self.learner.shape),
        }
        self.keep(metadata)


def _introduction(run: _Run, data: FewShotData) -> str:
    """Description of the run, printed at its start."""
    config = run.config
    train, validation, test = (classes for classes, _ in data.counts().values())
    validating = f"a validation every {config.validate_every}, " if validation else ""
    grouped = ", each within one group of classes" if config.episodes else ""
    chosen = f"{validation} to choose the best learner by" if validation else "none to choose among learners by"
    kind = "rows of features" if data.images.dim() == 2 else "images of " + "x".join(map(str, data.images.shape[1:]))
    shots = " and of ".join(map(str, reversed(config.training_shots)))
    parameters = sum(parameter.numel() for parameter in run.learner.encoder.parameters())
    return "\n".join(
        (
            f"data: {data.name}, {kind}; {train} classes to train on, {chosen}, {test} others to test it on",
            f"encoder: {config.encoder}, {parameters:,} parameters",
            f"head: {config.head}, {HEAD_TITLES[config.head]}; fitted to {config.way} classes of {shots} images "
            f"in every task, and judged by {config.query} other images of each",
            f"work: {config.batch} tasks per step{grouped}, steps {run.progress.iteration} to {config.iterations}, "
            f"{validating}then tests",
            f"results: in {run.out}; Ctrl-C saves a checkpoint and prints the resume command",
        )
    )


def _tensorboard(path: Path, done: int) -> Any:
    """A TensorBoard writer that hides what an earlier part of the run wrote for steps after ``done``.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    need("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(path), purge_step=done + 1)
