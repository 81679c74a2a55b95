"""Tables for the console, and the comparison in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sparsedis.data.checksums import File
from sparsedis.data.dataset import FewShotData, repeated
from sparsedis.data.sources import SOURCES, resolve
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import Evaluation
from sparsedis.metalearn.omniglot_one_shot import OneShot
from sparsedis.metalearn.profile import Profile
from sparsedis.metalearn.results import Entry


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}%"


def evaluations(results: Sequence[Evaluation], title: str) -> Table:
    """One row per evaluation."""
    table = Table(title=title)
    table.add_column("task")
    for heading in ("episodes", "accuracy", "features used", "certified", "ECE"):
        table.add_column(heading, justify="right")
    for one in results:
        table.add_row(
            f"{one.way}-way {one.shot}-shot",
            str(one.episodes),
            f"{percent(one.accuracy, 2)} ± {100 * one.ci95:.2f}",
            percent(one.features_used),
            percent(one.certified),
            percent(one.calibration_error),
        )
    return table


def one_shot(result: OneShot) -> Table:
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


def profile(measured: Profile, config: TrainConfig) -> Table:
    """Median time of every part of a step, and its fraction of the whole."""
    table = Table(title=f"A step of {config.batch} tasks, {config.way}-way {config.shot}-shot, {config.encoder}")
    for heading in ("part", "ms", "fraction"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    medians = measured.medians()
    for name, value in medians.items():
        table.add_row(name, f"{value:.1f}", percent(measured.fraction(name)))
    table.add_section()
    table.add_row("all", f"{sum(medians.values()):.1f}", percent(1.0))
    solve = percent(measured.fraction("head forward", "head backward"))
    table.caption = f"{config.head}, forward and backward: {solve}"
    return table


def sources() -> Table:
    """The data sets that have a name on the command line."""
    table = Table(title="Data sets")
    for heading in ("name", "what it is", "what is needed at PATH"):
        table.add_column(heading)
    for name, source in SOURCES.items():
        table.add_row(source.usage(name), source.title, source.needs or "nothing: it comes with the package")
    return table


def print_source(console: Console, spec: str) -> None:
    """Print what a data set needs, and where it is looked for."""
    name, path = resolve(spec)
    source = SOURCES[name]
    for text in (
        source.title,
        f"needs: {source.needs or 'nothing, it comes with the package'}",
        *([f"looked for at: {path}"] if path else []),
        *([f"expected classes: {', '.join(map(str, source.counts))}"] if source.counts else []),
    ):
        console.print(text, soft_wrap=True, markup=False, highlight=False)


def files(found: Sequence[File]) -> Table:
    """The files of a data set, with their digests."""
    table = Table()
    table.add_column("file")
    table.add_column("bytes", justify="right")
    table.add_column("SHA-256", overflow="fold")
    table.add_column("digest")
    for file in found:
        verdict = {None: "not known", True: "as known", False: "WRONG"}[file.known]
        table.add_row(file.path.name, f"{file.size:,}", file.sha256, verdict)
    return table


def counts(data: FewShotData) -> Table:
    """Classes and images of every split, and how many of these are in another class too."""
    table = Table(title=f"{data.name}: inputs of shape {'x'.join(map(str, data.images.shape[1:]))}")
    table.add_column("split")
    for heading in ("classes", "images", "also in another class"):
        table.add_column(heading, justify="right")
    doubled = repeated(data)
    for split, (classes, images) in data.counts().items():
        table.add_row(split, f"{classes:,}", f"{images:,}", f"{doubled[split]:,}")
    return table


def comparison(entries: Sequence[Entry]) -> str:
    """A table in Markdown, one row per entry."""
    kinds = list(entries[0].tests)
    lines = [
        "| head | " + " | ".join(f"{kind} | features used" for kind in kinds) + " | certified |",
        "|---|" + "---|---|" * len(kinds) + "---|",
    ]
    for entry in entries:
        cells = [entry.label]
        for kind in kinds:
            test = entry.tests[kind]
            cells += [f"{100 * test.accuracy:.2f} ± {100 * test.ci95:.2f}", f"{100 * test.features_used:.1f}%"]
        certified = [test.certified for test in entry.tests.values()]
        cells.append("-" if certified[0] is None else f"{100 * min(c for c in certified if c is not None):.1f}%")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
