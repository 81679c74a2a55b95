"""Compilation of the Triton kernels for the tests, by tools/triton_report.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def compiled(
    folder: Path, *, tiles: str, targets: str, features: str = "float32", once: bool = False
) -> list[dict[str, Any]]:
    """One row per configuration, or per kernel with ``once``; from a process without Triton's interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder)
    file = folder / f"{tiles}-{targets}-{features}.json"
    command = [sys.executable, "tools/triton_report.py", "--tiles", tiles, "--targets", targets, "--features", features]
    done = subprocess.run(
        [*command, "--json", file, *(["--once"] if once else [])],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert file.exists(), done.stdout + done.stderr
    rows = json.loads(file.read_text())
    assert done.returncode == any(row["failure"] for row in rows)
    return rows
