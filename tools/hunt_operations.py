"""Random tasks of all operations, in batches: no solve may hang, fail, be certified falsely or have infinite gradients.

    PYTHONPATH=. python tools/hunt_operations.py [--tasks 1000000] [--operations svm lasso ridge logistic] [--seed 0]
        [--processes 2] [--limit 120]
    PYTHONPATH=. python tools/hunt_operations.py --replay svm:17

A batch has BATCH tasks of one shape and one of the families of tools/hunt.py (scales over six decades, integers, means
of 100 to 10,000, low rank, ...), with hyperparameters over six decades, sample weights that may be 0, and float32 or
float64; an operation and a seed always give the same batch. The default solver and backend solve it, half of the
batches with a gradient, in a process that is killed after ``--limit`` seconds. Every gap is recomputed in extended
precision from the returned weights and dual point.

Of the tasks, 70% are SVMs, 24% Lassos, 5% ridge and 1% logistic regressions. Uncertified tasks are listed, except those
whose weights cannot be certified once rounded to float32, which are counted ("precision"). Exit code 1 if anything is
wrong, or if more than one task in 100,000 ends uncertified for another reason.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import sparsedis
from sparsedis import Solution, Status
from tools.hunt import FAMILIES, draw_features, draw_shape
from tools.watched import Lost, Watched

BATCH = 64
SHARES = {"svm": 0.7, "lasso": 0.24, "ridge": 0.05, "logistic": 0.01}
ALLOWED = 1e-5  # share of uncertified tasks
PRECISION, UNCERTIFIED, FALSE, INFINITE = "precision", "uncertified", "false certificate", "gradient not finite"

Array = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """B tasks.

    Attributes:
        operation: its name.
        features: X, (B, n, d).
        targets: labels (B, n) of classifiers, (B, n) or (B, n, m) of regressions.
        sample_weight: (B, n).
        options: arguments of the solver, such as the hyperparameters (B,).
        differentiated: whether the gradient is computed as well.
    """

    operation: str
    features: Tensor
    targets: Tensor
    sample_weight: Tensor
    options: dict[str, Any]
    differentiated: bool


class Finding(NamedTuple):
    """A task that failed: its index in the batch, what happened, and its relative gap."""

    task: int
    what: str
    gap: float


def draw(operation: str, seed: int) -> Batch:
    """The batch of an operation and a seed."""
    rng = np.random.default_rng([list(SHARES).index(operation), seed])
    family = FAMILIES[seed % len(FAMILIES)]
    n, d, k = draw_shape(family, rng)
    labels = rng.integers(0, k, (BATCH, n))
    scale = 10 ** rng.uniform(-3, 3, (BATCH, 1, 1)) if rng.random() < 0.5 else np.ones((BATCH, 1, 1))
    X = scale * np.stack([draw_features(family, rng, y, k, d) for y in labels])
    dtype = torch.float32 if rng.random() < 0.5 else torch.float64
    features = torch.from_numpy(X).to(dtype)
    weight = np.ones((BATCH, n))
    if rng.random() < 0.2:
        weight = rng.uniform(0.1, 2, (BATCH, n)) * (rng.random((BATCH, n)) > 0.1)
        weight[:, 0] = 1  # an average over no samples is invalid
    targets = torch.from_numpy(labels)
    if operation in ("lasso", "ridge"):
        columns = () if operation == "lasso" else (int(rng.integers(1, 6)),)
        y = X @ (rng.standard_normal((BATCH, d, *(columns or (1,)))) * (rng.random((BATCH, d, 1)) < 0.3))
        y = y + 10 ** rng.uniform(-3, 1) * (y.std() + 1e-3) * rng.standard_normal(y.shape)
        targets = torch.from_numpy(y if columns else y[..., 0]).to(dtype)
    options = {"tol": 1e-5 if dtype == torch.float32 else float(10.0 ** -rng.integers(5, 11))}
    if operation in ("svm", "logistic"):
        options["n_classes"] = k
    sample_weight = torch.from_numpy(weight)
    options |= _penalties(operation, rng, scale[:, 0, 0] ** 2)
    if "lambda1" in options:
        classes = {key: options[key] for key in ("n_classes",) if key in options}
        largest = LARGEST[operation](features, targets, sample_weight=sample_weight, **classes).double()
        options["lambda1"] *= torch.where(largest > 0, largest, 1)
    return Batch(operation, features, targets, sample_weight, options, bool(rng.random() < 0.5))


def _penalties(operation: str, rng: np.random.Generator, square: Array) -> dict[str, Tensor]:
    """lambda1 (relative to its maximum), lambda2 and dual_reg; `square` is the square of the features' scale."""
    lambda2 = square * np.where(rng.random(BATCH) < 0.3, 1.0, 10 ** rng.uniform(-3, 4, BATCH))
    if operation == "ridge":
        return {"lambda2": torch.from_numpy(1e-3 * lambda2)}
    lambda1 = np.where(rng.random(BATCH) < 0.15, 10 ** rng.uniform(-6, -2, BATCH), rng.uniform(0.01, 1.2, BATCH))
    if operation == "svm":
        lambda1 *= rng.random(BATCH) > 0.3
        dual_reg = lambda2 * 10 ** rng.uniform(-3, 1, BATCH) * (rng.random(BATCH) < 0.25)
        values = {"lambda1": lambda1, "lambda2": lambda2, "dual_reg": dual_reg}
    else:  # losses are averages, not sums, and lambda2 may be 0
        values = {"lambda1": lambda1, "lambda2": 1e-2 * lambda2 * (rng.random(BATCH) > 0.4)}
    return {name: torch.from_numpy(value) for name, value in values.items()}


def solve(batch: Batch) -> tuple[Solution, Tensor | None]:
    """The solution, and the gradient of the sum of its weights with respect to the features if requested."""
    X = batch.features.clone().requires_grad_(batch.differentiated)
    function = getattr(sparsedis, f"solve_{batch.operation}")
    solution = function(X, batch.targets, sample_weight=batch.sample_weight, **batch.options)
    return solution, torch.autograd.grad(solution.weights.sum(), X)[0] if batch.differentiated else None


def solve_and_check(batch: Batch) -> tuple[list[Finding], Counter[str]]:
    """Solve the batch; the findings, and the number of tasks by how they ended."""
    solution, gradient = solve(batch)
    gap = GAPS[batch.operation](batch, solution)
    tol = batch.options["tol"]
    findings, ends = [], Counter[str]()
    for task in range(len(gap)):
        status = Status(int(solution.status[task]))
        if status == Status.CERTIFIED:
            # The tolerance covers the rounding error in a gap, which is a small difference of large numbers.
            what = "" if gap[task] <= 1.001 * tol + 1e-13 else FALSE
        else:
            what = PRECISION if status == Status.PRECISION else UNCERTIFIED
        if gradient is not None and not gradient[task].isfinite().all():
            what = INFINITE
        ends[what or "certified"] += 1
        if what and what != PRECISION:
            findings.append(Finding(task, what, float(gap[task])))
    return findings, ends


def _exact(*values: Tensor) -> Iterator[Array]:
    return (value.detach().double().numpy().astype(np.longdouble) for value in values)


def svm_gap(batch: Batch, solution: Solution) -> Array:
    """(P(W) - D(L)) / P(W), (B,), with the rows of L normalised to sum 1; infinite if L is not in the simplex."""
    X, W, L, s = _exact(batch.features, solution.weights, solution.dual, batch.sample_weight)
    l1, l2, reg = _exact(*(batch.options[name] for name in ("lambda1", "lambda2", "dual_reg")))
    rho = (reg / l2)[:, None, None]
    present = s > 0
    outside = ((L.min(2) < 0) | (abs(L.sum(2) - 1) > 1e-9)) & present
    L = L / L.sum(2, keepdims=True)
    Y = np.eye(W.shape[2], dtype=np.longdouble)[batch.targets.numpy()]
    scores = X @ W
    m = 1 - Y + scores - (scores * Y).sum(2, keepdims=True)
    hardest = np.eye(W.shape[2], dtype=np.longdouble)[m.argmax(2)]
    a = np.where(rho > 0, _simplex(Y + m / np.where(rho > 0, rho, 1)), hardest)
    hinge = (a * m - rho / 2 * (a - Y) ** 2).sum(2)
    primal = (s * hinge).sum(1) + l1 * np.sqrt((W**2).sum(2)).sum(1) + l2 / 2 * (W**2).sum((1, 2))
    others = L * (1 - Y)
    V = X.transpose(0, 2, 1) @ (s[..., None] * (Y * others.sum(2, keepdims=True) - others))
    excess = np.maximum(np.sqrt((V**2).sum(2)) - l1[:, None], 0)
    inner = (others - rho / 2 * (L - Y) ** 2).sum(2)
    dual = (s * inner).sum(1) - (excess**2).sum(1) / (2 * l2)
    relative = np.where(primal > 0, abs(primal - dual) / np.where(primal > 0, primal, 1), 0)
    return np.where(outside.any(1), np.inf, relative)


def regression_gap(batch: Batch, solution: Solution) -> Array:
    """(P(w) - D) / P(0), (B,), with D at the returned residuals or at these scaled into the feasible set."""
    X, s = _exact(batch.features, batch.sample_weight)
    given = _exact(batch.targets, solution.weights, solution.dual)
    y, w, r = (value if value.ndim == 3 else value[..., None] for value in given)
    l2, l1 = _exact(batch.options["lambda2"], batch.options.get("lambda1", torch.zeros(BATCH)))
    s = (s / s.sum(1, keepdims=True))[..., None]
    primal = (s * (X @ w - y) ** 2).sum((1, 2)) / 2 + l1 * abs(w).sum((1, 2)) + l2 / 2 * (w**2).sum((1, 2))

    def dual(residual: Array) -> Array:
        correlation = abs(X.transpose(0, 2, 1) @ (s * residual))
        excess = np.maximum(correlation - l1[:, None, None], 0)
        # The residual is in double, so that the bound holds up to the rounding error of the correlation.
        allowed = 1e-15 * (abs(X).transpose(0, 2, 1) @ (s * abs(residual))).max((1, 2))
        fit = (s * (residual * y - residual**2 / 2)).sum((1, 2))
        return fit - _conjugate(excess.reshape(len(excess), -1), l2, allowed)

    correlation = abs(X.transpose(0, 2, 1) @ (s * r)).max((1, 2))
    inside = np.where(correlation > l1, l1 / np.where(correlation > 0, correlation, 1), 1)
    best = np.maximum(dual(r), dual(r * inside[:, None, None]))
    null = (s * y**2).sum((1, 2)) / 2
    return np.where(null > 0, abs(primal - best) / np.where(null > 0, null, 1), 0)


def logistic_gap(batch: Batch, solution: Solution) -> Array:
    """(P(W) - D(L)) / P(0), (B,), with D at the returned L or at this scaled into the feasible set."""
    X, W, L, s = _exact(batch.features, solution.weights, solution.dual, batch.sample_weight)
    l1, l2 = _exact(batch.options["lambda1"], batch.options["lambda2"])
    s = s / s.sum(1, keepdims=True)
    outside = ((L.min(2) < 0) | (abs(L.sum(2) - 1) > 1e-9)) & (s > 0)
    k = W.shape[2]
    Y = np.eye(k, dtype=np.longdouble)[batch.targets.numpy()]
    scores = X @ W
    top = scores.max(2, keepdims=True)
    losses = np.log(np.exp(scores - top).sum(2)) + top[..., 0] - (scores * Y).sum(2)
    primal = (s * losses).sum(1) + l1 * np.sqrt((W**2).sum(2)).sum(1) + l2 / 2 * (W**2).sum((1, 2))

    def norms(p: Array) -> Array:
        return np.sqrt(((X.transpose(0, 2, 1) @ (s[..., None] * (p - Y))) ** 2).sum(2))

    def dual(p: Array) -> Array:
        excess = np.maximum(norms(p) - l1[:, None], 0)
        # L is in double, with a large relative error in p - Y where L is near 1.
        allowed = 1e-15 * (abs(X).transpose(0, 2, 1) @ (s[..., None] * (p + Y))).max((1, 2))
        entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(2)
        return (s * entropy).sum(1) - _conjugate(excess, l2, allowed)

    longest = norms(L).max(1)
    inside = np.where(longest > l1, l1 / np.where(longest > 0, longest, 1), 1)[:, None, None]
    best = np.maximum(dual(L), dual(Y + inside * (L - Y)))
    return np.where(outside.any(1), np.inf, abs(primal - best) / np.log(np.longdouble(k)))


LARGEST = {
    "svm": sparsedis.svm_lambda1_max,
    "lasso": sparsedis.lasso_lambda1_max,
    "logistic": sparsedis.logistic_lambda1_max,
}
GAPS: dict[str, Callable[[Batch, Solution], Array]] = {
    "svm": svm_gap,
    "lasso": regression_gap,
    "ridge": regression_gap,
    "logistic": logistic_gap,
}


def _conjugate(excess: Array, lambda2: Array, allowed: Array) -> Array:
    """The penalty's conjugate, (B,), for norms that exceed lambda1 by `excess` (B, d); a bound if lambda2 is 0."""
    squares = (excess**2).sum(1) / (2 * np.where(lambda2 > 0, lambda2, 1))
    return np.where(lambda2 > 0, squares, np.where(excess.max(1) <= allowed, 0, np.inf))


def _simplex(rows: Array) -> Array:
    """Projection of the last axis onto the simplex."""
    ordered = -np.sort(-rows, axis=-1)
    threshold = (ordered.cumsum(-1) - 1) / np.arange(1, rows.shape[-1] + 1)
    last = (ordered > threshold).sum(-1, keepdims=True) - 1
    return np.maximum(rows - np.take_along_axis(threshold, last, -1), 0)


def answer(name: str) -> tuple[list[Finding], Counter[str]]:
    """:func:`solve_and_check` for the batch OPERATION:SEED, called in the watched process."""
    torch.set_num_threads(1)
    operation, seed = name.split(":")
    return solve_and_check(draw(operation, int(seed)))


def names(operations: list[str], tasks: int, first: int) -> Iterator[str]:
    """Names of batches, the operations mixed by their shares, for this number of tasks in all."""
    total_share = sum(SHARES[operation] for operation in operations)
    done = dict.fromkeys(operations, 0)
    for count in range(math.ceil(tasks / BATCH)):
        # The operation furthest below its share comes next.
        operation = min(operations, key=lambda one: done[one] - (count + 1) * SHARES[one] / total_share)
        yield f"{operation}:{first + done[operation]}"
        done[operation] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--operations", nargs="+", default=list(SHARES), choices=SHARES)
    parser.add_argument("--seed", type=int, default=0, help="the first seed of every operation")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120, help="seconds per batch")
    parser.add_argument("--replay", metavar="OPERATION:SEED", help="repeat one batch, by its name in a report")
    args = parser.parse_args()
    if args.replay:
        findings, ends = answer(args.replay)
        print(*findings, dict(ends), sep="\n")
        return int(bool(findings))

    counts: dict[str, Counter[str]] = {operation: Counter() for operation in args.operations}
    start = time.monotonic()
    todo: SimpleQueue[str] = SimpleQueue()
    for name in names(args.operations, args.tasks, args.seed):
        todo.put(name)
    with ThreadPoolExecutor(args.processes) as pool:
        for done in [pool.submit(_work, todo, args.limit, counts) for _ in range(args.processes)]:
            done.result()
    ends = sorted({end for count in counts.values() for end in count})
    print(f"\n| operation | tasks | {' | '.join(ends)} |\n{'|---' * (2 + len(ends))}|")
    for operation, count in counts.items():
        print(f"| {operation} | {count.total()} | {' | '.join(str(count[end]) for end in ends)} |")
    whole: Counter[str] = sum(counts.values(), Counter())
    print(f"{whole.total()} tasks in {time.monotonic() - start:.0f} s")
    bad = set(whole) - {"certified", PRECISION, UNCERTIFIED}
    return int(bool(bad) or whole[UNCERTIFIED] > ALLOWED * whole.total())


def _work(todo: SimpleQueue[str], limit: float, counts: dict[str, Counter[str]]) -> None:
    with Watched(answer) as process:
        while True:
            try:
                name = todo.get_nowait()
            except Empty:
                return
            operation, _ = name.split(":")
            reply = process(name, limit=limit)
            if isinstance(reply, Lost):
                counts[operation][reply.what] += BATCH
                print(f"{name}  {reply}", flush=True)
                continue
            findings, ends = reply
            counts[operation].update(ends)
            for finding in findings:
                print(f"{name}  task {finding.task}: {finding.what}, relative gap {finding.gap:.1e}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
