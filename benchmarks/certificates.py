"""Sweep newton over ways, shots, features, lambdas and scales: worst certificate, iterations and gradient error.

    python benchmarks/certificates.py [--quick]

Prints a row per precision and range of lambda2. The gap is recomputed in float64 from the returned dual. The gradient
error is the relative error, in the norm, of dloss/dX for a random linear loss of W, against a float64 solve to 1e-13.
Two kinds of tasks have no gradient to compare with and are counted separately: those at a kink, whose exact gradient
changes by more than 0.1% under a relative perturbation of 3e-7, and those with contradictory samples (one point, two
labels).
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from sparsedis import solve_svm, svm_lambda1_max
from sparsedis.ops.svm.problem import certificate, normalised
from sparsedis.ops.svm.signature import Inputs

SHOTS: dict[str, list[int]] = {"1": [1], "5": [5], "unbalanced": [1, 30, 2, 7, 12]}


def tasks(small_lambda2: bool, quick: bool) -> Iterator[tuple[Tensor, Tensor, int, float, float]]:
    """X (1, n, d), y (1, n), k, relative lambda1, lambda2; degenerate kinds and scales alternate."""
    lambda2s = [1e-3, 1e-2, 1e-1] if small_lambda2 else [1.0, 1e2, 1e4]
    product = itertools.product([2, 5, 20, 50], SHOTS, [1, 40, 640, 16000], lambda2s, [0.0, 0.01, 0.1, 0.5, 1.0, 1.5])
    for i, (way, shots, d, lambda2, relative) in enumerate(product):
        if way == 50 and (shots == "unbalanced" or d == 16000):
            continue  # minutes each; the tests cover 50-way 1-shot with 16000 features
        if quick and (way == 50 or d == 16000 or i % 7):
            continue
        generator = torch.Generator().manual_seed(i)
        counts = torch.tensor([SHOTS[shots][c % len(SHOTS[shots])] for c in range(way)])
        y = torch.arange(way).repeat_interleave(counts)
        centres = torch.randn(way, d, generator=generator, dtype=torch.float64)
        X = centres[y] + torch.randn(len(y), d, generator=generator, dtype=torch.float64)
        if i % 5 == 1:
            X[len(y) // 2 :] = X[: len(y) - len(y) // 2].clone()  # duplicated samples, some with two labels
        if i % 5 == 2:
            X, y = X.relu(), y.clone()
            X[0] = 0
            X[:, ::3] = 0
        k = way + (i % 5 == 3)  # a class without samples
        scale = [1.0, 1e-4, 1e4][i % 3]
        yield scale * X[None], y[None], k, relative, lambda2 * scale**2


def gradient(X: Tensor, y: Tensor, k: int, lambda1: Tensor, lambda2: float, tol: float) -> Tensor:
    X = X.clone().requires_grad_()
    W = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, n_classes=k, tol=tol).weights
    loss = torch.randn(W.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (grad,) = torch.autograd.grad((W * loss.to(W.dtype)).sum(), X)
    return grad.double()


def contradictory(X: Tensor, y: Tensor) -> bool:
    """Whether the same point occurs with two labels."""
    points = torch.unique(X, dim=0)
    return len(torch.unique(torch.cat([X, y[:, None].to(X.dtype)], 1), dim=0)) > len(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every seventh task, none of the largest")
    args = parser.parse_args()
    columns = [
        "precision",
        "lambda2",
        "tasks",
        "certified",
        "largest gap",
        "iterations, mean / most",
        "gradients checked",
        "no gradient",
        "gradient error, median / 95% / largest",
        "seconds",
    ]
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    for dtype, small in itertools.product((torch.float32, torch.float64), (False, True)):
        tol = 1e-5 if dtype == torch.float32 else 1e-10
        gaps, iterations, errors, kinks, certified = [], [], [], 0, 0
        start = time.perf_counter()
        for X64, y, k, relative, lambda2 in tasks(small, args.quick):
            X = X64.to(dtype)
            lambda1 = relative * svm_lambda1_max(X, y, n_classes=k)
            solution = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, n_classes=k, tol=tol)
            one = torch.ones(1, dtype=torch.float64)
            weight = torch.ones(y.shape, dtype=torch.float64)
            problem, _ = normalised(Inputs(X, y, lambda1, lambda2 * one, 0 * one, weight), k)
            gaps.append(certificate(problem, solution.dual).relative_gap.item())
            iterations.append(solution.n_iter.item())
            certified += bool(solution.certified.all())
            if X.shape[1] * (k - 1) > 600 or not bool((solution.weights != 0).any()):
                continue
            exact = gradient(X.double(), y, k, lambda1, lambda2, 1e-13)
            noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            moved = gradient(X.double() * (1 + 3e-7 * noise), y, k, lambda1, lambda2, 1e-13)
            if contradictory(X64[0], y[0]) or (moved - exact).norm() > 1e-3 * exact.norm():
                kinks += 1
                continue
            errors.append(((gradient(X, y, k, lambda1, lambda2, tol) - exact).norm() / exact.norm()).item())
        error = torch.tensor(errors)
        spread = " / ".join(f"{value:.1e}" for value in (error.median(), error.quantile(0.95), error.max()))
        row = [
            str(dtype).removeprefix("torch."),
            "0.001..0.1" if small else "1..10000",
            len(gaps),
            f"{100 * certified / len(gaps):.1f}%",
            f"{max(gaps):.1e}",
            f"{sum(iterations) / len(iterations):.1f} / {max(iterations)}",
            len(errors),
            kinks,
            spread,
            f"{time.perf_counter() - start:.0f}",
        ]
        print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
