"""Training runs in tests: their console output, and comparison of run folders."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from sparsedis.runs.environment import ENVIRONMENT, SECONDS
from sparsedis.runs.report import REPORT

CIRCUMSTANCES = {SECONDS, ENVIRONMENT, REPORT}
"""The files of a run that depend on its time, machine and version, so that equal runs may differ in them."""


def run(train: Callable[..., Any], config: Any, out: Path, resume: bool = False) -> tuple[Any, str]:
    """The return value of ``train`` and its console output."""
    text = io.StringIO()
    return train(config, out, resume=resume, console=Console(file=text, width=200)), text.getvalue()


def assert_equal(out: Path, whole: Path) -> None:
    """The folders have the same file names and, except for CIRCUMSTANCES, the same contents."""
    names = sorted(file.name for file in whole.iterdir())
    assert sorted(file.name for file in out.iterdir()) == names
    for name in names:
        assert name in CIRCUMSTANCES or (out / name).read_bytes() == (whole / name).read_bytes(), name
