import html
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsedis import cli
from sparsedis.data import Episodes, FewShotData, load
from sparsedis.metalearn import report, tasks
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.train import _Run, load_run, train
from tests import training
from tests.runs.test_report import EVIL, assert_self_contained

run = partial(training.run, train)


@pytest.fixture(scope="module")
def trained(quick: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run and its output."""
    out = tmp_path_factory.mktemp("reports") / "run"
    return out, run(quick, out)[1]


def text_of(out: Path) -> str:
    """The HTML of the report."""
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_prints_its_settings_and_the_remaining_time(quick: TrainConfig, trained: tuple[Path, str]) -> None:
    """And the path of its report."""
    out, printed = trained
    lines = printed.splitlines()
    assert lines[0].startswith(
        "data: omniglot, images of 1x28x28; 18 classes to train on, 4 to choose the best learner by, 8"
    )
    assert re.match(r"encoder: conv4, [\d,]+ parameters", lines[1])
    assert lines[2].startswith("head: group-lasso-svm, a support vector machine with a group Lasso")
    assert lines[3] == "work: 2 tasks per step, steps 0 to 14, a validation every 5, then tests"
    assert lines[4].startswith(f"results: in {out}; ")
    assert re.search(r"^about \d+ s of training to go", printed, flags=re.MULTILINE)
    assert lines[-1] == f"report: {out / 'report.html'}"


def test_the_report_has_results_settings_and_environment(quick: TrainConfig, trained: tuple[Path, str]) -> None:
    out, _ = trained
    text = text_of(out)
    assert_self_contained(text)
    assert len(text) < 2_000_000
    assert "Not available" not in text
    assert "Not recorded" not in text
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "Result",
        "Course of training",
        "Examples",
        "Features used by class",
        "Certificates",
        "Settings",
        "Environment and time",
    ]
    assert text.count('<p class="about">') == len(titles)
    results = json.loads((out / "results.json").read_text())
    for test in results["tests"]:
        assert f"{100 * test['accuracy']:.2f}% ± {100 * test['ci95']:.2f}" in text
        assert 0 < test["largest_gap"] < 1e-5
        assert f"{test['largest_gap']:.1e}" in text
    for name in quick.as_json():
        assert f">{name}</td>" in text
    assert f">{torch.__version__}</td>" in text
    assert "sparsedis train --data omniglot:" in text
    assert re.search(r">time</td><td [^>]*>\d+ s<", text)


def test_the_examples_are_the_first_test_tasks(quick: TrainConfig, trained: tuple[Path, str]) -> None:
    out, _ = trained
    text = text_of(out)
    learner, config = load_run(out)
    data = load(config.data)
    for shot in quick.test_shots:
        episode = Episodes(data, "test", way=3, shot=shot, query=3, seed=config.seed, length=1)[0]
        with torch.no_grad():
            output = learner(type(episode)(*(x[None] for x in episode)), 3)
        right = output.logits[0].argmax(-1) == episode.query_labels
        accuracy = 100 * right.double().mean()
        used = f"The classifier uses {int(output.active.sum())} of 72 features; {accuracy:.1f}% of the 9 queries"
        part = text[text.index(f"<h3>3-way {shot}-shot</h3>") :].split("<h3>")[1].split("</section>")[0]
        assert used in part
        assert part.count('class="tile right"') == right.sum()
        assert part.count('class="tile wrong"') == 9 - right.sum()
        assert part.count("taken for") == 9 - right.sum()
        assert part.count("<img") == 3 * shot + 9
        assert all(name.startswith("Alphabet") for name in re.findall(r"<div class=\"row c2\"><div>(.*?)</div>", part))


def test_the_report_shows_features_used_by_class(trained: tuple[Path, str]) -> None:
    out, _ = trained
    with np.load(out / "patterns.npz") as found:
        active, classes, names = found["active"], found["classes"], found["class_names"]
    part = text_of(out).split('<div class="stripes">')[1].split("</section>")[0]
    for label in np.unique(classes):
        share = active[(classes == label).any(1)].mean()
        assert re.search(rf"<span>{names[label]}</span><img [^>]*><span>{100 * share:.1f}%</span>", part)
    assert "72 features" in part


def test_the_report_command_rewrites_the_report(
    trained: tuple[Path, str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained[0], here / "run")
    before = text_of(here / "run")
    (here / "run" / "report.html").unlink()
    assert cli.main(["report", "run"]) == 0
    assert capsys.readouterr().out == "report: run/report.html\n"
    without_date = partial(re.sub, r"on \d{4}-\d\d-\d\d \d\d:\d\d UTC", "")
    assert without_date(text_of(here / "run")) == without_date(before)


def test_runs_of_earlier_versions_have_a_report(trained: tuple[Path, str], here: Path) -> None:
    """Although files and fields are missing."""
    out = here / "run"
    shutil.copytree(trained[0], out)
    for name in ("patterns.npz", "environment.json", "seconds.json", "curves.png", "report.html"):
        (out / name).unlink()
    results = json.loads((out / "results.json").read_text())
    for test in results["tests"]:
        del test["largest_gap"], test["calibration_error"]
    (out / "results.json").write_text(json.dumps(results))
    settings = json.loads((out / "config.json").read_text())
    del settings["encoder"], settings["micro_batch"]
    (out / "config.json").write_text(json.dumps(settings))
    assert cli.main(["report", str(out)]) == 0
    text = text_of(out)
    assert_self_contained(text)
    assert f"{100 * results['tests'][0]['accuracy']:.2f}%" in text
    assert "there is no patterns.npz" in text
    assert "Not recorded: the run is of an earlier version" in text
    assert "Not available: settings: expected exactly" in text, "the examples are missing"
    assert text.count("data:image/png") == 1, "the curves are redrawn"
    shutil.copy(
        trained[0] / "config.json", out
    )  # the command that the report gives measures the features, and the next report shows them
    command = next(code for code in re.findall(r"<code>(.*?)</code>", text) if "--patterns" in code)
    assert cli.main([*command.split()[1:], "--episodes", "10"]) == 0
    assert cli.main(["report", str(out)]) == 0
    assert '<div class="stripes">' in text_of(out)


def test_the_report_is_written_without_the_data(trained: tuple[Path, str], here: Path) -> None:
    out = here / "run"
    shutil.copytree(trained[0], out)
    settings = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**settings, "data": "omniglot:/nowhere"}))
    assert cli.main(["report", str(out)]) == 0
    text = text_of(out)
    assert text.count("Not available") == 1
    assert "/nowhere" in text


@pytest.mark.parametrize("content", ['{"tests": [{"accuracy": 1}]}', '{"tests": 3}', "{}", '{"tests": [3]}'])
def test_damaged_results_are_reported_in_one_line(
    trained: tuple[Path, str], here: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    out = here / "run"
    shutil.copytree(trained[0], out)
    (out / "results.json").write_text(content)
    assert cli.main(["report", str(out)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "damaged" in err


@pytest.mark.slow
def test_interrupted_runs_have_a_report(quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = _Run.advance

    def interrupted(self: _Run) -> dict[str, float | None]:
        if self.progress.iteration + 1 == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(_Run, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(quick, tmp_path / "run")
    text = text_of(tmp_path / "run")
    assert_self_contained(text)
    assert "The run is not finished: its log ends at step 6 of 14." in text
    command = html.unescape(re.search(r"<pre><code>(.*?)</code></pre>", text)[1])  # type: ignore[index]
    assert command.startswith("sparsedis train --data omniglot:")
    assert command.endswith(f"--out {tmp_path / 'run'} --resume")
    assert "there is no patterns.npz" in text
    assert text.count("Not available") == 1
    assert 'class="tile ' in text, "the examples are classified by the best learner so far"


def test_names_of_classes_are_not_interpreted_as_markup(
    quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor as formulas by matplotlib."""

    def named(config: TrainConfig) -> FewShotData:
        data = load(config.data)
        names = tuple(f"{EVIL}{i}" if i % 2 else f"$\\frac{{{i}$<b>" for i in range(len(data.class_names)))
        return replace(data, class_names=names)

    monkeypatch.setattr(tasks, "read", named)
    config = replace(quick, iterations=2, validate_every=2, test_episodes=5)
    _, printed = run(config, tmp_path / "run")
    assert "not written" not in printed
    text = text_of(tmp_path / "run")
    assert_self_contained(text)
    assert "Not available" not in text
    assert EVIL not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>" not in text.replace("<b>✓</b>", "").replace("<b>✗</b>", "")


def test_many_classes_and_features_stay_small(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.savez_compressed(
        tmp_path / "patterns.npz",
        active=generator.random((100, 5000)) < 0.3,
        classes=np.stack([generator.permutation(400)[:20] for _ in range(100)]),
        accuracy=np.ones(100),
        class_names=np.array([f"class{i}" for i in range(400)]),
    )
    note, stripes = report._usage(tmp_path / "patterns.npz", "")
    assert note.text.startswith("The first 60 of ")  # type: ignore[union-attr]
    assert stripes.values.shape == (60, 800)  # type: ignore[union-attr]
    assert sum(len(report.page._stripe(row)) for row in stripes.values) < 200_000  # type: ignore[union-attr]


def test_reports_of_large_examples_stay_small() -> None:
    """20-way tasks of photographs: only some images are shown, in less than 2 MB."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20 * 10, 3, 64, 64), dtype=np.uint8))
    names = tuple(f"class{i}" for i in range(20))
    data = FewShotData(
        "noise", images, torch.arange(200) % 20, names, {"train": (), "validation": (), "test": tuple(range(20))}
    )
    config = TrainConfig(way=20, query=4, test_shots=(1, 5, 6), head="prototypes", width=2).settled()
    torch.manual_seed(0)
    learner = report.Learner(config, (3, 64, 64)).eval()
    blocks = report._examples([("", learner)], config.as_json(), data)
    assert [block.title for block in blocks] == ["20-way 5-shot", "20-way 6-shot"]  # type: ignore[union-attr]
    page = report.page.Report("title", "summary", [], [report.page.Section("Examples", "about", blocks)])
    text = report.page.render(page)
    assert text.count("<img") == 2 * 10 * (5 + 3)
    assert "Not all images are shown." in text
    assert len(text) < 2_000_000
