"""Times on one device: every backend and the published layer, and the head's share of a training step.

PYTHONPATH=. python tools/device_speed.py [--device cuda] [--batches 8 64] [--seconds 120] [--json FILE]

A time is the median wall time of a call, synchronised with the device; contenders take turns. Each time is printed with
the largest relative gap, recomputed in float64 from the returned dual, and the relative error of dloss/dX against a
float64 solve on the CPU. No time is given if the gap is above 3e-5.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import gates, tasks
from benchmarks.measure import DIRECTIONS, Effort, environment, interleaved, roofline
from benchmarks.peers import Peer, Prepared
from benchmarks.peers.moreau import Moreau
from benchmarks.peers.ours import Ours
from benchmarks.peers.published import PublishedByHand
from benchmarks.tasks import Case, Tasks
from sparsedis import solve_svm
from sparsedis.models import Conv4, ResNet12
from sparsedis.nn import GroupLassoSVM
from sparsedis.ops.registry import backends

# Way, shots, features, tasks: the shapes with a target come first, then shapes for every batch.
TARGETS = ((5, 5, 640, 8), (5, 15, 16000, 8), (5, 5, 640, 1024), (5, 15, 1600, 1024))
SHAPES = ((5, 5, 640), (5, 15, 1600), (5, 15, 16000), (5, 5, 16000), (5, 5, 1600), (5, 1, 640), (20, 5, 640))
# Peers that take seconds on large batches.
SLOW, SMALL_BATCH = ("newton (torch)", "moreau"), 8
LARGEST_GAP = 3e-5
# The largest features, in bytes, of a batch, and of one that the CPU also solves; larger cases are skipped.
LARGEST, LARGEST_CPU = 8e9, 2e8
CPU = torch.device("cpu")


@dataclass
class Contender:
    """A peer with its own copy of the tasks; one that runs on the CPU has its own name."""

    name: str
    peer: Peer
    batch: Tasks

    def prepare(self, case: Case, exact: Tensor) -> tuple[Prepared | None, dict[str, Any]]:
        """The prepared peer and the values printed with its time; None and the reason if it gets no time."""
        reason = self.peer.available() or self.peer.supports(case, self.batch.features.device)
        if reason:
            return None, {"refused": reason}
        try:
            prepared = self.peer.prepare(self.batch)
            prepared.forward()
            outcome = prepared.read(prepared.forward_backward())
        except Exception as error:  # a peer may raise anything; the others still run
            return None, {"refused": f"{type(error).__name__}: {str(error)[:160]}"}
        measurements: dict[str, Any] = {"count": prepared.count}
        if outcome.grad_features is not None:
            got = outcome.grad_features[0].double().cpu()
            measurements["gradient_error"] = ((got - exact).norm() / exact.norm()).item()
        if outcome.dual is not None:
            count = min(16, prepared.count)
            gap = gates.relative_gap(self.batch.first(count), outcome.weights[:count], outcome.dual[:count])
            measurements["gap"] = gap.max().item()
            if self.peer.gap is not None and not measurements["gap"] <= max(LARGEST_GAP, self.peer.gap):
                return None, measurements | {"refused": "gap"}
        return prepared, measurements


def contenders(batch: Tasks, device: torch.device) -> list[Contender]:
    on_device = batch.to(device)
    peers: list[Peer] = [Ours(backend, "newton") for backend in backends()]
    peers += [PublishedByHand(), Moreau()]
    listed = [Contender(peer.name, peer, on_device) for peer in peers]
    if device.type != "cpu" and 4 * batch.features.numel() <= LARGEST_CPU:
        on_cpu = Ours(next(backend for backend in backends() if backend.name == "cpp"), "newton")
        listed.append(Contender(f"{on_cpu.name} on {torch.get_num_threads()} threads", on_cpu, batch))
    return listed


def exact_gradient(batch: Tasks) -> Tensor:
    """dloss/dX of the first task, in float64 on the CPU."""
    one = batch.first(1)
    features = one.features.double().requires_grad_()
    given = {"lambda1": one.lambda1.double(), "lambda2": one.lambda2.double(), "n_classes": one.n_classes}
    solution = solve_svm(features, one.labels, **given, tol=1e-11)
    return torch.autograd.grad((solution.weights * one.cotangent.double()).sum(), features)[0][0]


def measure(case: Case, batch: Tasks, device: torch.device, turns: int) -> list[dict[str, Any]]:
    exact = exact_gradient(batch)
    rows, calls = [], {}
    for contender in contenders(batch, device):
        if contender.name in SLOW and case.batch > SMALL_BATCH:
            continue
        prepared, measurements = contender.prepare(case, exact)
        rows.append({"contender": contender.name, **measurements})
        if prepared is not None:
            calls[contender.name] = prepared
    timed = {(name, way): getattr(calls[name], way) for name in calls for way in DIRECTIONS}
    times = interleaved(timed, Effort(rounds=turns, seconds=4, patience=4), device)
    for row in rows:
        for direction in DIRECTIONS:
            if (row["contender"], direction) in times:
                row[f"{direction}_ms"] = 1e3 * statistics.median(times[row["contender"], direction])
    return rows


def training_step(encoder: str, batch: int, device: torch.device, waited: Callable[[], float]) -> dict[str, Any]:
    """A step on 5-way 1-shot tasks with 15 queries per class, without and with the head's solve and gradient."""
    size = 28 if encoder == "conv4" else 84
    model = (Conv4(in_channels=1) if encoder == "conv4" else ResNet12()).to(device)
    head = GroupLassoSVM()
    images = torch.randn(batch * 80, 1 if encoder == "conv4" else 3, size, size, device=device)
    labels = torch.arange(5, device=device).repeat(batch, 16)

    def step(with_head: bool) -> float:
        begin = waited()
        features = model(images).view(batch, 80, -1)
        if with_head:
            logits = head(features[:, 5:], features[:, :5], labels[:, :5], n_way=5).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 5:].flatten())
        else:
            loss = features.square().mean()
        loss.backward()
        return waited() - begin

    for with_head in (False, True):
        step(with_head)
    without, whole = (statistics.median(step(with_head) for _ in range(5)) for with_head in (False, True))
    return {"encoder": encoder, "batch": batch, "step_ms": 1e3 * whole, "head": 1 - without / whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64, 1024, 4096])
    parser.add_argument("--steps", type=int, nargs="*", default=[8, 256], help="tasks per training step")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--seconds", type=float, default=120, help="seconds after which no new case begins")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    end = time.perf_counter() + given.seconds
    torch.set_num_threads(given.threads)

    def waited() -> float:
        if given.device.type == "cuda":
            torch.cuda.synchronize(given.device)
        return time.perf_counter()

    results: dict[str, Any] = {
        "environment": environment(given.device),
        "roofline": roofline(given.device, quick=True),
        "gate": LARGEST_GAP,
        "solves": [],
        "steps": [],
    }
    print(json.dumps(results["environment"]), results["roofline"])

    def keep(kind: str, row: dict[str, Any]) -> None:
        results[kind].append(row)
        print(" ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
        if given.json:
            given.json.write_text(json.dumps(results, indent=1) + "\n")

    def solves(cases: Iterable[tuple[int, int, int, int]]) -> None:
        for way, shots, d, batch in cases:
            if 4.0 * batch * way * shots * d > LARGEST or time.perf_counter() > end:
                continue
            case = Case((), shots, d, way, batch)
            made = tasks.make(case, tasks.Encoder(None, 0))
            for row in measure(case, made, given.device, given.turns):
                keep("solves", {"way": way, "shots": shots, "d": d, "batch": batch, **row})

    targets = [case for case in TARGETS if case[-1] in given.batches]
    solves(targets)
    for batch in given.steps:
        for encoder in ("conv4", "resnet12"):
            if time.perf_counter() > end or (encoder == "resnet12" and batch > 64):
                continue
            try:
                keep("steps", training_step(encoder, batch, given.device, waited))
            except RuntimeError as error:
                print(f"step {encoder} {batch}: {str(error)[:160]}", flush=True)
    every = [(*shape, batch) for shape in SHAPES for batch in given.batches]
    solves(case for case in every if case not in targets)


if __name__ == "__main__":
    main()
