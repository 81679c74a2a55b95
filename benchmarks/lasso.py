"""1000 Lasso problems in one call, and scikit-learn's Lasso in a loop. python -m benchmarks.lasso [--threads 2]

The peer only solves forward; this package is timed forward, and forward + backward, in interleaved rounds. There is no
figure unless the gate is passed: every task certified, the peer's weights at the same minimum, and the gradient equal
to central differences of the peer's own solution.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Effort, interleaved, summary
from sparsedis import lasso_lambda1_max, solve_lasso

BATCH, SAMPLES, FEATURES = 1000, 50, 6
RELATIVE = 0.1  # lambda1 as a share of the smallest with zero weights
PEER_TOL = 1e-8
# The least speed-up of forward + backward over the loop.
TARGET = 50


def problems(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features (B, n, d), targets (B, n) from half of the features with noise of 0.1, and lambda1 (B,)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    X, w = normal(BATCH, SAMPLES, FEATURES), normal(BATCH, FEATURES, 1)
    w = w * (torch.rand(BATCH, FEATURES, 1, generator=generator) < 0.5)
    y = (X @ w)[..., 0] + 0.1 * normal(BATCH, SAMPLES)
    return X, y, RELATIVE * lasso_lambda1_max(X, y)


def measure(rounds: int = 9) -> dict[str, Any]:
    """Seconds of the three calls, by name, and the ratio of medians that has the target.

    Raises:
        AssertionError: the gate is not passed.
    """
    X, y, lambda1 = problems()
    arrays = [(X[i].numpy(), y[i].numpy(), float(lambda1[i])) for i in range(BATCH)]

    def loop() -> np.ndarray:
        return np.stack([_peer(*one) for one in arrays])

    def forward() -> Tensor:
        return solve_lasso(X, y, lambda1=lambda1).weights

    def forward_backward() -> tuple[Tensor, ...]:
        inputs = [value.detach().requires_grad_() for value in (X, y, lambda1)]
        solution = solve_lasso(inputs[0], inputs[1], lambda1=inputs[2])
        return torch.autograd.grad(solution.weights.sum(), inputs)

    assert solve_lasso(X, y, lambda1=lambda1).certified.all()
    np.testing.assert_allclose(forward().numpy(), loop(), rtol=1e-4, atol=1e-5)
    _gate_gradient(forward_backward(), X, y, lambda1)
    calls: dict[str, Callable[[], object]] = {
        "scikit-learn, forward": loop,
        "sparsedis, forward": forward,
        "sparsedis, forward + backward": forward_backward,
    }
    times = {name: summary(values) for name, values in interleaved(calls, Effort(rounds, 60, 60), X.device).items()}
    slow, _, both = (times[name]["median"] for name in calls)
    return {"times": times, "ratio": slow / both, "threads": torch.get_num_threads()}


def _peer(X: np.ndarray, y: np.ndarray, lambda1: float, tol: float = PEER_TOL) -> np.ndarray:
    from sklearn.linear_model import Lasso

    return Lasso(alpha=lambda1, fit_intercept=False, tol=tol, max_iter=100_000).fit(X, y).coef_


def _gate_gradient(grads: tuple[Tensor, ...], X: Tensor, y: Tensor, lambda1: Tensor, tasks: int = 20) -> None:
    """Central differences of the peer's solution in a random direction of all inputs, for the first tasks."""
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in (X, y, lambda1)]
    step = 1e-6
    for i in range(tasks):
        along = sum(float((g[i] * v[i]).sum()) for g, v in zip(grads, directions, strict=True))
        values = []
        for sign in (1, -1):
            moved = [value[i] + sign * step * v[i] for value, v in zip((X, y, lambda1), directions, strict=True)]
            values.append(_peer(moved[0].numpy(), moved[1].numpy(), float(moved[2]), tol=1e-15).sum())
        np.testing.assert_allclose(along, (values[0] - values[1]) / (2 * step), rtol=1e-4, atol=1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of PyTorch")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options.rounds)
    for name, values in result["times"].items():
        low, median, high = (1e3 * values[key] for key in ("p20", "median", "p80"))
        print(f"{name:<30} {median:8.2f} ms  (20% to 80%: {low:.2f} to {high:.2f})")
    verdict = "met" if result["ratio"] >= TARGET else "not met"
    print(f"forward + backward is {result['ratio']:.0f} times as quick as the loop (target {TARGET}: {verdict})")


if __name__ == "__main__":
    main()
