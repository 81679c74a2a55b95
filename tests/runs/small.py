"""Training runs that take a second, can be imported by other processes, and fail as set by ``fault``."""

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sparsedis.runs import checkpoint, files, folder
from sparsedis.runs.config import RunConfig
from sparsedis.runs.device import set_threads
from sparsedis.runs.process import Job

STARTS = "starts.txt"
"""The file in a run's folder that lists the first iteration and the process of each part of the run."""


@dataclass(frozen=True)
class Small(RunConfig):
    seed: int = 0
    iterations: int = 12
    log_every: int = 1
    validate_every: int = 4
    save_every: int = 2
    threads: int | None = None
    pause: float = 0.0
    """Seconds per step."""
    fault: str = ""
    """value, bug: an exception while the runs' folder has a file "broken"; kill-once, keeper-once: the run's
    process, or its keeper, is killed during the first part of the run."""


def train(config: Small, out: Path, *, resume: bool = False, console: Console) -> None:
    """A random walk with the files and the interruptions of a training run.

    It has no optimiser, whose first step imports a compiler, which is too slow for these tests.
    """
    folder.check(out, config, resume)
    if config.fault in ("value", "bug") and (out.parent / "broken").exists():
        raise ValueError("broken,\nas it was told") if config.fault == "value" else KeyError("bug")
    set_threads(config.threads)
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / folder.CONFIG, config.as_json())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        done, place, lines = 0, torch.zeros(3), []
        if (out / folder.LAST).exists():
            tensors, metadata = checkpoint.load(out / folder.LAST)
            done, place = metadata["iteration"], tensors["place"]
            torch.set_rng_state(tensors["random"])
            lines = [line for line in folder.read_metrics(out / folder.METRICS) if line["iteration"] <= done]
        with (out / STARTS).open("a") as file:
            file.write(f"{done} {os.getpid()}\n")

        def save() -> None:
            checkpoint.save(out / folder.LAST, {"place": place, "random": torch.get_rng_state()}, {"iteration": done})

        try:
            while done < config.iterations:
                if done == 5:
                    _die(config.fault, (out / STARTS).read_text().count("\n") == 1)
                place = place + torch.randn(3)
                done += 1
                lines.append({"iteration": done, "split": "train", "loss": place.norm().item()})
                if done % config.validate_every == 0:
                    lines.append({"iteration": done, "split": "validation", "loss": place.norm().item()})
                    console.print(f"iteration {done}/{config.iterations}")
                files.write(out / folder.METRICS, "".join(json.dumps(line) + "\n" for line in lines).encode())
                if done % config.save_every == 0:
                    save()
                time.sleep(config.pause)
        except KeyboardInterrupt:
            save()
            raise
    files.write_json(out / folder.RESULTS, {"place": place.tolist(), "threads": torch.get_num_threads()})


def _die(fault: str, first: bool) -> None:
    if first and fault.endswith("-once"):
        os.kill(os.getpid() if fault == "kill-once" else os.getppid(), signal.SIGKILL)
        time.sleep(60)  # until this process is ended because its keeper has died


def job(out: Path, **settings: Any) -> Job:
    """The run with these settings, in a folder named after them."""
    config = Small(**settings)
    return Job(train, config, out / (f"{config.fault or 'right'}-{config.seed}"))


def starts(one: Job) -> list[tuple[int, int]]:
    """The first iteration and the process of each part of a run."""
    lines = (one.out / STARTS).read_text().splitlines()
    return [(int(iteration), int(process)) for iteration, process in map(str.split, lines)]


def assert_same_numbers(some: Sequence[Job], others: Sequence[Job]) -> None:
    """The files that are determined by the settings are equal byte by byte."""
    for one, other in zip(some, others, strict=True):
        for name in (folder.METRICS, folder.LAST, folder.RESULTS):
            assert (one.out / name).read_bytes() == (other.out / name).read_bytes(), (one.name, name)
