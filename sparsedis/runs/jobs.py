"""Concurrent execution of runs, on this machine or on the workers of a cluster.

Every run has its own interpreter, number of threads and folder, so that its numbers do not depend on the other runs and
a crash does not affect them. On this machine each process is supervised by a thread of a standard-library pool, since
process pools (including loky's) abandon all runs if one process is killed. On a cluster Dask's workers supervise the
processes. Both provide futures, for which :func:`run` waits.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

import torch
import tyro
from rich.console import Console

from sparsedis.extras import explained
from sparsedis.runs import folder, process
from sparsedis.runs.board import Board
from sparsedis.runs.cluster import Cluster, check_address
from sparsedis.runs.command_line import OptionalInt
from sparsedis.runs.config import check_distinct, check_integer
from sparsedis.runs.process import Job, Outcome

RETRIES = 2
"""How often a run is resumed after its process has died."""

_REFRESH = 0.5  # interval between updates of the board, in seconds
_VISIBILITY_TIMEOUT = 60.0  # time within which files of other machines become visible, in seconds


@dataclass(frozen=True)
class Workers:
    """Where the runs of a command are executed.

    Raises:
        ValueError: ``jobs`` is below 1, ``scheduler`` not an address, or both are set.
    """

    jobs: OptionalInt = None
    """Concurrent runs on this machine, each a process with an equal share of the cores, or --threads; default: 1."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Dask scheduler, tcp://HOST:8786; its workers must share the file system. Runs use one thread, or --threads."""

    def __post_init__(self) -> None:
        if self.jobs is not None:
            check_integer("jobs", self.jobs, 1)
        if self.scheduler is not None:
            check_address(self.scheduler)
            if self.jobs is not None:
                raise ValueError("jobs: expected none with --scheduler, whose workers say how many runs they take")

    @property
    def here(self) -> bool:
        """Whether runs are executed one after another in this process."""
        return self.scheduler is None and self.jobs in (None, 1)

    @property
    def threads(self) -> int | None:
        """CPU threads of a run whose settings do not specify them; None: PyTorch's default."""
        if self.here:
            return None
        return 1 if self.jobs is None else max(_cores() // self.jobs, 1)


HERE = Workers()
"""Execution of one run after another in this process."""


class _Engine(Protocol):
    def submit(self, job: Job) -> Future[Outcome]: ...

    def close(self) -> None: ...


class _LocalProcesses:
    """An engine with ``count`` concurrent processes on this machine."""

    def __init__(self, count: int) -> None:
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(count)

    def submit(self, job: Job) -> Future[Outcome]:
        return self._threads.submit(process.run, job, lambda: not self._stop.is_set())

    def close(self) -> None:
        self._stop.set()
        self._threads.shutdown(cancel_futures=True)


def run(
    jobs: Sequence[Job],
    workers: Workers,
    console: Console,
    update: Callable[[list[Job]], None] = lambda finished: None,
) -> dict[str, str]:
    """Complete independent runs. Finished runs are skipped.

    A failing run does not stop the others. A run whose process dies is resumed up to :data:`RETRIES` times; a cluster
    also moves the runs of a lost worker to other workers, up to its own limit.

    Args:
        jobs: the runs, in subfolders of the same folder with different names.
        workers: where to execute them.
        console: for output.
        update: called with the finished runs, in the order of ``jobs``, whenever another one has finished.

    Returns:
        The reasons of failed runs, by name.

    Raises:
        ValueError: two runs have the same name; a folder holds a run with other settings; and as in :class:`Cluster`.
        ImportError: Dask is not installed.
        KeyboardInterrupt: after Ctrl-C, when all runs have saved a checkpoint and ended.
    """
    check_distinct("runs", [job.name for job in jobs])
    jobs = [_with_threads(job, workers.threads) for job in jobs]
    for job in jobs:
        if any((job.out / name).is_file() for name in (folder.CONFIG, folder.RESULTS)):
            folder.check(job.out, job.config, resume=True)
    return (
        _run_sequentially(jobs, console, update) if workers.here else _run_concurrently(jobs, workers, console, update)
    )


def check(failures: Mapping[str, str]) -> None:
    """ValueError if there are failures, listing runs and reasons."""
    if failures:
        by_reason: dict[str, list[str]] = {}
        for name, reason in failures.items():
            by_reason.setdefault(reason, []).append(name)
        summary = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
        count = "1 run" if len(failures) == 1 else f"{len(failures)} runs"
        raise ValueError(f"{count} failed: {summary} (to try again: run the same command again)")


def _run_sequentially(jobs: Sequence[Job], console: Console, update: Callable[[list[Job]], None]) -> dict[str, str]:
    failures: dict[str, str] = {}
    finished: list[Job] = []
    threads = torch.get_num_threads()
    for job in jobs:
        try:
            job.complete(console)
        except BrokenPipeError:  # the reader closed the pipe; the run has not failed
            raise
        except ImportError as error:
            failures[job.name] = explained(error)
        except (ValueError, OSError) as error:
            failures[job.name] = str(error)
        else:
            finished.append(job)
            update(finished)
        finally:
            torch.set_num_threads(threads)  # the next run may not set its own
    return failures


def _run_concurrently(
    jobs: Sequence[Job], workers: Workers, console: Console, update: Callable[[list[Job]], None]
) -> dict[str, str]:
    finished = {job.name for job in jobs if job.finished()}
    if finished:
        update([job for job in jobs if job.name in finished])
    unfinished = [job for job in jobs if job.name not in finished]
    if not unfinished:
        return {}
    failures: dict[str, str] = {}
    deaths: Counter[str] = Counter()
    with (
        closing(_engine(workers, unfinished, console)) as engine,
        _interruptible(console),
        Board(jobs, finished, console) as board,
    ):
        futures = {engine.submit(job): job for job in unfinished}
        while futures:
            for future in wait(futures, _REFRESH, FIRST_COMPLETED).done:
                job = futures.pop(future)
                state, reason = _outcome(future)
                if state == "done":
                    _wait_for_results(job)
                    finished.add(job.name)
                    board.done(job)
                    update([one for one in jobs if one.name in finished])
                elif state == "died" and deaths[job.name] < RETRIES:
                    deaths[job.name] += 1
                    board.retry(job, reason)
                    futures[engine.submit(job)] = job
                else:
                    failures[job.name] = reason
                    board.failed(job, reason)
            board.refresh()
    return failures


@contextmanager
def _interruptible(console: Console) -> Iterator[None]:
    """After Ctrl-C, print why the command does not end immediately."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopping: the runs finish their steps and save checkpoints", highlight=False)
        raise


def _engine(workers: Workers, jobs: Sequence[Job], console: Console) -> _Engine:
    if workers.scheduler is None:
        return _LocalProcesses(min(workers.jobs or 1, len(jobs)))
    cluster = Cluster(workers.scheduler, jobs[0].out.parent)
    if not cluster.workers:
        console.print("no workers yet: the runs wait for the first", highlight=False)
    return cluster


def _outcome(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except CancelledError:
        return Outcome("failed", "cancelled: the scheduler is gone")
    except Exception as error:  # an error of the supervising thread or of the cluster
        return Outcome("failed", f"{type(error).__name__}: {str(error).partition('. ')[0]}")


def _wait_for_results(job: Job) -> None:
    """Wait until results.json is visible here: network file systems may report a new file as missing for a while."""
    end = time.monotonic() + _VISIBILITY_TIMEOUT
    while folder.RESULTS not in os.listdir(job.out) and time.monotonic() < end:
        time.sleep(_REFRESH)


def _with_threads(job: Job, threads: int | None) -> Job:
    """The run with a number of threads if its settings leave it open; a run that has started keeps its own number."""
    config: Any = job.config
    if config.threads is not None:
        return job
    path = job.out / folder.CONFIG
    if path.is_file():
        try:
            threads = json.loads(path.read_bytes())["threads"]
            return replace(job, config=replace(config, threads=threads))
        except (ValueError, TypeError, KeyError, RecursionError):
            return job  # folder.check reports the damaged file
    return replace(job, config=replace(config, threads=threads))


def _cores() -> int:
    """Number of processors available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
