"""Execution of runs on a Dask cluster (https://distributed.dask.org), with one process per run on the workers.

A Dask task is a run. The scheduler assigns tasks to free workers and reassigns those of lost workers. A run and this
process share the run's folder and nothing else.
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
_CONNECT = 10  # timeout for contacting the scheduler, in seconds

_kept: set[tuple[str, Any]] = set()  # in a worker: its current runs, as (token, task key)


class Terms(NamedTuple):
    """Requirements that a worker must meet to execute runs.

    Attributes:
        token: path of a file in the folder of the runs.
        content: of this file.
        versions: of the packages that affect a run's numbers.
    """

    token: Path
    content: str
    versions: str

    def complaint(self) -> str:
        """In a worker: the unmet requirement; empty if there is none."""
        if _versions() != self.versions:
            return f"expected {self.versions}, as here, got {_versions()}"
        try:
            seen = self.token.read_text(encoding="utf-8") == self.content
        except (OSError, UnicodeDecodeError):
            seen = False
        return "" if seen else f"expected to find the files of {self.token.parent}, a folder that all workers share"


class Cluster:
    """An engine that executes runs on the workers of a cluster.

    Args:
        address: of the scheduler.
        out: folder of the runs, which must have the same path on all workers.

    Raises:
        ImportError: Dask is not installed.
        ValueError: there is no scheduler at the address; a worker does not meet the requirements.
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
        """The number of workers; ValueError if one does not meet the requirements."""
        complaints = self._client.run(_complaint, self._terms, on_error="return")
        for worker, complaint in complaints.items():
            if complaint:
                raise ValueError(f"scheduler: worker {worker}: {complaint}")
        return len(complaints)

    def submit(self, job: Job) -> Future[Outcome]:
        """Submit a run; returns a future of its outcome."""
        there = replace(job, out=job.out.absolute())  # workers have other working directories
        future: Future[Outcome] = self._executor.submit(_keep, there, self._terms)
        self._futures.append(future)
        return future

    def close(self) -> None:
        """Stop the remaining runs, wait until they have ended, and disconnect."""
        if not all(future.done() for future in self._futures):
            self._executor.shutdown(wait=False)  # cancels the tasks, whereupon the workers stop the runs
            end = time.monotonic() + process.GRACE + 2
            with suppress(Exception):  # the cluster itself may have failed
                while any(self._client.run(_keeps, self._terms.content).values()) and time.monotonic() < end:
                    time.sleep(0.2)
        self._terms.token.unlink(missing_ok=True)
        self._client.close()


def check_address(address: str) -> None:
    """ValueError unless ``address`` has the form of a scheduler's address."""
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"scheduler: expected an address such as tcp://HOST:8786, got {address!r}")


def _find(address: str) -> None:
    """ValueError unless a scheduler responds. Dask's client would wait indefinitely for another kind of server."""
    distributed = need("distributed")

    async def kind() -> Any:
        arguments = distributed.Security().get_connection_args("client")
        async with distributed.rpc(address, connection_args=arguments) as other:
            return (await other.identity())["type"]

    async def answer() -> Any:
        return await asyncio.wait_for(kind(), _CONNECT)

    try:
        with ThreadPoolExecutor(1) as thread:  # in a notebook this thread already runs an event loop
            found = thread.submit(asyncio.run, answer()).result()
    except Exception as error:  # other servers may send anything, even message lengths that exceed the memory
        raise ValueError(f"scheduler: expected a Dask scheduler at {address}, found none") from error
    if found != "Scheduler":
        raise ValueError(f"scheduler: expected a Dask scheduler at {address}, found a {found}")


def _versions() -> str:
    return f"sparsedis {__version__} and torch {torch.__version__.partition('+')[0]}"  # for any device


def _complaint(terms: Terms) -> str:
    return terms.complaint()


def _keeps(token: str) -> bool:
    """In a worker: whether runs of the command with this token are still executing."""
    return any(one == token for one, _ in tuple(_kept))


def _keep(job: Job, terms: Terms) -> Outcome:
    """In a worker, as a Dask task: execute a run until it ends or the task is cancelled."""
    worker = need("distributed").get_worker()
    # Checked again because workers join and leave.
    if complaint := terms.complaint():
        return Outcome("failed", f"worker {worker.address}: {complaint}")
    key = worker.get_current_task()

    def wanted() -> bool:
        """Whether the task is still needed; Dask does not interrupt a running task that is cancelled or abandoned."""
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    one = (terms.content, key)
    _kept.add(one)
    try:
        return process.run(job, wanted)
    finally:
        _kept.discard(one)
