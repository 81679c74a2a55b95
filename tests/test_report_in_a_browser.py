"""Reports in headless Chromium: no console errors, no scripts run, and no page wider than the window."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsedis import cli
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.train import train
from sparsedis.runs import plots, report
from sparsedis.runs.report import Links, Note, Picture, Report, Section, Stripes, Tiles
from sparsedis.runs.tables import Grid
from tests.runs.test_report import EVIL

WIDTHS = (400, 1400)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

# The pages are measured from an enclosing page, because their content security policy forbids scripts.
MEASURE = """<!DOCTYPE html><html><body>%s<pre id="out"></pre><script>
addEventListener("load", () => {
  const measured = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const inside = element => element.closest(".scroll, pre") !== null;
    return {
      room: root.clientWidth,
      width: root.scrollWidth,
      height: root.scrollHeight,
      broken: [...page.images].filter(image => !image.complete || !image.naturalWidth).length,
      outside: [...page.querySelectorAll("body *")].filter(
        element => !inside(element) && element.getBoundingClientRect().right > root.clientWidth + 1
      ).map(element => element.outerHTML.slice(0, 80)),
      ran: frame.contentWindow.ran === true,
    };
  });
  document.getElementById("out").textContent = JSON.stringify(measured);
});
</script></body></html>"""


def measure(folder: Path, names: list[str]) -> tuple[list[dict[str, object]], str]:
    """Measurements of every page at every width, and Chromium's log."""
    frames = "".join(
        f'<iframe src="{name}" width="{width}" height="800"></iframe>' for name in names for width in WIDTHS
    )
    (folder / "measure.html").write_text(MEASURE % frames)
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=10000",
        "--dump-dom", (folder / "measure.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout)
    assert found is not None, done.stderr
    return json.loads(html.unescape(found[1])), done.stderr


def everything() -> Report:
    """A report with every kind of block, with long words and HTML injection in all of them."""
    word = "a_word_without_any_place_to_break_it_" * 4
    figure = plots.figure(9, 3.5)
    figure.subplots().plot([1, 2, 3])
    image = torch.zeros(3, 84, 84, dtype=torch.uint8)
    sets = (
        [report.tile(image, "") for _ in range(5)],
        [report.tile(image, f"taken for {word}", i > 0) for i in range(3)],
    )
    blocks = [
        Note(word, f"sparsedis train --data images:/{word}"),
        Grid([f"heading {i}" for i in range(30)], [[f"{i}.00 ± 0.5" for i in range(30)]] * 3, title=word, note=word),
        Grid(("setting", "value"), [("data", word), (word, EVIL)], align="ll"),
        Picture(plots.png(figure), word),
        Tiles(word, word, ("support", "queries"), [(name, sets) for name in ("short", word, EVIL)]),
        Tiles(word, word, ("target",), [(name, sets[:1]) for name in ("short", word)]),
        Stripes(["short", word], np.random.default_rng(0).random((2, 800)), ["1.0%", "100.0%"], word),
        Links([(word, f"{word}/report.html"), ("x", "x/report.html")]),
    ]
    facts = [(word, word), ("accuracy", "80.0% ± 0.5"), *(("fact", "1") for _ in range(8))]
    attacks = [Note(f"{EVIL}<script>ran = true</script><img src=x onerror='ran = true'>")]
    return Report(word, word, facts, [Section(word, word, blocks), Section("Attacks", "about", attacks)])


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")
def test_reports_fit_the_window_without_console_errors(quick: TrainConfig, tmp_path: Path) -> None:
    train(replace(quick, iterations=2, validate_every=2, test_episodes=5), tmp_path / "run")
    assert cli.main(["evaluate", str(tmp_path / "run"), "--episodes", "5", "--out", str(tmp_path / "test")]) == 0
    (tmp_path / "all").mkdir()
    report.write(tmp_path / "all", everything())
    measured, console_output = measure(tmp_path, ["run/report.html", "test/report.html", "all/report.html"])
    assert len(measured) == 6
    for page in measured:
        assert page["outside"] == []
        assert page["width"] <= page["room"]  # type: ignore[operator]
        assert page["broken"] == 0
        assert not page["ran"]
        assert page["height"] > 1000  # type: ignore[operator]
    assert "CONSOLE" not in console_output
