"""Mutations of valid files are read or refused; tools/fuzz_readers.py searches for hours."""

from pathlib import Path

import numpy as np
import pytest

from tools import fuzz_readers
from tools.fuzz_readers import NAMES, mutated, reader


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_reader_returns_data_or_refuses(tmp_path: Path, name: str) -> None:
    random = np.random.default_rng(0)
    found = reader(name, tmp_path)
    accepted = [found.attempt(tmp_path, content) for content in found.seeds]
    assert any(accepted), "nothing to mutate"
    for _ in range(150):
        found.attempt(tmp_path, mutated(found.seeds, random))


def test_other_exceptions_and_empty_messages_are_findings(tmp_path: Path) -> None:
    """A refusal is a ValueError with a message."""

    def broken(_: Path) -> None:
        raise KeyError("x")

    def silent(_: Path) -> None:
        raise ValueError(" ")

    with pytest.raises(KeyError):
        fuzz_readers.Reader("x", broken, [b""]).attempt(tmp_path, b"")
    with pytest.raises(AssertionError, match="without a message"):
        fuzz_readers.Reader("x", silent, [b""]).attempt(tmp_path, b"")


def test_findings_are_saved_once_per_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sometimes(path: Path) -> None:
        content = (path / "x").read_bytes()
        if content == b"good":
            return
        raise ValueError("bad") if content == b"bad" else KeyError(content)

    monkeypatch.setattr(fuzz_readers, "reader", lambda *_: fuzz_readers.Reader("x", sometimes, [b"good"]))
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    watch = fuzz_readers.Watch("npz", 100, tmp_path / "findings", tmp_path)
    for content in (b"good", b"bad", b"bad", b"1", b"2"):
        watch(content)
    watch.finish()
    assert ended == [1]
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "findings").iterdir()] == [("npz-1", b"1")]
    assert "npz: 5 files, 1 accepted, 2 refused, 1 places with findings" in capsys.readouterr().out
