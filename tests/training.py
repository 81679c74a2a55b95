"""Training runs in tests: what they said, and their folders file by file."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from sparsedis.runs.environment import ENVIRONMENT, SECONDS
from sparsedis.runs.report import REPORT

CIRCUMSTANCES = {SECONDS, ENVIRONMENT, REPORT}
"""The files of a run that tell when and where it ran, by whichever version: equal runs need not share them."""


def run(train: Callable[..., Any], config: Any, out: Path, resume: bool = False) -> tuple[Any, str]:
    """What ``train`` returned, and what it wrote to its console."""
    text = io.StringIO()
    return train(config, out, resume=resume, console=Console(file=text, width=200)), text.getvalue()


def assert_equal(out: Path, whole: Path) -> None:
    """The folders hold files of the same names and, but for the circumstances, of the same bytes."""
    names = sorted(file.name for file in whole.iterdir())
    assert sorted(file.name for file in out.iterdir()) == names
    for name in names:
        assert name in CIRCUMSTANCES or (out / name).read_bytes() == (whole / name).read_bytes(), name
