import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sparsedis
from sparsedis import info
from sparsedis.ops.registry import OPERATIONS


@pytest.mark.slow
def test_report_names_versions_and_backends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparsedis.info"]
    text = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    for fact in (
        sparsedis.__version__,
        torch.__version__,
        np.__version__,
        str(Path(sparsedis.__file__).parent),
    ):
        assert fact in text
    assert "threads" in text
    assert "svm, torch" in text


def test_the_report_states_why_a_backend_is_unavailable(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    class Missing:
        name = "quantum"

        def available(self) -> str:
            return "needs a cryostat"

    monkeypatch.setattr(OPERATIONS["svm"], "backends", [Missing()])
    line = next(line for line in info.report().splitlines() if "quantum" in line)
    assert line.endswith("not available: needs a cryostat")


def test_a_missing_package_is_reported_as_not_installed() -> None:
    assert info.installed_version("no-such-package") == "not installed"
