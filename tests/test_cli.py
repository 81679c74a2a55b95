import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sparsedis import cli
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.train import train
from tests.command_line import options, start
from tests.training import CIRCUMSTANCES

COMMANDS = "train, evaluate, compare, sweep, data, synthetic, disentangle, disentangle-sweep, shapes3d, report, info"
FILES = (
    "config.json",
    "metrics.jsonl",
    "last.safetensors",
    "best.safetensors",
    "curves.png",
    "patterns.npz",
    "results.json",
)


@pytest.fixture(scope="module")
def trained(quick: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    train(quick, out)
    return out


@pytest.mark.slow
def test_train_interrupt_resume_evaluate(
    quick: TrainConfig, trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a new folder, as a person would: Ctrl-C, the command that is then printed, and an evaluation."""
    process = start("train", *options(quick), "--out", "run", cwd=here)
    while not (here / "run" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    command = re.search(r"Interrupted\. To resume: sparsedis (train .* --resume)\n", out)
    assert command is not None
    assert not (here / "run" / "results.json").exists()

    # In this process: to start another takes longer than the rest of the run.
    assert cli.main(command[1].split()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "3-way 1-shot" in out
    assert "100.0%" in out
    assert "report: run/report.html\nnext: test it on more tasks\n    sparsedis evaluate run " in out
    assert sorted(file.name for file in (here / "run").iterdir()) == sorted([*FILES, *CIRCUMSTANCES])
    for name in FILES:
        assert (here / "run" / name).read_bytes() == (trained / name).read_bytes(), name


def test_evaluate(trained: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(trained), "--shot", "1", "--episodes", "20", "--json", "result.json"]
    assert cli.main(arguments) == 0
    result = json.loads((here / "result.json").read_text())
    assert result == json.loads((trained / "results.json").read_text())["tests"][0]
    assert set(result) >= {"accuracy", "ci95", "features_used", "certified", "episodes", "seed"}
    assert "3-way 1-shot" in capsys.readouterr().out
    assert [file.name for file in here.iterdir()] == ["result.json"]

    assert cli.main([*arguments, "--way", "4", "--query", "2", "--seed", "9", "--split", "validation"]) == 0
    result = json.loads((here / "result.json").read_text())
    assert [result[key] for key in ("way", "query", "seed", "split")] == [4, 2, 9, "validation"]


def test_prototypes_and_the_default_folder(quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *options(quick.with_head("prototypes"))]) == 0
    results = json.loads((here / "runs" / "omniglot-prototypes-0" / "results.json").read_text())
    assert [x["certified"] for x in results["tests"]] == [None, None]
    assert [x["features_used"] for x in results["tests"]] == [1.0, 1.0]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["evaluate", "-h"], ["synthetic", "-h"], ["info"]]
)
def test_what_prints_and_ends(arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") > 3
    assert captured.err == ""


def test_no_command(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What people do, in order, with commands that there are; none is cut or broken at any width."""
    commands = [command for _, commands in cli._GUIDE for command in commands]
    for columns in (30, 59, 60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert cli.main([]) == 2
        out, err = capsys.readouterr()
        assert err == ""
        lines = out.splitlines()
        assert [line.strip() for line in lines if line.startswith("    ")] == commands
        assert all(len(line) <= columns for line in lines if not line.startswith("    "))
        assert re.findall(r"^(\d)\.", out, flags=re.MULTILINE) == list("12345")
    for command in commands:
        assert command.split()[1] in f"--help, {COMMANDS}".split(", ")


@pytest.mark.parametrize("columns", [30, 59, 60, 80, 200])
def test_info_in_terminals_of_any_width(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert torch.__version__ in out
    assert all(len(line) <= columns or " " not in line for line in out.splitlines())
    assert ("torch: " in out) == (columns < 60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", f"Unrecognized options: trian; Available subcommands: {COMMANDS}"),
        ("train --bogus 3", "Unrecognized options: --bogus"),
        ("train stray", "Unrecognized options: stray"),
        ("train --way", "Missing value for argument '--way'"),
        ("train --way x", "--way: invalid literal for int() with base 10: 'x'"),
        ("train --way 1", "way: expected a whole number >= 2, got 1"),
        ("train --seed -1", "seed: expected a whole number >= 0, got -1"),
        ("train --learning-rate nan", "learning_rate: expected a finite number > 0, got nan"),
        ("train --head knn", "invalid choice 'knn' for argument '--head'"),
        ("train --data mnist", "data: expected one of pictograms, omniglot:PATH, miniimagenet:PATH, "),
        (
            "train --data omniglot",
            "data: expected 'omniglot:PATH' (or a folder of that name in $SPARSEDIS_DATA), got 'omniglot'",
        ),
        ("train --data omniglot:nowhere", "nowhere'"),
        (
            "train --data {data} --shot 1 --query 1 --way 9",
            "way: 9 classes per episode, but the validation split of omniglot has 4",
        ),
        (
            "train --data {data} --way 3",
            "images per class, but class 'Alphabet0/character01' of omniglot has 8",
        ),
        ("train --data {data} --way 3 --query 3 --device warp", "device: 'warp' is not available"),
        ("train --resume", "expected a run in runs/pictograms-group-lasso-svm-0, found no config.json there"),
        (
            "train --out {run}",
            "already holds config.json; resume that run, or choose another folder (to resume: ",
        ),
        ("train --out {run} --resume", "resume: data: the run in"),
        ("evaluate", "Missing from sparsedis evaluate: DIR"),
        ("evaluate nowhere", "checkpoint: expected a file, found none at nowhere/best.safetensors"),
        ("evaluate {corrupt}", "is damaged or not of this package"),
        ("evaluate {run} --shot 99", "images per class"),
        ("evaluate {run} --way 99", "way: 99 classes per episode, but the test split of omniglot has 8"),
        ("evaluate {run} --episodes 0", "length: expected a number >= 1, got 0"),
        ("evaluate {run} --data mnist", "data: expected one of"),
        ("evaluate {run} --split exam", "split: expected one of train, validation, test, got 'exam'"),
        ("evaluate {run} --json nowhere/x", "json: expected a file in an existing folder, got 'nowhere/x'"),
        ("synthetic --seeds 0", "seeds: expected a whole number >= 1, got 0"),
        ("synthetic --samples 3", "samples: expected at least 5 (folds), got 3"),
        ("synthetic --useful 1.5", "useful: expected numbers > 0 and <= 1, got 1.5"),
        ("synthetic --noise nan", "noise: expected a number >= 0 and < 1, got nan"),
        ("synthetic --json nowhere/x", "json: expected a file in an existing folder, got 'nowhere/x'"),
        ("synthetic --figure nowhere/x", "figure: expected a file in an existing folder, got 'nowhere/x'"),
        ("evaluate {run} --jsn x", "Unrecognized options: --jsn, x; Perhaps you meant: --json"),
    ],
)
def test_errors_are_one_line(
    arguments: str,
    message: str,
    quick: TrainConfig,
    trained: Path,
    tmp_path_factory: pytest.TempPathFactory,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corrupt = tmp_path_factory.mktemp("corrupt")
    (corrupt / "best.safetensors").write_bytes((trained / "best.safetensors").read_bytes()[:1000])
    before = {file.name: file.read_bytes() for file in trained.iterdir()}
    filled = [word.format(data=quick.data, run=trained, corrupt=corrupt) for word in arguments.split()]
    assert cli.main(filled) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sparsedis: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert message in err
    assert not list(here.iterdir())
    assert {file.name: file.read_bytes() for file in trained.iterdir()} == before


@pytest.mark.slow
def test_errors_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line and exit code 2; without tyro's frames, which ASCII would spell differently."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = start("trian", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == f"sparsedis: Unrecognized options: trian; Available subcommands: {COMMANDS}\n"
    assert not list(tmp_path.iterdir())


def test_a_full_disk(
    quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["train", *options(quick), "--out", "run"]) == 2
    assert capsys.readouterr().err == "sparsedis: [Errno 28] No space left on device\n"
    assert not list((here / "run").iterdir())


def test_interrupted_before_there_is_a_run(
    quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[train.__module__], "load", interrupted)
    assert cli.main(["train", *options(quick), "--out", "run"]) == 130
    assert capsys.readouterr().out == ""
    assert not list(here.iterdir())


@pytest.mark.slow
def test_the_reader_goes_away(trained: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m sparsedis info | true"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
