import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sparsedis.runs import folder
from sparsedis.runs.config import RunConfig


@dataclass(frozen=True)
class Config(RunConfig):
    iterations: int = 3
    values: tuple[int, ...] = (1, 2)


def test_complete_starts_or_resumes_unfinished_runs(tmp_path: Path) -> None:
    """Of finished runs, only the settings are checked."""
    calls = []

    def train(config: Config, out: Path, **options: Any) -> None:
        calls.append(options["resume"])

    out, console = tmp_path / "run", Console(quiet=True)
    folder.complete(train, Config(), out, console)
    out.mkdir()
    (out / folder.CONFIG).write_text(json.dumps(Config().as_json()))
    folder.complete(train, Config(), out, console)
    (out / folder.RESULTS).write_text("{}")
    folder.complete(train, Config(), out, console)
    assert calls == [False, True]
    with pytest.raises(ValueError, match=r"values: the run in .*run has \(1, 2\), got \(1,\)"):
        folder.complete(train, Config(values=(1,)), out, console)


def test_check_compares_the_folder_with_resume(tmp_path: Path) -> None:
    folder.check(tmp_path, Config(), resume=False)
    with pytest.raises(FileNotFoundError, match=r"expected a run in .*, found no config\.json there"):
        folder.check(tmp_path, Config(), resume=True)
    (tmp_path / folder.CONFIG).write_text(json.dumps(Config().as_json()))
    folder.check(tmp_path, Config(), resume=True)
    with pytest.raises(FileExistsError, match=r"already holds config\.json"):
        folder.check(tmp_path, Config(), resume=False)
    (tmp_path / folder.CONFIG).write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is damaged: settings: expected exactly iterations, values"):
        folder.check(tmp_path, Config(), resume=True)


LINE = '{"iteration": 1, "split": "train"}'


@pytest.mark.parametrize("rest", ["", '{"iteration": 2, "sp', '{"iteration": 2}', "\0\0\0"])
def test_an_incomplete_last_line_of_metrics_is_dropped(tmp_path: Path, rest: str) -> None:
    path = tmp_path / folder.METRICS
    assert folder.read_metrics(path) == []
    path.write_text(f"{LINE}\n{rest}")
    assert folder.read_metrics(path) == [json.loads(LINE)]
    path.write_text(f"{LINE}\n{LINE}")  # an editor may remove the last newline
    assert len(folder.read_metrics(path)) == 2


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"1",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        b'{"iteration": 1}',
        b'{"iteration": true, "split": "train"}',
        b'{"iteration": 1, "split": "exam"}',
    ],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_damaged_line_of_metrics_is_reported_by_number(tmp_path: Path, damaged: bytes, number: int) -> None:
    lines = [LINE.encode()] * 3
    lines[number - 1] = damaged
    path = tmp_path / folder.METRICS
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ValueError, match=rf"JSON object with iteration and split in line {number} of .*metrics\.jsonl"):
        folder.read_metrics(path)


def test_a_folder_can_be_claimed_by_one_run_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    message = rf"^out: .*run is in use by process {os.getpid()} on host "
    with folder.claim(out, Config(), resume=False):
        for resume in (False, True):
            with pytest.raises(BlockingIOError, match=message):
                folder.check(out, Config(), resume)
        with pytest.raises(BlockingIOError, match=message), folder.claim(out, Config(), resume=False):
            pass
        with folder.claim(out, Config(), resume=False, main=False):
            pass
    assert not list(out.iterdir())
    folder.check(out, Config(), resume=False)


def test_claim_detects_a_run_started_after_the_check(tmp_path: Path) -> None:
    folder.check(tmp_path, Config(), resume=False)
    (tmp_path / folder.CONFIG).write_text("{}")
    with pytest.raises(FileExistsError, match="already holds"), folder.claim(tmp_path, Config(), resume=False):
        pass


@pytest.mark.parametrize("name", ["file", "file/run", "file/a/run"])
def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=rf"^out: expected a folder, got '.*{name}', but '.*file' is a file$"):
        folder.check(tmp_path / name, Config(), resume=False)


def test_check_empty_refuses_folders_with_files(tmp_path: Path) -> None:
    folder.check_empty(tmp_path)
    folder.check_empty(tmp_path / "a" / "b")
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(FileExistsError, match=rf"^out: expected a new or an empty folder, got '{tmp_path}', which is "):
        folder.check_empty(tmp_path)
    with pytest.raises(ValueError, match=r"^out: expected a folder, got '.*/\.hidden', but '.*/\.hidden' is a file$"):
        folder.check_empty(tmp_path / ".hidden")
    assert [file.name for file in tmp_path.iterdir()] == [".hidden"]


def test_an_empty_folder_can_be_claimed_once_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with folder.claim_empty(out):
        with pytest.raises(BlockingIOError, match=f"is in use by process {os.getpid()} on host"):
            folder.check_empty(out)
        with pytest.raises(BlockingIOError), folder.claim_empty(out):
            pass
        assert {file.name for file in out.iterdir()} <= {folder.LOCK, f"{folder.LOCK}-holder"}
        (out / "file").touch()
    assert [file.name for file in out.iterdir()] == ["file"]
    with pytest.raises(FileExistsError, match="which is not empty"), folder.claim_empty(out):
        pass


def test_folders_with_results_but_no_settings_are_refused(tmp_path: Path) -> None:
    """They contain an evaluation or the remains of a run."""
    (tmp_path / folder.RESULTS).write_text("{}")
    with pytest.raises(FileExistsError, match=r"holds an evaluation, not a run; choose another folder$"):
        folder.check(tmp_path, Config(), resume=False)
    (tmp_path / folder.METRICS).write_text("")
    with pytest.raises(FileExistsError, match=r"already holds metrics\.jsonl; choose another folder$"):
        folder.check(tmp_path, Config(), resume=False)


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))  # root may write anywhere
    with pytest.raises(PermissionError, match=r"^out: expected a folder that can be written, got '.*a/b'$"):
        folder.check(tmp_path / "a" / "b", Config(), resume=False)
    with pytest.raises(PermissionError, match=r"^out: expected a folder that can be written, got '.*a/b'$"):
        folder.check_empty(tmp_path / "a" / "b")
