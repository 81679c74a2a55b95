"""A lock file that a process holds while it writes to a folder.

The operating system releases the lock when the process ends in any way, including SIGKILL, so that no lock is ever
stale. A second file names the holder, because testing a lock can truncate the lock file. Both files are removed when
the lock is released.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sparsedis.extras import need

# Timeout in seconds: another process may hold the lock briefly while testing it.
_TIMEOUT = 1.0
_NOT_SUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock ``path`` until the block ends. Threads of the same process also exclude each other.

    Args:
        path: of the lock file, in an existing folder.
        what: name of the locked object, for the messages.

    Raises:
        BlockingIOError: the lock is held; the message names the process and the host.

    Warns:
        RuntimeWarning: the file system does not support locks; the block runs unlocked.
    """
    holder = path.with_name(f"{path.name}-holder")
    try:
        lock = _acquire(path)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NOT_SUPPORTED:
            raise
        warnings.warn(
            f"sparsedis: {what} is on a file system without locks: make sure that no other process writes to "
            "it at the same time",
            RuntimeWarning,
            stacklevel=4,
        )
        yield
        return
    if lock is None:
        raise BlockingIOError(f"{what} is in use by {_described(holder)}")
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        with suppress(PermissionError):  # Windows cannot remove open files
            path.unlink(missing_ok=True)
        lock.release()


def check(path: Path, what: str) -> None:
    """BlockingIOError, as in :func:`held`, if the lock ``path`` is held."""
    if path.exists():
        with held(path, what):
            pass


def _acquire(path: Path) -> Any:
    """An acquired lock; None if another process holds it."""
    filelock = need("filelock")
    while True:
        path.touch()
        before = _inode(path)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=_TIMEOUT)
        except filelock.Timeout:
            return None
        # In between, a holder may have removed its file and another process may have created and locked a new one.
        if before is not None and before == _inode(path):
            return lock
        lock.release()


def _inode(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _described(holder: Path) -> str:
    """Description of the process that holds a lock, from the holder file."""
    try:
        values = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {int(values['pid'])} on host {values['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
