"""Random tasks away from kinks with their exact gradients, and the errors of a backend's gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sparsedis import solve_svm, svm_lambda1_max
from tests.oracle import Exact, NotSmoothError, exact
from tests.tasks import random_task

KINDS = ("sparse", "smoothed", "weighted", "dense", "dense, smoothed", "small lambda2")
SCALARS = ("lambda1", "lambda2", "dual_reg")


@dataclass(frozen=True)
class SmoothTask:
    """One task, and the loss sum(W * cotangent).

    Attributes:
        features: X, (n, d), float64 values that are exact in float32.
        labels: (n,), int64.
        n_classes: k.
        lambda1, lambda2, dual_reg: the hyperparameters; lambda1_max: the smallest lambda1 with W = 0.
        sample_weight: (n,), float64.
        cotangent: dloss/dW, (d, k), float64 values that are exact in float32.
    """

    features: Tensor
    labels: Tensor
    n_classes: int
    lambda1: float
    lambda1_max: float
    lambda2: float
    dual_reg: float
    sample_weight: Tensor
    cotangent: Tensor

    def exact(self) -> Exact:
        """Solution and gradients from the oracle."""
        return exact(
            self.features.numpy(),
            self.labels.numpy(),
            self.lambda1,
            self.lambda2,
            self.dual_reg,
            self.n_classes,
            self.cotangent.numpy(),
            self.sample_weight.numpy(),
        )

    def smooth(self) -> Exact | None:
        """:meth:`exact`, or None near a kink, where X (1 +- 3e-7 noise) changes the gradient by more than 1e-3."""
        noise = 3e-7 * torch.randn(self.features.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        try:
            here = self.exact()
            # Both signs, because one of them may move the nearest feature or margin away from the kink.
            moved = [replace(self, features=self.features * factor).exact() for factor in (1 + noise, 1 - noise)]
        except NotSmoothError:
            return None
        change = max(np.linalg.norm(other.grad_features - here.grad_features) for other in moved)
        return here if change <= 1e-3 * np.linalg.norm(here.grad_features) else None


def draw(kind: str, seed: int, largest: int = 1500) -> SmoothTask:
    """A task of 2 to 10 ways, 1 to 15 shots and 20 to 700 features, with n k at most ``largest``.

    lambda1 is 0.02 to 0.3 of its maximum ("dense": 0), lambda2 0.1 to 100 ("small lambda2": 0.01). "smoothed" tasks
    have rho = dual_reg/lambda2 from 0.01 to 1, "weighted" ones sample weights from 0.2 to 2, one in ten 0.
    """
    rng = np.random.default_rng([KINDS.index(kind), seed])
    while True:
        way, shots = int(rng.integers(2, 11)), int(rng.integers(1, 16))
        if way * way * shots <= largest:
            break
    d = int(rng.integers(20, 701))
    X, y = random_task(int(rng.integers(2**31)), way=way, shots=shots, d=d, dtype=torch.float32)
    weight = torch.ones(y.shape, dtype=torch.float64)
    if kind == "weighted":
        drawn = rng.uniform(0.2, 2, y.shape[1]) * (rng.random(y.shape[1]) > 0.1)
        drawn[0] = 1
        weight = torch.from_numpy(drawn)[None]
    relative = 0.0 if kind.startswith("dense") else float(np.exp(rng.uniform(np.log(0.02), np.log(0.3))))
    lambda2 = 0.01 if kind == "small lambda2" else float(10 ** rng.uniform(-1, 2))
    most = svm_lambda1_max(X, y, n_classes=way, sample_weight=weight).item()
    return SmoothTask(
        features=X[0].double(),
        labels=y[0],
        n_classes=way,
        lambda1=relative * most,
        lambda1_max=most,
        lambda2=lambda2,
        dual_reg=lambda2 * float(10 ** rng.uniform(-2, 0)) if kind.endswith("smoothed") else 0.0,
        sample_weight=weight[0],
        cotangent=torch.from_numpy(rng.standard_normal((d, way))).float().double(),
    )


def smooth_tasks(
    kind: str,
    count: int,
    largest: int = 1500,
    first: int = 0,
    answer: Callable[[SmoothTask], Exact | None] = SmoothTask.smooth,
) -> Iterator[tuple[SmoothTask, Exact]]:
    """``count`` tasks of a kind that are away from kinks and have W != 0, with seeds starting at ``first``."""
    seed = first
    while count:
        task = draw(kind, seed, largest)
        at = answer(task)
        seed += 1
        if at is not None and at.active:
            count -= 1
            yield task, at


def gradient_errors(
    task: SmoothTask, at: Exact, backend: str, dtype: torch.dtype, **options: object
) -> dict[str, float]:
    """Relative errors of dloss/dX (in norm) and of the hyperparameters' derivatives, by name; features in ``dtype``.

    A hyperparameter's derivative may vanish: if no sample is inside its margin, the dense W does not depend on
    lambda2. Since W is rounded to float32, the error of a derivative, times the hyperparameter's scale (lambda2 for
    dual_reg, lambda1_max for lambda1 = 0), is relative to at least 1% of sum |W * cotangent|.
    """
    X = task.features.to(dtype).requires_grad_()
    values = {name: torch.tensor(getattr(task, name), dtype=torch.float64, requires_grad=True) for name in SCALARS}
    W = solve_svm(
        X,
        task.labels,
        n_classes=task.n_classes,
        sample_weight=task.sample_weight,
        backend=backend,
        **values,
        **options,
    ).weights
    grad_X, *grads = torch.autograd.grad((W * task.cotangent.to(W.dtype)).sum(), (X, *values.values()))
    difference = grad_X.double().numpy() - at.grad_features
    errors = {"X": float(np.linalg.norm(difference) / np.linalg.norm(at.grad_features))}
    least = 1e-2 * float(abs(at.weights * task.cotangent.numpy()).sum())
    scales = (task.lambda1 or task.lambda1_max, task.lambda2, task.lambda2)
    for name, found, scale in zip(SCALARS, grads, scales, strict=True):
        exactly = getattr(at, f"grad_{name}")
        errors[name] = abs(found.item() - exactly) * scale / max(abs(exactly) * scale, least)
    return errors
