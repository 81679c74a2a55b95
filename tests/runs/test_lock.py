import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import pytest

from sparsedis.runs import lock

HOST = re.escape(socket.gethostname())
HOLD = """
import sys, time
from pathlib import Path
from sparsedis.runs import lock

with lock.held(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lock.check(path, "it")
    with lock.held(path, "it"):
        message = f"^it is in use by process {os.getpid()} on host {HOST}$"
        with pytest.raises(BlockingIOError, match=message), lock.held(path, "it"):
            pass
        with pytest.raises(BlockingIOError, match=message):
            lock.check(path, "it")
    assert not list(tmp_path.iterdir())
    with lock.held(path, "it"):
        pass


def test_an_exception_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock.held(tmp_path / ".lock", "it"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_holding_process_is_named_and_a_killed_one_releases_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match=f"in use by process {process.pid} on host {HOST}"):
        lock.check(path, "it")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert path.exists()
    lock.check(path, "it")
    with lock.held(path, "it"):
        assert json.loads((tmp_path / ".lock-holder").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": "x", "host": "y"}', '{"pid": 1}'])
def test_a_holder_with_a_damaged_file_is_reported_without_details(tmp_path: Path, content: str) -> None:
    path = tmp_path / ".lock"
    with lock.held(path, "it"):
        (tmp_path / ".lock-holder").write_text(content)
        with pytest.raises(BlockingIOError, match=r"^it is in use by another process$"):
            lock.check(path, "it")


def test_a_lock_file_that_was_replaced_is_locked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If its holder removes it while another process creates a new one, locking the old file has no effect."""
    path, taken = tmp_path / ".lock", []

    class Late(filelock.FileLock):  # type: ignore[misc]
        def acquire(self, *arguments: Any, **options: Any) -> Any:
            result = super().acquire(*arguments, **options)
            taken.append(self)
            if len(taken) == 1:
                path.rename(tmp_path / "removed")
                path.touch()
            return result

    monkeypatch.setattr(filelock, "FileLock", Late)
    with lock.held(path, "it"):
        assert [one.is_locked for one in taken] == [False, True]


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(95, "Operation not supported")])
def test_a_file_system_without_locks_causes_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    ran = False
    with (
        pytest.warns(RuntimeWarning, match="sparsedis: it is on a file system without locks"),
        lock.held(tmp_path / ".lock", "it"),
    ):
        ran = True
    assert ran
