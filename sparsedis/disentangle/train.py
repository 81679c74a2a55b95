"""The outer loop: an encoder trained through the regressions that are fitted to its features."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from sparsedis.disentangle import figures, metrics, report, shapes3d, tables
from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.disentangle.results import CORRELATIONS, Results
from sparsedis.disentangle.world import Outcome as Outcome
from sparsedis.disentangle.world import World, outer_loss
from sparsedis.disentangle.world import load_run as load_run
from sparsedis.models.factor_encoder import FactorEncoder
from sparsedis.runs import files, folder, loop, schedule
from sparsedis.runs.device import device_named, set_threads
from sparsedis.runs.report import write_on_exit
from sparsedis.runs.tables import console as standard_output

_WARM_UP = 50  # steps of learning-rate warm-up, since Adam's first steps would be its largest


def train(
    config: DisentangleConfig, out: str | Path, *, resume: bool = False, console: Console | None = None
) -> Results:
    """Train an encoder, then measure the one with the best validation.

    Equal settings give the same files, byte for byte on the same CPU (except seconds.json, environment.json and
    report.html, which depend on time and machine), whether or not the run was interrupted and resumed. The global
    random state is restored; the number of threads is changed if ``config.threads`` is set.

    Args:
        config: the settings.
        out: folder of the run; created after all checks.
        resume: continue the run in ``out`` from its last checkpoint.
        console: for output; default: standard output.

    Raises:
        ValueError: the run in ``out`` has other settings or is damaged; the run diverged.
        BlockingIOError: another process writes to ``out``.
        FileExistsError: ``out`` holds a run and ``resume`` is not set.
        FileNotFoundError: the data, or the run to resume, is missing.
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
        shown = console or standard_output()
        with folder.claim(out, config, resume):
            run = _Run(out, config, encoder, world, shown, resume)
            with write_on_exit(out, lambda: report.write_run(out, world), shown):
                run.run(_introduction(run))
                return run.finish()


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
        super().__init__(out, config, encoder, optimizer, _Progress(), console, resume)

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
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.learner.parameters(), self.config.clip_norm)
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
        """Test and measure the best learner, and write and print the results."""
        world, config = self.world, self.config
        encoder, _ = load_run(self.out)
        encoder.to(self.device)
        outcome = world.evaluate(encoder, world.test, config.test_batches, self.device)
        chosen = torch.from_numpy(world.uniform)
        z = world.factors.values[chosen].double().numpy()
        f = world.encode(encoder, chosen, self.device)
        training = world.encode(encoder, world.training_images(config.measured_images), self.device)
        transformed, ica_missing = None, None
        try:
            transformed = metrics.ica(training, f, seed=config.seed)
        except ValueError as error:  # raised for features that FastICA cannot unmix; the other results remain valid
            ica_missing = str(error)
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
            largest_gap=outcome.largest_gap,
            mcc=metrics.mcc(z, f),
            mcc_spearman=metrics.mcc(z, f, "spearman"),
            r=metrics.r_score(z, f),
            disentanglement=dci.disentanglement,
            completeness=dci.completeness,
            informativeness=dci.informativeness,
            mcc_ica=None if transformed is None else metrics.mcc(z, transformed),
            r_ica=None if transformed is None else metrics.r_score(z, transformed),
            ica_missing=ica_missing,
            correlations=metrics.correlations(z, f)[:, order].tolist(),
        )
        files.write(self.out / folder.CURVES, figures.curves(self.metrics()))
        title = f"inner {config.inner}, rho {config.rho:g}, lambda1 {config.lambda1:g}: MCC {results.mcc:.3f}"
        files.write(self.out / CORRELATIONS, figures.heat_map(results.correlations, shapes3d.FACTORS, title))
        self.clock.save()
        files.write_json(self.out / folder.RESULTS, asdict(results))  # written last, as it marks the run as finished
        self.console.print(tables.table(results, f"Learner of iteration {results.iteration}, factors drawn uniformly"))
        if results.ica_missing:
            self.say(f"FastICA: {results.ica_missing}")
        return results


def _introduction(run: _Run) -> str:
    """Description of the run, printed at its start."""
    config = run.config
    parameters = sum(parameter.numel() for parameter in run.learner.parameters())
    images = config.inner_samples + (0 if config.split else config.outer_samples)
    return "\n".join(
        (
            f"data: 3D Shapes ({config.data.partition(':')[0]}), whose factors have correlation {config.rho:g}",
            f"encoder: convolutional, {parameters:,} parameters, {config.features} features of an image",
            f"tasks: {config.tasks}; every task fits a {config.inner} regression (lambda1 {config.lambda1:g}) to the "
            f"features of {images} images",
            f"work: {config.groups * config.group_tasks} tasks per step, steps {run.progress.iteration} to "
            f"{config.iterations}, a validation every {config.validate_every}, then the metrics",
            f"results: in {run.out}; Ctrl-C saves a checkpoint and prints the resume command",
        )
    )
