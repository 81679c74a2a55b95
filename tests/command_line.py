"""Settings as words of the command line, and processes that run it."""

import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any


def options(config: Any) -> list[str]:
    """Every setting, whether or not it is the default; flags that are off and empty lists have no words."""
    words = []
    for field in fields(config):
        value, option = getattr(config, field.name), "--" + field.name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not False and value != ():
            words += [option, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    # A shell that starts the tests in the background has SIGINT ignored, which children inherit.
    return subprocess.Popen(
        [sys.executable, "-m", "sparsedis", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
