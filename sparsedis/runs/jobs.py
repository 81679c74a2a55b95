"""Many runs at once: on this machine or on the workers of a cluster, the one loop behind all commands that need it.

A run is the unit of everything: it has a fresh interpreter, its own number of threads and its own folder, so that its
numbers are those that it would have alone, and what kills it kills no other. The processes are kept by threads of the
standard library's pool on this machine (whose process pools, like loky's, give up all runs where one is killed), and by
Dask's workers on a cluster; both give futures, which :func:`run` waits for.
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
from sparsedis.runs.config import different, whole
from sparsedis.runs.process import Job, Outcome

RETRIES = 2
"""How often a run whose process has died is resumed."""

_REFRESH = 0.5  # seconds between looks at the runs
_SEEN = 60.0  # seconds after which files of other machines are surely seen


@dataclass(frozen=True)
class Workers:
    """Where the runs of a command are executed.

    Raises:
        ValueError: ``jobs`` is below 1, ``scheduler`` not an address, or both are given.
    """

    jobs: OptionalInt = None
    """Runs at a time here, each a process with an equal part of the cores, or --threads; the default is one by one."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Dask scheduler, tcp://HOST:8786, whose workers, with the same file system, run on one thread or --threads."""

    def __post_init__(self) -> None:
        if self.jobs is not None:
            whole("jobs", self.jobs, 1)
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
        """CPU threads of a run whose settings leave them open; None: PyTorch's default."""
        if self.here:
            return None
        return 1 if self.jobs is None else max(_cores() // self.jobs, 1)


HERE = Workers()
"""One run after another, in this process."""


class _Engine(Protocol):
    def submit(self, job: Job) -> Future[Outcome]: ...

    def close(self) -> None: ...


class _Machine:
    """So many processes of this machine at a time."""

    def __init__(self, count: int) -> None:
        self._stop = threading.Event()
        self._keepers = ThreadPoolExecutor(count)

    def submit(self, job: Job) -> Future[Outcome]:
        return self._keepers.submit(process.run, job, lambda: not self._stop.is_set())

    def close(self) -> None:
        self._stop.set()
        self._keepers.shutdown(cancel_futures=True)


def run(
    jobs: Sequence[Job],
    workers: Workers,
    console: Console,
    update: Callable[[list[Job]], None] = lambda finished: None,
) -> dict[str, str]:
    """Finish runs that do not depend on each other. Those that are finished are left alone.

    A run that fails does not keep the others from going on. One whose process dies is resumed up to :data:`RETRIES`
    times; a cluster moves the runs of a worker that dies to others, up to its own limit.

    Args:
        jobs: the runs, in folders of different names within one folder.
        workers: where to execute them.
        console: where to report.
        update: called with the finished runs, in the order of ``jobs``, whenever there is another one.

    Returns:
        Of every run that has failed the reason, by name.

    Raises:
        ValueError: two runs have the same name; a folder holds a run with other settings; and as :class:`Cluster`.
        ImportError: Dask is not installed.
        KeyboardInterrupt: after Ctrl-C; all runs have saved a checkpoint and ended.
    """
    different("runs", [job.name for job in jobs])
    jobs = [_with_threads(job, workers.threads) for job in jobs]
    for job in jobs:
        if any((job.out / name).is_file() for name in (folder.CONFIG, folder.RESULTS)):
            folder.check(job.out, job.config, resume=True)
    return _in_turn(jobs, console, update) if workers.here else _at_once(jobs, workers, console, update)


def check(failures: Mapping[str, str]) -> None:
    """ValueError if runs have failed: which, and why."""
    if failures:
        by_reason: dict[str, list[str]] = {}
        for name, reason in failures.items():
            by_reason.setdefault(reason, []).append(name)
        told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
        count = "1 run" if len(failures) == 1 else f"{len(failures)} runs"
        raise ValueError(f"{count} failed: {told} (to try again: run the same command again)")


def _in_turn(jobs: Sequence[Job], console: Console, update: Callable[[list[Job]], None]) -> dict[str, str]:
    failures: dict[str, str] = {}
    finished: list[Job] = []
    threads = torch.get_num_threads()
    for job in jobs:
        try:
            job.complete(console)
        except BrokenPipeError:  # the reader of the console is gone, which is not the run's failure
            raise
        except ImportError as error:
            failures[job.name] = explained(error)
        except (ValueError, OSError) as error:
            failures[job.name] = str(error)
        else:
            finished.append(job)
            update(finished)
        finally:
            torch.set_num_threads(threads)  # the next run's may be left open
    return failures


def _at_once(
    jobs: Sequence[Job], workers: Workers, console: Console, update: Callable[[list[Job]], None]
) -> dict[str, str]:
    finished = {job.name for job in jobs if job.finished()}
    if finished:
        update([job for job in jobs if job.name in finished])
    waiting = [job for job in jobs if job.name not in finished]
    if not waiting:
        return {}
    failures: dict[str, str] = {}
    deaths: Counter[str] = Counter()
    with (
        closing(_engine(workers, waiting, console)) as engine,
        _interruptible(console),
        Board(jobs, finished, console) as board,
    ):
        futures = {engine.submit(job): job for job in waiting}
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
                    board.again(job, reason)
                    futures[engine.submit(job)] = job
                else:
                    failures[job.name] = reason
                    board.failed(job, reason)
            board.refresh()
    return failures


@contextmanager
def _interruptible(console: Console) -> Iterator[None]:
    """After Ctrl-C, say why the command has not ended yet."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopping: the runs finish their steps and save checkpoints", highlight=False)
        raise


def _engine(workers: Workers, jobs: Sequence[Job], console: Console) -> _Engine:
    if workers.scheduler is None:
        return _Machine(min(workers.jobs or 1, len(jobs)))
    cluster = Cluster(workers.scheduler, jobs[0].out.parent)
    if not cluster.workers:
        console.print("no workers yet: the runs wait for the first", highlight=False)
    return cluster


def _outcome(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except CancelledError:
        return Outcome("failed", "cancelled: the scheduler is gone")
    except Exception as error:  # of the keeper or of the cluster, which has nobody else to tell
        return Outcome("failed", f"{type(error).__name__}: {str(error).partition('. ')[0]}")


def _wait_for_results(job: Job) -> None:
    """Until they are seen here too: a network file system may go on for a while saying that a file is not there."""
    end = time.monotonic() + _SEEN
    while folder.RESULTS not in os.listdir(job.out) and time.monotonic() < end:
        time.sleep(_REFRESH)


def _with_threads(job: Job, threads: int | None) -> Job:
    """The run with a number of threads, where its settings leave it open; one that has begun goes on with its own."""
    config: Any = job.config
    if config.threads is not None:
        return job
    path = job.out / folder.CONFIG
    if path.is_file():
        try:
            threads = json.loads(path.read_bytes())["threads"]
            return replace(job, config=replace(config, threads=threads))
        except (ValueError, TypeError, KeyError, RecursionError):
            return job  # what is wrong with the file is for folder.check to say
    return replace(job, config=replace(config, threads=threads))


def _cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
