"""Tables for the console and for reports, and the comparison in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from sparsedis.data.checksums import File
from sparsedis.data.dataset import FewShotData, repeated
from sparsedis.data.sources import SOURCES, resolve
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import Evaluation
from sparsedis.metalearn.omniglot_one_shot import OneShot
from sparsedis.metalearn.profile import Profile
from sparsedis.metalearn.results import Entry
from sparsedis.runs.tables import Grid, percent, say


def with_interval(accuracy: float, ci95: float | None, digits: int = 2) -> str:
    """An accuracy as a percentage, with its 95% confidence interval if available."""
    return percent(accuracy, digits) + ("" if ci95 is None else f" ± {100 * ci95:.{digits}f}")


def evaluations(results: Sequence[Evaluation], title: str) -> Grid:
    """One row per evaluation."""
    rows = [
        (
            f"{one.way}-way {one.shot}-shot",
            str(one.episodes),
            with_interval(one.accuracy, one.ci95),
            percent(one.features_used),
            percent(one.certified),
            percent(one.calibration_error),
        )
        for one in results
    ]
    note = "A single episode has no interval." if any(one.ci95 is None for one in results) else ""
    return Grid(("task", "episodes", "accuracy", "features used", "certified", "ECE"), rows, title, note=note)


def one_shot(result: OneShot, lambda1: float | None = None) -> Grid:
    """One row per run, and one for all runs; ``lambda1`` if it differs from that of training."""
    rows = [(name, percent(error)) for name, error in result.error_per_run.items()]
    return Grid(
        ("run", "error"),
        [*rows, (f"all {len(rows)}", percent(result.error, 2))],
        title=f"Omniglot, within-alphabet one-shot classification{other_weight(lambda1)}",
        note=f"features used {percent(result.features_used)}, solves certified {percent(result.certified)}",
        rules=(len(rows),),
    )


def other_weight(lambda1: float | None) -> str:
    """Suffix of a title if the weight of the group Lasso differs from that of training."""
    return "" if lambda1 is None else f", lambda1 = {lambda1:g}"


def profile(measured: Profile, config: TrainConfig) -> Grid:
    """Median time of every part of a step, and its fraction of the total."""
    medians = measured.medians()
    rows = [(name, f"{value:.1f}", percent(measured.fraction(name))) for name, value in medians.items()]
    solve = percent(measured.fraction("head forward", "head backward"))
    return Grid(
        ("part", "ms", "fraction"),
        [*rows, ("all", f"{sum(medians.values()):.1f}", percent(1.0))],
        title=f"A step of {config.batch} tasks, {config.way}-way {config.shot}-shot, {config.encoder}",
        note=f"{config.head}, forward and backward: {solve}",
        rules=(len(rows),),
    )


def sources() -> Grid:
    """The data sets available by name on the command line."""
    rows = [
        (source.usage(name), source.title, source.needs or "nothing: it comes with the package")
        for name, source in SOURCES.items()
    ]
    return Grid(("name", "what it is", "what is needed at PATH"), rows, "Data sets", align="lll")


def print_source(console: Console, spec: str) -> None:
    """Print what a data set requires and where it is searched for."""
    name, path = resolve(spec)
    source = SOURCES[name]
    for text in (
        source.title,
        f"needs: {source.needs or 'nothing, it comes with the package'}",
        *([f"searched for at: {path}"] if path else []),
        *([f"expected classes: {', '.join(map(str, source.counts))}"] if source.counts else []),
    ):
        say(console, text)


def files(found: Sequence[File]) -> Grid:
    """The files of a data set, with their digests."""
    verdicts = {None: "not known", True: "as known", False: "WRONG"}
    rows = [(file.path.name, f"{file.size:,}", file.sha256, verdicts[file.known]) for file in found]
    return Grid(("file", "bytes", "SHA-256", "digest"), rows, align="lrll")


def counts(data: FewShotData) -> Grid:
    """Classes and images of every split, and the number of images that also occur in another class."""
    doubled = repeated(data)
    rows = [
        (split, f"{classes:,}", f"{images:,}", f"{doubled[split]:,}")
        for split, (classes, images) in data.counts().items()
    ]
    shape = "x".join(map(str, data.images.shape[1:]))
    heads = ("split", "classes", "images", "also in another class")
    return Grid(heads, rows, f"{data.name}: inputs of shape {shape}")


def comparison(entries: Sequence[Entry]) -> Grid:
    """One row per entry, with 95% confidence intervals if available; printed as Markdown on the console."""
    kinds = list(entries[0].tests)
    rows = []
    for entry in entries:
        cells = [entry.label]
        for kind in kinds:
            test = entry.tests[kind]
            interval = "" if test.ci95 is None else f" ± {100 * test.ci95:.2f}"
            cells += [f"{100 * test.accuracy:.2f}{interval}", percent(test.features_used)]
        certified = [test.certified for test in entry.tests.values()]
        cells.append("-" if certified[0] is None else percent(min(c for c in certified if c is not None)))
        rows.append(cells)
    headings = ["head", *(heading for kind in kinds for heading in (kind, "features used")), "certified"]
    return Grid(headings, rows, boxed=False)
