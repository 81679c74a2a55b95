import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sparsedis.runs import command_line, folder


@dataclass(frozen=True)
class Config:
    head: str = "svm"
    learning_rate: float = 0.1
    test_shots: tuple[int, ...] = (1, 5)
    split: bool = False


def test_words_lists_changed_settings() -> None:
    base = Config()
    assert command_line.option_words(base, base) == []
    changed = replace(base, learning_rate=0.5, test_shots=(2, 3), split=True)
    assert command_line.option_words(changed, base) == ["--learning-rate", "0.5", "--test-shots", "2", "3", "--split"]
    assert command_line.option_words(replace(base, split=False), replace(base, split=True)) == ["--no-split"]


def test_files_that_cannot_be_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command_line.check_file("json", None)
    command_line.check_file("json", tmp_path / "x")
    for path in (tmp_path, tmp_path / "nowhere" / "x"):
        with pytest.raises(ValueError, match="json: expected a file in an existing folder, got"):
            command_line.check_file("json", path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"^json: expected a file that can be written, got '.*x'$"):
        command_line.check_file("json", tmp_path / "x")


def test_the_resume_command_is_printed_only_for_an_existing_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), command_line.resumable(tmp_path, "sparsedis train --resume"):
        raise KeyboardInterrupt
    assert capsys.readouterr().out == ""
    (tmp_path / folder.CONFIG).write_text("{}")
    with pytest.raises(KeyboardInterrupt), command_line.resumable(tmp_path, "sparsedis train --resume"):
        raise KeyboardInterrupt
    assert capsys.readouterr().out == "Interrupted. To resume: sparsedis train --resume\n"
    with (
        pytest.raises(ValueError, match=r"there is one \(to resume: sparsedis train --resume\)"),
        command_line.resumable(tmp_path, "sparsedis train --resume"),
    ):
        raise FileExistsError("there is one")
