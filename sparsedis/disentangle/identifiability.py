"""Check which assumptions of the identifiability theorem a distribution of tasks satisfies.

Source: Lachapelle et al., ICML 2023, section 3.1. Let features f = L z be linear in the m factors. They fit all tasks
as sparsely as the factors only if L is a permutation with scales, provided that

- the features vary: m of their values are linearly independent;
- the tasks vary: m rows of their coefficient matrices W (k, m) are linearly independent;
- the tasks vary within every support S: no a != 0 satisfies W_{:,S} a = 0 with positive probability;
- the supports vary: for every factor j, the union of the supports without j contains all other factors.

The first two assumptions make the features linear in the factors; all four make them equal to the factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsedis.disentangle.tasks import TaskDistribution


@dataclass(frozen=True)
class Assumption:
    """One assumption, with a counterexample if it fails.

    Attributes:
        name: of the assumption.
        holds: whether it is satisfied; None if it was not checked.
        reason: one sentence.
        counterexample: if it fails: "direction" (m,) to which all features or tasks are orthogonal; "support" and
            "direction" a; or "factor" j and "missing", the factors in no support without j.
    """

    name: str
    holds: bool | None
    reason: str
    counterexample: dict[str, list[int] | list[float] | int] | None = None


@dataclass(frozen=True)
class Identifiability:
    """The result of :func:`check_identifiability`.

    Attributes:
        representation, tasks, within_supports, supports: the four assumptions.
    """

    representation: Assumption
    tasks: Assumption
    within_supports: Assumption
    supports: Assumption

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """All four assumptions."""
        return self.representation, self.tasks, self.within_supports, self.supports

    @property
    def linear(self) -> bool:
        """Whether the sparsest features are linear in the factors, if the features vary."""
        return bool(self.tasks.holds) and self.representation.holds is not False

    @property
    def disentangled(self) -> bool:
        """Whether no assumption on the tasks fails: the sparsest features are the factors, up to order and scale."""
        return self.linear and bool(self.within_supports.holds) and bool(self.supports.holds)

    def __str__(self) -> str:
        words = {True: "holds", False: "FAILS", None: "not checked"}
        return "\n".join(f"{one.name}: {words[one.holds]}: {one.reason}" for one in self.assumptions)


def check_identifiability(
    tasks: TaskDistribution | ArrayLike,
    *,
    features: ArrayLike | None = None,
    sampled: bool = False,
    tol: float = 1e-9,
) -> Identifiability:
    """Check the assumptions of the theorem.

    Args:
        tasks: a :class:`TaskDistribution`; or supports (S, m), bool, whose coefficients have a density on each; or
            coefficients, float (T, m), or (T, k, m) for tasks with k outputs. Rows without coefficients are rejected.
        features: values of the representation, (N, d), to check their variability. Default: not checked.
        sampled: whether coefficients are draws from a distribution with a density on each support, rather than all
            tasks. The draws on each support must then span it, which is the most that draws can show. Finitely many
            tasks with one output never satisfy the assumption on a support of two or more factors, because each task is
            orthogonal to some direction.
        tol: singular values below this multiple of the largest one count as 0.

    Raises:
        ValueError: an array has another shape, contains NaN, or has an empty support.
    """
    fixed: NDArray[np.float64] | None = None
    if isinstance(tasks, TaskDistribution):
        supports, values = tasks.supports(), tasks.fixed()
        if values is not None:
            supports, fixed = values != 0, values[:, None]
    else:
        given = np.asarray(tasks)
        if given.dtype == np.bool_:
            supports = given
            if supports.ndim != 2:
                raise ValueError(f"tasks: expected boolean supports of shape (S, m), got {supports.shape}")
        else:
            fixed = given.astype(np.float64)
            if fixed.ndim == 2:
                fixed = fixed[:, None]
            if fixed.ndim != 3 or not np.isfinite(fixed).all():
                raise ValueError(
                    f"tasks: expected finite coefficients of shape (T, m) or (T, k, m), got shape {given.shape}"
                )
            supports = (fixed != 0).any(1)
    if 0 in supports.shape:
        raise ValueError(f"tasks: expected at least one task and one factor, got shape {supports.shape}")
    if not supports.any(1).all():
        raise ValueError("tasks: expected supports that are not empty, got an empty one")
    return Identifiability(
        representation=_representation(features, tol),
        tasks=_tasks(supports, fixed, tol),
        within_supports=_within_supports(supports, fixed, sampled, tol),
        supports=_supports(supports),
    )


def _representation(features: ArrayLike | None, tol: float) -> Assumption:
    name = "variability of the representation"
    if features is None:
        return Assumption(name, None, "no features were given")
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise ValueError(f"features: expected finite values of shape (N, d), got shape {values.shape}")
    direction = _orthogonal(values, tol)
    if direction is None:
        return Assumption(name, True, f"{values.shape[1]} values of the features are linearly independent")
    return Assumption(name, False, "all values of the features lie in a hyperplane", {"direction": direction})


def _tasks(supports: NDArray[np.bool_], fixed: NDArray[np.float64] | None, tol: float) -> Assumption:
    name, m = "task variability", supports.shape[1]
    # Draws with a density on their supports span the union of the supports.
    rows = np.diag(supports.any(0).astype(float)) if fixed is None else fixed.reshape(-1, m)
    direction = _orthogonal(rows, tol)
    if direction is None:
        return Assumption(name, True, f"{m} rows of coefficients are linearly independent")
    return Assumption(name, False, "no task sees a change of the factors in one direction", {"direction": direction})


def _within_supports(
    supports: NDArray[np.bool_], fixed: NDArray[np.float64] | None, sampled: bool, tol: float
) -> Assumption:
    name = "intra-support variability"
    if fixed is None:
        return Assumption(name, True, "the coefficients have a density on every support")
    for support in np.unique(supports, axis=0):
        chosen = np.flatnonzero(support)
        members = fixed[(supports == support).all(1)][:, :, chosen]
        for rows in [members.reshape(-1, len(chosen))] if sampled else members:
            direction = _orthogonal(rows, tol)
            if direction is not None:
                what = "the tasks drawn do" if sampled else "a task does"
                reason = f"on the support {chosen.tolist()} {what} not see a change of the factors in one direction"
                return Assumption(name, False, reason, {"support": chosen.tolist(), "direction": direction})
    return Assumption(name, True, "on every support no direction is unseen")


def _supports(supports: NDArray[np.bool_]) -> Assumption:
    name, m = "support variability", supports.shape[1]
    for factor in range(m):
        seen = np.asarray(supports[~supports[:, factor]].any(axis=0))
        missing = [other for other in range(m) if other != factor and not seen[other]]
        if missing:
            reason = f"the supports without factor {factor} never have {missing}"
            return Assumption(name, False, reason, {"factor": factor, "missing": missing})
    return Assumption(name, True, "for every factor, the supports without it have together all others")


def _orthogonal(rows: NDArray[np.float64], tol: float) -> list[float] | None:
    """A unit vector orthogonal to all rows, or None."""
    _, singular, turned = np.linalg.svd(rows, full_matrices=True)
    rank = int((singular > tol * singular.max(initial=0)).sum())
    return None if rank == rows.shape[1] else [float(x) for x in turned[-1]]
