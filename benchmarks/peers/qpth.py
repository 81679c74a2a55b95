"""qpth: the dense SVM (lambda1 = 0) as a quadratic program in the n k dual variables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.gates import Bound, Outcome, relative_gap
from benchmarks.peers import Prepared, reason_not_importable
from benchmarks.tasks import Case, Tasks
from sparsedis.info import installed_version

# With MKL, PyTorch's LU of a batch hangs for larger orders on several threads (PyTorch #141358).
_LARGEST_ON_THREADS = 150


@contextmanager
def _one_thread(needed: bool) -> Iterator[None]:
    threads = torch.get_num_threads()
    if needed:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Qpth:
    """See :class:`benchmarks.peers.Peer`. In float32 if that reaches the required gap, else in float64.

    On one CPU thread where PyTorch's LU of a batch would hang on several.
    """

    name = "qpth"
    gap: float | None = 1e-3
    gradient: Bound | None = None

    def available(self) -> str | None:
        return reason_not_importable("qpth.qp")

    def supports(self, case: Case, device: torch.device) -> str | None:
        return None if case.lambda1 == 0 else "solves lambda1 = 0 only: the group Lasso is not a quadratic program"

    def describe(self) -> str:
        settings = "QPFunction(maxIter=20, check_Q_spd=False), float32 where that reaches 1e-3"
        return f"qpth {installed_version('qpth')}, {settings}"

    def prepare(self, tasks: Tasks) -> Prepared:
        quicker = self._prepare(tasks, torch.float32)
        try:
            outcome = quicker.read(quicker.forward())
            assert outcome.dual is not None
            assert self.gap is not None
            if bool((relative_gap(tasks, outcome.weights, outcome.dual) <= self.gap).all()):
                return quicker
        except RuntimeError:  # the factorisation failed
            pass
        return self._prepare(tasks, torch.float64)

    def _prepare(self, tasks: Tasks, dtype: torch.dtype) -> Prepared:
        from qpth.qp import QPFunction

        solver = QPFunction(verbose=-1, check_Q_spd=False, maxIter=20)
        batch, n = tasks.labels.shape
        k = tasks.n_classes
        options = {"dtype": dtype, "device": tasks.features.device}
        Y = torch.nn.functional.one_hot(tasks.labels, k).to(dtype)
        eye = torch.eye(k, **options)  # type: ignore[call-overload]
        bounds = -torch.eye(n * k, **options), torch.zeros(n * k, **options)  # type: ignore[call-overload]
        sums = torch.eye(n, **options).repeat_interleave(k, 1), torch.ones(n, **options)  # type: ignore[call-overload]

        def solve(X: Tensor, lambda2: Tensor) -> tuple[Tensor, Tensor]:
            X, lambda2 = X.to(dtype), lambda2.to(dtype)
            K = X @ X.mT / lambda2[:, None, None]
            # f(L) = ||X^T (Y - L)||^2 / (2 lambda2) + <Y, L>, L laid out sample by sample.
            Q = torch.einsum("bij,kl->bikjl", K, eye).reshape(batch, n * k, n * k)
            p = (Y - K @ Y).reshape(batch, n * k)
            L = solver(Q, p, *bounds, *sums).reshape(batch, n, k)
            return X.mT @ (Y - L) / lambda2[:, None, None], L

        alone = tasks.features.device.type == "cpu" and n * k > _LARGEST_ON_THREADS

        def forward() -> Outcome:
            with torch.no_grad(), _one_thread(alone):
                return Outcome(*solve(tasks.features, tasks.lambda2))

        def forward_backward() -> Outcome:
            inputs = tasks.features.detach().requires_grad_(), tasks.lambda2.detach().requires_grad_()
            with _one_thread(alone):
                W, L = solve(*inputs)
                grad_features, grad_lambda2 = torch.autograd.grad(W, inputs, tasks.cotangent)
            return Outcome(W.detach(), L.detach(), grad_features, None, grad_lambda2)

        note = str(dtype).removeprefix("torch.") + (", one thread" if alone else "")
        return Prepared(forward, forward_backward, batch, note=note)
