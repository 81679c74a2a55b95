"""Command-line arguments for settings, and subprocesses that run the command."""

import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any


def options(config: Any) -> list[str]:
    """Command-line options for all settings, defaults included; False flags and empty tuples have none."""
    words = []
    for field in fields(config):
        value, option = getattr(config, field.name), "--" + field.name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not False and value != ():
            words += [option, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    # If a shell starts the tests in the background, SIGINT is ignored, and child processes inherit that.
    return subprocess.Popen(
        [sys.executable, "-m", "sparsedis", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
