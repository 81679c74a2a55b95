import os
from pathlib import Path

import pytest

from sparsedis.runs import files


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    files.write(tmp_path / "x", b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(OSError, match="disk full"):
        files.write(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
