"""The environment of a run and the time that it took, in two files of its folder.

environment.json   versions, processor, device and threads; for a resumed run those of its last part
seconds.json       total time of all parts in seconds; for a killed part until its last checkpoint
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsedis import info
from sparsedis._version import __version__
from sparsedis.runs import files

ENVIRONMENT, SECONDS = "environment.json", "seconds.json"


def write(out: Path, device: torch.device) -> None:
    """Write environment.json for a run on a device."""
    files.write_json(out / ENVIRONMENT, describe(device))


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, processor, device and threads of this process; "commit" is None outside a git clone."""
    return {
        "sparsedis": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": info.processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def seconds(out: str | Path) -> float:
    """The time that the run in a folder has taken, in seconds; 0 for a new run.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(out) / SECONDS
    if not path.exists():
        return 0.0
    try:
        return float(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"seconds: {path} is damaged: {error}") from error


class Clock:
    """The time of the run in a folder, continued from its earlier parts."""

    def __init__(self, out: Path) -> None:
        self._path = out / SECONDS
        self._start = time.monotonic() - seconds(out)

    def save(self) -> None:
        """Write seconds.json."""
        files.write_json(self._path, round(time.monotonic() - self._start, 3))


def _commit() -> str | None:
    """The commit of the clone that contains the package, with "-dirty" if files have changed; None without git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # git is missing or does not trust the folder
        return None
    return done.stdout.strip() or None
