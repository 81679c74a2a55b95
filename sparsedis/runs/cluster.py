"""The workers of a Dask cluster (https://distributed.dask.org), each of which keeps runs in processes of their own.

A task of the cluster is a run. The cluster hands tasks to workers as they become free, and those of a worker that is
lost to others; what a run has to share with this process is its folder, and nothing else.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sparsedis._version import __version__
from sparsedis.extras import need
from sparsedis.runs import files, process
from sparsedis.runs.process import Job, Outcome

_ADDRESS = re.compile(r"[a-z]+://[^\s/]+:\d+/?")
_CONNECT = 10  # seconds to find the scheduler in

_kept: set[tuple[str, Any]] = set()  # in a worker: the runs that it keeps, by token and key of the task


class Terms(NamedTuple):
    """What a worker has to see, and to have, to be given runs.

    Attributes:
        token: a file in the folder of the runs.
        content: of this file.
        versions: of the packages that decide a run's numbers.
    """

    token: Path
    content: str
    versions: str

    def complaint(self) -> str:
        """In a worker: what is wrong with it, empty if nothing is."""
        if _versions() != self.versions:
            return f"expected {self.versions}, as here, got {_versions()}"
        try:
            seen = self.token.read_text(encoding="utf-8") == self.content
        except (OSError, UnicodeDecodeError):
            seen = False
        return "" if seen else f"expected to find the files of {self.token.parent}, a folder that all workers share"


class Cluster:
    """Runs on the workers of a cluster.

    Args:
        address: of the scheduler.
        out: the folder of the runs, which all workers have to see at the same path.

    Raises:
        ImportError: Dask is not installed.
        ValueError: no scheduler is at the address; a worker cannot take part, and why.
    """

    def __init__(self, address: str, out: Path) -> None:
        check_address(address)
        distributed = need("distributed", "scheduler")
        _find(address)
        self._client = distributed.Client(address, timeout=_CONNECT, set_as_default=False)
        self._executor = self._client.get_executor(pure=False)
        out.mkdir(parents=True, exist_ok=True)
        content = secrets.token_hex()
        self._terms = Terms(out.absolute() / f".shared-{content[:8]}", content, _versions())
        self._futures: list[Future[Outcome]] = []
        try:
            files.write(self._terms.token, content.encode())
            self.workers = self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> int:
        """The number of workers, all of which can take part."""
        complaints = self._client.run(_complaint, self._terms, on_error="return")
        for worker, complaint in complaints.items():
            if complaint:
                raise ValueError(f"scheduler: worker {worker}: {complaint}")
        return len(complaints)

    def submit(self, job: Job) -> Future[Outcome]:
        """The outcome to be of a run."""
        there = replace(job, out=job.out.absolute())  # workers have working directories of their own
        future: Future[Outcome] = self._executor.submit(_keep, there, self._terms)
        self._futures.append(future)
        return future

    def close(self) -> None:
        """Stop what still runs, wait until it has ended, and leave the cluster."""
        if not all(future.done() for future in self._futures):
            self._executor.shutdown(wait=False)  # cancels the tasks; the workers see that and stop the runs
            end = time.monotonic() + process.GRACE + 2
            with suppress(Exception):  # the cluster may be what has failed
                while any(self._client.run(_keeps, self._terms.content).values()) and time.monotonic() < end:
                    time.sleep(0.2)
        self._terms.token.unlink(missing_ok=True)
        self._client.close()


def check_address(address: str) -> None:
    """ValueError unless it has the form of a scheduler's address."""
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"scheduler: expected an address such as tcp://HOST:8786, got {address!r}")


def _find(address: str) -> None:
    """ValueError unless a scheduler answers; Dask's client would wait for ever for something else that listens."""
    distributed = need("distributed")

    async def kind() -> Any:
        arguments = distributed.Security().get_connection_args("client")
        async with distributed.rpc(address, connection_args=arguments) as other:
            return (await other.identity())["type"]

    async def answer() -> Any:
        return await asyncio.wait_for(kind(), _CONNECT)

    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook's thread has a loop that runs already
            found = thread.submit(asyncio.run, answer()).result()
    except Exception as error:  # what is no scheduler may answer anything, down to lengths that no memory has
        raise ValueError(f"scheduler: expected a Dask scheduler at {address}, found none") from error
    if found != "Scheduler":
        raise ValueError(f"scheduler: expected a Dask scheduler at {address}, found a {found}")


def _versions() -> str:
    return f"sparsedis {__version__} and torch {torch.__version__.partition('+')[0]}"  # whatever the device


def _complaint(terms: Terms) -> str:
    return terms.complaint()


def _keeps(token: str) -> bool:
    """In a worker: whether it still keeps runs of the command with this token."""
    return any(one == token for one, _ in tuple(_kept))


def _keep(job: Job, terms: Terms) -> Outcome:
    """In a worker, as a task: keep a run until it has ended, or until nobody waits for the task."""
    worker = need("distributed").get_worker()
    # Also here, because workers come and go.
    if complaint := terms.complaint():
        return Outcome("failed", f"worker {worker.address}: {complaint}")
    key = worker.get_current_task()

    def wanted() -> bool:
        """A task that runs is not interrupted when it is cancelled, or when the process that waits for it is gone."""
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    one = (terms.content, key)
    _kept.add(one)
    try:
        return process.run(job, wanted)
    finally:
        _kept.discard(one)
