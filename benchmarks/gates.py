"""The conditions for a figure: the certificate and the gradient of a peer, against float64.

The gap of the returned W and L is recomputed here in float64. The gradient is compared, task by task, with that of the
exact solution, which the oracle of the tests computes without this package. A task whose exact gradient changes by more
than 0.1% when the features change by 3e-7 is at a kink: there is no gradient to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.tasks import Tasks
from sparsedis import solve_svm
from sparsedis.ops.svm.problem import Problem, certificate, margins, normalised, residual, row_norms, simplex_projection
from sparsedis.ops.svm.signature import Inputs
from tests.oracle import Exact, NotSmoothError
from tests.oracle import exact as solved_exactly

_KINK_TOL, _KINK_GAP = 1e-12, 1e-9  # tolerance for this package's L at a kink, and gap required of it
_SIMPLEX_TOL = 1e-4  # largest deviation from the simplex that is projected onto it


class Outcome(NamedTuple):
    """What a peer returned for B tasks; None for outputs that it lacks.

    Attributes:
        weights: W, (B, d, k).
        dual: L, (B, n, k).
        grad_features: dloss/dX, (B, n, d).
        grad_lambda1, grad_lambda2: (B,).
    """

    weights: Tensor
    dual: Tensor | None = None
    grad_features: Tensor | None = None
    grad_lambda1: Tensor | None = None
    grad_lambda2: Tensor | None = None


class Bound(NamedTuple):
    """The largest relative error of dloss/dX allowed: of the median over tasks, and of the largest."""

    median: float
    largest: float


@dataclass(frozen=True)
class Reference:
    """Float64 solutions and gradients of G tasks, and which tasks are not at a kink; at a kink the gradients are 0."""

    dual: Tensor  # (G, n, k)
    weights: Tensor  # (G, d, k)
    grad_features: Tensor  # (G, n, d)
    grad_lambda1: Tensor  # (G,)
    grad_lambda2: Tensor  # (G,)
    smooth: Tensor  # (G,) bool

    @property
    def sparsity(self) -> float:
        """Share of inactive features."""
        return (self.weights == 0).all(-1).double().mean().item()

    def first(self, count: int) -> Reference:
        """The reference of the first ``count`` tasks."""
        return Reference(*(getattr(self, field.name)[:count] for field in fields(self)))


@dataclass(frozen=True)
class Verdict:
    """The measurements of a peer's outcome, and the reason if it gets no figure.

    Relative gap: largest and median over the tasks. Relative error of dloss/dX: largest and median over the tasks that
    are not at a kink; that of dloss/dlambda: in the norm over these tasks. None if the peer gives no gradient.
    """

    gap: float
    gap_median: float
    gradient_error: float | None = None
    gradient_error_median: float | None = None
    lambda1_error: float | None = None
    lambda2_error: float | None = None
    gradients_checked: int = 0
    refused: str | None = None


def reference(tasks: Tasks) -> Reference:
    """Exact solutions and gradients.

    Raises:
        RuntimeError: a task at a kink, which the oracle cannot solve, is not certified in float64.
    """
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(tasks.features.shape, generator=generator, dtype=torch.float64).numpy()
    features = tasks.features.double().cpu().numpy()
    names = [field.name for field in fields(Reference) if field.name != "smooth"]
    rows: list[list[np.ndarray]] = []
    for i in range(len(tasks)):
        exact, moved = _exact(tasks, i, features[i]), _exact(tasks, i, features[i] * (1 + 3e-7 * noise[i]))
        if exact is None:
            rows.append(_without_gradient(tasks, i))
            continue
        change = np.inf if moved is None else np.linalg.norm(moved.grad_features - exact.grad_features)
        smooth = change <= 1e-3 * np.linalg.norm(exact.grad_features)
        rows.append([*(np.asarray(getattr(exact, name)) for name in names), np.asarray(smooth)])
    columns = (torch.from_numpy(np.stack(column)).to(tasks.features.device) for column in zip(*rows, strict=True))
    return Reference(*columns)


def limit(gap: float, dtype: torch.dtype) -> float:
    """The largest relative gap that passes for a tolerance of ``gap`` and weights returned in ``dtype``."""
    return gap + torch.finfo(dtype).eps


def check_outcome(
    tasks: Tasks,
    outcome: Outcome,
    exact: Reference,
    *,
    gap: float | None,
    gradient: Bound | None,
) -> Verdict:
    """Measure an outcome; refuse it if it is worse than promised.

    Args:
        tasks: the tasks solved; an outcome of fewer tasks belongs to the first of them.
        outcome: what the peer returned.
        exact: the reference for the first G tasks, whose gradients are compared; an outcome without a dual must not
            have more than G tasks.
        gap: the relative gap that every task must reach, plus the machine epsilon of the returned weights' type; None:
            any finite gap.
        gradient: the allowed relative error of dloss/dX against the exact one; None: any finite one.
    """
    count = len(outcome.weights)
    part = tasks.first(count)
    gaps = relative_gap(part, outcome.weights, exact.dual[:count] if outcome.dual is None else outcome.dual)
    worst, typical = gaps.max().item(), gaps.median().item()
    refused = _off_simplex(outcome.dual)
    if not bool(torch.isfinite(gaps).all()):
        refused = refused or "the weights are not finite"
    elif gap is not None and worst > limit(gap, outcome.weights.dtype):
        refused = refused or f"relative gap {worst:.1e}, above the {gap:.0e} promised"
    if outcome.grad_features is None:
        return Verdict(worst, typical, refused=refused)
    both = min(count, len(exact.smooth))
    known = exact.first(both)
    smooth, checked = known.smooth, int(known.smooth.sum())
    largest = median = None
    if checked:
        errors = _relative(outcome.grad_features[:both].double(), known.grad_features)[smooth]
        largest, median = errors.max().item(), errors.median().item()
    # A hard-margin solution does not depend on lambda2: that derivative is rounding error, and its error is not stated.
    scale = part.cotangent[:both].double().flatten(1).norm(dim=1) * known.weights.flatten(1).norm(dim=1)
    least = 1e-6 * (scale / part.lambda2[:both])[smooth].norm()
    of_lambdas: list[float | None] = []
    for got, expected in ((outcome.grad_lambda1, known.grad_lambda1), (outcome.grad_lambda2, known.grad_lambda2)):
        if got is None or not checked or expected[smooth].norm() <= least:
            of_lambdas.append(None)
        else:
            difference = got[:both].double()[smooth] - expected[smooth]
            of_lambdas.append((difference.norm() / expected[smooth].norm()).item())
    if not bool(torch.isfinite(outcome.grad_features).all()):
        refused = refused or "the gradient is not finite"
    elif gradient is not None and median is not None and largest is not None:
        for kind, value, allowed in zip(("median", "largest"), (median, largest), gradient, strict=True):
            if value > allowed:
                refused = refused or f"{kind} gradient error {value:.1e}, above the {allowed:.0e} allowed"
    return Verdict(
        worst,
        typical,
        gradient_error=largest,
        gradient_error_median=median,
        lambda1_error=of_lambdas[0],
        lambda2_error=of_lambdas[1],
        gradients_checked=checked,
        refused=refused,
    )


def float64_problem(tasks: Tasks) -> Problem:
    """The tasks in the form of the package's formulas, in float64."""
    per_task = torch.zeros(len(tasks), dtype=torch.float64, device=tasks.features.device)
    weight = torch.ones(tasks.labels.shape, dtype=torch.float64, device=tasks.features.device)
    lambda1, lambda2 = tasks.lambda1.double(), tasks.lambda2.double()
    inputs = Inputs(tasks.features, tasks.labels, lambda1, lambda2, per_task, weight)
    return normalised(inputs, tasks.n_classes)[0]


def relative_gap(tasks: Tasks, weights: Tensor, dual: Tensor) -> Tensor:
    """(P(W) - D(L)) / P(W), (B,), in float64, for exactly the W and L given, even if they do not belong together.

    At least the gap of the certificate of L alone, so that weights better than those of L cannot hide a poor L.
    """
    problem = float64_problem(tasks)
    L = simplex_projection(dual.double())[0]
    own = certificate(problem, L).relative_gap
    W = weights.double()
    hinge = margins(problem, problem.features @ W).amax(-1).sum(1)
    primal = hinge + problem.lambda1 * row_norms(W).sum(-1) + problem.lambda2 / 2 * (W**2).sum((1, 2))
    V = problem.features.mT @ residual(problem, L)
    excess = (row_norms(V) - problem.lambda1[:, None]).clamp_min(0)
    value = L.shape[1] - (excess**2).sum(-1) / (2 * problem.lambda2) - (problem.targets * L).sum((1, 2))
    return torch.maximum((primal - value) / primal, own)


def _off_simplex(dual: Tensor | None) -> str | None:
    if dual is None:
        return None
    off = max((dual.sum(-1) - 1).abs().max().item(), (-dual).max().item())
    return None if off <= _SIMPLEX_TOL else f"the dual is {off:.1e} off the simplex"


def _relative(got: Tensor, expected: Tensor) -> Tensor:
    """Relative error per task in the norm, (B,); 0/0 is 0."""
    difference = (got - expected).flatten(1).norm(dim=1)
    return difference / expected.flatten(1).norm(dim=1).clamp_min(1e-300)


def _exact(tasks: Tasks, i: int, features: np.ndarray) -> Exact | None:
    """The exact solution of task i with other features, in float64; None at a kink."""
    labels, cotangent = tasks.labels[i].cpu().numpy(), tasks.cotangent[i].double().cpu().numpy()
    lambda1, lambda2 = tasks.lambda1[i].item(), tasks.lambda2[i].item()
    try:
        return solved_exactly(features, labels, lambda1, lambda2, 0.0, tasks.n_classes, cotangent)
    except NotSmoothError:
        return None


def _without_gradient(tasks: Tasks, i: int) -> list[np.ndarray]:
    """The reference of task i if the oracle cannot solve it: this package's own certified L and W, without gradient."""
    part = tasks.first(i + 1)
    solution = solve_svm(
        part.features[i:].double(),
        part.labels[i:],
        lambda1=part.lambda1[i:].double(),
        lambda2=part.lambda2[i:].double(),
        n_classes=tasks.n_classes,
        backend="torch",
        tol=_KINK_TOL,
        max_iter=60,
    )
    if (gap := solution.relative_gap.item()) > _KINK_GAP:
        raise RuntimeError(f"the float64 reference reached a relative gap of {gap:.1e} only")
    zero = np.zeros(())
    weights, dual = solution.weights[0].cpu().numpy(), solution.dual[0].cpu().numpy()
    return [dual, weights, np.zeros(part.features.shape[1:]), zero, zero, np.array(False)]
