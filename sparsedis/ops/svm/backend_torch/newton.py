"""Interior-point Newton on the dual: Mehrotra's predictor-corrector in two forms, derived in docs/newton.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparsedis.ops.svm.backend_torch.finish import finish, finish_solution
from sparsedis.ops.svm.backend_torch.fista import first_order_steps, fista
from sparsedis.ops.svm.backend_torch.hessian import Curvature, NewtonSystem, active_curvature, newton_system
from sparsedis.ops.svm.backend_torch.progress import Progress
from sparsedis.ops.svm.problem import (
    Certificate,
    Problem,
    certificate,
    correlation,
    dual_gradient,
    residual,
    row_norms,
)
from sparsedis.ops.svm.thresholds import (
    CURVATURE_CUT,
    FALLBACK_STEPS,
    FINISH_GAP,
    FRACTION_TO_BOUNDARY,
    FULL_STRENGTH,
    LARGEST_START,
    LIGHT_GAP,
    LIGHT_ITERATIONS,
    LIGHT_STRENGTH,
    LIGHT_STRENGTH_FEW_FEATURES,
    NEWTON_ITERATIONS,
    SHORT_STEP,
    SHORT_STEPS,
    SMALLEST_START,
    SMALLEST_START_FEW_FEATURES,
    START_BARRIER,
    START_NORM,
    START_PRODUCT,
    START_SLACK,
)

_TINY = torch.finfo(torch.float64).tiny
# Relative residual of the directions; tighter ones do not save iterations.
_DIRECTION_TOLERANCE = 1e-5

Direction = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


# Relative gap at which the interior point ends, even if the finish has not settled the task.
FINAL_GAP = 1e-11


def light_form_pays(problem: Problem) -> Tensor:
    """(B,) bool: the tasks for which the light form is tried first.

    lambda1^2 / lambda2 does not depend on the scale of the features. If it is small, the group norms are a small part
    of the problem, and the light form is safe and cheap. If it is larger, and if there are fewer features than samples,
    the active features change from step to step, and the light form may fail to converge (the measurements behind the
    thresholds are in docs/development/solvers.md).
    """
    _, n, d, _ = problem.shape
    return problem.lambda1**2 <= (LIGHT_STRENGTH if d >= n else LIGHT_STRENGTH_FEW_FEATURES) * problem.lambda2


def full_form_exists(problem: Problem) -> Tensor:
    """(B,) bool: whether lambda1 is not negligible; the full form divides the features by it."""
    return problem.lambda1**2 > FULL_STRENGTH * problem.lambda2


def minimise_on_segment(problem: Problem) -> Tensor:
    """Minimiser theta in [0, 1], (B,), of the dual on the segment L = (1 - theta) Y + theta/k.

    The derivative in theta is convex and increasing, so that Newton's method from theta = 1 decreases monotonically to
    its root.
    """
    k = problem.shape[3]
    norms = row_norms(correlation(problem, problem.weight * (problem.targets - 1 / k)))
    decrease = linear_decrease_on_segment(problem)
    theta = torch.ones_like(problem.lambda1)
    for _ in range(100):
        excess = (theta[:, None] * norms - problem.lambda1[:, None]).clamp_min(0)
        slope = torch.where(excess > 0, norms**2, 0).sum(1)
        step = ((excess * norms).sum(1) - decrease).clamp_min(0) / slope.clamp_min(_TINY)
        if not bool((step > 1e-6 * theta).any()):
            break
        theta = theta - step
    return theta


def linear_decrease_on_segment(problem: Problem) -> Tensor:
    """lambda2 times the decrease of the dual's linear part along that segment, (B,)."""
    return problem.lambda2 * (1 - 1 / problem.shape[3]) * problem.weight.sum((1, 2))


class Form:
    """Variables of an interior-point method: pairs of positive variables whose products tend to mu, and others."""

    problem: Problem
    variables: tuple[Tensor, ...]  # L, Z first; positive variables before the others
    n_positive: int
    short_steps: Tensor  # (B,), number of consecutive short steps

    @property
    def dual(self) -> Tensor:
        return self.variables[0]

    def take(self, index: Tensor) -> None:
        self.problem = self.problem.take(index)
        self.variables = tuple(value[index] for value in self.variables)
        self.short_steps = self.short_steps[index]

    def linearise(self, at: Certificate) -> Direction:
        """Factor the Newton system; the result maps targets for the pairs' products to a direction."""
        raise NotImplementedError

    # Operations on the features or on all variables of a batch, overridden by a backend with kernels.

    def _minimise_on_segment(self) -> Tensor:
        return minimise_on_segment(self.problem)

    def _correlation(self, rows: Tensor) -> Tensor:
        return correlation(self.problem, rows)

    def _scores(self, weights: Tensor) -> Tensor:
        return self.problem.features @ weights

    def _system(self, curvature: Curvature, bounds: Tensor) -> NewtonSystem:
        return newton_system(self.problem, curvature, bounds, self.dual)

    def _start(self, centred: bool) -> tuple[Tensor, Tensor]:
        """Initial L and Z; ``centred``: as far from the bounds as possible."""
        _, n, d, k = self.problem.shape
        self.short_steps = torch.zeros_like(self.problem.lambda1, dtype=torch.int64)
        least = SMALLEST_START_FEW_FEATURES if d < n else SMALLEST_START
        theta = torch.full_like(self.problem.lambda1, LARGEST_START) if centred else self._minimise_on_segment()
        fraction = theta.clamp(least, LARGEST_START)[:, None, None]
        uniform = fraction / k
        dual = (1 - fraction) * self.problem.targets + uniform
        return dual, START_BARRIER * uniform / dual

    def _step_to(self, boundary: float, direction: tuple[Tensor, ...]) -> Tensor:
        step = torch.ones_like(self.problem.lambda1)
        for value, change in zip(self.variables[: self.n_positive], direction, strict=False):
            ratio = torch.where(change < 0, value / -change, torch.inf).flatten(1).amin(1)
            step = torch.minimum(step, boundary * ratio)
        return step

    def _moved(self, step: Tensor, direction: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(value + _of(step, value) * change for value, change in zip(self.variables, direction, strict=True))

    def _pairs(self, variables: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
        return [(variables[i], variables[i + 1]) for i in range(0, self.n_positive, 2)]

    def _barrier_parameter(self, variables: tuple[Tensor, ...]) -> Tensor:
        """mu, the mean product of the pairs without those of padding, (B,)."""
        present = (self.problem.weight > 0).to(self.dual.dtype)
        pairs = self._pairs(variables)
        total = (present * pairs[0][0] * pairs[0][1]).sum((1, 2))
        count = present.sum((1, 2)) * self.problem.shape[3]
        for a, b in pairs[1:]:
            total = total + (a * b).sum(1)
            count = count + a.shape[1]
        return total / count.clamp_min(1)

    def advance(self, at: Certificate) -> None:
        """One predictor-corrector step."""
        direction_to = self.linearise(at)
        predictor = direction_to([torch.zeros_like(a) for a, _ in self._pairs(self.variables)])
        self._move(direction_to(self._corrected(predictor)))

    def _corrected(self, predictor: tuple[Tensor, ...]) -> list[Tensor]:
        """Targets for the pairs' products: Mehrotra's centring and second-order correction from the predictor."""
        mu = self._barrier_parameter(self.variables)
        largest = self._step_to(1.0, predictor)
        ahead = self._moved(largest, predictor)
        sigma = (self._barrier_parameter(ahead).clamp_min(0) / mu.clamp_min(_TINY)).clamp_max(1) ** 3
        damping = torch.where(largest < SHORT_STEP, largest, 1.0)
        return [_of(sigma * mu, a) - _of(damping, a) * a * b for a, b in self._pairs(predictor)]

    def _move(self, direction: tuple[Tensor, ...]) -> None:
        step = self._step_to(FRACTION_TO_BOUNDARY, direction)
        self.short_steps = torch.where(step < SHORT_STEP, self.short_steps + 1, 0)
        self.variables = self._moved(step, direction)

    def _bounded(self, system: NewtonSystem, gradient: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Directions of L and Z for a target of their product."""
        L, Z = self.variables[:2]
        present = (self.problem.weight > 0).to(L.dtype)
        dL = present * system.solve(present * (-(gradient - Z) + (target - L * Z) / L), _DIRECTION_TOLERANCE)
        return dL, present * (target - L * Z - Z * dL) / L


def _of(per_task: Tensor, values: Tensor) -> Tensor:
    """(B,) reshaped to broadcast against (B, ...)."""
    return per_task.view(-1, *[1] * (values.dim() - 1))


class LightForm(Form):
    """Newton's method on L alone, on the C^1 dual objective: only active features have curvature."""

    n_positive = 2

    def __init__(self, problem: Problem, centred: bool = False) -> None:
        self.problem = problem
        self.variables = self._start(centred)

    def linearise(self, at: Certificate) -> Direction:
        problem = self.problem
        L, Z = self.variables
        curvature = active_curvature(problem, at)
        bounds = Z / L + problem.weight * problem.rho[:, None, None]
        system = self._system(curvature, bounds)
        gradient = dual_gradient(problem, L, at.scores)
        return lambda targets: self._bounded(system, gradient, targets[0])


class FullForm(Form):
    """Primal-dual form: additional variables for the group norms, U (||U_j|| <= 1), multipliers th and slacks w.

    It minimises over L with h(V) = min over ||U_j|| <= lambda1 of ||V - U||^2 / (2 lambda2), where W_j = th_j U_j,
    th_j w_j -> mu and w_j = (1 - ||U_j||^2)/2. Every feature's variables are eliminated separately from the Newton
    system. Features are scaled so that lambda1 = 1, which changes neither L nor the gap.
    """

    n_positive = 4

    def __init__(self, problem: Problem, centred: bool = False) -> None:
        self.problem = problem.with_unit_lambda1()
        L, Z = self._start(centred)
        V = self._correlation(residual(self.problem, L))
        norms = row_norms(V)
        U = V * (START_NORM / norms.clamp_min(_TINY)).clamp_max(1)[..., None]
        w = ((1 - (U**2).sum(-1)) / 2).clamp_min(START_SLACK)
        active = ((norms / START_NORM - 1) / self.problem.lambda2[:, None]).clamp_min(0)
        th = torch.minimum(active + START_PRODUCT / w, 1 / w)
        self.variables = (L, Z, th, w, U)

    def linearise(self, at: Certificate) -> Direction:
        problem = self.problem
        L, Z, th, w, U = self.variables
        l2 = problem.lambda2[:, None]
        u = row_norms(U)
        e = U / u.clamp_min(_TINY)[..., None]
        stretch = 1 + l2 * th
        rU = at.V - stretch[..., None] * U
        rw = (1 - u**2) / 2 - w
        rr = (e * rU).sum(-1)
        q = stretch + l2 * u**2 * th / w
        a = th / stretch
        b = (1 - 1 / q) / l2
        kept = b > CURVATURE_CUT * b.amax(1, keepdim=True)
        zero = torch.zeros_like(a)
        curvature = Curvature(torch.where(kept, a, zero), torch.where(kept, (b - a).clamp_min(0), zero), e)
        bounds = Z / L + problem.weight * problem.rho[:, None, None]
        system = self._system(curvature, bounds)
        gradient = dual_gradient(problem, L, self._scores(th[..., None] * U))

        def direction(targets: Sequence[Tensor]) -> tuple[Tensor, ...]:
            rC = targets[1] - th * w - th * rw
            dUr0 = (rr - l2 * u * rC / w) / q
            dU0 = (rU - rr[..., None] * e) / stretch[..., None] + dUr0[..., None] * e
            dth0 = (rC + th * u * dUr0) / w
            dW0 = dth0[..., None] * U + th[..., None] * dU0
            shifted_gradient = gradient - problem.weight * self._scores(dW0)
            dL, dZ = self._bounded(system, shifted_gradient, targets[0])
            dV = self._correlation(-problem.weight * dL)
            along = (e * dV).sum(-1)
            dUr = along / q
            dU = dU0 + (dV - along[..., None] * e) / stretch[..., None] + dUr[..., None] * e
            return dL, dZ, dth0 + th * u * dUr / w, rw - (U * dU).sum(-1), dU

        return direction


def newton(problem: Problem, tol: float, max_iter: int, exact: bool = False) -> Progress:
    """Solve every task in the form that suits it.

    Tasks are solved to rounding error if ``exact`` or if ``tol`` is below FINISH_GAP, otherwise to ``tol``. Iterations
    of the finish are counted. Large tasks are tried with :func:`fista` first. Tasks that stall fall back to it,
    followed by the finish.
    """
    progress = Progress(problem, tol)
    unsolved = _first_order_first(problem, progress, tol, max_iter, exact)
    light = light_form_pays(problem) & unsolved
    given_up = []
    index = light.nonzero()[:, 0]
    for centred in (False, True):
        abandoned, index = _interior_point(
            LightForm, problem, progress, index, tol, max_iter, exact, centred=centred, may_give_up=True
        )
        given_up.append(abandoned)
    index = torch.cat([(~light & unsolved).nonzero()[:, 0], *given_up])
    for centred in (False, True):
        _, index = _interior_point(FullForm, problem, progress, index, tol, max_iter, exact, centred=centred)
    stalled = ((progress.stalled | (max_iter >= NEWTON_ITERATIONS)) & ~progress.certified).nonzero()[:, 0]
    if len(stalled):
        steps = fista(problem.take(stalled), tol, FALLBACK_STEPS)
        progress.keep_better(stalled, steps.dual, steps.relative_gap)
        done = finish_solution(problem.take(stalled), progress.dual[stalled])
        progress.keep_better(stalled, done.dual, done.relative_gap)
    return progress


def _first_order_first(problem: Problem, progress: Progress, tol: float, max_iter: int, exact: bool) -> Tensor:
    """Try first-order steps and the finish where they are likely to be cheaper; (B,) bool: the tasks not solved."""
    unsolved = torch.ones_like(progress.certified)
    if max_iter < NEWTON_ITERATIONS:
        return unsolved  # a small max_iter should not be followed by thousands of first-order steps
    finishing = exact or tol < FINISH_GAP
    count = first_order_steps(problem)
    for steps in count[count > 0].unique().tolist():
        index = (count == steps).nonzero()[:, 0]
        done = fista(problem.take(index), FINISH_GAP if finishing else tol, steps)
        reached = done.certified.nonzero()[:, 0]
        if finishing:
            finished = finish_solution(problem.take(index[reached]), done.dual[reached])
            done.keep_better(reached, finished.dual, finished.relative_gap)
            settled = finished.settled & (finished.relative_gap <= tol)
            reached = reached[settled]
            progress.n_iter[index[reached]] = finished.n_iter[settled]
        solved = index[reached]
        progress.keep_better(solved, done.dual[reached], done.relative_gap[reached])
        unsolved[solved] = False
    return unsolved


def finished(solver: Callable[[Problem, float, int], Progress]) -> Callable[[Problem, float, int, bool], Progress]:
    """Let a first-order solver continue to rounding error if ``exact``: by the finish, and if that fails by newton."""

    def solve(problem: Problem, tol: float, max_iter: int, exact: bool = False) -> Progress:
        progress = solver(problem, tol, max_iter)
        if exact:
            result = finish_solution(problem, progress.dual)
            progress.keep_better(
                torch.arange(len(result.n_iter), device=result.n_iter.device), result.dual, result.relative_gap
            )
            unsettled = (~result.settled).nonzero()[:, 0]
            if len(unsettled):
                better = newton(problem.take(unsettled), tol, max_iter, exact)
                progress.keep_better(unsettled, better.dual, better.relative_gap)
        return progress

    return solve


def _interior_point(
    make: type[LightForm] | type[FullForm],
    problem: Problem,
    progress: Progress,
    index: Tensor,
    tol: float,
    max_iter: int,
    exact: bool,
    *,
    centred: bool,
    may_give_up: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run interior-point iterations on the tasks ``index``; their iteration counts continue.

    Once the gap of a task is below FINISH_GAP, the finish takes over. A task that it does not solve to rounding error
    continues from its own L and Z; the finish is tried again when the gap is ten times smaller.

    Returns:
        The tasks that the light form gave up, for the full form; and those to restart because they took SHORT_STEPS
        short steps in a row, along bounds that the initial point was too close to. From a ``centred`` initial point
        there are none of the latter.
    """
    given_up = to_restart = index[:0]
    if len(index) == 0:
        return given_up, to_restart
    form = make(problem.take(index), centred)
    progress.restart(index)
    iteration = progress.n_iter[index]
    finishing = exact or tol < FINISH_GAP
    finish_gap = torch.full_like(problem.lambda1[index], FINISH_GAP)
    final_gap = torch.full_like(finish_gap, FINAL_GAP if finishing else tol)
    for _ in range(max_iter + 1):
        at = certificate(form.problem, form.dual)
        going = progress.record(index, form.dual, at.relative_gap, iteration)
        if may_give_up:
            stuck = ~going | ((iteration >= LIGHT_ITERATIONS) & ~(at.relative_gap <= LIGHT_GAP))
            stuck &= ~progress.certified[index] & (iteration < max_iter) & full_form_exists(form.problem)
            given_up = torch.cat([given_up, index[stuck]])
            going &= ~stuck
        ready = (going & (at.relative_gap <= finish_gap)).nonzero()[:, 0]
        if finishing and len(ready):
            L, Z = (value[ready] for value in form.variables[:2])
            done = finish(problem.take(index[ready]), L, Z, max_iter - iteration[ready])
            progress.keep_better(index[ready], done.dual, done.relative_gap)
            iteration = iteration.index_add(0, ready, done.n_iter)
            progress.n_iter[index] = iteration
            going[ready] = ~done.settled
            finish_gap[ready] = at.relative_gap[ready] / 10
            if not exact:
                final_gap[ready[done.oversized]] = tol
        going &= (at.relative_gap > final_gap) & (iteration < max_iter)
        if not centred:
            restarting = going & (form.short_steps >= SHORT_STEPS)
            to_restart = torch.cat([to_restart, index[restarting]])
            going &= ~restarting
        if not bool(going.any()):
            break
        if not bool(going.all()):
            kept = going.nonzero()[:, 0]
            index, iteration, finish_gap, final_gap = index[kept], iteration[kept], finish_gap[kept], final_gap[kept]
            form.take(kept)
            at = Certificate(*(value[kept] for value in at))
        form.advance(at)
        iteration = iteration + 1
    return given_up, to_restart
