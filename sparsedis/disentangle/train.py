"""The outer loop: an encoder trained through the regressions that tasks fit on its features."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from sparsedis.disentangle import figures, metrics, shapes3d, tables
from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.disentangle.factors import Factors
from sparsedis.disentangle.results import CORRELATIONS, SECONDS, Results, seconds
from sparsedis.disentangle.tasks import TaskBatch, TaskDistribution, Tasks
from sparsedis.lasso import lasso_lambda1_max, solve_lasso
from sparsedis.models.factor_encoder import FactorEncoder
from sparsedis.ridge import solve_ridge
from sparsedis.runs import files, folder, loop, schedule
from sparsedis.runs.device import device_named, set_threads

_IMAGES_AT_ONCE = 250
_UNIFORM_STREAM, _TRAINING_STREAM = 5, 6  # of the seed: images that the metrics are computed on
_WARM_UP = 50  # steps over which the learning rate rises, because Adam's first steps would be its largest


class Outcome(NamedTuple):
    """Of a batch of tasks: the loss to minimise, the fractions of features used and of tasks certified."""

    loss: Tensor
    used: float
    certified: float


def train(
    config: DisentangleConfig, out: str | Path, *, resume: bool = False, console: Console | None = None
) -> Results:
    """Train an encoder, then measure the one with the best validation.

    The same settings give the same files, byte for byte on the same CPU (but for seconds.json), whether or not the run
    was interrupted and resumed. The global random state is left as it was; the number of threads is set if
    ``config.threads`` is.

    Args:
        config: the settings.
        out: the folder of the run; created after everything has been checked.
        resume: continue the run in ``out`` from its last checkpoint.
        console: where to report; default: standard output.

    Raises:
        ValueError: the run in ``out`` has other settings, or a damaged checkpoint; the loss is no longer finite.
        FileExistsError: ``out`` holds a run, and ``resume`` is not set.
        FileNotFoundError: the data, or the run to resume, is not there.
        ImportError: scipy or scikit-learn is not installed.
        KeyboardInterrupt: after Ctrl-C; the last checkpoint is saved first.
    """
    metrics.check_installed()
    config = replace(config, data=shapes3d.absolute(config.data))
    out = Path(out)
    folder.check(out, config, resume)
    set_threads(config.threads)
    source = shapes3d.open_source(config.data)
    device = device_named(config.device)
    world = World(config, source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = FactorEncoder(config.features).to(device)
        run = _Run(out, config, encoder, world, console or Console(), resume)
        run.run(
            f"inner {config.inner}, rho {config.rho:g}, lambda1 {config.lambda1:g}, tasks {config.tasks}: "
            f"iterations {run.progress.iteration} to {config.iterations}, in {out}"
        )
        return run.finish()


def load_run(out: str | Path) -> tuple[FactorEncoder, DisentangleConfig]:
    """The encoder of a run with the best validation so far, on the CPU, and the settings of the run.

    Raises:
        FileNotFoundError: there is no such run, or it has not reached its first validation.
        ValueError: its checkpoint is damaged.
    """

    def build(metadata: Mapping[str, Any]) -> tuple[FactorEncoder, DisentangleConfig]:
        config = DisentangleConfig.from_json(metadata.get("config"))
        return FactorEncoder(config.features), config

    return folder.load_best(out, build)


def outer_loss(features: Tensor, targets: Tensor, config: DisentangleConfig) -> Outcome:
    """Fit the regression of every task and return its outer loss.

    The loss is half the mean squared error, plus the outer penalties, averaged over tasks. Penalties are relative: to
    the Lasso's lambda1_max, and to the mean squared norm of the features; both are constants in the gradient.

    Args:
        features: (G, n, d), the inner samples first.
        targets: (G, T, n).
        config: the settings.

    Source: Lachapelle et al., ICML 2023, problem (8).
    """
    groups, tasks, n = targets.shape
    x = features[:, None].expand(-1, tasks, -1, -1).reshape(groups * tasks, n, -1)
    y = targets.reshape(groups * tasks, n)
    cut = config.inner_samples if config.split else n
    inner_x, inner_y = x[:, :cut], y[:, :cut]
    outer_x, outer_y = (x[:, cut:], y[:, cut:]) if config.split else (x, y)
    if config.inner == "ridge" and config.lambda1:
        solution = solve_ridge(inner_x, inner_y, lambda2=config.lambda1, relative=True)
    else:  # at lambda1 0 both are least squares
        solution = solve_lasso(inner_x, inner_y, lambda1=config.lambda1, relative=True)
    w = solution.weights
    error = (outer_x @ w[..., None])[..., 0] - outer_y
    loss = error.square().mean() / 2
    if config.outer_l1:
        scale = lasso_lambda1_max(outer_x, outer_y).to(w.dtype)
        loss = loss + config.outer_l1 * (scale * w.abs().sum(-1)).mean()
    if config.outer_l2:
        scale = outer_x.detach().square().sum(-1).mean(-1)
        loss = loss + config.outer_l2 / 2 * (scale * w.square().sum(-1)).mean()
    used = (w != 0).double().mean().item()
    return Outcome(loss, used, solution.certified.double().mean().item())


class World:
    """The images, factors and tasks of a run."""

    def __init__(self, config: DisentangleConfig, source: shapes3d.Shapes3D) -> None:
        self.source, self.config = source, config
        self.factors = Factors(config.factors, config.rho, config.noise, config.seed)
        self.distribution = TaskDistribution(config.tasks, seed=config.seed)
        self.training = self._tasks("train", config.groups, config.group_tasks)
        self.validation = self._tasks("validation", 4, 32)
        self.test = self._tasks("test", 4, 32)
        # Validations measure the first fifth.
        self.uniform = self._generator(_UNIFORM_STREAM).integers(shapes3d.COUNT, size=config.measured_images)

    def _tasks(self, split: str, groups: int, tasks: int) -> Tasks:
        config = self.config
        return Tasks(
            self.factors,
            self.distribution,
            split,
            groups=groups,
            tasks=tasks,
            samples=config.inner_samples + config.outer_samples,
            target_noise=config.target_noise,
            seed=config.seed,
        )

    def _generator(self, stream: int) -> Generator:
        return Generator(PCG64(SeedSequence([self.config.seed, stream])))

    def images(self, indices: Tensor, device: torch.device) -> Tensor:
        """(N, 3, 64, 64) float32 from 0 to 1."""
        return self.source.images(indices).to(device).float().div_(255)

    def features(self, encoder: FactorEncoder, batch: TaskBatch, device: torch.device) -> Tensor:
        """(G, n, d), in one pass, so that the batch normalisation has the statistics of all samples."""
        groups, n = batch.indices.shape
        return encoder(self.images(batch.indices.flatten(), device)).reshape(groups, n, -1)

    @torch.no_grad()
    def encode(self, encoder: FactorEncoder, indices: Tensor, device: torch.device) -> NDArray[np.float64]:
        """(N, d) with the running statistics of the normalisation."""
        training = encoder.training
        encoder.eval()
        parts = [encoder(self.images(part, device)).cpu() for part in indices.split(_IMAGES_AT_ONCE)]
        encoder.train(training)
        return torch.cat(parts).double().numpy()

    @torch.no_grad()
    def evaluate(self, encoder: FactorEncoder, tasks: Tasks, batches: int, device: torch.device) -> Outcome:
        """Means over the first batches of ``tasks``."""
        training = encoder.training
        encoder.eval()
        outcomes = []
        for index in range(batches):
            batch = tasks.batch(index)
            features = self.features(encoder, batch, device)
            outcomes.append(outer_loss(features, batch.targets.to(device), self.config))
        encoder.train(training)
        loss = torch.stack([one.loss for one in outcomes]).mean()
        used, certified = (sum(column) / batches for column in list(zip(*outcomes, strict=True))[1:])
        return Outcome(loss, used, certified)

    def training_images(self, count: int) -> Tensor:
        """Indices of images drawn from the training distribution, for FastICA."""
        return self.factors.sample(self._generator(_TRAINING_STREAM), (count,))


@dataclass
class _Progress(loop.Progress):
    best_loss: float | None = None
    without_progress: int = 0  # number of validations since the best one


class _Run(loop.Loop):
    """A run in its folder: steps, validations, and the metrics at the end."""

    config: DisentangleConfig
    learner: FactorEncoder
    progress: _Progress

    def __init__(
        self,
        out: Path,
        config: DisentangleConfig,
        encoder: FactorEncoder,
        world: World,
        console: Console,
        resume: bool,
    ) -> None:
        self.world = world
        self.device = next(encoder.parameters()).device
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self._start = time.monotonic() - seconds(out)
        super().__init__(out, config, encoder, optimizer, _Progress(), console, resume)

    def saved(self) -> None:
        files.write_json(self.out / SECONDS, round(time.monotonic() - self._start, 3))

    def finished(self) -> bool:
        patience = self.config.patience
        return super().finished() or (patience > 0 and self.progress.without_progress >= patience)

    def learning_rate(self) -> float:
        config, done = self.config, self.progress.iteration
        rate = config.learning_rate * min(1.0, (done + 1) / _WARM_UP)
        return rate * schedule.cosine(done, config.iterations) if config.schedule == "cosine" else rate

    def advance(self) -> dict[str, float | None]:
        batch = self.world.training.batch(self.progress.iteration)
        self.learner.train()
        features = self.world.features(self.learner, batch, self.device)
        outcome = outer_loss(features, batch.targets.to(self.device), self.config)
        self.check_finite(outcome.loss.item())
        self.optimizer.zero_grad()
        outcome.loss.backward()
        self.optimizer.step()
        return {"loss": outcome.loss.item(), "features_used": outcome.used, "certified": outcome.certified}

    def validate(self, measured: dict[str, float | None], rate: float) -> None:
        world, config, progress = self.world, self.config, self.progress
        outcome = world.evaluate(self.learner, world.validation, config.validation_batches, self.device)
        chosen = torch.from_numpy(world.uniform[: max(len(world.uniform) // 5, 20)])
        z = world.factors.values[chosen].numpy()
        f = world.encode(self.learner, chosen, self.device)
        loss, mcc, r = outcome.loss.item(), metrics.mcc(z, f), metrics.r_score(z, f)
        values = {"loss": loss, "mcc": mcc, "r": r, "features_used": outcome.used, "certified": outcome.certified}
        self.log("validation", values)
        self.report(
            f"loss {measured['loss']:.4f}, validation {loss:.4f}, MCC {mcc:.3f}, R {r:.3f}, "
            f"features used {100 * outcome.used:.1f}%",
            rate,
        )
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.without_progress = loss, 0
            self.keep({"iteration": progress.iteration, "loss": loss, "config": config.as_json()})
        else:
            progress.without_progress += 1

    def finish(self) -> Results:
        """Test and measure the best learner; write and print the results."""
        world, config = self.world, self.config
        encoder, _ = load_run(self.out)
        encoder.to(self.device)
        outcome = world.evaluate(encoder, world.test, config.test_batches, self.device)
        chosen = torch.from_numpy(world.uniform)
        z = world.factors.values[chosen].double().numpy()
        f = world.encode(encoder, chosen, self.device)
        training = world.encode(encoder, world.training_images(config.measured_images), self.device)
        transformed = metrics.ica(training, f, seed=config.seed)
        dci = metrics.dci(z, f, seed=config.seed)
        matched = [int(i) for i in metrics.assignment(z, f) if i >= 0]
        order = [*matched, *(i for i in range(f.shape[1]) if i not in matched)]
        results = Results(
            iteration=self.progress.best_iteration,
            iterations=self.progress.iteration,
            validation_loss=float(self.progress.best_loss or 0.0),
            test_loss=outcome.loss.item(),
            features_used=outcome.used,
            certified=outcome.certified,
            mcc=metrics.mcc(z, f),
            mcc_spearman=metrics.mcc(z, f, "spearman"),
            r=metrics.r_score(z, f),
            disentanglement=dci.disentanglement,
            completeness=dci.completeness,
            informativeness=dci.informativeness,
            mcc_ica=metrics.mcc(z, transformed),
            r_ica=metrics.r_score(z, transformed),
            correlations=metrics.correlations(z, f)[:, order].tolist(),
        )
        files.write(self.out / folder.CURVES, figures.curves(self.metrics()))
        title = f"inner {config.inner}, rho {config.rho:g}, lambda1 {config.lambda1:g}: MCC {results.mcc:.3f}"
        files.write(self.out / CORRELATIONS, figures.heat_map(results.correlations, shapes3d.FACTORS, title))
        self.saved()
        files.write_json(self.out / folder.RESULTS, asdict(results))  # last: it marks the run as finished
        self.console.print(tables.table(results, f"Learner of iteration {results.iteration}, factors drawn uniformly"))
        return results
