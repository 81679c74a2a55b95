import ast
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import sparsedis
from sparsedis import cli
from sparsedis.metalearn import tasks
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.train import train
from sparsedis.runs import lock
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
def test_train_interrupt_and_resume(
    quick: TrainConfig, trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C, then the command that it prints: the files equal those of an uninterrupted run."""
    process = start("train", *options(quick), "--out", "run", cwd=here)
    while not (here / "run" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    command = re.search(r"Interrupted\. To resume: sparsedis (train .* --resume)\n", out)
    assert command is not None
    assert not (here / "run" / "results.json").exists()

    # In this process, because starting another takes longer than the rest of the run.
    assert cli.main(command[1].split()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "3-way 1-shot" in out
    assert "100.0%" in out
    assert "report: run/report.html\nnext: test it on more tasks\n    sparsedis evaluate run " in out
    assert sorted(file.name for file in (here / "run").iterdir()) == sorted([*FILES, *CIRCUMSTANCES])
    for name in FILES:
        assert (here / "run" / name).read_bytes() == (trained / name).read_bytes(), name


@pytest.mark.slow
def test_evaluate_writes_its_results(trained: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.slow
def test_prototypes_are_trained_into_the_default_folder(
    quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *options(quick.with_head("prototypes"))]) == 0
    results = json.loads((here / "runs" / "omniglot-prototypes-0" / "results.json").read_text())
    assert [x["certified"] for x in results["tests"]] == [None, None]
    assert [x["features_used"] for x in results["tests"]] == [1.0, 1.0]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["evaluate", "-h"], ["synthetic", "-h"], ["info"]]
)
def test_help_and_info_print_to_stdout(arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") > 3
    assert captured.err == ""


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Including those of a preset; instead of None, the description states what it means."""
    monkeypatch.setenv("COLUMNS", "200")
    for command in COMMANDS.split(", "):
        assert cli.main([command, "--help"]) == 0
        assert "(default: None" not in capsys.readouterr().out
    assert cli.main(["train", "--preset", "metaoptnet", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "for logistic regression 2. (default: 1.0) --width" in text
    assert "the default is that of training. (default: 15) --precision" in text
    assert "--threads INT CPU threads; the default is PyTorch's. --device" in text


def test_options_are_described_in_one_line() -> None:
    """tyro keeps the line breaks of a field's docstring in the help."""
    for path in Path(sparsedis.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for field, text in pairwise(node.body) if isinstance(node, ast.ClassDef) else ():
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    assert "\n" not in ast.literal_eval(text.value), f"{path}: {ast.unparse(field)}"


def test_without_a_command_the_guide_is_printed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guide lists existing commands, and none is truncated or wrapped at any width."""
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
def test_info_fits_terminals_of_any_width(
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
        ("train --seed 18446744073709551616", "seed: expected a whole number <= 4294967295, got 18446744073709551616"),
        ("compare --seeds 0 -1", "seeds: expected a whole number >= 0, got -1"),
        ("sweep --seeds 0 18446744073709551616", "seeds: expected a whole number <= 4294967295"),
        ("train --threads 0", "threads: expected a whole number >= 1, got 0"),
        ("train --threads 100000", "threads: expected a whole number <= 1024, got 100000"),
        ("train --clip-norm 0", "clip_norm: expected a finite number > 0, got 0"),
        ("train --data {data} --way 3 --query 3 --device meta", "device: 'meta' is not available"),
        ("train --data {data} --way 3 --query 3 --device cpu:7", "device: 'cpu:7' is not available"),
        ("train --out {file}", "out: expected a folder, got '{file}', but '{file}' is a file"),
        ("train --out {file}/x --resume", "out: expected a folder, got '{file}/x', but '{file}' is a file"),
        ("compare --out {file}", "but '{file}' is a file"),
        ("sweep --out {file}/x", "but '{file}' is a file"),
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
def test_errors_are_reported_in_one_line(
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
    names = {"data": quick.data, "run": trained, "corrupt": corrupt, "file": corrupt / "best.safetensors"}
    assert cli.main([word.format(**names) for word in arguments.split()]) == 2
    message = message.format(**names) if "{file}" in message else message
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sparsedis: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert message in err
    assert not list(here.iterdir())
    assert {file.name: file.read_bytes() for file in trained.iterdir()} == before


@pytest.mark.slow
def test_the_process_reports_errors_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has exit code 2; without tyro's box characters, which ASCII cannot represent."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = start("trian", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == f"sparsedis: Unrecognized options: trian; Available subcommands: {COMMANDS}\n"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_reported_in_one_line(
    quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["train", *options(quick), "--out", "run"]) == 2
    assert capsys.readouterr().err == "sparsedis: [Errno 28] No space left on device\n"
    assert not list((here / "run").iterdir())


def test_an_interrupt_before_the_run_starts_leaves_no_files(
    quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "read", interrupted)
    assert cli.main(["train", *options(quick), "--out", "run"]) == 130
    assert capsys.readouterr().out == ""
    assert not list(here.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("sink", "code", "complaint"), [("| true", 141, ""), (">/dev/full", 2, "standard output: ")])
def test_closed_stdout_ends_the_command_without_a_traceback(
    tmp_path: Path, sink: str, code: int, complaint: str
) -> None:
    """For a closed pipe and a full disk; Python's message about flushing at exit is suppressed too."""
    command = f"set -o pipefail; env -u PYTHONUNBUFFERED {sys.executable} -m sparsedis info {sink}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stderr.count("\n") == len(complaint[:1])
    assert complaint in done.stderr


class ClosedPipe(io.StringIO):
    """A pipe that is closed by its reader after some lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.left = lines

    def write(self, text: str) -> int:
        self.left -= text.count("\n")
        if self.left < 0:
            raise BrokenPipeError
        return super().write(text)

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)  # rich redirects the remaining output there


@pytest.mark.slow
def test_a_closed_pipe_ends_training_silently(
    quick: TrainConfig, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with `| head -1`; the run can be resumed."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", ClosedPipe(1))
        assert cli.main(["train", *options(quick), "--out", "run"]) == 141
    assert capsys.readouterr().err == ""
    assert not (here / "run" / ".lock").exists()
    assert cli.main(["train", *options(quick), "--out", "run", "--resume"]) == 0


@pytest.mark.slow
def test_characters_outside_the_encoding_are_escaped(
    quick: TrainConfig, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="latin-1"))
    assert cli.main(["train", *options(quick), "--out", "\u4e2d"]) == 0
    text = content.getvalue().decode("latin-1")
    assert "results: in \\u4e2d; " in text
    assert text.count("±") == 3 + 2  # validations, and tests
    assert (here / "\u4e2d" / "results.json").exists()


@pytest.mark.slow
def test_training_with_ascii_output(quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "LC_ALL": "C",
    }.items():
        monkeypatch.setenv(name, value)
    process = start("train", *options(quick), "--out", "run", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out.count("+/-") == 3 + 2  # validations, and tests


def test_a_folder_in_use_is_refused(quick: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lock.held(here / ".lock", "it"):
        for words in ([], ["--resume"]):
            assert cli.main(["train", *options(quick), "--out", str(here), *words]) == 2
            assert capsys.readouterr().err.startswith(f"sparsedis: out: {here} is in use by process {os.getpid()} on ")


def test_warnings_of_this_package_are_printed_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(width: int) -> str:
        warnings.warn("sparsedis: it is\n so", RuntimeWarning, stacklevel=1)
        return "report"

    monkeypatch.setattr("sparsedis.info.report", warned)
    assert cli.main(["info"]) == 0
    assert capsys.readouterr() == ("report\n", "sparsedis: it is so\n")


def test_out_of_memory_is_reported_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsedis.info.report", lambda width: str(torch.empty(1 << 60)))
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err.startswith("sparsedis: too large for the memory of this machine: ")
    monkeypatch.setattr("sparsedis.info.report", lambda width: str(torch.ones(2) @ torch.ones(3)))
    with pytest.raises(RuntimeError):  # programming errors keep their traceback
        cli.main(["info"])


def test_one_episode_has_no_confidence_interval(trained: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(trained), "--episodes", "1", "--json", "one.json"]) == 0
    assert json.loads((here / "one.json").read_text())["ci95"] is None
    out = capsys.readouterr().out
    assert "A single episode has no interval." in out
    assert "±" not in out


def test_the_result_is_printed_even_if_its_file_cannot_be_written(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["evaluate", str(trained), "--episodes", "20", "--json", "result.json"]) == 2
    out, err = capsys.readouterr()
    assert "3-way 2-shot" in out
    assert err == "sparsedis: [Errno 28] No space left on device\n"
