"""All tables that commands print: in terminals of any width, no number is truncated or wrapped."""

import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sparsedis.data import FewShotData
from sparsedis.data.checksums import File
from sparsedis.disentangle import synthetic
from sparsedis.disentangle import tables as disentangle
from sparsedis.disentangle.results import Results
from sparsedis.metalearn import tables
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import Evaluation
from sparsedis.metalearn.omniglot_one_shot import OneShot
from sparsedis.metalearn.profile import Profile
from sparsedis.metalearn.results import Entry, Pooled
from sparsedis.runs import loop
from sparsedis.runs.tables import LEAST, Grid, console, duration, say

WIDTHS = (30, 59, 60, 80, 200)
EVALUATION = Evaluation("test", 20, 15, 10, 10_000, 0, 0.87654, 0.01234, 0.12345, 1.0, 0.03456)
POOLED = Pooled(0.87654, 0.01234, 0.85, 0.89, 0.12345, 0.03, 1.0)
DATA = FewShotData(
    "[red]noise", torch.zeros(9, 28, 28, dtype=torch.uint8), torch.arange(9), tuple("abcdefghi"),
    {"train": (0, 1, 2), "validation": (3, 4, 5), "test": (6, 7, 8)},
)  # fmt: skip
GRIDS = {
    "evaluate": tables.evaluations([EVALUATION], "[bold]omniglot, test split"),
    "one-shot": tables.one_shot(OneShot(0.1234, {"run01": 0.25, "run02": 0.05}, 0.5, None), 0.12),
    "profile": tables.profile(Profile({"head forward": [1234.5], "head backward": [67.8]}), TrainConfig()),
    "sources": tables.sources(),
    "files": tables.files([File(Path("miniImageNet_category_split_val.pickle"), 123_456_789, "0123abcd" * 8, None)]),
    "counts": tables.counts(DATA),
    "comparison": tables.comparison(
        [Entry("group-lasso-svm", 0.05, (0,), 0.9, {"5-way 1-shot": POOLED, "5-way 5-shot": POOLED})]
    ),
    "disentangle": disentangle.table(Results(100, 200, *(0.12345 for _ in range(13)), [[1.0]]), "Learner"),
    "disentangle-sweep": disentangle.sweep_grid(
        [{
            "value": 0.9, "method": "inner ridge + ICA", "seeds": 3,
            "mcc_mean": 0.75, "mcc_sd": 0.03, "r_mean": 0.9, "r_sd": 0.1,
        }],
        "rho",
    ),
    "synthetic": synthetic.table(
        [synthetic.Row(0.2, n, "disentangled", "lasso", 0.51, 0.25, 1.0) for n in synthetic.SAMPLES]
    ),
}  # fmt: skip


def shown(grid: Grid, width: int) -> str:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(grid)
    return screen.file.getvalue()  # type: ignore[attr-defined]


def numbers(text: str) -> list[str]:
    return re.findall(r"[\d.,%]*\d[\d.,%]*", text)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", GRIDS)
def test_no_number_is_truncated(name: str, width: int) -> None:
    grid, text = GRIDS[name], shown(GRIDS[name], width)
    cells = [grid.title, grid.note, *(cell for row in grid.rows for cell in row)]
    # Digests of 64 characters may be wrapped.
    expected = sorted(number for cell in cells if len(cell) != 64 for number in numbers(cell))
    found = numbers(text)
    for number in expected:
        assert number in found, number
        found.remove(number)
    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    if width < LEAST:
        assert not set("│┃|─━") & set(text)
        headings = grid.headings[1:] if len(grid.headings) > 2 else ()
        assert all(heading.split()[0] in text for heading in headings)


@pytest.mark.parametrize("name", GRIDS)
def test_wide_consoles_show_tables(name: str) -> None:
    text = shown(GRIDS[name], 1000)
    if GRIDS[name].boxed:
        assert "┃" in text
        assert "│" in text
    else:
        assert text == GRIDS[name].markdown()


def test_brackets_are_not_interpreted_as_markup() -> None:
    grid = Grid(("[red]head", "n"), [("[bold]cell", "1")], title="[link=x]title", note="[/]note")
    for width in (20, 100):
        text = shown(grid, width)
        for part in ("[bold]cell", "[link=x]title", "[/]note"):
            assert part in text


def test_unboxed_grids_are_markdown_tables() -> None:
    grid = Grid(("a", "b"), [("x", "1"), ("y", "2")], boxed=False)
    assert grid.markdown() == "| a | b |\n|---|---|\n| x | 1 |\n| y | 2 |\n"
    assert shown(grid, 80) == grid.markdown()
    assert shown(grid, 59) == "x: 1\ny: 2\n"


def test_lines_of_a_cell_are_joined() -> None:
    grid = Grid(("a", "b", "c"), [("x", "0.5\n0.4   ", "-")])
    assert grid.lines() == ["x", "  b: 0.5 / 0.4", "  c: -"]


def test_only_columns_limits_the_width_of_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width > 1000
    monkeypatch.setenv("COLUMNS", "40")
    assert console().width == 40


def test_messages_are_wrapped_between_words() -> None:
    line = "iteration 200/60000: loss 0.123, validation 80.12% ± 0.5, in /a/very/long/path/to/the/folder/of/the/run-1"
    for terminal in (True, False):
        screen = Console(file=io.StringIO(), width=30, force_terminal=terminal, color_system=None)
        say(screen, f"{line}\n[red]second")
        lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert [word for part in lines for word in part.split()] == [*line.split(), "[red]second"]
        assert (len(lines) > 2) == terminal
        say(screen, line, unwrapped=True)
        assert screen.file.getvalue().splitlines()[-1] == line  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_progress_bar_is_not_truncated(width: int) -> None:
    """In narrow terminals it shows the numbers only."""
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with loop._bar(screen) as bar:
        task = bar.add_task("training", total=60_000, completed=12_345)
        bar.update(task, completed=12_346)
        bar.refresh()
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "12346/60000" in text
    assert "…" not in text


def test_durations_are_rounded() -> None:
    assert [duration(x) for x in (0.4, 119, 300, 7199, 9000)] == ["0 s", "119 s", "5 min", "120 min", "2.5 h"]
