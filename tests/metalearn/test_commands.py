"""All few-shot commands except train, on small data."""

import html
import json
import os
import pickle
import re
import shlex
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparsedis import cli
from sparsedis.data import SPLITS, omniglot_one_shot
from sparsedis.metalearn import figures, report, results, tables, tasks
from sparsedis.metalearn.config import PRESETS, TrainConfig, preset
from sparsedis.metalearn.evaluate import Evaluation, examine
from sparsedis.metalearn.figures import usage
from sparsedis.metalearn.learner import with_lambda1
from sparsedis.metalearn.profile import profile
from sparsedis.metalearn.results import Entry, pooled
from sparsedis.metalearn.train import load_run, train
from sparsedis.runs.process import LOG
from tests.command_line import options, start
from tests.data.test_omniglot_one_shot import write_runs
from tests.runs.test_report import assert_self_contained
from tests.training import assert_equal

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def trained(quick: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("commands") / "run"
    train(replace(quick, iterations=60, validate_every=60), out)
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_evaluate_omniglot_one_shot(trained: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_runs(here / "all_runs")
    arguments = ["evaluate", str(trained), "--protocol", "omniglot-one-shot", "--data", str(data)]
    assert cli.main([*arguments, "--json", "result.json", "--lambda1", "0.2"]) == 0
    result = json.loads((here / "result.json").read_text())
    assert result["lambda1"] == 0.2
    assert "lambda1 = 0.2" in capsys.readouterr().out
    assert cli.main([*arguments, "--json", "result.json"]) == 0
    result = json.loads((here / "result.json").read_text())
    assert "lambda1" not in result
    assert list(result["error_per_run"]) == ["run01", "run02", "run03"]
    assert result["error"] == pytest.approx(sum(result["error_per_run"].values()) / 3)
    assert result["error"] < 0.5, "chance is 0.8"
    assert result["certified"] == 1
    assert "run02" in capsys.readouterr().out
    # With the names in class_labels.txt rotated, every answer is wrong.
    for labels in data.glob("*/class_labels.txt"):
        words = [line.split() for line in labels.read_text().splitlines()]
        rotated = [(test, words[i - 1][1]) for i, (test, _) in enumerate(words)]
        labels.write_text("".join(f"{test} {training}\n" for test, training in rotated))
    before = result["error"]
    assert cli.main([*arguments, "--json", "result.json"]) == 0
    assert json.loads((here / "result.json").read_text())["error"] >= 1 - before


def facts_of(text: str) -> dict[str, str]:
    """The facts at the top of a report."""
    return dict(re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", text))


def without_date(text: str) -> str:
    return re.sub(r"on \d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text)


@pytest.mark.slow
def test_evaluate_writes_a_report(trained: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(trained), "--episodes", "30", "--shot", "1", "--lambda1", "0.2", "--out", "a/b"]
    assert cli.main([*arguments, "--json", "x.json"]) == 0
    output = capsys.readouterr().out
    assert output.endswith("report: a/b/report.html\n")
    assert "lambda1 = 0.2" in output
    out = here / "a" / "b"
    names = ["environment.json", "patterns.npz", "reliability.png", "report.html", "results.json", "seconds.json"]
    assert sorted(file.name for file in out.iterdir()) == names
    values = json.loads((out / "results.json").read_text())
    [test] = values["tests"]
    assert values == {
        "run": str(trained),
        "protocol": "episodes",
        "name": "omniglot",
        "data": None,
        "lambda1": 0.2,
        "tests": [test],
    }
    assert {**test, "lambda1": 0.2} == json.loads((here / "x.json").read_text())
    text = (out / "report.html").read_text()
    assert_self_contained(text)
    assert "Not available" not in text
    assert "Not recorded" not in text
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Result",
        "Examples",
        "Features used by class",
        "Confidence",
        "Certificates",
        "Settings",
        "Environment and time",
    ]
    assert text.count('<a href="') - text.count('<a href="#') == 1
    [link] = re.findall(r'<a href="([^#].*?)">Report of the run run</a>', text)
    assert (out / link).samefile(trained / "report.html")
    assert not Path(link).is_absolute()
    facts = facts_of(text)
    assert facts["accuracy, 3-way 1-shot"] == f"{100 * test['accuracy']:.1f}% ± {100 * test['ci95']:.1f}"
    assert facts["features used, 3-way 1-shot"] == f"{100 * test['features_used']:.1f}%"
    assert f"{test['largest_gap']:.1e}" in text

    # The first task, solved with the given lambda1.
    learner, config = load_run(trained)
    config = with_lambda1(learner, config, 0.2)
    episodes = tasks.episodes(config, tasks.read(config), "test", 1, config.evaluation_query, 1)
    [block] = report._examples([("", learner)], replace(config, test_shots=(1,)).as_json(), episodes.data)
    assert block.about in text  # type: ignore[union-attr]
    assert text.count('class="tile right"') + text.count('class="tile wrong"') == 3 * min(config.evaluation_query, 3)

    # The report can be rewritten from the folder, and the command in it reproduces the evaluation.
    (out / "report.html").unlink()
    assert cli.main(["report", "a/b"]) == 0
    assert without_date((out / "report.html").read_text()) == without_date(text)
    command = html.unescape(re.search(r"<code>sparsedis (.*?)</code>", text)[1])  # type: ignore[index]
    assert cli.main([*shlex.split(command), "--json", "again.json"]) == 0
    assert (here / "again.json").read_text() == (here / "x.json").read_text()

    # Without the learner, the report shows what the folder contains.
    (out / "results.json").write_text(json.dumps({**values, "run": "/nowhere"}))
    for name in ("patterns.npz", "reliability.png", "environment.json", "seconds.json"):
        (out / name).unlink()
    assert cli.main(["report", "a/b"]) == 0
    text = (out / "report.html").read_text()
    assert text.count("Not available") == 3
    assert "Report of the run" not in text
    assert "sparsedis evaluate /nowhere " in text
    assert "time" not in facts_of(text)
    (out / "results.json").write_text(json.dumps({**values, "tests": []}))
    capsys.readouterr()
    assert cli.main(["report", "a/b"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_report_of_an_evaluation_on_other_data_can_be_rewritten(
    trained: Path, omniglot_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any working directory."""
    (here / "run").symlink_to(trained)
    (here / "data").symlink_to(omniglot_folder)
    arguments = ["evaluate", "run", "--data", "omniglot:data", "--episodes", "2", "--split", "train"]
    assert cli.main([*arguments, "--out", "out"]) == 0
    text = (here / "out" / "report.html").read_text()
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert cli.main(["report", "../out"]) == 0
    assert without_date((here / "out" / "report.html").read_text()) == without_date(text)
    assert "Not available" not in text
    assert (
        f"sparsedis evaluate {here / 'run'} --protocol episodes --data omniglot:{here / 'data'} --split train" in text
    )


@pytest.mark.parametrize("place", ["file", "file/out", "{run}", "full"])
def test_evaluate_refuses_unsuitable_output_folders(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """Before anything is computed; existing files are neither replaced nor mixed with new ones."""
    (here / "file").write_text("x")
    (here / "full").mkdir()
    (here / "full" / "report.html").write_text("x")
    before = {file.name: file.read_bytes() for file in trained.iterdir()}
    assert cli.main(["evaluate", str(trained), "--out", place.format(run=trained), "--json", "x.json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"sparsedis: out: expected (a folder, got .* is a file|a new or an empty folder, .*)\n", err)
    assert {file.name: file.read_bytes() for file in trained.iterdir()} == before
    assert (here / "full" / "report.html").read_text() == "x"
    assert sorted(file.name for file in here.iterdir()) == ["file", "full"]


@pytest.mark.slow
def test_evaluations_that_cannot_be_written_leave_no_incomplete_results(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is printed anyway, and a failed report does not affect the other files."""
    arguments = ["evaluate", str(trained), "--episodes", "2", "--out"]

    def broken(*_: object) -> Path:
        raise ValueError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(report, "write_evaluation", broken)
        assert cli.main([*arguments, "a"]) == 0
    assert capsys.readouterr().out.endswith("report: not written: broken\n")
    assert (here / "a" / "results.json").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(results.environment, "write", broken)
        assert cli.main([*arguments, "b"]) == 2
    out, err = capsys.readouterr()
    assert "3-way 2-shot" in out
    assert err == "sparsedis: broken\n"
    assert not (here / "b" / "results.json").exists()
    assert not (here / "b" / "report.html").exists()

    # A second evaluation into the same folder starts when the first is about to write its first file.
    second = []

    def start_second(*_: object) -> bytes:
        if not second:
            second.append(None)
            second[0] = cli.main([*arguments, "d"])
        return b""

    with monkeypatch.context() as patch:
        patch.setattr("sparsedis.metalearn.evaluate.patterns", start_second)
        assert cli.main([*arguments, "d"]) == 0
    assert second == [2]
    assert f"sparsedis: out: d is in use by process {os.getpid()} on host" in capsys.readouterr().err
    assert "report.html" in {file.name for file in (here / "d").iterdir()}

    # Training also refuses the folder and names its contents.
    assert cli.main(["train", "--out", "d"]) == 2
    assert capsys.readouterr().err == "sparsedis: out: d holds an evaluation, not a run; choose another folder\n"

    def fill_folder(*_: object) -> Any:
        (here / "c").mkdir()
        (here / "c" / "config.json").write_text("{}")
        return examine(*_)  # type: ignore[arg-type]

    monkeypatch.setattr("sparsedis.metalearn.evaluate.examine", fill_folder)
    assert cli.main([*arguments, "c"]) == 2
    assert "which is not empty" in capsys.readouterr().err
    assert [file.name for file in (here / "c").iterdir()] == ["config.json"]


@pytest.mark.slow
def test_evaluate_omniglot_one_shot_writes_a_report(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_runs(here / "all_runs")
    arguments = ["evaluate", str(trained), "--protocol", "omniglot-one-shot", "--data", "all_runs", "--out", "out"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.endswith("report: out/report.html\n")
    [test] = json.loads((here / "out" / "results.json").read_text())["tests"]
    assert 0 < test["largest_gap"] < 1e-5
    text = (here / "out" / "report.html").read_text()
    assert_self_contained(text)
    assert "Not available" not in text
    assert facts_of(text)["error"] == f"{100 * test['error']:.2f}%"
    assert f"{test['largest_gap']:.1e}" in text
    assert f"--protocol omniglot-one-shot --data {data}" in text
    run = omniglot_one_shot.load(data)[0]
    wrong = round(test["error_per_run"]["run01"] * len(run.labels))
    assert text.count('class="tile wrong"') == text.count("taken for character") == wrong
    assert text.count('class="tile right"') == len(run.labels) - wrong
    # Each character has a row with its single support image and its own queries.
    rows = text.split('<div class="row c2">')[1:]
    assert [re.search(r"<div>(.*?)</div>", row)[1] for row in rows] == [  # type: ignore[index]
        f"character {i + 1}" for i in range(len(run.training))
    ]
    (here / "out" / "report.html").unlink()
    assert cli.main(["report", "out"]) == 0
    assert without_date((here / "out" / "report.html").read_text()) == without_date(text)


@pytest.mark.slow
def test_one_shot_runs_are_read_at_the_size_of_the_learner(
    quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And so are other data of the same reader."""
    train(replace(quick, iterations=2, validate_every=2, image_size=35, left_out=()), here / "run")
    data = write_runs(here / "all_runs")
    assert cli.main(["evaluate", "run", "--protocol", "omniglot-one-shot", "--data", str(data)]) == 0
    assert "run03" in capsys.readouterr().out
    assert cli.main(["evaluate", "run", "--data", quick.data, "--episodes", "3"]) == 0
    assert "omniglot, test split" in capsys.readouterr().out


@pytest.mark.slow
def test_compare_cross_validates_over_alphabets(
    quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run per alphabet and seed; the table averages over all runs, and the JSON file also lists the alphabets."""
    config = replace(quick, iterations=2, validate_every=2, episodes="within-alphabet", left_out=())
    arguments = ["compare", *options(config), "--heads", "group-lasso-svm", "prototypes", "--seeds", "0", "1"]
    arguments += ["--lambda1-grid", "0.1", "0.2", "--cross-validate", "--out", "cv"]
    assert cli.main(arguments) == 0
    table = capsys.readouterr().out
    names = {folder.name for folder in (here / "cv").iterdir() if folder.is_dir()}
    heads = ("group-lasso-svm-0.1", "group-lasso-svm-0.2", "prototypes")
    assert names == {f"{head}-{seed}-Alphabet{i}" for head in heads for seed in (0, 1) for i in (0, 1)}
    assert json.loads((here / "cv" / "prototypes-1-Alphabet1" / "config.json").read_text())["left_out"] == ["Alphabet1"]
    entries = json.loads((here / "cv" / "compare.json").read_text())["entries"]
    assert [entry["row"] for entry in entries] == [0, 1, 2], "without validation nothing is chosen"
    for entry in entries:
        assert entry["validation"] is None
        for kind, test in entry["tests"].items():
            folds = [entry["folds"][f"Alphabet{i}"][kind]["accuracy"] for i in (0, 1)]
            assert test["accuracy"] == pytest.approx(sum(folds) / 2)
        assert entry["label"] in table if "label" in entry else entry["head"] in table
    text = (here / "cv" / "report.html").read_text()
    assert "prototypes-1-Alphabet1" in text
    assert_self_contained(text)
    assert "Not available" not in text.replace("no curve", "")
    assert cli.main([*arguments, "--data", "pictograms"]) == 2
    assert "left_out: expected none for pictograms" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_saves_figures_and_patterns(trained: Path, here: Path) -> None:
    files = ["--json", "x.json", "--reliability", "x.png", "--patterns", "x.npz"]
    assert cli.main(["evaluate", str(trained), "--episodes", "30", *files]) == 0
    assert (here / "x.png").read_bytes().startswith(PNG)
    result = json.loads((here / "x.json").read_text())
    with np.load(here / "x.npz") as patterns:
        assert patterns["active"].shape == (30, 8 * 3 * 3)
        assert patterns["active"].mean() == pytest.approx(result["features_used"])
        assert patterns["accuracy"].mean() == pytest.approx(result["accuracy"])
        assert patterns["classes"].shape == (30, 3)
        assert patterns["class_names"][0] == "Alphabet0/character01"
    assert 0 < result["calibration_error"] < 1


@pytest.mark.slow
def test_evaluate_with_another_lambda1_than_in_training(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the same encoder, a larger lambda1 uses fewer features."""
    used = []
    for given in ([], ["--lambda1", "0.05"], ["--lambda1", "0.6"]):
        assert cli.main(["evaluate", str(trained), "--episodes", "20", "--json", "x.json", *given]) == 0
        written = json.loads((here / "x.json").read_text())
        assert written.get("lambda1") == (float(given[1]) if given else None)
        used.append(written["features_used"])
    assert used[0] == used[1] > used[2] > 0
    assert "lambda1 = 0.6" in capsys.readouterr().out
    assert cli.main(["evaluate", str(trained), "--lambda1=-1"]) == 2
    assert "lambda1: expected a finite number >= 0, got -1" in capsys.readouterr().err
    learner, config = load_run(trained)
    with pytest.raises(ValueError, match="expected none for the head ridge"):
        with_lambda1(learner, config.with_head("ridge"), 0.1)
    with pytest.raises(ValueError, match="a head that learns it"):
        with_lambda1(learner, replace(config, learn=("lambda1",)), 0.1)


@pytest.mark.slow
def test_compare_writes_tables_and_skips_finished_runs(
    quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = ("group-lasso-svm", "svm", "ridge", "prototypes", "group-lasso-logistic")
    config = replace(quick, iterations=4, validate_every=4, test_episodes=10, lambda2=5.0)
    arguments = ["compare", *options(config), "--seeds", "0", "1", "--lambda1-grid", "0.1", "0.3", "--out", "grid"]
    assert cli.main(arguments) == 0
    table = capsys.readouterr().out.partition("| head |")
    text = (here / "grid" / "compare.md").read_text()
    assert table[1] + table[2] == text
    assert table[0].endswith("report: grid/report.html\n")
    page = (here / "grid" / "report.html").read_text(encoding="utf-8")
    assert_self_contained(page)
    assert "Not available" not in page
    assert page.count('/report.html">') == 14, "a link for every run"
    assert page.count("<h3>") == 5, "an example for every head"
    assert all(cell.strip() in page for row in text.splitlines()[2:] for cell in row.split("|")[1:-1])
    rows = text.splitlines()[2:]
    assert [row.split("|")[1].split(",")[0].strip() for row in rows] == list(heads)
    found = json.loads((here / "grid" / "compare.json").read_text())
    assert len(found["entries"]) == 7
    assert [entry["lambda1"] for entry in found["entries"]] == [0.1, 0.3, None, None, None, 0.1, 0.3]
    for entry in found["entries"]:
        runs = [
            json.loads((here / "grid" / f"{entry['head']}{suffix}-{seed}" / "results.json").read_text())
            for seed in (0, 1)
            for suffix in ["" if entry["lambda1"] is None else f"-{entry['lambda1']:g}"]
        ]
        mean = np.mean([run["tests"][0]["accuracy"] for run in runs])
        assert entry["tests"]["3-way 1-shot"]["accuracy"] == pytest.approx(mean)
        assert entry["seeds"] == [0, 1]

    # Repeating the command trains nothing and restores missing results.
    (here / "grid" / "ridge-1" / "results.json").unlink()
    times = {file: file.stat().st_mtime_ns for file in here.rglob("last.safetensors")}
    assert cli.main(arguments) == 0
    assert (here / "grid" / "compare.md").read_text() == text
    assert {file: file.stat().st_mtime_ns for file in here.rglob("last.safetensors")} == times

    assert cli.main([*arguments, "--width", "4"]) == 2
    assert "width: the run in" in capsys.readouterr().err

    # A run in its own process writes the same files; test_processes_are_interrupted has two at once.
    some = ["--seeds", "1", "--heads", "ridge", "--out", "processes", "--jobs", "2"]
    capsys.readouterr()
    assert cli.main(["compare", *options(config), *some]) == 0
    out = capsys.readouterr().out
    assert "runs: 1 done\nreport: processes/report.html\n| head |" in out
    run = here / "processes" / "ridge-1"
    assert "│ 3-way 2-shot │" in (run / LOG).read_text()
    (run / LOG).unlink()
    assert_equal(run, here / "grid" / run.name)


@pytest.mark.slow
def test_sweep_writes_tables_and_reports(quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(quick, iterations=4, validate_every=4, test_episodes=10)
    arguments = ["sweep", *options(config), "--lambda1-grid", "0.05", "0.6", "--baselines", "ridge", "--out", "grid"]
    assert cli.main(arguments) == 0
    entries = json.loads((here / "grid" / "sweep.json").read_text())["entries"]
    used = [entry["tests"]["3-way 2-shot"]["features_used"] for entry in entries]
    assert used[0] > used[1]
    assert used[2] > used[1]
    for name in ("sweep.png", "features.png"):
        assert (here / "grid" / name).read_bytes().startswith(PNG)
    assert "group-lasso-svm, lambda1 = 0.6" in capsys.readouterr().out
    page = (here / "grid" / "report.html").read_text(encoding="utf-8")
    assert_self_contained(page)
    assert "Not available" not in page
    assert page.count('<div class="picture') == 3
    # The report of an unfinished sweep.
    (here / "grid" / "sweep.json").unlink()
    (here / "grid" / "ridge-0" / "results.json").unlink()
    (here / "grid" / "ridge-0" / "report.html").unlink()
    assert cli.main(["report", "grid"]) == 0
    page = (here / "grid" / "report.html").read_text(encoding="utf-8")
    assert "2 of the runs are finished, 3 were started." in page
    assert "Without a report of their own: ridge-0." in page
    assert "Not available" not in page
    capsys.readouterr()
    for words, message in (
        (["sweep", "--head", "ridge"], "head: expected one with a group Lasso, got ridge"),
        (["sweep", "--lambda1-grid", "0.1", "0.1"], "lambda1_grid: expected different ones, got 0.1, 0.1"),
        (["sweep", "--lambda1-grid"], "lambda1_grid: expected different ones, got none"),
        (["compare", "--lambda1-grid", "0.1", "0.1"], "lambda1_grid: expected different ones, got 0.1, 0.1"),
        (["compare", "--seeds", "0", "0"], "seeds: expected different ones, got 0, 0"),
    ):
        assert cli.main(words) == 2
        assert capsys.readouterr().err == f"sparsedis: {message}\n"


@pytest.mark.slow
def test_processes_are_interrupted(quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends all processes; resumed with one process, the runs have the files of uninterrupted ones."""
    config = replace(quick, iterations=60, validate_every=60, save_every=60, test_episodes=10)
    arguments = ["sweep", *options(config), "--lambda1-grid", "0.1", "--baselines", "ridge"]
    process = start(*arguments, "--out", "grid", "--jobs", "2", cwd=here)
    runs = [here / "grid" / name for name in ("group-lasso-svm-0.1-0", "ridge-0")]
    while not all((run / "metrics.jsonl").exists() for run in runs) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert out.endswith(
        "save checkpoints\nreport: grid/report.html\nInterrupted. To resume: run the same command again\n"
    )
    assert not (here / "grid" / "sweep.json").exists()
    for run in runs:
        assert (run / "last.safetensors").exists()
        (number,) = re.findall(r", process (\d+) of", (run / LOG).read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(int(number), 0)
        (run / LOG).unlink()
    for folder in ("grid", "whole"):
        assert cli.main([*arguments, "--out", folder]) == 0
        capsys.readouterr()
    for run in runs:
        assert_equal(run, here / "whole" / run.name)


@pytest.mark.slow
def test_failed_runs_are_named_and_omitted_from_the_table(
    quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table has only variants whose runs are all finished; the error names the others."""
    config = replace(quick, iterations=4, validate_every=4, test_episodes=10)
    arguments = ["sweep", *options(config), "--lambda1-grid", "0.1", "--baselines", "ridge", "--out", "grid"]
    (here / "grid").mkdir()
    (here / "grid" / "group-lasso-svm-0.1-0").touch()  # a file instead of the run's folder
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert "| ridge |" in out
    assert re.fullmatch(r"sparsedis: 1 run failed: group-lasso-svm-0\.1-0: .* \(to try again: run .* again\)\n", err)
    assert [entry["head"] for entry in json.loads((here / "grid" / "sweep.json").read_text())["entries"]] == ["ridge"]
    (here / "grid" / "group-lasso-svm-0.1-0").unlink()
    assert cli.main(arguments) == 0
    assert len(json.loads((here / "grid" / "sweep.json").read_text())["entries"]) == 2

    words = ["compare", "--data", "omniglot:nowhere", "--heads", "svm", "ridge", "--seeds", "0", "--out", "none"]
    capsys.readouterr()
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sparsedis: 2 runs failed: svm-0, ridge-0: ")
    assert err.count("nowhere") == 1


def evaluation(accuracy: float, ci95: float | None) -> Evaluation:
    return Evaluation("test", 5, 1, 10, 100, 0, accuracy, ci95, 0.5, None, 0.1)


def test_pooled_confidence_interval() -> None:
    """Two runs of equal variance have the interval of one run with twice the episodes."""
    both = pooled([evaluation(0.5, 0.02), evaluation(0.7, 0.02)])
    assert (both.accuracy, both.lowest, both.highest) == pytest.approx((0.6, 0.5, 0.7))
    assert both.ci95 == pytest.approx(0.02 / 2**0.5)
    assert both.certified is None


def test_runs_of_one_episode_have_no_confidence_interval() -> None:
    tests = {"5-way 1-shot": pooled([evaluation(0.5, 0.02), evaluation(0.7, None)])}
    assert tests["5-way 1-shot"].ci95 is None
    entries = [Entry(head, lambda1, (0, 1), 0.5, tests) for head, lambda1 in (("svm", None), ("group-lasso-svm", 0.1))]
    assert "| svm | 60.00 | 50.0% |" in tables.comparison(entries).markdown()
    assert figures.sweep(entries).startswith(PNG)


def test_usage_of_a_small_example() -> None:
    active = torch.tensor([[True, False], [True, True], [False, False]])
    classes = torch.tensor([[7, 2], [2, 5], [5, 7]])
    found, shares = usage(active, classes)
    assert found.tolist() == [2, 5, 7]
    assert shares.tolist() == [[1, 0.5], [0.5, 0.5], [0.5, 0]]


def test_data_lists_and_checks_data_sets(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["data"]) == 0
    assert "tieredimagenet:PATH" in capsys.readouterr().out
    assert cli.main(["data", "pictograms"]) == 0
    assert "28x28" in capsys.readouterr().out
    for split, first, count in (("train", 0, 6), ("val", 6, 3), ("test", 9, 4)):
        images = np.full((5 * count, 8, 8, 3), first, np.uint8)
        images[:, 0, 0, 0] = np.arange(5 * count)
        if split == "test":
            images[1] = images[0]
        content = {"data": images, "labels": [first + i % count for i in range(5 * count)]}
        (here / f"FC100_{split}.pickle").write_bytes(pickle.dumps(content))
    assert cli.main(["data", f"fc100:{here}"]) == 0
    out = capsys.readouterr().out
    for text in ("FC100_train.pickle", "expected classes: 60, 20, 20", "not known", "30", "3x8x8"):
        assert text in out
    table = [line.split() for line in out.splitlines() if any(f" {split} " in line for split in SPLITS)]
    assert [[cell for cell in row if cell.isdigit()] for row in table] == [
        ["6", "30", "0"],
        ["3", "15", "0"],
        ["4", "20", "2"],
    ]
    (here / "SHA256SUMS").write_text("0" * 64 + "  FC100_val.pickle\n")
    assert cli.main(["data", f"fc100:{here}"]) == 2
    assert "expected other digests (SHA-256), got those above for FC100_val.pickle" in capsys.readouterr().err
    monkeypatch.setenv("SPARSEDIS_DATA", str(here))
    assert cli.main(["data", "cifar-fs"]) == 2
    assert f"expected a folder with CIFAR_FS_{{train,val,test}}.pickle, found nothing at '{here}/cifar-fs'" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.slow
def test_profile_times_the_parts_of_a_step(quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *options(quick), "--profile", "2"]) == 0
    out = capsys.readouterr().out
    for part in ("encoder forward", "head forward", "head backward", "encoder backward"):
        assert part in out
    assert not list(here.iterdir())
    measured = profile(quick, 4)
    assert {len(values) for values in measured.parts.values()} == {4}
    assert measured.fraction(*measured.parts) == pytest.approx(1)


@pytest.mark.slow
def test_presets_set_defaults_and_can_be_overridden(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At any position on the command line."""
    assert cli.main(["train", "--batch", "16", "--preset", "metaoptnet"]) == 2
    assert "data: expected 'miniimagenet:PATH'" in capsys.readouterr().err
    assert cli.main(["train", "--preset", "metaoptnet", "--help"]) == 0
    assert "60000" in capsys.readouterr().out
    assert cli.main(["train", "--preset", "slow"]) == 2
    for command in ("compare", "sweep"):
        capsys.readouterr()
        assert cli.main([command, "--preset", "metaoptnet", "--help"]) == 0
        assert "60000" in capsys.readouterr().out
    assert PRESETS["quick"] == TrainConfig()
    assert cli.main(["train", "--preset", "metaoptnet", "--head", "nearest"]) == 2
    assert preset("metaoptnet", "ridge").hyperparameters.logit_scale == 10  # the head's default, not the preset's
    for words, shown in ([], True), (["--head", "ridge"], False), (["--head=svm"], False):
        capsys.readouterr()
        assert cli.main(["train", "--preset", "metaoptnet", *words, "--help"]) == 0
        assert ("(default: 1.0)" in capsys.readouterr().out) == shown
    for head in ("svm", "ridge"):  # a head has its own hyperparameters, not the preset's
        assert cli.main(["train", "--head", head, "--data", "omniglot:nowhere"]) == 2
        assert "nowhere" in capsys.readouterr().err


@pytest.mark.slow
def test_the_omniglot_preset(omniglot_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training on all alphabets for the published runs, and cross-validation of several heads."""
    small = ["--data", f"omniglot:{omniglot_folder}", "--way", "5", "--iterations", "2", "--threads", "1"]
    assert cli.main(["train", "--preset", "omniglot", *small, "--out", "run"]) == 0
    config = load_run(here / "run")[1]
    assert replace(config, data="", way=20, iterations=7500, threads=None) == replace(
        PRESETS["omniglot"].settled(), data=""
    )
    output = capsys.readouterr().out
    assert "30 classes to train on" in output
    assert "sparsedis evaluate run --data NAME:PATH" in output
    assert "--cross-validate" in output
    data = write_runs(here / "all_runs")
    assert cli.main(["evaluate", "run", "--protocol", "omniglot-one-shot", "--data", str(data)]) == 0
    capsys.readouterr()
    assert cli.main(["compare", "--preset", "omniglot", *small, "--out", "none"]) == 2
    assert "left_out: expected a group to test on, or compare's --cross-validate, got none" in capsys.readouterr().err
    assert not (here / "none").exists() or not list((here / "none").iterdir())
    few = ["--test-episodes", "4", "--heads", "group-lasso-svm", "ridge", "--seeds", "0", "--cross-validate"]
    assert cli.main(["compare", "--preset", "omniglot", *small, *few, "--out", "cv"]) == 0
    assert "5-way 1-shot" in capsys.readouterr().out
    assert len(list((here / "cv").glob("*/results.json"))) == 4


@pytest.mark.slow
def test_custom_encoders_can_be_trained_and_loaded(quick: TrainConfig, tmp_path: Path) -> None:
    def custom_encoder() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.BatchNorm1d(30), nn.ReLU())

    config = replace(quick, encoder="custom", final_width=None)
    torch.manual_seed(0)
    results = train(config, tmp_path / "run", encoder=custom_encoder())
    learner, held = load_run(tmp_path / "run", custom_encoder())
    assert held == config.settled()
    assert learner.encoder[1].weight.abs().sum() > 0
    assert results.tests[0].episodes == 20
    with pytest.raises(ValueError, match="encoder: expected a module if and only if it is 'custom'"):
        load_run(tmp_path / "run")


@pytest.mark.slow
def test_tensorboard_shows_the_logged_accuracy(quick: TrainConfig, tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the extra 'fewshot' is not installed"
    )
    train(replace(quick, tensorboard=True), tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for split in ("train", "validation"):
        expected = [(line["iteration"], line["accuracy"]) for line in lines if line["split"] == split]
        logged = [(event.step, event.value) for event in events.Scalars(f"{split}/accuracy")]
        assert [step for step, _ in logged] == [step for step, _ in expected]
        assert [value for _, value in logged] == pytest.approx([value for _, value in expected])
