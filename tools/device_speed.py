"""Times on one device: every backend beside the published layer, and the head's share of a training step.

PYTHONPATH=. python tools/device_speed.py [--device cuda] [--batches 8 64] [--seconds 120] [--json FILE]

A time is the median wall time of a call with the device waited for; contenders take turns. It stands beside the largest
relative gap, computed again in float64 from the dual that came back, and the error of dloss/dX against a float64 solve
on the CPU, relative. Where the gap is above 3e-5 there is no time.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import sparsedis
from benchmarks.peers.published import Layer
from sparsedis.models import Conv4, ResNet12
from sparsedis.nn import GroupLassoSVM

# Way, shots, features.
SHAPES = ((5, 1, 640), (5, 5, 640), (5, 5, 1600), (5, 15, 1600), (5, 5, 16000), (5, 15, 16000), (20, 5, 640))
LAMBDA1, LAMBDA2, LARGEST_GAP = 4.0, 100.0, 3e-5
# Of features, in bytes; larger cases are left out.
LARGEST = 8e9


class Call:
    """One batch, solved forward and backward by any contender."""

    def __init__(self, way: int, shots: int, d: int, batch: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(way).repeat_interleave(shots).expand(batch, -1).contiguous()
        centres = torch.randn(batch, way, d, generator=generator)
        noise = torch.randn(batch, way * shots, d, generator=generator)
        features = (centres.repeat_interleave(shots, dim=1) + noise).relu_()
        direction = torch.randn(batch, d, way, generator=generator)
        exact = features[:1].double().requires_grad_()
        solution = sparsedis.solve_svm(exact, labels[:1], lambda1=LAMBDA1, lambda2=LAMBDA2, tol=1e-11)
        (solution.weights * direction[:1]).sum().backward()
        assert exact.grad is not None
        self.exact = exact.grad[0]
        self.way = way
        self.features, self.labels, self.direction = (x.to(device) for x in (features, labels, direction))

    def solve(self, contender: str, waited: Callable[[], float]) -> tuple[Tensor, Any, float]:
        """The gradient of features, the solution where there is one, and the time at which the forward pass ended."""
        if contender == "published":
            size = self.features.new_full((len(self.features),), 1.0)
            given = SimpleNamespace(
                features=self.features,
                labels=self.labels,
                n_classes=self.way,
                lambda1=LAMBDA1 * size,
                lambda2=LAMBDA2 * size,
            )
            layer = Layer(given)  # type: ignore[arg-type]
            layer.solve(5)
            layer.weights()
            middle = waited()
            return layer.gradients(self.direction, 5, None, 1e-5)[0], None, middle
        features = self.features.detach().requires_grad_()
        solution = sparsedis.solve_svm(
            features, self.labels, lambda1=LAMBDA1, lambda2=LAMBDA2, n_classes=self.way, backend=contender
        )
        middle = waited()
        solution.weights.backward(self.direction)
        assert features.grad is not None
        return features.grad, solution, middle

    def check(self, contender: str, waited: Callable[[], float]) -> dict[str, Any]:
        """What stands beside a time; with "refused", the reason, where there can be none."""
        gradient, solution, _ = self.solve(contender, waited)
        error = (gradient[0].double().cpu() - self.exact).norm() / self.exact.norm()
        told: dict[str, Any] = {"gradient_error": error.item()}
        if solution is not None:
            told["iterations"] = solution.n_iter.double().mean().item()
            told["gap"] = _gap(self.features[:16], self.labels[:16], solution.dual[:16]).max().item()
            if not told["gap"] <= LARGEST_GAP:
                told["refused"] = f"gap above {LARGEST_GAP}"
        return told


def _gap(features: Tensor, labels: Tensor, dual: Tensor) -> Tensor:
    """Relative gap at a dual point, by the definitions, in float64."""
    X, L = features.double(), dual.double().clamp_min(0)
    L = L / L.sum(-1, keepdim=True)
    Y = torch.nn.functional.one_hot(labels, L.shape[-1]).double()
    others = L * (1 - Y)
    V = X.mT @ (Y * others.sum(-1, keepdim=True) - others)
    W = (1 - LAMBDA1 / V.norm(dim=-1, keepdim=True).clamp_min(1e-300)).clamp_min(0) * V / LAMBDA2
    margins = X @ W - ((X @ W) * Y).sum(-1, keepdim=True) + 1 - Y
    hinge = margins.amax(-1)
    primal = hinge.sum(-1) + LAMBDA1 * W.norm(dim=-1).sum(-1) + LAMBDA2 / 2 * W.square().sum((1, 2))
    return ((hinge[..., None] - margins) * L).sum((1, 2)) / primal


def contenders(device: torch.device) -> list[str]:
    names = [backend.name for backend in sparsedis.backends() if backend.available() is None]
    return [name for name in names if device.type == "cpu" or name != "cpp"] + ["published"]


def measure(call: Call, names: Sequence[str], turns: int, waited: Callable[[], float]) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            told[name] = call.check(name, waited)
        except (RuntimeError, ValueError) as error:
            told[name] = {"refused": f"{type(error).__name__}: {str(error)[:160]}"}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names if "refused" not in told[name]}
    for _ in range(turns):
        for name, taken in times.items():
            begin = waited()
            middle = call.solve(name, waited)[2]
            taken.append((middle - begin, waited() - begin))
    for name, taken in times.items():
        for i, part in enumerate(("forward_ms", "both_ms")):
            told[name][part] = 1e3 * statistics.median(time_[i] for time_ in taken)
    return told


def training_step(encoder: str, batch: int, device: torch.device, waited: Callable[[], float]) -> dict[str, Any]:
    """A step of 5-way 1-shot tasks with 15 queries for a class, without and with the head's solve and its gradient."""
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


def _about(device: torch.device) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    about = {"card": card, "torch": torch.__version__, "cuda": torch.version.cuda, "commit": commit}
    return about | {"sparsedis": sparsedis.__version__, "lambda1": LAMBDA1, "lambda2": LAMBDA2, "gate": LARGEST_GAP}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64, 1024, 4096])
    parser.add_argument("--steps", type=int, nargs="*", default=[8, 1024], help="tasks of the training steps")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=120, help="after which no new case begins")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    end = time.perf_counter() + given.seconds

    def waited() -> float:
        if given.device.type == "cuda":
            torch.cuda.synchronize(given.device)
        return time.perf_counter()

    results: dict[str, Any] = {"about": _about(given.device), "solves": [], "steps": []}
    print(json.dumps(results["about"]))

    def keep(kind: str, row: dict[str, Any]) -> None:
        results[kind].append(row)
        print(" ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
        if given.json:
            given.json.write_text(json.dumps(results, indent=1) + "\n")

    for batch in given.batches:
        for way, shots, d in SHAPES:
            if 4.0 * batch * way * shots * d > LARGEST or time.perf_counter() > end:
                continue
            call = Call(way, shots, d, batch, given.device)
            for name, told in measure(call, contenders(given.device), given.turns, waited).items():
                keep("solves", {"way": way, "shots": shots, "d": d, "batch": batch, "contender": name, **told})
    for batch in given.steps:
        for encoder in ("conv4", "resnet12"):
            if time.perf_counter() > end + 30 or (encoder == "resnet12" and batch > 64):
                continue
            try:
                keep("steps", training_step(encoder, batch, given.device, waited))
            except RuntimeError as error:
                print(f"step {encoder} {batch}: {str(error)[:160]}", flush=True)


if __name__ == "__main__":
    main()
