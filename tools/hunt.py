"""A random search for tasks that a solver does not finish, certifies falsely or does not certify.

    PYTHONPATH=. python tools/hunt.py [--minutes 5 | --tasks 1000] [--families integers ...] [--solvers newton ...]
        [--builds avx2 torch ...] [--seed 0] [--limit 20]
    PYTHONPATH=. python tools/hunt.py --replay integers:17:newton:avx2

The families of tasks are difficult for solvers: scales over six decades, integers, binary features, one feature, means
of 100 to 10,000, low rank, two or three samples and a class without samples, fewer features than samples, repeated
points. A seed always gives the same task. Every solve runs in a process of its own, which is killed after ``--limit``
seconds, because a loop in a kernel cannot be interrupted. The gap is recomputed in extended precision from the returned
W and L. Exit code 1 if a solve did not end, crashed, was certified falsely or gave a gradient that is not finite, or if
newton was "beaten": it did not certify a task that another solver did.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsedis import Status, solve_svm, svm_lambda1_max
from sparsedis.ops.common.compiled import COMPILED
from tests.oracle import duality_gap
from tools.watched import Lost, Watched

FAMILIES = (
    "clusters",
    "scales",
    "integers",
    "binary",
    "one feature",
    "far from zero",
    "low rank",
    "few samples",
    "few features",
    "repeated points",
)
SOLVERS = ("newton", "fista", "bcd")
BAD = ("hang", "crash", "error", "false certificate", "gradient not finite", "beaten")


@dataclass(frozen=True)
class HuntTask:
    """The arguments of one solve.

    Attributes:
        features: X, (n, d), float32 or float64.
        labels: (n,).
        n_classes: k.
        lambda1, lambda2, dual_reg: the hyperparameters.
        sample_weight: (n,), float64.
        tol: relative gap to reach.
        differentiated: whether the gradient is computed as well.
    """

    features: Tensor
    labels: Tensor
    n_classes: int
    lambda1: float
    lambda2: float
    dual_reg: float
    sample_weight: Tensor
    tol: float = 1e-5
    differentiated: bool = False

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, n_classes: int, **options: float) -> HuntTask:
        """Defaults: lambda2 = 1, dual_reg = 0 and equal weights; lambda1 must be in ``options``."""
        values = {"lambda2": 1.0, "dual_reg": 0.0} | options
        weight = torch.ones(len(labels), dtype=torch.float64)
        return cls(features, labels, n_classes, sample_weight=weight, **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Verdict:
    """How a solve ended: the name of a status in lower case, or one of ``BAD``; the gaps are relative."""

    end: str
    claimed: float = np.nan
    gap: float = np.nan
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.end}, gap {self.gap:.1e} (claimed {self.claimed:.1e}) {self.detail}".rstrip()


def draw_shape(family: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """Samples, features and classes of a task of a family."""
    k = int(rng.integers(2, 8))
    n = int(rng.integers(2, 41))
    d = int(np.exp(rng.uniform(0, np.log(300))))
    if family == "few samples":
        n, k, d = int(rng.integers(2, 4)), int(rng.integers(3, 8)), int(rng.integers(1, 9))
    elif family == "few features":
        n = int(rng.integers(8, 41))
        d = int(rng.integers(1, n))
    elif family == "one feature":
        d = 1
    return n, d, k


def draw_features(family: str, rng: np.random.Generator, y: NDArray[np.int64], k: int, d: int) -> NDArray[np.float64]:
    """Features (n, d) of a family for labels y (n,) of k classes."""
    n = len(y)
    X = rng.standard_normal((k, d))[y] * rng.choice([0, 1, 3]) + rng.standard_normal((n, d))
    if family == "integers" or (family in ("one feature", "few samples") and rng.random() < 0.7):
        X = rng.integers(-3, 4, (n, d)).astype(float)
    elif family == "binary":
        X = (rng.random((n, d)) < rng.uniform(0.1, 0.9)).astype(float)
    elif family == "scales":
        X *= 10 ** rng.uniform(-3, 3, d)
    elif family == "far from zero":
        X += 10 ** rng.uniform(1, 4) * rng.standard_normal(d)
    elif family == "low rank":
        rank = max(1, min(n, d) // 10)
        X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d)) + 1e-3 * X
    elif family == "repeated points":
        X = X[rng.integers(0, max(2, n // 2), n)]
    return X


def draw(family: str, seed: int) -> HuntTask:
    """The task of a family and a seed."""
    rng = np.random.default_rng([FAMILIES.index(family), seed])
    n, d, k = draw_shape(family, rng)
    y = rng.integers(0, k, n)
    X = draw_features(family, rng, y, k, d)
    scale = 10 ** rng.uniform(-3, 3) if rng.random() < 0.5 else 1.0
    dtype = torch.float32 if rng.random() < 0.5 else torch.float64
    features, labels = torch.from_numpy(scale * X).to(dtype), torch.from_numpy(y)
    weight = rng.uniform(0.1, 2, n) * (rng.random(n) > 0.1) if rng.random() < 0.2 else np.ones(n)
    sample_weight = torch.from_numpy(weight)
    relative = rng.choice([0.0, 10 ** rng.uniform(-6, -2), rng.uniform(0.01, 1.2)], p=[0.3, 0.1, 0.6])
    lambda2 = scale**2 * (rng.choice([1.0, 100.0]) if rng.random() < 0.3 else 10 ** rng.uniform(-3, 4))
    return HuntTask(
        features,
        labels,
        k,
        lambda1=float(relative * svm_lambda1_max(features, labels, n_classes=k, sample_weight=sample_weight)),
        lambda2=float(lambda2),
        dual_reg=float(lambda2 * 10 ** rng.uniform(-3, 1)) if rng.random() < 0.25 else 0.0,
        sample_weight=sample_weight,
        tol=1e-5 if dtype == torch.float32 else float(10.0 ** -rng.integers(5, 11)),
        differentiated=bool(rng.random() < 0.5),
    )


def solve_and_check(task: HuntTask, solver: str, backend: str) -> Verdict:
    """Solve the task and verify the result."""
    X = task.features.clone().requires_grad_(task.differentiated)
    solution = solve_svm(
        X,
        task.labels,
        lambda1=task.lambda1,
        lambda2=task.lambda2,
        dual_reg=task.dual_reg,
        n_classes=task.n_classes,
        sample_weight=task.sample_weight,
        solver=solver,
        backend=backend,
        tol=task.tol,
    )
    L = solution.dual.numpy()
    present = task.sample_weight.numpy() > 0
    claimed = solution.relative_gap.item()
    difference, objective = duality_gap(
        task.features.double().numpy(),
        task.labels.numpy(),
        task.lambda1,
        task.lambda2,
        task.dual_reg,
        solution.weights.detach().double().numpy(),
        L,
        task.sample_weight.numpy(),
    )
    gap = difference / objective if objective > 0 else 0.0
    end = Status(int(solution.status)).name.lower()
    inside = L[present].min(initial=0) >= 0 and abs(L[present].sum(1) - 1).max(initial=0) < 1e-9
    # The tolerance covers the rounding error in a gap, which is a small difference of large numbers.
    if end == "certified" and not (inside and gap <= 1.001 * task.tol + 1e-13):
        return Verdict("false certificate", claimed, gap, "" if inside else "L is not in the simplex")
    if task.differentiated and not torch.isfinite(torch.autograd.grad(solution.weights.sum(), X)[0]).all():
        return Verdict("gradient not finite", claimed, gap)
    return Verdict(end, claimed, gap)


class Worker:
    """A process that solves with one build: "torch" or an instruction set of the compiled kernels."""

    def __init__(self, build: str) -> None:
        self.build = build
        self._process = Watched(partial(_answer, build))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *reason: object) -> None:
        self._process.__exit__(*reason)

    def __call__(self, task: HuntTask, solver: str, limit: float) -> Verdict:
        """The verdict on one solve, or "hang" after ``limit`` seconds."""
        values = {field.name: getattr(task, field.name) for field in fields(task)}
        values = {n: v.numpy() if isinstance(v, Tensor) else v for n, v in values.items()}
        verdict = self._process(values, solver, limit=limit)
        return Verdict(verdict.what, detail=verdict.detail) if isinstance(verdict, Lost) else verdict


def _answer(build: str, values: dict[str, Any], solver: str) -> Verdict:
    """Calls :func:`solve_and_check` in the worker's process."""
    torch.set_num_threads(1)
    if build != "torch":
        if reason := COMPILED.available():
            raise RuntimeError(reason)
        COMPILED._kernels = import_module(f"sparsedis.ops._cpp_{build}")
    task = HuntTask(**{n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in values.items()})
    return solve_and_check(task, solver, "torch" if build == "torch" else "cpp")


def builds() -> list[str]:
    """The instruction sets that run on this CPU; empty if the kernels are not built."""
    if COMPILED.available() is not None:
        return []
    found = []
    for name in ("baseline", *import_module("sparsedis.ops._cpp_baseline").instruction_sets()):
        try:
            import_module(f"sparsedis.ops._cpp_{name}")
        except ImportError:
            continue  # the compiler does not support this instruction set
        found.append(name)
    return found


def hunt(
    seeds: Iterable[int], families: Sequence[str], solvers: Sequence[str], builds: Sequence[str], limit: float
) -> Iterator[tuple[str, str, str, Verdict]]:
    """(family, solver, name, verdict) of every solve; --replay takes the name.

    The builds take turns, one per task, because they differ only in rounding.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(build)) for build in builds]
        for seed, family in ((seed, family) for seed in seeds for family in families):
            task, worker = draw(family, seed), workers[(seed + FAMILIES.index(family)) % len(workers)]
            verdicts = {solver: worker(task, solver, limit) for solver in solvers}
            if unfinished(verdicts.get("newton")) and any(v.end == "certified" for v in verdicts.values()):
                verdicts["newton"] = replace(verdicts["newton"], end="beaten")
            for solver, verdict in verdicts.items():
                yield family, solver, f"{family}:{seed}:{solver}:{worker.build}", verdict


def unfinished(verdict: Verdict | None) -> bool:
    """Whether the solve ended above tol for a reason other than the precision of W."""
    return verdict is not None and verdict.end in ("stalled", "max_iter")


def seeds(first: int, tasks: int | None, minutes: float) -> Iterator[int]:
    """As many seeds as requested, or until the time is over."""
    end = time.monotonic() + 60 * minutes
    for seed in itertools.count(first):
        if seed - first == tasks or (tasks is None and time.monotonic() > end):
            return
        yield seed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--minutes", type=float, default=5, help="duration of the search")
    amount.add_argument("--tasks", type=int, help="seeds per family, instead")
    amount.add_argument("--replay", metavar="FAMILY:SEED:SOLVER:BUILD", help="repeat one solve of a report")
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES, metavar="FAMILY")
    parser.add_argument("--solvers", nargs="+", default=SOLVERS, choices=SOLVERS)
    parser.add_argument("--builds", nargs="+", default=builds(), choices=[*builds(), "torch"])
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--limit", type=float, default=20, help="seconds per solve")
    args = parser.parse_args()
    if args.replay:
        family, seed, solver, build = args.replay.split(":")
        task = draw(family, int(seed))
        print(task)
        with Worker(build) as worker:
            verdict = worker(task, solver, args.limit)
        print(verdict)
        return int(verdict.end in BAD)

    counts: Counter[tuple[str, str, str]] = Counter()
    chosen = seeds(args.seed, args.tasks, args.minutes)
    for family, solver, name, verdict in hunt(chosen, args.families, args.solvers, args.builds, args.limit):
        counts[family, solver, verdict.end] += 1
        # fista and bcd are not expected to certify everything; newton is.
        if verdict.end in BAD or (solver == "newton" and unfinished(verdict)):
            print(f"{name}  {verdict}", flush=True)
    ends = sorted({end for _, _, end in counts})
    print(f"\n| family | solver | {' | '.join(ends)} |\n{'|---' * (2 + len(ends))}|")
    for family, solver in itertools.product(args.families, args.solvers):
        print(f"| {family} | {solver} | {' | '.join(str(counts[family, solver, end]) for end in ends)} |")
    return int(any(end in BAD for _, _, end in counts))


if __name__ == "__main__":
    sys.exit(main())
