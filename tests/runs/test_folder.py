import json
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


def test_complete(tmp_path: Path) -> None:
    """A new run is started, an unfinished one resumed, a finished one left alone, but for its settings."""
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


def test_check(tmp_path: Path) -> None:
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


def test_an_incomplete_line_of_metrics_is_dropped(tmp_path: Path) -> None:
    assert folder.read_metrics(tmp_path / folder.METRICS) == []
    (tmp_path / folder.METRICS).write_text('{"iteration": 1}\n{"iteration": 2, "sp')
    assert folder.read_metrics(tmp_path / folder.METRICS) == [{"iteration": 1}]
