import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from sparsedis import cli
from sparsedis.runs import environment, files, report, tables
from sparsedis.runs.report import Links, Note, Picture, Report, Section, Stripes, Tile, Tiles
from sparsedis.runs.tables import Grid

EVIL = "<script>alert(1)</script>"
QUOTE = "\"' onerror='alert(1)"
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """The tags and attributes of a page; fails if tags are not closed, or closed twice."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_self_contained(text: str) -> None:
    """The page loads nothing from the network and has no scripts or event handlers."""
    page = Page(text)
    for tag, attributes in page.found:
        assert tag not in ("script", "iframe", "object", "embed", "link", "form", "base")
        assert not any(name.startswith("on") for name in attributes), attributes
        if tag == "img":
            assert re.match(r"data:image/(png|jpeg);base64,", attributes["src"] or "")
        if "href" in attributes:
            assert re.match(r"#s\d+$|[^:]*report\.html$", attributes["href"] or ""), attributes
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_data_are_not_interpreted_as_markup() -> None:
    """In any part of the page."""
    both = EVIL + QUOTE
    blocks = [
        Note(both, both),
        Grid((both, both), [(both, both)], title=both, note=both),
        Picture(PNG, both),
        Tiles(both, both, (both,), [(both, ([Tile(None, both, True), Tile(PNG, both, False)],))]),
        Stripes([both], np.zeros((1, 3)), [both], both),
        Links([(both, both)]),
    ]
    text = report.render(Report(both, both, [(both, both)], [Section(both, both, blocks)]))
    page = Page(text)
    tags = {tag for tag, _ in page.found}
    assert "script" not in tags
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    assert EVIL not in text
    assert text.count("&lt;script&gt;") >= 17


def test_a_failed_section_shows_the_reason_and_keeps_the_others() -> None:
    def fails() -> list[report.Block]:
        raise FileNotFoundError(f"data: found nothing at '/x/{EVIL}'")

    sections = [report.section("One", "about", fails), report.section("Two", "about", lambda: [Note("here")])]
    text = report.render(Report("title", "summary", [], sections))
    assert "Not available: data: found nothing at" in text
    assert "here" in text
    assert_self_contained(text)


def test_a_failed_report_does_not_hide_results_or_errors_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make() -> Path:
        raise OSError(28, "No space left on device")

    done = []
    with report.write_on_exit(tmp_path, make, tables.console()):
        done.append(1)
    assert capsys.readouterr().out == "report: not written: [Errno 28] No space left on device\n"
    with pytest.raises(KeyboardInterrupt), report.write_on_exit(tmp_path, make, tables.console()):
        raise KeyboardInterrupt
    assert "not written" in capsys.readouterr().out
    with pytest.raises(ValueError, match="the run's"), report.write_on_exit(tmp_path, make, tables.console()):
        raise ValueError("the run's")
    with pytest.raises(KeyboardInterrupt), report.write_on_exit(tmp_path / "none", make, tables.console()):
        raise KeyboardInterrupt
    assert capsys.readouterr().out == "", "there is no report without a folder"
    assert done == [1]


def test_an_interrupted_report_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Because the run may be finished, so that resuming it would not write the report."""
    calls = []

    def make() -> Path:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return tmp_path / report.REPORT

    with pytest.raises(KeyboardInterrupt), report.write_on_exit(tmp_path, make, tables.console()):
        pass
    assert len(calls) == 2
    assert capsys.readouterr().out == f"report: {tmp_path / report.REPORT}\n"


def test_a_report_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Report("title", "summary", [], [])
    assert report.write(tmp_path, page) == tmp_path / "report.html"
    before = (tmp_path / "report.html").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write(tmp_path, page)
    assert (tmp_path / "report.html").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.slow
def test_large_figures_are_reduced() -> None:
    """A figure of noise, larger than any actual one, becomes smaller."""
    from sparsedis.runs import plots

    figure = plots.figure(6, 4)
    figure.subplots().imshow(np.random.default_rng(0).random((300, 500)))
    image = plots.png(figure)
    assert len(image) > 200_000
    assert len(report._embedded(image)) < len(image)
    assert report._embedded(PNG) == "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("shape", "start"), [((1, 28, 28), PNG), ((3, 200, 100), b"\xff\xd8"), ((4, 8, 8), None), ((5,), None)]
)
def test_tiles_are_small_images(shape: tuple[int, ...], start: bytes | None) -> None:
    tile = report.tile(torch.zeros(shape, dtype=torch.uint8), "caption", False)
    assert (tile.image is None) == (start is None)
    if start is not None:
        assert tile.image is not None
        assert tile.image.startswith(start)
        assert len(tile.image) < 5000


def test_environment_and_time_are_recorded(tmp_path: Path) -> None:
    environment.write(tmp_path, torch.device("cpu"))
    found = json.loads((tmp_path / environment.ENVIRONMENT).read_text())
    assert found["torch"] == torch.__version__
    assert (found["device"], found["threads"], found["processes"]) == ("cpu", torch.get_num_threads(), 1)
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{12,}(-dirty)?", found["commit"])
    assert environment.seconds(tmp_path) == 0
    clock = environment.Clock(tmp_path)
    clock.save()
    assert environment.seconds(tmp_path) >= 0
    (tmp_path / environment.SECONDS).write_text("100")
    environment.Clock(tmp_path).save()
    assert environment.seconds(tmp_path) >= 100
    for damaged in ("{", "[]", '"x"'):
        (tmp_path / environment.SECONDS).write_text(damaged)
        with pytest.raises(ValueError, match=r"seconds\.json is damaged"):
            environment.seconds(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("", "", "report: expected a run, an evaluation, a comparison or a sweep in folder, found none of config"),
        ("config.json", "{", "report: folder/config.json is damaged: "),
        ("config.json", "[1]", "report: folder/config.json is damaged: expected a JSON object"),
        ("config.json", "[" * 10**5, "report: folder/config.json is damaged"),
        ("config.json", "{}", "report: expected a run, an evaluation, a comparison or a sweep in folder"),
        ("results.json", "{}", "report: expected a run, an evaluation, a comparison or a sweep in folder"),
        ("results.json", '{"protocol": 3}', "report: the files in folder are damaged: KeyError"),
        ("sweep.json", '{"entries": 3, "config": {}}', "report: the files in folder are damaged"),
        ("sweep.json", '{"summary": [], "vary": 1, "runs": []}', "report: expected a run in the folder, found none"),
        ("compare.json", '{"entries": [{"row": 0}]}', "report: the files in folder are damaged: KeyError"),
    ],
)  # fmt: skip
def test_errors_of_the_command_are_reported_in_one_line(
    name: str, content: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name:
        (here / "folder").mkdir()
        (here / "folder" / name).write_text(content)
    assert cli.main(["report", "folder"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(message.replace("(", r"\("), err)
    assert not (here / "folder" / "report.html").exists()


def test_quiet_consoles_print_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with report.write_on_exit(tmp_path, lambda: tmp_path, Console(quiet=True)):
        pass
    assert capsys.readouterr().out == ""
