"""A run in its own process: a new interpreter, ``python -m sparsedis.runs.process JOB``.

In addition to the files of every run (:mod:`sparsedis.runs.folder`) it writes log.txt, which contains the output of
every process that worked on the run, each after a line that identifies the process.

The parent supervises the run through the run's standard input. A byte requests a stop, like Ctrl-C. The end of input,
which also occurs if the parent dies, ends the run immediately. A run therefore never continues while another process
resumes it.
"""

from __future__ import annotations

import json
import os
import pkgutil
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console

from sparsedis._version import __version__
from sparsedis.extras import explained
from sparsedis.runs import folder
from sparsedis.runs.config import RunConfig

LOG = "log.txt"

GRACE = 10.0
"""Seconds that a run has to finish its step and save a checkpoint after a request to stop."""

_POLL = 0.2  # polling interval in seconds
_MAX_REASON = 1000  # maximum length of a reason in characters
_LOG_WIDTH = 120  # columns of a log


@dataclass(frozen=True)
class Job:
    """A run to complete.

    Attributes:
        train: called as in :func:`sparsedis.runs.folder.complete`; must be importable by other processes.
        config: the settings, as config.json has them.
        out: the folder.
    """

    train: Callable[..., object]
    config: RunConfig
    out: Path

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.out.name

    def finished(self) -> bool:
        """Whether the folder holds the results."""
        return (self.out / folder.RESULTS).is_file()

    def complete(self, console: Console) -> None:
        """Train unless the run is finished; resume it if it has started. Raises the errors of ``train``."""
        folder.complete(self.train, self.config, self.out, console)

    def dumps(self) -> str:
        """The job as text, with function and settings named by module."""
        words = {"train": _name(self.train), "settings": _name(type(self.config)), "out": str(self.out.absolute())}
        return json.dumps({**words, "config": self.config.as_json()})

    @classmethod
    def loads(cls, text: str) -> Job:
        """The inverse of :meth:`dumps`."""
        words = json.loads(text)
        config = pkgutil.resolve_name(words["settings"]).from_json(words["config"])
        return cls(pkgutil.resolve_name(words["train"]), config, Path(words["out"]))


class Outcome(NamedTuple):
    """How the process of a run ended.

    Attributes:
        state: done; failed, for a reason that another attempt would not change; died, by a signal or without giving a
            reason; stopped, on request.
        reason: one line; empty if done or stopped.
    """

    state: Literal["done", "failed", "died", "stopped"]
    reason: str = ""


def run(job: Job, still_needed: Callable[[], bool]) -> Outcome:
    """Execute a run in its own process and wait for it.

    Args:
        job: the run.
        still_needed: called several times per second. Once it returns False the run is stopped: it has
            :data:`GRACE` seconds to finish its step and save a checkpoint before it is killed.

    Raises:
        OSError: the folder or the process cannot be created.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    with (job.out / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sparsedis.runs.process", job.dumps()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(),
            start_new_session=True,  # Ctrl-C on the terminal reaches only the parent, which forwards it
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            while process.poll() is None:
                if not still_needed():
                    with suppress(OSError):
                        process.stdin.write(b"\n")
                        process.stdin.flush()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(GRACE)
                    return Outcome("stopped")
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
            return _outcome(process.stdout.read(), process.returncode, job.out / LOG)
        finally:
            process.kill()


def _outcome(reply: bytes, code: int, log: Path) -> Outcome:
    if reply:
        reason = json.loads(reply)
        return Outcome("failed", reason) if reason else Outcome("done")
    how = f"killed by signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
    return Outcome("died", f"its process died: {how}; see {log}")


def main() -> None:
    """Entry point of a run's process; the job is the command-line argument.

    It writes one JSON string to standard output at the end: the reason of a failure, empty after success.
    """
    reply = os.dup(1)
    os.dup2(2, 1)  # output is redirected to the log
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    threading.Thread(target=_handle_requests, daemon=True).start()
    code = 0
    try:
        os.write(reply, json.dumps(attempt(sys.argv[1])).encode())
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # skips the teardown of torch's modules, which takes longer than saving a checkpoint


def attempt(job: str) -> str:
    """Execute a run in this process.

    Args:
        job: as :meth:`Job.dumps` writes it.

    Returns:
        The reason of a failure, on one line; empty after success.
    """
    versions = f"sparsedis {__version__}, torch {torch.__version__}"
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    print(f"{when} {platform.node()}, process {os.getpid()} of {os.getppid()}: {versions}", flush=True)
    try:
        Job.loads(job).complete(Console(width=_LOG_WIDTH))
        return ""
    except ImportError as error:
        reason = explained(error)
    except (ValueError, OSError) as error:
        reason = str(error)
    except Exception as error:  # a bug: the other runs continue, and the log holds the traceback
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())[:_MAX_REASON] or "no reason given"
    print("failed:", reason, flush=True)
    return reason


def _handle_requests() -> None:
    """Execute the parent's requests: SIGINT for every byte, exit at the end of input."""
    while os.read(0, 1):
        signal.raise_signal(signal.SIGINT)
    os._exit(1)


def _environment() -> dict[str, str]:
    """This process's environment, with its current import path."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _name(value: Any) -> str:
    return f"{value.__module__}:{value.__qualname__}"


if __name__ == "__main__":
    main()
