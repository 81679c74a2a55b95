"""Text tables, described once and rendered on the console, in Markdown and in reports.

rich truncates or breaks the cells of a table that is wider than the console. Here such a table is printed as lines, one
heading and cell each, which wrap between words so that numbers stay intact at any width.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

LEAST = 60
"""Console width, in columns, below which every table is printed as lines."""

_UNBOUNDED = 10_000  # width of outputs without one: files and pipes


@dataclass(frozen=True)
class Grid:
    """A text table, printed on a console as a table or, if it does not fit, as lines.

    Attributes:
        headings: one per column.
        rows: one cell per column; a cell may have several lines.
        title, note: shown above and below; empty for none.
        align: "l" or "r" per column; default: the first column left, the others right.
        rules: indices of the rows above which a rule is drawn.
        boxed: whether a console shows a box; otherwise Markdown.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    note: str = ""
    align: str = ""
    rules: Collection[int] = ()
    boxed: bool = True

    @property
    def sides(self) -> str:
        """``align``, or its default."""
        return self.align or "l" + "r" * (len(self.headings) - 1)

    def markdown(self) -> str:
        """The table in Markdown, without title and note; ends with a line break."""
        lines = [self.headings, None, *self.rows]
        drawn = ("| " + " | ".join(cells) + " |" if cells else "|" + "---|" * len(self.headings) for cells in lines)
        return "\n".join(drawn) + "\n"

    def lines(self) -> list[str]:
        """One line per cell, below the first cell of its row; for two columns one line per row."""
        lines = [self.title] if self.title else []
        for row in self.rows:
            first, *rest = (" / ".join(part.strip() for part in cell.splitlines()) for cell in row)
            if len(rest) == 1:
                lines.append(f"{first}: {rest[0]}")
            else:
                lines.append(first)
                lines += [f"  {heading}: {cell}" for heading, cell in zip(self.headings[1:], rest, strict=True)]
        return [*lines, self.note] if self.note else lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table: RenderableType = self._box() if self.boxed else Text(self.markdown(), end="")
        needed = Measurement.get(console, options.update(max_width=_UNBOUNDED), table).maximum
        if options.max_width >= max(LEAST, needed):
            yield table
        else:
            yield from (Text(line) for line in self.lines())

    def _box(self) -> Table:
        # Text objects, because rich interprets brackets in strings as markup.
        title, note = Text(self.title, style="table.title"), Text(self.note, style="table.caption")
        table = Table(title=title if self.title else None, caption=note if self.note else None)
        for heading, side in zip(self.headings, self.sides, strict=True):
            table.add_column(Text(heading), justify="right" if side == "r" else "left", no_wrap=True)
        for index, row in enumerate(self.rows):
            if index in self.rules:
                table.add_section()
            table.add_row(*map(Text, row))
        return table


def console(quiet: bool = False) -> Console:
    """A console for standard output. Files and pipes are unbounded, unless COLUMNS sets a width."""
    made = Console(quiet=quiet)
    if not made.is_terminal and not os.environ.get("COLUMNS"):
        made.width = _UNBOUNDED
    return made


def say(shown: Console, text: str, *, unwrapped: bool = False) -> None:
    """Print lines of text.

    On a terminal lines are wrapped between words, because the terminal itself would break numbers;
    ``unwrapped`` disables this for text to be copied.
    """
    for line in text.splitlines():
        parts = [line]
        if shown.is_terminal and not unwrapped:
            parts = textwrap.wrap(line, shown.width, break_long_words=False, break_on_hyphens=False)
        for part in parts:
            shown.print(part, soft_wrap=True, markup=False, highlight=False)


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}%"


def duration(seconds: float) -> str:
    """A readable duration: in seconds below 2 min, in minutes below 2 h, otherwise in hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
