"""What stands between a peer and its figure: the certificate and the gradient, against float64.

A peer hands over what it returned. The gap is recomputed here in float64. Its gradient is compared, task by task, with
that of a float64 solve to 1e-12, which tells what its gap costs in the gradient, and is printed; and where it promises
one, with the float64 adjoint at the very L that it returned, which tells whether its derivative is right. A task whose
exact gradient itself moves by more than 0.1% when the features move by 3e-7 is at a kink: there is no gradient to
compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.tasks import Tasks
from sparsedis import solve_svm
from sparsedis.ops.group_lasso_svm.reference.adjoint import adjoint
from sparsedis.problem import Problem, certificate, margins, normalised, residual, row_norms, simplex_projection

REFERENCE_TOL = 1e-12
_SIMPLEX_TOL = 1e-4  # how far rows may be off the simplex before they are projected onto it


class Outcome(NamedTuple):
    """What a peer returned for B tasks; None for what it does not give.

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


@dataclass(frozen=True)
class Reference:
    """Solution and gradients of G tasks in float64, and which of them are at no kink."""

    dual: Tensor  # (G, n, k)
    weights: Tensor  # (G, d, k)
    grad_features: Tensor  # (G, n, d)
    grad_lambda1: Tensor  # (G,)
    grad_lambda2: Tensor  # (G,)
    relative_gap: Tensor  # (G,)
    smooth: Tensor  # (G,) bool

    @property
    def sparsity(self) -> float:
        """Share of features off."""
        return (self.weights == 0).all(-1).double().mean().item()

    def first(self, count: int) -> Reference:
        """That of the first ``count`` tasks."""
        return Reference(*(getattr(self, field.name)[:count] for field in fields(self)))


@dataclass(frozen=True)
class Verdict:
    """What was measured of a peer's outcome, and the reason why it gets no figure, if there is one.

    The relative gap: largest and median over tasks. The relative errors of dloss/dX: largest and median over the
    tasks at no kink; those of dloss/dlambda in the norm over these tasks. None where the peer gives no gradient.
    adjoint_error: the largest relative error of dloss/dX against the float64 adjoint at the same L; None where the peer
    promises none.
    """

    gap: float
    gap_median: float
    gradient_error: float | None = None
    gradient_error_median: float | None = None
    lambda1_error: float | None = None
    lambda2_error: float | None = None
    adjoint_error: float | None = None
    gradients_checked: int = 0
    refused: str | None = None


def reference(tasks: Tasks) -> Reference:
    """Solve in float64 to 1e-12, with gradients.

    Raises:
        RuntimeError: the reference itself is not certified, so nothing can be measured against it.
    """
    exact, moved = _solve(tasks, noise=0), _solve(tasks, noise=3e-7)
    if (worst := exact.relative_gap.max().item()) > 1e-9:
        raise RuntimeError(f"the float64 reference reached a relative gap of {worst:.1e} only")
    return replace(exact, smooth=_relative(moved.grad_features, exact.grad_features) <= 1e-3)


def limit(gap: float, dtype: torch.dtype) -> float:
    """The largest relative gap that passes where ``gap`` was asked for, of weights that came back in ``dtype``."""
    return gap + torch.finfo(dtype).eps


def judge(
    tasks: Tasks,
    outcome: Outcome,
    exact: Reference,
    *,
    gap: float | None,
    gradient: float | None,
) -> Verdict:
    """Measure an outcome; refuse it where it is worse than promised.

    Args:
        tasks: what was solved; an outcome of fewer tasks is one of the first of them.
        outcome: what came back.
        exact: the reference for the first G tasks, whose gradients are compared; an outcome without a dual must not
            have more.
        gap: the relative gap that every task must reach, up to the rounding unit of the weights' type, in which they
            came back; None: any finite one.
        gradient: the relative error allowed to dloss/dX in every task against the float64 adjoint at the outcome's own
            L; None: any finite one.
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
    # A hard-margin solution does not depend on lambda2: of such a derivative, all rounding, no error is stated.
    scale = part.cotangent[:both].double().flatten(1).norm(dim=1) * known.weights.flatten(1).norm(dim=1)
    least = 1e-6 * (scale / part.lambda2[:both])[smooth].norm()
    of_lambdas: list[float | None] = []
    for got, expected in ((outcome.grad_lambda1, known.grad_lambda1), (outcome.grad_lambda2, known.grad_lambda2)):
        if got is None or not checked or expected[smooth].norm() <= least:
            of_lambdas.append(None)
        else:
            difference = got[:both].double()[smooth] - expected[smooth]
            of_lambdas.append((difference.norm() / expected[smooth].norm()).item())
    adjoint_error = None
    if not bool(torch.isfinite(outcome.grad_features).all()):
        refused = refused or "the gradient is not finite"
    elif gradient is not None and outcome.dual is not None:
        own = _adjoint(part.first(both), outcome.dual[:both].double())
        adjoint_error = _relative(outcome.grad_features[:both].double(), own).max().item()
        if adjoint_error > gradient:
            refused = refused or f"gradient error {adjoint_error:.1e}, above the {gradient:.0e} allowed"
    return Verdict(
        worst,
        typical,
        gradient_error=largest,
        gradient_error_median=median,
        lambda1_error=of_lambdas[0],
        lambda2_error=of_lambdas[1],
        adjoint_error=adjoint_error,
        gradients_checked=checked,
        refused=refused,
    )


def float64_problem(tasks: Tasks) -> Problem:
    """The tasks as the formulas take them, in float64."""
    per_task = torch.zeros(len(tasks), dtype=torch.float64, device=tasks.features.device)
    weight = torch.ones(tasks.labels.shape, dtype=torch.float64, device=tasks.features.device)
    lambda1, lambda2 = tasks.lambda1.double(), tasks.lambda2.double()
    return normalised(tasks.features, tasks.labels, lambda1, lambda2, per_task, weight, tasks.n_classes)[0]


def relative_gap(tasks: Tasks, weights: Tensor, dual: Tensor) -> Tensor:
    """(P(W) - D(L)) / P(W), (B,), in float64, for the very W and L given, whether or not they belong together.

    Not below the certificate of L alone, so that weights that are better than L cannot hide an L that is not.
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


def _adjoint(tasks: Tasks, dual: Tensor) -> Tensor:
    """dloss/dX, (B, n, d), in float64 at L."""
    return adjoint(float64_problem(tasks), dual, tasks.cotangent.double())[0]


def _solve(tasks: Tasks, noise: float) -> Reference:
    generator = torch.Generator().manual_seed(2)
    factor = 1 + noise * torch.randn(tasks.features.shape, generator=generator, dtype=torch.float64)
    X = (tasks.features.double() * factor.to(tasks.features.device)).requires_grad_()
    lambda1, lambda2 = tasks.lambda1.double().requires_grad_(), tasks.lambda2.double().requires_grad_()
    solution = solve_svm(
        X,
        tasks.labels,
        lambda1=lambda1,
        lambda2=lambda2,
        n_classes=tasks.n_classes,
        solver="newton",
        backend="reference",
        tol=REFERENCE_TOL,
        max_iter=60,
    )
    for_X, for_lambda1, for_lambda2 = torch.autograd.grad(
        (solution.weights * tasks.cotangent.double()).sum(), (X, lambda1, lambda2)
    )
    smooth = torch.ones(len(tasks), dtype=torch.bool, device=X.device)
    weights = solution.weights.detach()
    return Reference(solution.dual, weights, for_X, for_lambda1, for_lambda2, solution.relative_gap, smooth)
