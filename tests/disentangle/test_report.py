import io
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from sparsedis import cli
from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.disentangle.sweep import sweep
from sparsedis.disentangle.train import _Run, train
from tests import training
from tests.runs.test_report import assert_self_contained

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

run = partial(training.run, train)


def text_of(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def swept(small: DisentangleConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep of two runs and its output."""
    out, text = tmp_path_factory.mktemp("reports") / "sweep", io.StringIO()
    base = replace(small, iterations=4, validate_every=2)
    sweep(base, out, vary="tasks", values=("gaussian",), seeds=(0,), console=Console(file=text, width=200))
    return out, text.getvalue()


@pytest.fixture
def copied(swept: tuple[Path, str], here: Path) -> Path:
    shutil.copytree(swept[0], here / "sweep")
    return here / "sweep"


@pytest.mark.slow
def test_runs_have_a_report_that_can_be_rewritten(swept: tuple[Path, str], copied: Path) -> None:
    out, printed = copied / "tasks-gaussian-lasso-0", swept[1]
    assert printed.splitlines()[0].startswith("data: 3D Shapes (rendered), whose factors have correlation 0.9")
    assert f"report: {swept[0] / out.name / 'report.html'}\n" in printed
    text = text_of(out)
    assert_self_contained(text)
    assert len(text) < 2_000_000
    assert "Not available" not in text
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "Result",
        "Course of training",
        "Features and factors",
        "Examples",
        "Certificates",
        "Settings",
        "Environment and time",
    ]
    results = json.loads((out / "results.json").read_text())
    assert f"{results['mcc']:.4f}" in text
    assert f"{results['largest_gap']:.1e}" in text
    assert text.count('<figure class="tile">') == 3 * 8
    assert re.search(r"a sum of [a-z, ]*(hue|scale|shape|orientation)[a-z, ]*; \d of 6 features used", text)

    # Rewritten from the files, and from some of them.
    (out / "report.html").unlink()
    assert cli.main(["report", str(out)]) == 0
    assert "Not available" not in text_of(out)
    assert re.findall(r"<figcaption>.*?<", text_of(out)) == re.findall(r"<figcaption>.*?<", text)
    for name in (
        "results.json",
        "best.safetensors",
        "curves.png",
        "correlations.png",
        "environment.json",
        "seconds.json",
    ):
        (out / name).unlink()
    assert cli.main(["report", str(out)]) == 0
    text = text_of(out)
    assert_self_contained(text)
    assert "The run is not finished: its log ends at step 4 of 4." in text
    assert f"--out {out} --resume" in text


@pytest.mark.slow
def test_an_interrupted_run_has_a_report(
    small: DisentangleConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = _Run.advance

    def interrupted(self: _Run) -> dict[str, float | None]:
        if self.progress.iteration + 1 == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(_Run, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(small, tmp_path / "run")
    text = text_of(tmp_path / "run")
    assert_self_contained(text)
    assert "The run is not finished: its log ends at step 2 of 14." in text
    assert "Not available: checkpoint: expected a file" in text


@pytest.mark.slow
def test_sweeps_have_a_report_even_if_unfinished(copied: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "sweep"]) == 0
    assert capsys.readouterr().out.endswith("report: sweep/report.html\n")
    text = text_of(here / "sweep")
    assert_self_contained(text)
    assert "Not available" not in text
    assert ">inner ridge + ICA</td>" in text
    assert 'href="tasks-gaussian-lasso-0/report.html"' in text
    assert text.count("data:image/png") == 2
    # The report before any run is finished.
    (here / "sweep" / "sweep.json").unlink()
    for name in ("lasso", "ridge"):
        (here / "sweep" / f"tasks-gaussian-{name}-0" / "results.json").unlink()
    assert cli.main(["report", "sweep"]) == 0
    text = text_of(here / "sweep")
    assert "0 of the runs are finished, 2 were started." in text
    assert "Not available" not in text


@pytest.mark.slow
def test_results_of_earlier_versions_and_without_ica_have_a_report(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "tasks-gaussian-lasso-0" / "results.json"
    results = json.loads(path.read_text())
    del results["ica_missing"], results["largest_gap"]  # not recorded by earlier versions
    path.write_text(json.dumps(results))
    assert cli.main(["report", str(path.parent)]) == 0
    assert f"{results['mcc']:.4f}" in text_of(path.parent)
    path.write_text('{"mcc": 1}')
    assert cli.main(["report", str(path.parent)]) == 2
    assert "the results are damaged" in capsys.readouterr().err

    path = copied / "sweep.json"
    found = json.loads(path.read_text())
    for group in found["summary"]:
        if "ICA" in group["method"]:
            group |= {"mcc_mean": None, "r_mean": None}
    path.write_text(json.dumps(found))
    assert cli.main(["report", str(copied)]) == 0
    assert "best MCC: inner" in text_of(copied)
