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

_current_runs: set[tuple[str, Any]] = set()  # in a worker: its current runs, as (token, task key)


class Requirements(NamedTuple):
    """Requirements that a worker must meet to execute runs.

    Attributes:
        token: path of a file in the folder of the runs.
        content: of this file.
        versions: of the packages that affect a run's numbers.
    """

    token: Path
    content: str
    versions: str

    def unmet(self) -> str:
        """In a worker: the unmet requirement; empty if there is none."""
        if _versions() != self.versions:
            return f"expected {self.versions}, as here, got {_versions()}"
        try:
            shared = self.token.read_text(encoding="utf-8") == self.content
        except (OSError, UnicodeDecodeError):
            shared = False
        return "" if shared else f"expected to find the files of {self.token.parent}, a folder that all workers share"


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
        _check_scheduler(address)
        self._client = distributed.Client(address, timeout=_CONNECT, set_as_default=False)
        self._executor = self._client.get_executor(pure=False)
        out.mkdir(parents=True, exist_ok=True)
        content = secrets.token_hex()
        self._requirements = Requirements(out.absolute() / f".shared-{content[:8]}", content, _versions())
        self._futures: list[Future[Outcome]] = []
        try:
            files.write(self._requirements.token, content.encode())
            self.workers = self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> int:
        """The number of workers; ValueError if one does not meet the requirements."""
        unmet_by_worker = self._client.run(_unmet, self._requirements, on_error="return")
        for worker, unmet in unmet_by_worker.items():
            if unmet:
                raise ValueError(f"scheduler: worker {worker}: {unmet}")
        return len(unmet_by_worker)

    def submit(self, job: Job) -> Future[Outcome]:
        """Submit a run; returns a future of its outcome."""
        absolute = replace(job, out=job.out.absolute())  # workers have other working directories
        future: Future[Outcome] = self._executor.submit(_run_on_worker, absolute, self._requirements)
        self._futures.append(future)
        return future

    def close(self) -> None:
        """Stop the remaining runs, wait until they have ended, and disconnect."""
        if not all(future.done() for future in self._futures):
            self._executor.shutdown(wait=False)  # cancels the tasks, whereupon the workers stop the runs
            end = time.monotonic() + process.GRACE + 2
            with suppress(Exception):  # the cluster itself may have failed
                while any(self._client.run(_has_runs, self._requirements.content).values()) and time.monotonic() < end:
                    time.sleep(0.2)
        self._requirements.token.unlink(missing_ok=True)
        self._client.close()


def check_address(address: str) -> None:
    """ValueError unless ``address`` has the form of a scheduler's address."""
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"scheduler: expected an address such as tcp://HOST:8786, got {address!r}")


def _check_scheduler(address: str) -> None:
    """ValueError unless a scheduler responds. Dask's client would wait indefinitely for another kind of server."""
    distributed = need("distributed")

    async def server_type() -> Any:
        arguments = distributed.Security().get_connection_args("client")
        async with distributed.rpc(address, connection_args=arguments) as connection:
            return (await connection.identity())["type"]

    async def server_type_in_time() -> Any:
        return await asyncio.wait_for(server_type(), _CONNECT)

    try:
        with ThreadPoolExecutor(1) as thread:  # in a notebook this thread already runs an event loop
            server = thread.submit(asyncio.run, server_type_in_time()).result()
    except Exception as error:  # other servers may send anything, even message lengths that exceed the memory
        raise ValueError(f"scheduler: expected a Dask scheduler at {address}, found none") from error
    if server != "Scheduler":
        raise ValueError(f"scheduler: expected a Dask scheduler at {address}, found a {server}")


def _versions() -> str:
    return f"sparsedis {__version__} and torch {torch.__version__.partition('+')[0]}"  # for any device


def _unmet(requirements: Requirements) -> str:
    return requirements.unmet()


def _has_runs(token: str) -> bool:
    """In a worker: whether runs of the command with this token are still executing."""
    return any(of == token for of, _ in tuple(_current_runs))


def _run_on_worker(job: Job, requirements: Requirements) -> Outcome:
    """In a worker, as a Dask task: execute a run until it ends or the task is cancelled."""
    worker = need("distributed").get_worker()
    # Checked again because workers join and leave.
    if unmet := requirements.unmet():
        return Outcome("failed", f"worker {worker.address}: {unmet}")
    key = worker.get_current_task()

    def still_needed() -> bool:
        """Whether the task is still needed; Dask does not interrupt a running task that is cancelled or abandoned."""
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    run_id = (requirements.content, key)
    _current_runs.add(run_id)
    try:
        return process.run(job, still_needed)
    finally:
        _current_runs.discard(run_id)
