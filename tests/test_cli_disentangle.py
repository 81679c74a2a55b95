import json
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsedis import cli
from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.disentangle.train import train
from sparsedis.runs.process import LOG
from tests.command_line import options, start
from tests.training import assert_equal

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

CONFIG = DisentangleConfig(
    iterations=12,
    groups=1,
    group_tasks=4,
    inner_samples=4,
    outer_samples=4,
    validate_every=6,
    validation_batches=1,
    test_batches=1,
    measured_images=60,
    log_every=1,
    save_every=2,
    threads=1,
    lambda1=0.05,
    rho=0.5,
)


@pytest.mark.slow
def test_disentangle_interrupt_and_resume(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C, then the command that it prints: the results equal those of an uninterrupted run."""
    process = start("disentangle", *options(CONFIG), "--out", "run", "--json", "result.json", cwd=here)
    while not (here / "run" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    command = re.search(r"Interrupted\. To resume: sparsedis (disentangle .* --resume)\n", out)
    assert command is not None
    assert not (here / "result.json").exists()

    # In this process, because starting another takes longer than the rest of the run.
    assert cli.main(command[1].split()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "MCC after FastICA" in out
    train(CONFIG, here / "whole")
    for name in ("results.json", "metrics.jsonl", "best.safetensors", "correlations.png", "curves.png"):
        assert (here / "run" / name).read_bytes() == (here / "whole" / name).read_bytes(), name

    result = json.loads((here / "result.json").read_text())
    assert set(result) >= {"inner", "rho", "lambda1", "mcc", "r", "dci", "mcc_ica", "iterations", "seed", "seconds"}
    assert set(result["dci"]) == {"disentanglement", "completeness", "informativeness"}
    assert (result["inner"], result["rho"], result["lambda1"], result["iterations"]) == ("lasso", 0.5, 0.05, 12)
    assert 0 < result["mcc"] <= result["r"] <= 1
    assert result["seconds"] > 0


@pytest.mark.slow
def test_sweep_writes_tables_and_figures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["disentangle-sweep", *options(CONFIG), "--iterations", "2", "--vary", "tasks", "--values", "gaussian"]
    arguments += ["--seeds", "3", "--out", "sweep", "--json", "all.json"]
    assert cli.main(arguments) == 0
    records = json.loads((here / "all.json").read_text())
    assert [(x["inner"], x["tasks"], x["seed"]) for x in records] == [
        ("lasso", "gaussian", 3),
        ("ridge", "gaussian", 3),
    ]
    assert "| gaussian | inner ridge + ICA | 1 |" in capsys.readouterr().out
    assert (here / "sweep" / "sweep.png").exists()

    # A run in its own process writes the same files, except for the time that it took.
    (here / "processes").mkdir()
    (here / "sweep" / "tasks-gaussian-lasso-3").rename(here / "processes" / "tasks-gaussian-lasso-3")
    assert cli.main([*arguments[:-4], "--out", "processes", "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert "runs: 1 waiting, 1 done, in processes\n" in out
    assert "| gaussian | inner ridge + ICA | 1 |" in out
    run = here / "processes" / "tasks-gaussian-ridge-3"
    (run / LOG).unlink()
    assert_equal(run, here / "sweep" / run.name)
    summaries = [json.loads((here / out / "sweep.json").read_text())["summary"] for out in ("sweep", "processes")]
    assert summaries[0] == summaries[1]


def test_an_interrupted_sweep_prints_how_to_resume_it(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsedis.disentangle.sweep.train", interrupted)
    assert cli.main(["disentangle-sweep", *options(CONFIG)]) == 130
    assert capsys.readouterr().out.endswith("Interrupted. To resume: run the same command again\n")
    monkeypatch.setattr("sparsedis.metalearn.comparison.train", interrupted)
    for command in ("compare", "sweep"):
        assert cli.main([command]) == 130
        assert capsys.readouterr().out.endswith("Interrupted. To resume: run the same command again\n")


@pytest.mark.slow
def test_a_contact_sheet_is_written(here: Path) -> None:
    assert cli.main(["shapes3d", "--sheet", "sheet.png"]) == 0
    assert np.asarray(Image.open(here / "sheet.png")).shape == (2 * 6 * 66, 2 * 15 * 66, 3)


def test_help_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("disentangle", "disentangle-sweep", "shapes3d"):
        assert cli.main([command, "--help"]) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("disentangle --rho 1.5", "rho: expected a number from 0 to below 1, got 1.5"),
        ("disentangle --inner lars", "invalid choice 'lars' for argument '--inner'"),
        ("disentangle --tasks blocks-4", "tasks: expected blocks that divide 6 factors, got 'blocks-4'"),
        ("disentangle --iterations -1", "iterations: expected a whole number >= 1, got -1"),
        ("disentangle --data png", "data: expected one of rendered, cache:FILE, h5:FILE, got 'png'"),
        ("disentangle --data h5:nowhere", "expected the file 3dshapes.h5, found none at"),
        ("disentangle --device warp", "device: 'warp' is not available"),
        ("disentangle --device meta", "device: 'meta' is not available"),
        ("disentangle --seed 4294967296", "seed: expected a whole number <= 4294967295, got 4294967296"),
        ("disentangle --threads 100000", "threads: expected a whole number <= 1024, got 100000"),
        ("disentangle --out /dev/null/x", "out: expected a folder, got '/dev/null/x', but '/dev/null' is a file"),
        ("disentangle-sweep --out /dev/null", "but '/dev/null' is a file"),
        ("disentangle-sweep --seeds 0 -1", "seeds: expected a whole number >= 0, got -1"),
        ("disentangle --resume", "expected a run in runs/disentangle-lasso-0.9-0, found no config.json there"),
        ("disentangle --json nowhere/x", "json: expected a file in an existing folder, got 'nowhere/x'"),
        ("disentangle-sweep --vary width", "invalid choice 'width' for argument '--vary'"),
        ("disentangle-sweep --vary rho --values low", "values: expected numbers, got 'low'"),
        ("disentangle-sweep --seeds 1 1", "seeds: expected different ones, got 1, 1"),
        ("disentangle-sweep --vary rho --values 2", "rho: expected a number from 0 to below 1, got 2.0"),
        ("shapes3d", "shapes3d: expected --sheet FILE, --cache FILE or both"),
        ("shapes3d --sheet nowhere/x", "sheet: expected a file in an existing folder, got 'nowhere/x'"),
        ("shapes3d --sheet x --data cache:none", "expected a cache, found no file at none"),
    ],
)
def test_errors_are_reported_in_one_line(
    arguments: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sparsedis: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(here.iterdir())


def test_a_missing_extra_is_reported_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] == "sklearn":
            monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["disentangle"]) == 2
    assert capsys.readouterr().err == (
        "sparsedis: scikit-learn is not installed; pip install 'sparsedis[disentangle]'\n"
    )
    assert not list(here.iterdir())
