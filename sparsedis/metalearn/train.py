"""Meta-training: the outer loop over episodes. A run lives in one folder; see :mod:`sparsedis.metalearn.loop`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch.nn import functional as F

from sparsedis.data.dataset import FewShotData, absolute, load
from sparsedis.data.episodes import Episodes
from sparsedis.metalearn import checkpoint, loop, report
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import Evaluation, encode, evaluate
from sparsedis.metalearn.learner import Learner


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
class _Progress(loop.Progress):
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
    loop.check_folder(out, config, resume)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = load(config.data)
    training = _episodes(config, data, "train", config.shot, config.iterations * config.batch)
    validation = _episodes(config, data, "validation", config.shot, config.validation_episodes)
    tests = [_episodes(config, data, "test", shot, config.test_episodes) for shot in config.test_shots]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        learner = Learner(config, data.images.shape[1]).to(loop.device_named(config.device))
        run = _Run(out, config, learner, training, validation, console or Console(), resume)
        run.run(
            f"{config.head} on {data.name}: {config.way}-way {config.shot}-shot, "
            f"iterations {run.progress.iteration} to {config.iterations}, in {out}"
        )
        return run.finish(tests)


def load_run(out: str | Path) -> tuple[Learner, TrainConfig]:
    """The learner of a run that did best in validation so far, on the CPU, and the run's settings.

    Raises:
        FileNotFoundError: there is no such run, or it has not come to its first validation.
        ValueError: its checkpoint is damaged.
    """
    path = Path(out) / loop.BEST
    tensors, about = checkpoint.load(path)
    try:
        config = TrainConfig.from_json(about.get("config"))
        first = tensors[loop.LEARNER + "encoder.blocks.0.0.weight"]
        with torch.device("meta"):  # to compare shapes before any memory is taken
            learner = Learner(config, first.shape[1])
        state = learner.state_dict()
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"checkpoint: {path} is damaged: {error}") from error
    checkpoint.check(state, loop.with_prefix(tensors, loop.LEARNER), path)
    learner = Learner(config, first.shape[1])
    learner.load_state_dict(loop.with_prefix(tensors, loop.LEARNER))
    return learner.eval(), config


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
        validation: Episodes,
        console: Console,
        resume: bool,
    ) -> None:
        self.training, self.validation = training, validation
        optimizer = torch.optim.Adam(learner.parameters(), lr=config.learning_rate)
        super().__init__(out, config, learner, optimizer, _Progress(), console, resume)

    def finish(self, tests: list[Episodes]) -> Results:
        """Test the best learner; write and show the results."""
        checkpoint.write(self.out / loop.CURVES, report.curves(self.metrics()))
        learner, _ = load_run(self.out)
        learner.to(self.learner.device)
        features = encode(learner, tests[0].data, "test")
        results = Results(
            self.progress.best_iteration,
            self.progress.best_accuracy,
            tuple(evaluate(learner, features, episodes) for episodes in tests),
        )
        checkpoint.write_json(self.out / loop.RESULTS, asdict(results))
        validation = report.percent(results.validation)
        title = f"Test of the learner of iteration {results.iteration} (validation {validation})"
        self.console.print(report.table(results.tests, title))
        return results

    def advance(self) -> dict[str, float | None]:
        config, training, done = self.config, self.training, self.progress.iteration
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

    def validate(self, measured: dict[str, float | None], rate: float) -> None:
        features = encode(self.learner, self.validation.data, "validation")
        result = evaluate(self.learner, features, self.validation)
        progress, config = self.progress, self.config
        self.log(
            "validation",
            {
                "accuracy": result.accuracy,
                "ci95": result.ci95,
                "features_used": result.features_used,
                "certified": result.certified,
            },
        )
        self.say(
            f"iteration {progress.iteration}/{config.iterations}: loss {measured['loss']:.3f}, validation "
            f"{report.percent(result.accuracy)} ± {100 * result.ci95:.1f}, features used "
            f"{report.percent(result.features_used)}, certified {report.percent(result.certified)}; "
            f"{rate:.1f} steps/s, {(config.iterations - progress.iteration) / rate:.0f} s left"
        )
        if result.accuracy > progress.best_accuracy:
            progress.best_accuracy = result.accuracy
            about = {"iteration": progress.iteration, "accuracy": result.accuracy, "config": config.as_json()}
            self.keep(about)


def _episodes(config: TrainConfig, data: FewShotData, split: str, shot: int, length: int) -> Episodes:
    return Episodes(data, split, way=config.way, shot=shot, query=config.query, seed=config.seed, length=length)
