"""Progress of the runs of a sweep: a live table on a terminal, otherwise one line per change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sparsedis.runs import folder
from sparsedis.runs.process import LOG, Job

_TAIL = 1 << 16  # bytes read from the end of metrics.jsonl
State = Literal["waiting", "running", "done", "failed"]
_STYLES: dict[State, str] = {"waiting": "dim", "running": "cyan", "done": "green", "failed": "bold red"}
_OTHER_LINES = 7  # lines of the table besides the runs: title, headings, rules, caption


@dataclass
class _Row:
    job: Job
    state: State = "waiting"
    iteration: int = 0
    validated: int = 0  # iteration of the last validation
    validation: str = ""
    note: str = ""
    log_size: int = 0  # size of the log in bytes before this attempt


class Board:
    """The table, a context manager that displays it.

    A run counts as started when its log grows; its metrics.jsonl shows its progress. Both files are in the run's
    folder, wherever it is executed.

    Args:
        jobs: the runs.
        finished: names of the runs that are already finished.
        console: where to display the table.
    """

    def __init__(self, jobs: Sequence[Job], finished: Collection[str], console: Console) -> None:
        self._rows = {job.name: _Row(job) for job in jobs}
        for row in self._rows.values():
            row.state = "done" if row.job.name in finished else "waiting"
            row.log_size = _size(row.job.out / LOG)
            self._read(row)
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        else:
            self._say(f"{self._counts()}, in {next(iter(self._rows.values())).job.out.parent}")
        self.refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(self._table(len(self._rows)), refresh=True)
            self._live.stop()

    def done(self, job: Job) -> None:
        """Mark a run as finished."""
        row = self._rows[job.name]
        self._update_row(row)
        row.state, row.note = "done", ""
        self._change(row, f"done; {self._counts()}")

    def failed(self, job: Job, reason: str) -> None:
        """Mark a run as failed permanently."""
        row = self._rows[job.name]
        row.state, row.note = "failed", reason
        self._change(row, f"failed: {reason}")

    def retry(self, job: Job, reason: str) -> None:
        """Mark a run as waiting for another attempt."""
        row = self._rows[job.name]
        row.state, row.note, row.log_size = "waiting", f"again: {reason}", _size(job.out / LOG)
        self._change(row, f"{reason}; is resumed")

    def refresh(self) -> None:
        """Update the rows of all runs that have not ended."""
        for row in self._rows.values():
            if row.state == "waiting" and _size(row.job.out / LOG) > row.log_size:
                row.state = "running"
                self._change(row, "running")
            if row.state == "running":
                self._update_row(row)
        if self._live:
            self._live.update(self._table(self._console.height - _OTHER_LINES), refresh=True)

    def _update_row(self, row: _Row) -> None:
        before = row.validated
        self._read(row)
        if row.validated > before:
            self._change(row, f"iteration {row.validated}/{row.job.config.iterations}, {row.validation}")

    def _read(self, row: _Row) -> None:
        """Read the last iteration from metrics.jsonl, and the first value of the last validation near its end."""
        for line in _tail(row.job.out / folder.METRICS):
            try:
                row.iteration, split = line.pop("iteration"), line.pop("split")
            except (AttributeError, KeyError, TypeError):
                continue
            if split == "validation" and line:
                key, value = next(iter(line.items()))
                row.validated = row.iteration
                row.validation = f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"

    def _change(self, row: _Row, text: str) -> None:
        if not self._live:
            self._say(f"{row.job.name}: {text}")

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def _counts(self) -> str:
        found = Counter(row.state for row in self._rows.values())
        parts = [f"{found[state]} {state}" for state in _STYLES if found[state]]
        return f"runs: {', '.join(parts)}"

    def _table(self, most: int) -> Table:
        """The table of at most ``most`` runs: failed, running, waiting, finished; displayed in their original order."""
        rank = ("failed", "running", "waiting", "done")
        by_rank = sorted(self._rows.values(), key=lambda row: rank.index(row.state))
        shown = {row.job.name for row in by_rank[: max(most, 1)]}
        table = Table(title=self._counts())
        table.add_column("run", overflow="fold")
        table.add_column("state")
        table.add_column("iteration", justify="right")
        table.add_column("last validation")
        table.add_column("note", overflow="fold")
        for row in self._rows.values():
            if row.job.name in shown:
                done = f"{row.iteration}/{row.job.config.iterations}"
                cells = (row.job.name, row.state, done, row.validation, row.note)
                table.add_row(*map(Text, cells), style=_STYLES[row.state])
        if hidden := len(self._rows) - len(shown):
            table.caption = f"and {hidden} more"
        return table


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tail(path: Path) -> list[Any]:
    """The last lines of a JSON-lines file, without incomplete ones; none if the file is missing."""
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, 2) - _TAIL, 0))
            texts = file.read().splitlines()
    except OSError:
        return []
    lines = []
    for text in texts:
        with suppress(ValueError):  # an incomplete line
            lines.append(json.loads(text))
    return lines
