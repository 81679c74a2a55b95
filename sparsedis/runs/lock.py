"""A lock that one process holds on what it writes, until it ends.

The operating system takes the lock from a process that ends in any way, SIGKILL included: none is ever left behind by a
process that is gone. Beside the lock file another one says who holds it, because looking at a lock can empty its file.
Both are removed with the lock.
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

# Seconds to wait: others may hold a lock for a moment, to see whether it is free.
_PATIENCE = 1.0
_NOT_SUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of the file ``path`` until the block ends. Threads of one process exclude each other too.

    Args:
        path: of the lock file, in an existing folder.
        what: is locked, for the messages.

    Raises:
        BlockingIOError: it is held already; the message names the process and the host.

    Warns:
        RuntimeWarning: the file system has no locks, and nothing is locked.
    """
    holder = path.with_name(f"{path.name}-holder")
    try:
        lock = _acquire(path)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NOT_SUPPORTED:
            raise
        warnings.warn(
            f"sparsedis: {what} is on a file system without locks: make sure yourself that no other process writes to "
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
        with suppress(PermissionError):  # of Windows, which removes no file that is open
            path.unlink(missing_ok=True)
        lock.release()


def check(path: Path, what: str) -> None:
    """BlockingIOError if the lock of the file ``path`` is held, as :func:`held` raises it."""
    if path.exists():
        with held(path, what):
            pass


def _acquire(path: Path) -> Any:
    """A lock that is held, or None where another process holds it."""
    filelock = need("filelock")
    while True:
        path.touch()
        before = _inode(path)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=_PATIENCE)
        except filelock.Timeout:
            return None
        # Between the two a holder may have removed its file, and another process made a new one, which it locks.
        if before is not None and before == _inode(path):
            return lock
        lock.release()


def _inode(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _described(holder: Path) -> str:
    """The process that holds a lock, as far as its file says."""
    try:
        values = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {int(values['pid'])} on host {values['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
