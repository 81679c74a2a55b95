"""This package: every registered backend, with every solver requested."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gates import Bound, Outcome
from benchmarks.peers import Prepared
from benchmarks.tasks import Case, Tasks
from sparsedis import solve_svm
from sparsedis.ops.common.backend import Backend, Request
from sparsedis.ops.registry import backends
from sparsedis.solution import Solution

TOL = 1e-5
# Exact up to rounding in the median; a task close to a kink may lose digits to the rounding of its float32 features.
GRADIENT = Bound(median=1e-6, largest=2e-2)
# First-order steps in the reference are sequential: a sweep of bcd is n small steps, which take minutes above this n d.
_LARGEST = {"bcd": {"torch": 60_000}, "fista": {"torch": 500_000}}


class Ours:
    """See :class:`benchmarks.peers.Peer`."""

    gap: float | None = TOL
    gradient: Bound | None = GRADIENT

    def __init__(self, backend: Backend[Any, Any, Any, Any], solver: str, tol: float = TOL) -> None:
        self.backend, self.solver, self.tol = backend, solver, tol
        self.name = f"{solver} ({backend.name})"
        self.gap = tol

    def available(self) -> str | None:
        return self.backend.available()

    def supports(self, case: Case, device: torch.device) -> str | None:
        limit = _LARGEST.get(self.solver, {}).get(self.backend.name)
        if limit is not None and case.n * case.d > limit:
            return f"left out: n d above {limit}, where it takes minutes"
        request = Request(device, torch.float32, case.n, case.d, case.ways, self.solver)
        return self.backend.supports(request)

    def describe(self) -> str:
        return f"solve_svm(solver={self.solver!r}, backend={self.backend.name!r}, tol={self.tol:g})"

    def prepare(self, tasks: Tasks) -> Prepared:
        def solve(X: torch.Tensor, lambda1: torch.Tensor, lambda2: torch.Tensor) -> Solution:
            return solve_svm(
                X,
                tasks.labels,
                lambda1=lambda1,
                lambda2=lambda2,
                n_classes=tasks.n_classes,
                solver=self.solver,
                backend=self.backend.name,
                tol=self.tol,
            )

        def forward() -> tuple[Solution, tuple[torch.Tensor, ...]]:
            return solve(tasks.features, tasks.lambda1, tasks.lambda2), ()

        def forward_backward() -> tuple[Solution, tuple[torch.Tensor, ...]]:
            inputs = tuple(x.detach().requires_grad_() for x in (tasks.features, tasks.lambda1, tasks.lambda2))
            solution = solve(*inputs)
            return solution, torch.autograd.grad(solution.weights, inputs, tasks.cotangent)

        def read(result: object) -> Outcome:
            solution: Solution = result[0]  # type: ignore[index]
            grads: tuple[torch.Tensor, ...] = result[1]  # type: ignore[index]
            return Outcome(solution.weights.detach(), solution.dual, *grads)

        def details(result: object) -> dict[str, object]:
            solution: Solution = result[0]  # type: ignore[index]
            return {
                "n_iter": solution.n_iter.tolist(),
                "active": solution.active.sum(-1).tolist(),
                "certified": solution.certified.double().mean().item(),
            }

        return Prepared(forward, forward_backward, len(tasks), read, details=details)


def ours(solvers: tuple[str, ...]) -> list[Ours]:
    """Every registered backend with every solver."""
    return [Ours(backend, solver) for backend in backends() for solver in solvers]
