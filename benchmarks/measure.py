"""A run: gate the contenders of every case, time those that pass in interleaved rounds, and save everything as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sparsedis
from benchmarks import gates, tasks
from benchmarks.peers import Peer, Prepared, jaxopt, peers
from benchmarks.peers.moreau import Moreau
from benchmarks.peers.ours import Ours
from benchmarks.peers.published import Published, PublishedByHand
from sparsedis import info
from sparsedis.ops.registry import backends

DIRECTIONS = ("forward", "forward_backward")
_VERSIONS = (
    "torch",
    "numpy",
    "scipy",
    "torchopt",
    "moreau",
    "jax",
    "jaxlib",
    "jaxopt",
    "qpth",
    "cvxpy",
    "cvxpylayers",
    "diffcp",
    "scs",
    "pytest-benchmark",
)
_CHECKED = 8  # tasks whose gradients are compared with exact ones
_CHECKED_QUICK = 2  # in a quick run above _LARGE, where an exact one takes seconds
_LARGE = 100_000


@dataclass(frozen=True)
class Effort:
    """The amount of measurement.

    Attributes:
        rounds: their largest number.
        seconds: total after which a call skips further rounds, once it has had three.
        patience: total in seconds after which it skips them even before that.
    """

    rounds: int
    seconds: float
    patience: float


EFFORT = {True: Effort(9, 1.0, 15.0), False: Effort(25, 2.0, 15.0)}  # by "quick"


class Run:
    """Measures cases, each once, and writes all results after each.

    Args:
        out: folder for results.json.
        device: of the tasks.
        threads: CPU threads of torch.
        quick: the small set of cases, with few rounds.
        encoder: computes the realistic features.
    """

    def __init__(self, out: Path, device: torch.device, threads: int, quick: bool, encoder: tasks.Encoder) -> None:
        self.out, self.device, self.quick, self.encoder = out, device, quick, encoder
        torch.set_num_threads(threads)
        self.record: dict[str, Any] = {
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "quick": quick,
            "threads": threads,
            "encoder": encoder.describe(),
            **environment(device),
            "roofline": roofline(device, quick),
            "cases": [],
        }
        self._start = time.monotonic()
        self._done: dict[str, dict[str, dict[str, Any]]] = {}

    def case(self, case: tasks.Case) -> dict[str, dict[str, Any]]:
        """The results of a case by contender, measured at the first request."""
        if case.name not in self._done:
            start, foreign = time.monotonic(), _foreign_seconds()
            result = measure(case, self.device, self.quick, self.encoder)
            seconds = time.monotonic() - start
            result["seconds"] = round(seconds, 1)
            if foreign is not None and (now := _foreign_seconds()) is not None:
                result["foreign_cores"] = round(max(now - foreign, 0) / seconds, 2)
            self.record["cases"].append(result)
            self._done[case.name] = {row["name"]: row for row in result["contenders"]}
            self.save()
        return self._done[case.name]

    def curve(self) -> dict[str, Any]:
        """Gap and gradient error against time for the first reference shape."""
        self.record["curve"] = curve(tasks.REFERENCE[0], self.device, self.quick, self.encoder)
        self.save()
        return self.record["curve"]

    def save(self) -> None:
        self.record["seconds"] = round(time.monotonic() - self._start)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "results.json").write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")


def measure(case: tasks.Case, device: torch.device, quick: bool, encoder: tasks.Encoder) -> dict[str, Any]:
    """The contenders of a case: status, verdict and, if the gate is passed, times."""
    contenders = peers(case)
    result: dict[str, Any] = {"name": case.name, "case": asdict(case), "n": case.n}
    try:
        batch = tasks.make(case, encoder).to(device)
        checked = _CHECKED_QUICK if quick and case.n * case.d > _LARGE else _CHECKED
        exact = gates.reference(batch.first(checked))
    except Exception as error:
        failure = {"status": "failed", "reason": _error_text(error)}
        rows = [{"name": peer.name, "ours": isinstance(peer, Ours), **failure} for peer in contenders]
        return {**result, "contenders": rows}
    result |= {"sparsity": exact.sparsity, "smooth": int(exact.smooth.sum()), "checked": len(exact.smooth)}
    rows, calls = [], {}
    for peer in contenders:
        row, prepared = _gate(peer, case, batch, exact, device)
        rows.append(row)
        if prepared is not None:
            for direction in DIRECTIONS:
                calls[peer.name, direction] = getattr(prepared, direction)
    times = interleaved(calls, EFFORT[quick], device)
    for row in rows:
        for direction in DIRECTIONS:
            if (row["name"], direction) in times:
                row[direction] = summary(times[row["name"], direction])
    return {**result, "contenders": rows}


def _gate(
    peer: Peer, case: tasks.Case, batch: tasks.Tasks, exact: gates.Reference, device: torch.device
) -> tuple[dict[str, Any], Prepared | None]:
    row: dict[str, Any] = {"name": peer.name, "ours": isinstance(peer, Ours)}
    if reason := peer.available():
        return {**row, "status": "not available", "reason": reason}, None
    if reason := peer.supports(case, device):
        return {**row, "status": "not supported", "reason": reason}, None
    try:
        prepared = peer.prepare(batch)
        # Both directions must pass the gate, because they may be different programs.
        forward_verdict = gates.check_outcome(
            batch, prepared.read(prepared.forward()), exact, gap=peer.gap, gradient=None
        )
        outputs = prepared.forward_backward()
        verdict = gates.check_outcome(batch, prepared.read(outputs), exact, gap=peer.gap, gradient=peer.gradient)
        row |= {"describe": peer.describe(), "note": prepared.note, "count": prepared.count}
        row |= {"verdict": asdict(verdict), "details": prepared.details(outputs)}
    except Exception as error:
        return {**row, "status": "failed", "reason": _error_text(error), "traceback": traceback.format_exc()}, None
    if reason := forward_verdict.refused or verdict.refused:
        return {**row, "status": "refused", "reason": reason}, None
    return {**row, "status": "measured"}, prepared


def interleaved(
    calls: Mapping[Any, Callable[[], object]], effort: Effort, device: torch.device
) -> dict[Any, list[float]]:
    """Seconds of every call, in rounds over all of them; each round starts one call further.

    A disturbance of the machine thus affects all calls equally. Every call must have run once before.
    """
    keys = list(calls)
    times: dict[Any, list[float]] = {key: [] for key in keys}
    for turn in range(effort.rounds):
        for i in range(len(keys)):
            key = keys[(i + turn) % len(keys)]
            spent = sum(times[key])
            if spent >= effort.patience or (spent >= effort.seconds and turn >= 3):
                continue
            _synchronise(device)
            start = time.perf_counter()
            calls[key]()
            _synchronise(device)
            times[key].append(time.perf_counter() - start)
    return times


def summary(times: list[float]) -> dict[str, Any]:
    """Median, 20th and 80th percentile in seconds, and the times."""
    values = torch.tensor(times, dtype=torch.float64)
    low, median, high = values.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    return {"median": median, "p20": low, "p80": high, "times": times}


def curve(case: tasks.Case, device: torch.device, quick: bool, encoder: tasks.Encoder) -> dict[str, Any]:
    """The gap and gradient error that each solver reaches, and its time, at a series of settings."""
    batch = tasks.make(case, encoder).to(device)
    exact = gates.reference(batch.first(_CHECKED))
    calls: dict[tuple[str, str, str], Callable[[], object]] = {}
    reached: dict[tuple[str, str], dict[str, Any]] = {}
    failed: dict[str, str] = {}

    def add(series: str, setting: str, make: Callable[[], Prepared]) -> None:
        try:
            prepared = make()
            forward_verdict = gates.check_outcome(
                batch, prepared.read(prepared.forward()), exact, gap=None, gradient=None
            )
            both = gates.check_outcome(
                batch, prepared.read(prepared.forward_backward()), exact, gap=None, gradient=None
            )
        except Exception as error:
            failed[series] = _error_text(error)
            return
        if reason := forward_verdict.refused or both.refused:
            failed[series] = reason
            return
        errors = {"gradient_error": both.gradient_error, "gradient_error_median": both.gradient_error_median}
        reached[series, setting] = {"series": series, "setting": setting, "gap": forward_verdict.gap, **errors}
        calls[series, setting, "forward"] = prepared.forward
        calls[series, setting, "forward_backward"] = prepared.forward_backward

    def add_all(peer: Peer, settings: Mapping[str, Callable[[], Prepared]]) -> None:
        if reason := peer.available() or peer.supports(case, device):
            failed[peer.name] = reason
            return
        for setting, make in settings.items():
            add(peer.name, setting, make)

    steps = (5, 20, 100) if quick else (1, 5, 20, 100, 500)
    for published in (Published, PublishedByHand):
        add_all(published(), {f"{n} steps": partial(published(steps=n).prepare, batch) for n in steps})
    digits = (6,) if quick else (4, 6, 8)
    add_all(Moreau(), {f"tolerance {10.0**-n:.0e}": partial(Moreau(10.0**-n).prepare, batch) for n in digits})
    sweeps = (25, 100) if quick else (5, 10, 25, 50, 100, 200, 400)
    add_all(jaxopt.Jaxopt(), {f"{n} sweeps": partial(jaxopt.prepare_sweeps, batch, n) for n in sweeps})
    tolerances = {"newton": range(1, 9), "fista": range(1, 7), "bcd": range(1, 5)}
    for backend in backends():
        for solver, powers in tolerances.items():
            if quick and solver == "bcd":
                continue
            tols = [10.0**-n for n in (powers[::3] if quick else powers)]
            add_all(
                Ours(backend, solver),
                {f"tol {tol:.0e}": partial(Ours(backend, solver, tol).prepare, batch) for tol in tols},
            )
    times = interleaved(calls, Effort(3, 1.0, 2.0) if quick else Effort(5, 1.5, 4.0), device)
    for (series, setting, direction), values in times.items():
        reached[series, setting][direction] = summary(values)
    return {"name": case.name, "points": list(reached.values()), "failed": failed}


def roofline(device: torch.device, quick: bool) -> dict[str, float]:
    """The machine's float32 matrix product in GFLOP/s and copy (read and written) in GB/s; the best of several."""
    size = 1024 if quick and device.type == "cpu" else 4096 if device.type == "cuda" else 2048
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    source = torch.randn(2**24 if quick else 2**26, device=device)
    target = torch.empty_like(source)
    calls = {"sgemm": lambda: torch.mm(a, b), "copy": lambda: target.copy_(source)}
    for call in calls.values():
        call()
    best = {key: min(values) for key, values in interleaved(calls, Effort(10, 2.0, 2.0), device).items()}
    return {
        "sgemm_gflops": 2 * size**3 / best["sgemm"] / 1e9,
        "copy_gb_per_s": 2 * source.numel() * 4 / best["copy"] / 1e9,
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Machine, versions and commit."""
    facts = dict(line.split("  ", 1) for line in info.report().splitlines())
    found = {}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "machine": {
            "cpu": facts["cpu"].strip().rsplit(",", 1)[0],
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
        "versions": {"sparsedis": sparsedis.__version__, **found},
        "commit": _commit(),
    }


def _foreign_seconds() -> float | None:
    """CPU seconds used since boot by all other processes of this machine (Linux; None elsewhere)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - time.process_time()


def _commit() -> str:
    def git(*arguments: str) -> str:
        folder = Path(sparsedis.__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _error_text(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200] if text else ''}"
