"""Mutations of valid files: a reader returns data or refuses it; the search for hours is tools/fuzz_readers.py."""

import subprocess
import sys
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


def test_what_is_no_refusal(tmp_path: Path) -> None:
    """Other exceptions come through, and so does a refusal that says nothing."""

    def broken(_: Path) -> None:
        raise KeyError("x")

    def silent(_: Path) -> None:
        raise ValueError(" ")

    with pytest.raises(KeyError):
        fuzz_readers.Reader("x", broken, [b""]).attempt(tmp_path, b"")
    with pytest.raises(AssertionError, match="without a message"):
        fuzz_readers.Reader("x", silent, [b""]).attempt(tmp_path, b"")


@pytest.mark.slow
def test_the_tool(tmp_path: Path) -> None:
    command = [
        sys.executable,
        fuzz_readers.__file__,
        "safetensors",
        "--seconds",
        "0.5",
        "--findings",
        str(tmp_path / "x"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "safetensors: " in run.stdout
    assert " 0 places with findings\nno findings\n" in run.stdout
