"""cvxpylayers: the primal as a cone program."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gates import Bound, Outcome
from benchmarks.peers import Prepared, reason_not_importable
from benchmarks.tasks import Case, Tasks
from sparsedis.info import installed_version

_TASKS = 1  # per call, since each takes seconds
_LARGEST = 16_000  # of n d; the cone program has a column per entry of X and class


class CvxpyLayers:
    """See :class:`benchmarks.peers.Peer`. One task per call; the report scales the time to the batch and notes it."""

    name = "cvxpylayers"
    gap: float | None = 1e-3
    gradient: Bound | None = None

    def available(self) -> str | None:
        return reason_not_importable("cvxpylayers.torch")

    def supports(self, case: Case, device: torch.device) -> str | None:
        if device.type != "cpu":
            return "measured on the CPU only"
        return None if case.n * case.d <= _LARGEST else f"left out: n d above {_LARGEST}, where a task takes minutes"

    def describe(self) -> str:
        versions = ", ".join(f"{name} {installed_version(name)}" for name in ("cvxpylayers", "cvxpy", "diffcp"))
        return f"{versions}, the primal"

    def prepare(self, tasks: Tasks) -> Prepared:
        import cvxpy as cp
        import numpy as np
        from cvxpylayers.torch import CvxpyLayer

        part = tasks.first(_TASKS)
        _, n, d = part.features.shape
        k = part.n_classes
        Y = torch.nn.functional.one_hot(part.labels[0], k).double().numpy()
        X, W = cp.Parameter((n, d)), cp.Variable((d, k))
        lambda1, half_lambda2 = cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
        scores = X @ W
        own = cp.reshape(cp.sum(cp.multiply(Y, scores), axis=1), (n, 1), order="C")
        hinge = cp.max(1 - Y + scores - own @ np.ones((1, k)), axis=1)
        objective = cp.sum(hinge) + lambda1 * cp.sum(cp.norm(W, axis=1)) + half_lambda2 * cp.sum_squares(W)
        layer = CvxpyLayer(cp.Problem(cp.Minimize(objective)), [X, lambda1, half_lambda2], [W])

        def solve(features: Tensor, lambda1: Tensor, lambda2: Tensor) -> Tensor:
            (W,) = layer(features.double(), lambda1.double(), lambda2.double() / 2)
            return W

        def forward() -> Outcome:
            with torch.no_grad():
                return Outcome(solve(part.features, part.lambda1, part.lambda2))

        def forward_backward() -> Outcome:
            inputs = tuple(x.detach().requires_grad_() for x in (part.features, part.lambda1, part.lambda2))
            W = solve(*inputs)
            grads = torch.autograd.grad(W, inputs, part.cotangent)
            return Outcome(W.detach(), None, *grads)

        return Prepared(forward, forward_backward, len(part), note=f"{_TASKS} task per call")
