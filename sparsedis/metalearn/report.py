"""What a person reads of a run: the curves and the table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sparsedis.data.checksums import File
from sparsedis.data.dataset import FewShotData
from sparsedis.data.sources import SOURCES, resolve
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import Details, Evaluation
from sparsedis.metalearn.one_shot import OneShot
from sparsedis.metalearn.profile import Profile
from sparsedis.runs import plots


def percent(share: float | None, digits: int = 1) -> str:
    """A fraction as a percentage; a dash for None."""
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def table(evaluations: Sequence[Evaluation], title: str) -> Table:
    """One row per evaluation."""
    result = Table(title=title)
    result.add_column("task")
    for heading in ("episodes", "accuracy", "features used", "certified", "ECE"):
        result.add_column(heading, justify="right")
    for one in evaluations:
        result.add_row(
            f"{one.way}-way {one.shot}-shot",
            str(one.episodes),
            f"{percent(one.accuracy, 2)} ± {100 * one.ci95:.2f}",
            percent(one.features_used),
            percent(one.certified),
            percent(one.calibration_error),
        )
    return result


def one_shot_table(result: OneShot) -> Table:
    """One row per run, and one for all."""
    table = Table(title="Omniglot, within-alphabet one-shot classification")
    table.add_column("run")
    table.add_column("error", justify="right")
    for name, error in result.error_per_run.items():
        table.add_row(name, percent(error))
    table.add_section()
    table.add_row(f"all {len(result.error_per_run)}", percent(result.error, 2))
    table.caption = f"features used {percent(result.features_used)}, solves certified {percent(result.certified)}"
    return table


def profile_table(profile: Profile, config: TrainConfig) -> Table:
    """Median time and share of every part of a step."""
    table = Table(title=f"A step of {config.batch} tasks, {config.way}-way {config.shot}-shot, {config.encoder}")
    for heading in ("part", "ms", "share"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    medians = profile.medians()
    for name, value in medians.items():
        table.add_row(name, f"{value:.1f}", percent(profile.share(name)))
    table.add_section()
    table.add_row("all", f"{sum(medians.values()):.1f}", percent(1.0))
    solve = percent(profile.share("head forward", "head backward"))
    table.caption = f"{config.head}, forward and backward: {solve}"
    return table


def patterns(details: Details, class_names: Sequence[str]) -> bytes:
    """A .npz file of the features that every task uses."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        active=details.active.numpy(),
        classes=details.classes.numpy(),
        accuracy=details.accuracy.numpy(),
        class_names=np.array(class_names),
    )
    return content.getvalue()


def sources_table() -> Table:
    """The data sets that have a name."""
    table = Table(title="Data sets")
    for heading in ("name", "what it is", "what is needed at PATH"):
        table.add_column(heading)
    for name, source in SOURCES.items():
        table.add_row(source.usage(name), source.title, source.needs or "nothing: it comes with the package")
    return table


def say_source(console: Console, spec: str) -> None:
    """What a data set needs, and where it is looked for."""
    name, path = resolve(spec)
    source = SOURCES[name]
    for text in (
        source.title,
        f"needs: {source.needs or 'nothing, it comes with the package'}",
        *([f"looked for at: {path}"] if path else []),
        *([f"expected classes: {', '.join(map(str, source.counts))}"] if source.counts else []),
    ):
        console.print(text, soft_wrap=True, markup=False, highlight=False)


def files_table(files: Sequence[File]) -> Table:
    """The files of a data set, with their digests."""
    table = Table()
    table.add_column("file")
    table.add_column("bytes", justify="right")
    table.add_column("SHA-256", overflow="fold")
    table.add_column("digest")
    for file in files:
        verdict = {None: "not known", True: "as known", False: "WRONG"}[file.known]
        table.add_row(file.path.name, f"{file.size:,}", file.sha256, verdict)
    return table


def counts_table(data: FewShotData) -> Table:
    """Classes and images of every split."""
    table = Table(title=f"{data.name}: inputs of shape {'x'.join(map(str, data.images.shape[1:]))}")
    table.add_column("split")
    for heading in ("classes", "images"):
        table.add_column(heading, justify="right")
    for split, (classes, images) in data.counts().items():
        table.add_row(split, f"{classes:,}", f"{images:,}")
    return table


def curves(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG image of the lines of metrics.jsonl: accuracy, and the share of features used, by iteration."""
    figure = plots.figure(9, 3.5)
    panels = figure.subplots(1, 2)
    for panel, key, label in zip(panels, ("accuracy", "features_used"), ("accuracy", "features used"), strict=True):
        for split in ("train", "validation"):
            plots.curve(panel, lines, split, key)
        panel.set(xlabel="iteration", ylabel=label, ylim=(0, 1.02))
        panel.grid(alpha=0.3)
    panels[0].legend()
    return plots.png(figure)


def board(path: Path, done: int) -> Any:
    """A writer of TensorBoard files; what was written of steps after ``done`` is hidden.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("tensorboard: needs TensorBoard; pip install 'sparsedis[fewshot]'") from error
    return SummaryWriter(str(path), purge_step=done + 1)
