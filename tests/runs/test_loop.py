"""The outer loop, with a learner that is a single number."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sparsedis.checks import NotFiniteError
from sparsedis.runs import checkpoint, folder
from sparsedis.runs.config import RunConfig
from sparsedis.runs.loop import Loop, Progress


@dataclass(frozen=True)
class Config(RunConfig):
    iterations: int = 6
    log_every: int = 1
    validate_every: int = 3
    save_every: int = 2


class Number(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(()))


class Count(Loop):
    """Counts the steps in its number; ``events`` are called in the steps that they name."""

    learner: Number

    def __init__(self, out: Path, console: Console, resume: bool = False, **events: Any) -> None:
        learner = Number()
        self.events = {int(name[1:]): event for name, event in events.items()}
        optimizer = torch.optim.SGD(learner.parameters(), 1.0)
        super().__init__(out, Config(), learner, optimizer, Progress(), console, resume)

    def learning_rate(self) -> float:
        return 1.0

    def advance(self) -> dict[str, float | None]:
        event = self.events.get(self.progress.iteration + 1)
        with torch.no_grad():
            self.learner.value += 1
        return event(self) if event else {"features_used": 0.5}

    def validate(self, measured: dict[str, float | None], rate: float) -> None:
        self.log("validation", {"value": self.learner.value.item()})


def run(out: Path, resume: bool = False, **events: Any) -> str:
    """The output of the run."""
    text = io.StringIO()
    with folder.claim(out, Config(), resume):
        Count(out, Console(file=text, width=200), resume, **events).run("counts")
    return text.getvalue()


def features(_: Count) -> dict[str, float | None]:
    raise NotFiniteError("features: expected finite values, got 3 NaN or infinite ones")


def loss(loop: Count) -> dict[str, float | None]:
    loop.check_finite(float("nan"))
    return {}


def parameter(loop: Count) -> dict[str, float | None]:
    with torch.no_grad():
        loop.learner.value.fill_(torch.inf)
    return {"features_used": 0.5}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (features, "iteration 5: features: expected finite values, got 3 NaN or infinite ones"),
        (loss, "iteration 5: the loss is nan"),
        (parameter, "iteration 6: value has NaN or infinite values"),  # checked before validating and saving
    ],
)
def test_diverged_runs_are_reported_and_keep_the_last_good_checkpoint(tmp_path: Path, event: Any, message: str) -> None:
    """The error names the iteration and a remedy."""
    with pytest.raises(ValueError, match=f"^the run diverged at {message}; start again with a lower learning_rate"):
        run(tmp_path / "run", s5=event)
    tensors, progress = checkpoint.load(tmp_path / "run" / folder.LAST)
    assert (tensors["learner.value"].item(), progress["iteration"]) == (4, 4)
    lines = folder.read_metrics(tmp_path / "run" / folder.METRICS)
    assert [line["iteration"] for line in lines if line["split"] == "validation"] == [3]


def test_steps_without_active_features_are_reported_once(tmp_path: Path) -> None:
    text = run(tmp_path / "run", s2=lambda _: {"features_used": 0.0}, s3=lambda _: {"features_used": 0.0})
    assert text.count("no task uses any feature") == 1
    assert "iteration 2: no task uses any feature" in text
    assert "smaller lambda1" in text
    assert "no task uses" not in run(tmp_path / "other", s2=lambda _: {"features_used": 0.1}, s3=lambda _: {})


def interrupt(_: Count) -> dict[str, float | None]:
    raise KeyboardInterrupt


def test_missing_lines_of_metrics_are_reported(tmp_path: Path) -> None:
    """Their steps precede the checkpoint, so they are not repeated."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(out, s6=interrupt)
    path = out / folder.METRICS
    lines = path.read_text().splitlines(keepends=True)
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3, 3, 4, 5]
    path.write_text("".join(lines[:1] + lines[4:]))
    text = run(out, resume=True)
    assert "metrics.jsonl lacks 3 of its lines, the first of iteration 2\n" in text
    assert [line["iteration"] for line in folder.read_metrics(path)] == [1, 4, 5, 6, 6]
    assert "lacks" not in run(tmp_path / "whole")


def test_a_damaged_line_prevents_resuming_and_no_file_is_changed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(out, s6=interrupt)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    damaged = before[folder.METRICS].replace(b'"iteration": 2', b'"iteration: 2')
    (out / folder.METRICS).write_bytes(damaged)
    with pytest.raises(ValueError, match=r"in line 2 of .*metrics\.jsonl, got '\{\"iteration: 2, "):
        run(out, resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {**before, folder.METRICS: damaged}
