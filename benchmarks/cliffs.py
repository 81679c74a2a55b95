"""Time against every dimension of every solver, on a logarithmic grid. python -m benchmarks.cliffs [--json FILE]

A cliff is a step between two neighbours on the grid that exceeds `LIMIT` times the trend, the geometric mean of the
steps before and after it. Each time is the shortest of several calls, forward and backward, in float32. A line ends
when a call takes longer than `--longest` seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import sparsedis

LIMIT = 4.0
Shape = dict[str, float]

# By solver: shapes, each scanned along every dimension. lambda1 is relative.
SHAPES: dict[str, list[Shape]] = {
    "svm": [
        {"batch": 8, "samples": 25, "features": 640, "classes": 5, "lambda1": 0.2, "lambda2": 1.0},
        {"batch": 1, "samples": 60, "features": 100, "classes": 3, "lambda1": 0.1, "lambda2": 0.1},
        {"batch": 8, "samples": 25, "features": 640, "classes": 5, "lambda1": 0.0, "lambda2": 1.0},
    ],
    "lasso": [
        {"batch": 1, "samples": 72, "features": 1000, "lambda1": 0.1, "lambda2": 0.0},
        {"batch": 1, "samples": 72, "features": 1000, "lambda1": 0.02, "lambda2": 0.1},
        {"batch": 8, "samples": 72, "features": 1000, "lambda1": 0.0, "lambda2": 0.0},
        {"batch": 100, "samples": 50, "features": 20, "lambda1": 0.1, "lambda2": 0.01},
    ],
    "ridge": [
        {"batch": 8, "samples": 50, "features": 200, "outputs": 5, "lambda2": 0.1},
    ],
    "logistic": [
        {"batch": 4, "samples": 25, "features": 500, "classes": 5, "lambda1": 0.2, "lambda2": 0.1},
        {"batch": 1, "samples": 60, "features": 40, "classes": 3, "lambda1": 0.05, "lambda2": 0.0},
    ],
}


def grid(dimension: str, quick: bool) -> list[float]:
    """The values of a dimension, in ascending order of the cost."""
    if dimension == "lambda1":
        return [10 ** (-i / 2) for i in range(9)]
    first, last = {
        "batch": (1, 2048),
        "samples": (6, 1024),
        "features": (2, 20000),
        "classes": (2, 32),
        "outputs": (1, 512),
    }[dimension]
    per_octave = 1 if quick else 2
    count = int(per_octave * math.log2(last / first)) + 1
    return sorted({round(first * 2 ** (i / per_octave)) for i in range(count)})


def call(solver: str, shape: Shape) -> Callable[[], None]:
    """A function that solves a batch of random tasks, with the backward pass."""
    generator = torch.Generator().manual_seed(0)
    batch, n, d = (int(shape[key]) for key in ("batch", "samples", "features"))
    X = torch.randn(batch, n, d, generator=generator)
    if "classes" in shape:
        k = int(shape["classes"])
        labels = torch.arange(n) % k
        centres = torch.randn(batch, k, d, generator=generator)
        X = X + centres[:, labels]
        labels = labels.expand(batch, -1)

    def targets(*columns: int) -> Tensor:
        w = torch.randn(batch, d, *(columns or (1,)), generator=generator)
        w = w * (torch.arange(d) % max(d // 10, 1) == 0)[:, None]
        y = X @ w
        y = y + 0.1 * y.std() * torch.randn(y.shape, generator=generator)
        return y if columns else y[..., 0]

    penalties = {"lambda2": shape["lambda2"], "relative": True}
    y = targets(int(shape["outputs"])) if "outputs" in shape else targets()

    def run() -> None:
        features = X.clone().requires_grad_()
        if solver == "svm":
            solution = sparsedis.solve_svm(features, labels, lambda1=shape["lambda1"], n_classes=k, **penalties)
        elif solver == "logistic":
            solution = sparsedis.solve_logistic(features, labels, lambda1=shape["lambda1"], n_classes=k, **penalties)
        elif solver == "lasso":
            solution = sparsedis.solve_lasso(features, y, lambda1=shape["lambda1"], **penalties)
        else:
            solution = sparsedis.solve_ridge(features, y, **penalties)
        solution.weights.sum().backward()

    return run


def shortest(run: Callable[[], None], seconds: float = 0.1) -> float:
    """The shortest of at least three calls in seconds, repeated for `seconds`; a call above 1 s runs once."""
    times: list[float] = []
    while not times or (times[0] < 1 and (len(times) < 3 or sum(times) < seconds)):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def line(solver: str, shape: Shape, dimension: str, quick: bool, longest: float) -> list[tuple[float, float]]:
    """(value, seconds) along one dimension."""
    points = []
    for value in grid(dimension, quick):
        moved = {**shape, dimension: value}
        if dimension == "classes":
            moved["samples"] = 5 * value  # a constant number of samples per class
        if moved["samples"] < moved.get("classes", 0):
            continue
        points.append((value, shortest(call(solver, moved))))
        if points[-1][1] > longest:
            break
    return points


def cliffs(points: list[tuple[float, float]]) -> Iterator[tuple[float, float, float]]:
    """(value before, value after, step over its trend) of the steps that exceed `LIMIT` times the trend."""
    steps = [math.log(later / earlier) for (_, earlier), (_, later) in itertools.pairwise(points)]
    for i, step in enumerate(steps):
        around = [*steps[max(i - 1, 0) : i], *steps[i + 1 : i + 2]]
        over = math.exp(abs(step - sum(around) / len(around))) if around else 1.0
        if over > LIMIT:
            yield points[i][0], points[i + 1][0], over


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solver", choices=SHAPES, nargs="*", default=list(SHAPES))
    parser.add_argument("--quick", action="store_true", help="half as many points")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of PyTorch")
    parser.add_argument("--longest", type=float, default=3.0, help="seconds of a call after which a line ends")
    parser.add_argument("--json", type=Path, help="file for all times")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    record, found = [], 0
    for solver in options.solver:
        for shape in SHAPES[solver]:
            for dimension in (key for key in shape if key != "lambda2" and not (key == "lambda1" and shape[key] == 0)):
                points = line(solver, shape, dimension, options.quick, options.longest)
                here = list(cliffs(points))
                found += len(here)
                record.append({"solver": solver, "shape": shape, "dimension": dimension, "points": points})
                where = ", ".join(f"{key} {value:g}" for key, value in shape.items() if key != dimension)
                print(f"{solver} ({where}): ms by {dimension}")
                print("  " + "  ".join(f"{value:.3g}: {1e3 * seconds:.3g}" for value, seconds in points))
                for before, after, over in here:
                    print(f"  CLIFF between {before:g} and {after:g}: {over:.1f} times the trend")
                if options.json:
                    options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(record)} lines, {sum(len(row['points']) for row in record)} points, {found} cliffs")


if __name__ == "__main__":
    main()
