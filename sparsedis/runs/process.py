"""A run in a process of its own: a fresh interpreter, ``python -m sparsedis.runs.process JOB``.

To the files of every run (:mod:`sparsedis.runs.folder`) this adds log.txt: what the run prints, after a line on its
process, for every process that has worked on it.

The process that starts a run keeps it: a byte on the run's standard input asks it to stop, as Ctrl-C does, and the end
of the input, which comes when the keeper dies in whatever way, ends it at once. So a run never goes on while somebody
else resumes it.
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
"""Seconds that a run has, when it is asked to stop, to finish its step and to save a checkpoint."""

_POLL = 0.2  # seconds between looks at a run
_LONGEST = 1000  # letters of a reason
_WIDTH = 120  # columns of a log


@dataclass(frozen=True)
class Job:
    """A run that is to be finished.

    Attributes:
        train: as :func:`sparsedis.runs.folder.complete` calls it; a function that other processes can import.
        config: the settings, as config.json has them.
        out: the folder.
    """

    train: Callable[..., object]
    config: RunConfig
    out: Path

    @property
    def name(self) -> str:
        """Of the run among others: that of its folder."""
        return self.out.name

    def finished(self) -> bool:
        """Whether the folder holds the results."""
        return (self.out / folder.RESULTS).is_file()

    def complete(self, console: Console) -> None:
        """Train unless the run is finished; resume it if it has begun. Raises what ``train`` does."""
        folder.complete(self.train, self.config, self.out, console)

    def dumps(self) -> str:
        """As text, which names function and settings by their modules."""
        words = {"train": _name(self.train), "settings": _name(type(self.config)), "out": str(self.out.absolute())}
        return json.dumps({**words, "config": self.config.as_json()})

    @classmethod
    def loads(cls, text: str) -> Job:
        """The inverse of :meth:`dumps`."""
        words = json.loads(text)
        config = pkgutil.resolve_name(words["settings"]).from_json(words["config"])
        return cls(pkgutil.resolve_name(words["train"]), config, Path(words["out"]))


class Outcome(NamedTuple):
    """How a process of a run has ended.

    Attributes:
        state: done; failed, for a reason that another try would not change; died, of a signal or otherwise without a
            word; stopped, as it was asked to.
        reason: why, on one line; empty if it is done or stopped.
    """

    state: Literal["done", "failed", "died", "stopped"]
    reason: str = ""


def run(job: Job, wanted: Callable[[], bool]) -> Outcome:
    """Finish a run in a process of its own, and wait for it.

    Args:
        job: the run.
        wanted: asked several times a second; once it says no, the run is stopped: within :data:`GRACE` seconds it
            finishes its step and saves a checkpoint, else it is killed, and has the checkpoint before.

    Raises:
        OSError: the folder or the process cannot be made.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    with (job.out / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sparsedis.runs.process", job.dumps()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(),
            start_new_session=True,  # Ctrl-C on the terminal reaches the keeper alone, which passes it on
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            while process.poll() is None:
                if not wanted():
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
    """The process of a run, which the command line describes.

    Standard output gets one JSON string at the end: the reason why the run has failed, empty if it has not.
    """
    reply = os.dup(1)
    os.dup2(2, 1)  # what is printed goes to the log
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with SIGINT ignored
    threading.Thread(target=_obey, daemon=True).start()
    code = 0
    try:
        os.write(reply, json.dumps(attempt(sys.argv[1])).encode())
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python would take torch's modules apart first, which takes longer than to save a checkpoint


def attempt(job: str) -> str:
    """Finish a run in this process.

    Args:
        job: as :meth:`Job.dumps` writes it.

    Returns:
        Why it has failed, on one line; empty if it has not.
    """
    versions = f"sparsedis {__version__}, torch {torch.__version__}"
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    print(f"{when} {platform.node()}, process {os.getpid()} of {os.getppid()}: {versions}", flush=True)
    try:
        Job.loads(job).complete(Console(width=_WIDTH))
        return ""
    except ImportError as error:
        reason = explained(error)
    except (ValueError, OSError) as error:
        reason = str(error)
    except Exception as error:  # a mistake of the code: the others go on, and the log has what is needed to mend it
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())[:_LONGEST] or "no reason given"
    print("failed:", reason, flush=True)
    return reason


def _obey() -> None:
    """Do what the keeper says."""
    while os.read(0, 1):
        signal.raise_signal(signal.SIGINT)
    os._exit(1)


def _environment() -> dict[str, str]:
    """That of this process, with its import path, whichever way that came about."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _name(value: Any) -> str:
    return f"{value.__module__}:{value.__qualname__}"


if __name__ == "__main__":
    main()
