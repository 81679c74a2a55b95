"""report.html: a run on one page, for readers who do not know the project.

A report is a single file with embedded images, no network access and no scripts. Text from data (class names, paths,
settings) is escaped by the template, and the page's content security policy would not execute it either.

``metalearn.report`` and ``disentangle.report`` compose their reports from the parts defined here.
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
_LARGE = 200_000  # size in bytes above which a PNG image is reduced to 256 colours
_SIDE = 84  # larger side of a tile in pixels

_CERTIFICATES = (
    "Each task solves a convex problem. The solver computes an upper bound on how far its solution is from the "
    "optimum, relative to the objective: the relative duality gap. A solution is certified if this gap is within the "
    "requested tolerance."
)


@dataclass(frozen=True)
class Note:
    """A paragraph; ``code`` is a line to copy, shown below it."""

    text: str
    code: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure: a PNG image and its text alternative."""

    image: bytes
    about: str


@dataclass(frozen=True)
class Tile:
    """A small image, or text in its place, with a caption; ``right`` marks a prediction as correct or wrong."""

    image: bytes | None
    caption: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class Tiles:
    """Rows of tiles, each with a name.

    Attributes:
        title, about: shown above the tiles.
        headings: of the columns.
        rows: a name and the tiles of each column.
    """

    title: str
    about: str
    headings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Sequence[Tile]]]]


@dataclass(frozen=True)
class Stripes:
    """Rows of values from 0 to 1, drawn as stripes from dark to light.

    Attributes:
        names: of the rows.
        values: (rows, columns).
        numbers: one text per row, shown at its end.
        axis: label of the columns.
    """

    names: Sequence[str]
    values: NDArray[np.float64]
    numbers: Sequence[str]
    axis: str


@dataclass(frozen=True)
class Links:
    """Links to other files of the folder: text, and path relative to the report."""

    items: Sequence[tuple[str, str]]


Block = Note | Picture | Tiles | Stripes | Links | Grid


@dataclass(frozen=True)
class Section:
    """A section of a report: title, a sentence about its content, and the content."""

    title: str
    about: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
        title: of the page.
        summary: introductory sentences for readers who do not know the project.
        facts: key numbers, each with a description.
        sections: in order.
    """

    title: str
    summary: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def section(title: str, about: str, make: Callable[[], Sequence[Block]]) -> Section:
    """A section; if its content cannot be computed from the folder, it states the reason instead."""
    try:
        return Section(title, about, make())
    except Exception as error:  # an incomplete report is better than none
        reason = str(error) if isinstance(error, ValueError | OSError | ImportError) else repr(error)
        return Section(title, about, [Note(f"Not available: {' '.join(reason.split())}")])


def write(out: Path, report: Report) -> Path:
    """Write the report to a folder; returns its path."""
    path = out / REPORT
    files.write(path, render(report).encode())
    return path


def render(report: Report) -> str:
    """The report as an HTML page."""
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
def write_on_exit(out: Path, make: Callable[[], Path], console: Console) -> Iterator[None]:
    """Write the report of a folder when the block has ended or was interrupted, and print its path.

    If writing the report is interrupted, it is repeated, since a finished run would not be resumed to write it. Failing
    to write it only prints a line.
    """
    try:
        yield
        _attempt(out, make, console)
    except KeyboardInterrupt:
        _attempt(out, make, console)
        raise


def _attempt(out: Path, make: Callable[[], Path], console: Console) -> None:
    if not out.is_dir():  # no run started there
        return
    try:
        tables.say(console, f"report: {make()}", unwrapped=True)
    except Exception as error:
        reason = (" ".join(str(error).split()) or repr(error)).removeprefix("report: ")
        tables.say(console, f"report: not written: {reason}")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: the file does not exist.
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


def from_record(kind: Callable[..., T], values: Mapping[str, Any], **missing: Any) -> T:
    """Results written by this or an earlier version.

    Args:
        kind: dataclass of the results.
        values: its fields, as read from a file.
        missing: values of fields that earlier versions did not write.

    Raises:
        ValueError: the fields do not match.
    """
    try:
        return kind(**{**missing, **values})
    except TypeError as error:
        raise ValueError(f"report: the results are damaged: {error}") from error


def runs_in(out: Path) -> list[Path]:
    """The folders of runs in a folder, sorted by name."""
    return sorted(path for path in out.iterdir() if (path / folder.CONFIG).is_file())


def tile(image: Tensor, caption: str = "", right: bool | None = None) -> Tile:
    """A tile of an image, uint8 (1, H, W) or (3, H, W); other tensors give a tile without image."""
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
    """The section on the certificates of the solves.

    Args:
        tests: for every kind of task its name, the certified fraction of its solves, and the largest gap; None for a
            head without certificates and for values that earlier versions did not record.
        lines: of metrics.jsonl, whose smallest certified fractions are also shown.
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
    """Placeholder for the results of an unfinished run; ``command``, if not empty, is the command that started it."""
    again = f"{command} --out {shlex.quote(str(out))} --resume" if command else ""
    return Note(
        "There are no results yet: tests run at the end. The option --resume continues from the last checkpoint.", again
    )


def unfinished_runs(runs: Sequence[Path]) -> Note:
    """Placeholder for the joint results of several unfinished runs."""
    finished = sum((run / folder.RESULTS).is_file() for run in runs)
    return Note(f"{finished} of the runs are finished, {len(runs)} were started. The same command continues them.")


def shared_settings(runs: Sequence[Path]) -> dict[str, Any]:
    """The settings that all runs in the given folders share.

    Raises:
        ValueError: there are no runs, or the settings of one are damaged.
    """
    all_settings = [read_json(run / folder.CONFIG) for run in runs]
    if not all_settings:
        raise ValueError("report: expected a run in the folder, found none")
    return {
        name: value for name, value in all_settings[0].items() if all(one.get(name) == value for one in all_settings)
    }


def training_curve(out: Path, draw: Callable[[Sequence[Mapping[str, Any]]], bytes], about: str) -> Section:
    """The section of a run's curves; ``draw`` plots them from the lines of metrics.jsonl."""

    def make() -> Sequence[Block]:
        if (out / folder.CURVES).is_file():
            return [Picture((out / folder.CURVES).read_bytes(), about)]
        lines = folder.read_metrics(out / folder.METRICS)
        return [Picture(draw(lines), about)] if lines else [Note("No step has been logged yet.")]

    return section("Course of training", about, make)


def training_curves(runs: Sequence[Path], key: str, label: str, about: str) -> Section:
    """The section with one curve per run: a validation value against the iteration."""

    def make() -> Sequence[Block]:
        lines = {run.name: folder.read_metrics(run / folder.METRICS) for run in runs}
        return [Picture(plots.overlay(lines, key, label), about)]

    return section("Course of training", about, make)


def time_taken(out: Path) -> list[tuple[str, str]]:
    """The time that a run has taken, as a fact; empty if it was not recorded."""
    seconds = environment.seconds(out)
    return [("time", tables.duration(seconds))] if seconds else []


def settings(values: Mapping[str, Any], program: str, command: str = "") -> Section:
    """The section of the settings, which are options of ``program``; ``command`` repeats the run."""
    rows = [(name, _formatted(value)) for name, value in values.items()]
    blocks: list[Block] = [Note("To repeat this:", command)] if command else []
    return Section(
        "Settings",
        "These settings determine the numbers: equal settings on the same machine give equal results. "
        f"{program} --help describes them.",
        [*blocks, Grid(("setting", "value"), rows, align="ll")],
    )


def links(runs: Sequence[Path]) -> Section:
    """The section that lists the runs in the folder, with links to their reports."""
    items = [(run.name, f"{run.name}/{REPORT}") for run in runs if (run / REPORT).is_file()]
    others = [run.name for run in runs if not (run / REPORT).is_file()]
    blocks: list[Block] = [Links(items)] if items else []
    if others:
        blocks.append(Note(f"Without a report of their own: {', '.join(others)}."))
    return Section(
        "Single runs", "Every run has a folder with a report of its own, with examples and settings.", blocks
    )


def environment_section(runs: Sequence[Path]) -> Section:
    """The section on the environment and time of one run, or of the runs of a comparison."""

    def make() -> Sequence[Block]:
        environments = [
            read_json(run / environment.ENVIRONMENT) for run in runs if (run / environment.ENVIRONMENT).is_file()
        ]
        rows = [
            (name, ", ".join(dict.fromkeys(_formatted(one.get(name)) for one in environments)))
            for name in dict.fromkeys(name for one in environments for name in one)
        ]
        times = [environment.seconds(run) for run in runs]
        if any(times):
            rows.append(("time", tables.duration(sum(times))))
        if not rows:
            return [Note("Not recorded: the run is of an earlier version of the package.")]
        return [Grid(("", "value"), rows, align="ll")]

    about = "Where this was computed, and how long it took, over all parts of a run that was resumed."
    return section("Environment and time", about, make)


def _formatted(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_formatted, value)) or "none"
    return {True: "yes", False: "no", None: "-"}[value] if value is None or isinstance(value, bool) else str(value)


def _embedded(image: bytes) -> str:
    """An image as a data URI; large PNG images are reduced to 256 colours."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    if kind == "png" and len(image) > _LARGE:
        from PIL import Image

        content = io.BytesIO()
        Image.open(io.BytesIO(image)).convert("RGB").quantize(256).save(content, "PNG", optimize=True)
        image = min(image, content.getvalue(), key=len)
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _stripe(values: NDArray[np.float64]) -> str:
    """Values from 0 to 1 as an image with one row, in the viridis colour map."""
    from matplotlib import colormaps
    from PIL import Image

    colours = (255 * colormaps["viridis"](values[None])[..., :3]).round().astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(colours).save(content, "PNG")
    return _embedded(content.getvalue())
