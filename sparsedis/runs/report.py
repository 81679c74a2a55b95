"""report.html: a run on one page, for a reader who has never seen the project.

A report is one file. Its images are in it, it asks the network for nothing, and it has no script. What comes from data
(names of classes, paths, settings) is escaped by the template; the page's policy would not let it run either.

``metalearn.report`` and ``disentangle.report`` say what is in the reports of their runs, by the parts defined here.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from sparsedis._version import __version__
from sparsedis.extras import need
from sparsedis.runs import environment, files, folder, plots, tables
from sparsedis.runs.tables import Grid

REPORT = "report.html"

T = TypeVar("T")

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_LARGE = 200_000  # bytes of a PNG image from which on it is reduced to 256 colours
_SIDE = 84  # pixels of the larger side of a tile

_CERTIFICATES = (
    "What a task fits is the solution of a convex problem. The solver bounds from above how far its answer is from the "
    "best possible one, relative to the objective: the gap. Certified is an answer whose gap is within the tolerance "
    "asked for."
)


@dataclass(frozen=True)
class Note:
    """A paragraph; ``code`` is a line to copy below it."""

    text: str
    code: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure: a PNG image, and what it shows, for those who do not see it."""

    image: bytes
    about: str


@dataclass(frozen=True)
class Tile:
    """A small image, or a text in its place, with a caption; ``right`` marks a prediction as right or wrong."""

    image: bytes | None
    caption: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class Tiles:
    """Tiles in rows: a name, and the tiles of every column.

    Attributes:
        title, about: above them.
        headings: of the columns of tiles.
        rows: a name and the tiles, column by column.
    """

    title: str
    about: str
    headings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Sequence[Tile]]]]


@dataclass(frozen=True)
class Stripes:
    """Rows of values from 0 to 1, drawn as stripes from dark to bright.

    Attributes:
        names: of the rows.
        values: (rows, columns).
        numbers: a text per row, at its end.
        axis: what the columns are.
    """

    names: Sequence[str]
    values: NDArray[np.float64]
    numbers: Sequence[str]
    axis: str


@dataclass(frozen=True)
class Links:
    """Other files of the folder: what is shown, and the path relative to the report."""

    items: Sequence[tuple[str, str]]


Block = Note | Picture | Tiles | Stripes | Links | Grid


@dataclass(frozen=True)
class Section:
    """A part of a report: a sentence that says what it shows, and what it shows."""

    title: str
    about: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """What is on the page.

    Attributes:
        title: of the page.
        summary: sentences for a reader who has never seen the project.
        facts: the few numbers to see first, each with what it is.
        sections: in the order of the page.
    """

    title: str
    summary: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def section(title: str, about: str, make: Callable[[], Sequence[Block]]) -> Section:
    """A section; in place of what cannot be made from what the folder holds, the reason."""
    try:
        return Section(title, about, make())
    except Exception as error:  # a report of less is better than none
        reason = str(error) if isinstance(error, ValueError | OSError | ImportError) else repr(error)
        return Section(title, about, [Note(f"Not available: {' '.join(reason.split())}")])


def write(out: Path, report: Report) -> Path:
    """Write the report of a folder; returns its path."""
    path = out / REPORT
    files.write(path, render(report).encode())
    return path


def render(report: Report) -> str:
    """The page."""
    jinja = need("jinja2", "report")
    page = jinja.Environment(
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        report=report,
        kind=lambda block: type(block).__name__,
        embedded=_embedded,
        stripe=_stripe,
        link=quote,
        version=__version__,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


@contextmanager
def written(out: Path, make: Callable[[], Path], console: Console) -> Iterator[None]:
    """Make the report of a folder when the block has ended or was interrupted, and print where it is.

    An interruption while it is made makes it again: a run that is finished is not gone on with, so nobody else would.

    A report that cannot be made is a line on the console, and costs nothing else.
    """
    try:
        yield
        _attempt(out, make, console)
    except KeyboardInterrupt:
        _attempt(out, make, console)
        raise


def _attempt(out: Path, make: Callable[[], Path], console: Console) -> None:
    if not out.is_dir():  # no run could begin there
        return
    try:
        tables.say(console, f"report: {make()}", whole=True)
    except Exception as error:
        reason = (" ".join(str(error).split()) or repr(error)).removeprefix("report: ")
        tables.say(console, f"report: not written: {reason}")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"report: expected a file {path.name} in {path.parent}, found none")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"report: {path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"report: {path} is damaged: expected a JSON object")
    return value


def recorded(kind: Callable[..., T], values: Mapping[str, Any], **missing: Any) -> T:
    """Results of this version or an earlier one.

    Args:
        kind: the dataclass of the results.
        values: its fields, as a file has them.
        missing: the values of fields that earlier versions did not write.

    Raises:
        ValueError: the fields are others.
    """
    try:
        return kind(**{**missing, **values})
    except TypeError as error:
        raise ValueError(f"report: the results are damaged: {error}") from error


def runs_in(out: Path) -> list[Path]:
    """The folders of runs in a folder, by name."""
    return sorted(path for path in out.iterdir() if (path / folder.CONFIG).is_file())


def tile(image: Tensor, caption: str = "", right: bool | None = None) -> Tile:
    """A tile of an image: uint8 (1, H, W) or (3, H, W). Anything else has no picture."""
    if image.dim() != 3 or len(image) not in (1, 3):
        return Tile(None, caption, right)
    from PIL import Image

    pixels = image.permute(1, 2, 0).cpu().numpy()
    drawn = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if len(image) == 1 else pixels))
    drawn.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    if len(image) == 1:
        drawn.save(content, "PNG")
    else:
        drawn.save(content, "JPEG", quality=88)
    return Tile(content.getvalue(), caption, right)


def certificates(
    tests: Sequence[tuple[str, float | None, float | None]], lines: Sequence[Mapping[str, Any]] = ()
) -> Section:
    """The section of the solves' certificates.

    Args:
        tests: of every kind of task its name, the fraction of its solves that are certified, and the largest gap; None
            for a head without certificates, and for what earlier versions did not record.
        lines: of metrics.jsonl, whose lowest fractions are shown too.
    """

    def make() -> Sequence[Block]:
        rows = list(tests)
        for split, name in (
            ("validation", "validations, the lowest"),
            ("train", "steps of training, the lowest logged"),
        ):
            fractions = [
                line["certified"] for line in lines if line["split"] == split and line["certified"] is not None
            ]
            if fractions:
                rows.append((name, min(fractions), None))
        if not any(certified is not None for _, certified, _ in rows):
            return [Note("There are no certificates: nothing was solved yet, or the solution has a closed form.")]
        cells = [
            (name, tables.percent(certified), "-" if largest is None else f"{largest:.1e}")
            for name, certified, largest in rows
        ]
        return [Grid(("task", "certified", "largest relative gap"), cells)]

    return section("Certificates", _CERTIFICATES, make)


def unfinished(out: Path, command: str) -> Note:
    """What stands in place of the results of a run that has none yet; ``command``, if any, is what started it."""
    again = f"{command} --out {shlex.quote(str(out))} --resume" if command else ""
    return Note(
        "There are no tests yet: they come at the end. The option --resume goes on from the last checkpoint.", again
    )


def unfinished_runs(runs: Sequence[Path]) -> Note:
    """What stands in place of the results of several runs that have none in common yet."""
    finished = sum((run / folder.RESULTS).is_file() for run in runs)
    return Note(f"{finished} of the runs are finished, {len(runs)} were started. The same command goes on with them.")


def shared_settings(runs: Sequence[Path]) -> dict[str, Any]:
    """The settings that the runs in some folders have in common.

    Raises:
        ValueError: there are no runs, or the settings of one are damaged.
    """
    every = [read_json(run / folder.CONFIG) for run in runs]
    if not every:
        raise ValueError("report: expected a run in the folder, found none")
    return {name: value for name, value in every[0].items() if all(one.get(name) == value for one in every)}


def course(out: Path, draw: Callable[[Sequence[Mapping[str, Any]]], bytes], about: str) -> Section:
    """The section of a run's curves; ``draw`` makes them from the lines of metrics.jsonl."""

    def make() -> Sequence[Block]:
        if (out / folder.CURVES).is_file():
            return [Picture((out / folder.CURVES).read_bytes(), about)]
        lines = folder.read_metrics(out / folder.METRICS)
        return [Picture(draw(lines), about)] if lines else [Note("No step has been logged yet.")]

    return section("Course of training", about, make)


def courses(runs: Sequence[Path], key: str, label: str, about: str) -> Section:
    """The section of one curve per run: a value of the validations by iteration."""

    def make() -> Sequence[Block]:
        lines = {run.name: folder.read_metrics(run / folder.METRICS) for run in runs}
        return [Picture(plots.overlay(lines, key, label), about)]

    return section("Course of training", about, make)


def time_taken(out: Path) -> list[tuple[str, str]]:
    """The time that a run has taken, as a fact; none where it is not recorded."""
    seconds = environment.seconds(out)
    return [("time", tables.duration(seconds))] if seconds else []


def settings(values: Mapping[str, Any], program: str, command: str = "") -> Section:
    """The section of the settings: ``program`` takes them as options, and ``command`` repeats what was run."""
    rows = [(name, _shown(value)) for name, value in values.items()]
    blocks: list[Block] = [Note("To repeat this:", command)] if command else []
    return Section(
        "Settings",
        "Everything that determines the numbers: equal settings on the same machine give equal results. What each of "
        f"them is, {program} --help says.",
        [*blocks, Grid(("setting", "value"), rows, align="ll")],
    )


def links(runs: Sequence[Path]) -> Section:
    """The section of the runs in the folder, each with its own report if it has one."""
    items = [(run.name, f"{run.name}/{REPORT}") for run in runs if (run / REPORT).is_file()]
    others = [run.name for run in runs if not (run / REPORT).is_file()]
    blocks: list[Block] = [Links(items)] if items else []
    if others:
        blocks.append(Note(f"Without a report of their own: {', '.join(others)}."))
    return Section(
        "Single runs", "Every run has a folder with a report of its own, with examples and settings.", blocks
    )


def circumstances(runs: Sequence[Path]) -> Section:
    """The section of environment and time of one run, or of the runs of a comparison."""

    def make() -> Sequence[Block]:
        recorded = [
            read_json(run / environment.ENVIRONMENT) for run in runs if (run / environment.ENVIRONMENT).is_file()
        ]
        rows = [
            (name, ", ".join(dict.fromkeys(_shown(one.get(name)) for one in recorded)))
            for name in dict.fromkeys(name for one in recorded for name in one)
        ]
        times = [environment.seconds(run) for run in runs]
        if any(times):
            rows.append(("time", tables.duration(sum(times))))
        if not rows:
            return [Note("Not recorded: the run is of an earlier version of the package.")]
        return [Grid(("", "value"), rows, align="ll")]

    about = "Where this was computed, and how long it took, over all parts of a run that was resumed."
    return section("Environment and time", about, make)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    return {True: "yes", False: "no", None: "-"}[value] if value is None or isinstance(value, bool) else str(value)


def _embedded(image: bytes) -> str:
    """An image as a data URI; a large PNG image is reduced to 256 colours first."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    if kind == "png" and len(image) > _LARGE:
        from PIL import Image

        content = io.BytesIO()
        Image.open(io.BytesIO(image)).convert("RGB").quantize(256).save(content, "PNG", optimize=True)
        image = min(image, content.getvalue(), key=len)
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _stripe(values: NDArray[np.float64]) -> str:
    """Values from 0 to 1 as an image of one row, in matplotlib's colours."""
    from matplotlib import colormaps
    from PIL import Image

    colours = (255 * colormaps["viridis"](values[None])[..., :3]).round().astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(colours).save(content, "PNG")
    return _embedded(content.getvalue())
