"""Interior-point Newton on a device: the torch backend's two forms, with kernels for features and variables.

Iterations do not synchronise with the host. Kernels skip the tasks that have ended; the host removes them at intervals.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsedis.ops.common.triton_launch import launch
from sparsedis.ops.svm.backend_torch.finish import finish
from sparsedis.ops.svm.backend_torch.hessian import Curvature
from sparsedis.ops.svm.backend_torch.newton import (
    FINAL_GAP,
    Form,
    FullForm,
    LightForm,
    full_form_exists,
    light_form_pays,
    linear_decrease_on_segment,
)
from sparsedis.ops.svm.backend_torch.newton import newton as torch_newton
from sparsedis.ops.svm.backend_triton import memory, products
from sparsedis.ops.svm.backend_triton.certify import Progress, check
from sparsedis.ops.svm.backend_triton.hessian import KernelSystem
from sparsedis.ops.svm.backend_triton.tasks import Tasks
from sparsedis.ops.svm.thresholds import (
    FINISH_GAP,
    FLOAT_ITERATIONS,
    FRACTION_TO_BOUNDARY,
    LIGHT_GAP,
    LIGHT_ITERATIONS,
    NEWTON_ITERATIONS,
    NEWTON_PATIENCE,
    SHORT_STEP,
)

# Iterations between synchronisations in which the host reads which tasks continue.
SYNC_EVERY = 3
# Elements per iteration of a program's loop over variables.
BLOCK = 1024
# Relative ridge of the Newton matrix, and the factor by which it grows if the matrix was not positive definite.
_RIDGE = 50 * torch.finfo(torch.float64).eps
_RIDGE_GROWTH = {torch.float64: 100.0, torch.float32: 1e6}


@triton.jit
def segment_kernel(norms, lambda1, decrease, going, theta_out, d, BLOCK: tl.constexpr):
    """theta of one task; see the torch backend's ``minimise_on_segment``."""
    b = tl.program_id(0).to(tl.int64)
    if tl.load(going + b) != 1:
        return
    l1 = tl.load(lambda1 + b)
    l2_decrease = tl.load(decrease + b)
    theta = l1 * 0.0 + 1.0
    iteration = 0
    while iteration < 100:
        first_sum = tl.zeros((BLOCK,), tl.float64)
        slope_sum = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, d, BLOCK):
            j = first + tl.arange(0, BLOCK)
            norm = tl.load(norms + b * d + j, mask=j < d, other=0.0).to(tl.float64)
            excess = tl.maximum(theta * norm - l1, 0.0)
            first_sum += excess * norm
            slope_sum += tl.where(excess > 0, norm * norm, 0.0)
        slope = tl.sum(slope_sum, 0)
        down = tl.maximum(tl.sum(first_sum, 0) - l2_decrease, 0.0)
        step = tl.where(slope > 0, down / tl.where(slope > 0, slope, 1.0), 0.0)
        iteration = tl.where(step > 1e-6 * theta, iteration + 1, 100)
        theta = tl.where(step > 1e-6 * theta, theta - step, theta)
    tl.store(theta_out + b, theta)


@triton.jit
def largest_step(value, change):
    """The largest step at which positive values stay nonnegative; infinite for values that do not decrease."""
    falls = change < 0
    return tl.where(falls, value / tl.where(falls, -change, 1.0), float("inf"))


@triton.jit
def largest_pair_step(a, b, da, db, count, BLOCK: tl.constexpr):
    """The largest step at which both values of all pairs stay nonnegative."""
    largest = tl.full((BLOCK,), float("inf"), tl.float64)
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < count
        one = largest_step(tl.load(a + at, mask=inside, other=1.0), tl.load(da + at, mask=inside, other=0.0))
        other = largest_step(tl.load(b + at, mask=inside, other=1.0), tl.load(db + at, mask=inside, other=0.0))
        largest = tl.minimum(largest, tl.minimum(one, other))
    return tl.min(largest, 0)


@triton.jit
def pair_product(a, b, da, db, step, weight, entries_per_sample, count, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of (a + step da)(b + step db) and its number of terms; with WEIGHTED over present samples only."""
    total = tl.zeros((BLOCK,), tl.float64)
    terms = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < count
        one = tl.load(a + at, mask=inside, other=0.0) + step * tl.load(da + at, mask=inside, other=0.0)
        other = tl.load(b + at, mask=inside, other=0.0) + step * tl.load(db + at, mask=inside, other=0.0)
        if WEIGHTED:
            inside = inside & (tl.load(weight + at // entries_per_sample, mask=inside, other=0.0) > 0)
        total += tl.where(inside, one * other, 0.0)
        terms += inside.to(tl.int32)
    return tl.sum(total, 0), tl.sum(terms, 0)


@triton.jit
def pair_targets(da, db, out, centre, damping, count, BLOCK: tl.constexpr):
    """Store centre - damping da db."""
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < count
        product = tl.load(da + at, mask=inside, other=0.0) * tl.load(db + at, mask=inside, other=0.0)
        tl.store(out + at, centre - damping * product, mask=inside)


@triton.jit
def corrector_kernel(
    L,
    Z,
    dL,
    dZ,
    th,
    w,
    dth,
    dw,
    weight,
    going,
    samples_out,
    features_out,
    n,
    k,
    d,
    FULL: tl.constexpr,
    SHORT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Targets of one task's products L Z and, in the full form, th w, by Mehrotra's sigma from the predictor."""
    b = tl.program_id(0).to(tl.int64)
    if tl.load(going + b) != 1:
        return
    L += b * n * k
    Z += b * n * k
    dL += b * n * k
    dZ += b * n * k
    weight += b * n
    largest = tl.minimum(largest_pair_step(L, Z, dL, dZ, n * k, BLOCK), 1.0)
    current, terms = pair_product(L, Z, dL, dZ, 0.0, weight, k, n * k, True, BLOCK)
    if FULL:
        th += b * d
        w += b * d
        dth += b * d
        dw += b * d
        largest = tl.minimum(largest, largest_pair_step(th, w, dth, dw, d, BLOCK))
        of_features, feature_terms = pair_product(th, w, dth, dw, 0.0, weight, 1, d, False, BLOCK)
        current += of_features
        terms += feature_terms
    ahead, _terms = pair_product(L, Z, dL, dZ, largest, weight, k, n * k, True, BLOCK)
    if FULL:
        of_features, _feature_terms = pair_product(th, w, dth, dw, largest, weight, 1, d, False, BLOCK)
        ahead += of_features
    count = tl.maximum(terms, 1).to(tl.float64)
    mu = current / count
    ratio = tl.where(mu > 0, tl.maximum(ahead / count, 0.0) / tl.where(mu > 0, mu, 1.0), 0.0)
    ratio = tl.minimum(ratio, 1.0)
    centre = ratio * ratio * ratio * mu
    damping = tl.where(largest < SHORT, largest, 1.0)
    pair_targets(dL, dZ, samples_out + b * n * k, centre, damping, n * k, BLOCK)
    if FULL:
        pair_targets(dth, dw, features_out + b * d, centre, damping, d, BLOCK)


@triton.jit
def add_step(value, change, step, count, BLOCK: tl.constexpr):
    """value += step change, in memory."""
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < count
        new = tl.load(value + at, mask=inside, other=0.0) + step * tl.load(change + at, mask=inside, other=0.0)
        tl.store(value + at, new, mask=inside)


@triton.jit
def move_kernel(
    L,
    Z,
    dL,
    dZ,
    th,
    w,
    dth,
    dw,
    U,
    dU,
    going,
    failed,
    n,
    k,
    d,
    FULL: tl.constexpr,
    TO_BOUNDARY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Take one task's step, with the fraction to the boundary; no step if the Newton matrix could not be factored."""
    b = tl.program_id(0).to(tl.int64)
    if (tl.load(going + b) != 1) | (tl.load(failed + b) != 0):
        return
    L += b * n * k
    Z += b * n * k
    dL += b * n * k
    dZ += b * n * k
    largest = largest_pair_step(L, Z, dL, dZ, n * k, BLOCK)
    if FULL:
        th += b * d
        w += b * d
        dth += b * d
        dw += b * d
        largest = tl.minimum(largest, largest_pair_step(th, w, dth, dw, d, BLOCK))
    step = tl.minimum(TO_BOUNDARY * largest, 1.0)
    add_step(L, dL, step, n * k, BLOCK)
    add_step(Z, dZ, step, n * k, BLOCK)
    if FULL:
        add_step(th, dth, step, d, BLOCK)
        add_step(w, dw, step, d, BLOCK)
        add_step(U + b * d * k, dU + b * d * k, step, d * k, BLOCK)


class KernelForm(Form):
    """The torch backend's form, with kernels for the expensive operations.

    Args:
        tasks: the tasks.
        going: (B,) int32; kernels skip the tasks whose entry is not 1.
        dtype: of the Hessian's products over the features; everything else is float64.
    """

    problem: Tasks

    def __init__(self, tasks: Tasks, going: Tensor, dtype: torch.dtype) -> None:
        self.going, self.dtype = going, dtype
        self.ridge = torch.full_like(tasks.lambda1, _RIDGE)
        self.failed = torch.zeros_like(going)
        super().__init__(tasks)  # type: ignore[call-arg]

    def take(self, index: Tensor) -> None:
        super().take(index)
        self.going, self.ridge, self.failed = self.going[index], self.ridge[index], self.failed[index]

    def _minimise_on_segment(self) -> Tensor:
        tasks = self.problem
        batch, _, d, _ = tasks.shape
        uniform = torch.full_like(tasks.targets, 1 / tasks.targets.shape[2])
        norms = check(tasks, uniform, self.going, torch.float64, store=True).norms
        theta = torch.empty_like(tasks.lambda1)
        decrease = linear_decrease_on_segment(tasks)
        launch(segment_kernel, (batch,), norms, tasks.lambda1, decrease, self.going, theta, d, BLOCK=BLOCK)
        return theta

    def _correlation(self, rows: Tensor) -> Tensor:
        return products.correlation(self.problem, rows, self.going, torch.float64)

    def _scores(self, weights: Tensor) -> Tensor:
        return products.scores(self.problem, weights, self.going, torch.float64)

    def _system(self, curvature: Curvature, bounds: Tensor) -> KernelSystem:
        system = KernelSystem(self.problem, curvature, bounds, self.dual, self.going, self.ridge, self.dtype)
        raised = (self.ridge * _RIDGE_GROWTH[self.dtype]).clamp_max(1.0)
        self.ridge = torch.where(system.failed, raised, _RIDGE)
        self.failed = system.failed.to(torch.int32)
        return system

    def _on_features(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The full form's positive variables besides L and Z; for the light form placeholders that kernels ignore."""
        return values[2:4] if self.n_positive > 2 else values[:2]

    def _corrected(self, predictor: tuple[Tensor, ...]) -> list[Tensor]:
        batch, n, d, k = self.problem.shape
        full = self.n_positive > 2
        predictor = tuple(value.contiguous() for value in predictor)
        targets = [torch.empty_like(value) for value in (self.variables[0], *self._on_features(self.variables)[:1])]
        launch(
            corrector_kernel,
            (batch,),
            *self.variables[:2],
            *predictor[:2],
            *self._on_features(self.variables),
            *self._on_features(predictor),
            self.problem.weight,
            self.going,
            *targets,
            n,
            k,
            d,
            FULL=full,
            SHORT=SHORT_STEP,
            BLOCK=BLOCK,
            num_warps=8,
        )
        return targets if full else targets[:1]

    def _move(self, direction: tuple[Tensor, ...]) -> None:
        batch, n, d, k = self.problem.shape
        self.variables = tuple(value.contiguous() for value in self.variables)
        direction = tuple(value.contiguous() for value in direction)
        launch(
            move_kernel,
            (batch,),
            *self.variables[:2],
            *direction[:2],
            *self._on_features(self.variables),
            *self._on_features(direction),
            self.variables[-1],
            direction[-1],
            self.going,
            self.failed,
            n,
            k,
            d,
            FULL=self.n_positive > 2,
            TO_BOUNDARY=FRACTION_TO_BOUNDARY,
            BLOCK=BLOCK,
            num_warps=8,
        )


class KernelLightForm(KernelForm, LightForm):
    """The light form."""


class KernelFullForm(KernelForm, FullForm):
    """The full form."""


def newton(tasks: Tasks, tol: float, max_iter: int, dtype: torch.dtype, exact: bool = False) -> Progress:
    """Solve every task as the torch backend does: in the form that suits it, then by the finish.

    Args:
        tasks: B tasks.
        tol: relative gap to reach.
        max_iter: largest number of iterations.
        dtype: of the Hessian's products over the features in the interior point; everything else is float64.
        exact: solve to rounding error.
    """
    finishing = exact or tol < FINISH_GAP
    most = max_iter if dtype == torch.float64 else min(max_iter, FLOAT_ITERATIONS)
    progress = Progress(tasks, FINISH_GAP if finishing else tol, torch.float64)
    light = light_form_pays(tasks)
    given_up = torch.zeros_like(light)
    chosen = light.nonzero()[:, 0]
    if len(chosen):
        given_up[chosen] = _iterate(
            KernelLightForm, tasks, progress, chosen, most, dtype, finishing=finishing, may_give_up=True
        )
    chosen = (~light | (given_up & ~(progress.exact_gap <= tol))).nonzero()[:, 0]
    if len(chosen):
        progress.going[chosen], progress.since[chosen] = 1, 0
        # The full form's memory is budgeted here, since only now the number of its tasks is known.
        tasks_per_part = max(1, memory.LARGEST // memory.full_form_bytes(tasks.features.shape, tasks.targets.shape[2]))
        for part in chosen.split(tasks_per_part):
            _iterate(KernelFullForm, tasks, progress, part, most, dtype, finishing=finishing)
    all_tasks = torch.arange(len(light), device=light.device)
    progress.keep_better(all_tasks, progress.dual, progress.relative_gap)
    ended = (progress.going == 0) | (most < max_iter) | (max_iter >= NEWTON_ITERATIONS)
    stalled = (ended & ~(progress.exact_gap <= tol)).nonzero()[:, 0]
    if len(stalled) and dtype != torch.float64:  # if features are far from zero, float32 products lose the curvature
        before = progress.take(stalled)
        solved_again = newton(tasks.take(stalled), tol, max_iter, torch.float64, exact)
        solved_again.keep_better(torch.arange(len(stalled), device=stalled.device), before.exact, before.exact_gap)
        progress.write_back(stalled, solved_again)
    elif len(stalled):
        # The centred start and first-order steps are needed rarely and have no kernels.
        done = torch_newton(tasks.take(stalled).in_float64(), tol, max_iter, exact)
        progress.keep_better(stalled, done.dual, done.relative_gap)
    return progress


def _iterate(
    make: type[KernelForm],
    tasks: Tasks,
    progress: Progress,
    index: Tensor,
    max_iter: int,
    dtype: torch.dtype,
    *,
    finishing: bool,
    may_give_up: bool = False,
) -> Tensor:
    """Iterate the tasks ``index`` (M,), continuing their counts. Returns (M,) bool: given up, for the full form."""
    given_up = torch.zeros(len(tasks.lambda1), dtype=torch.bool, device=index.device)
    all_tasks = index
    part = progress.take(index)
    # Usually all tasks are chosen, and then the features need not be copied.
    form = make(tasks if len(index) == len(given_up) else tasks.take(index), part.going, dtype)
    ended = torch.zeros_like(given_up)
    for turn in range(max_iter + 1 + SYNC_EVERY):
        if turn % SYNC_EVERY == 0 and turn > 0:  # the only synchronisation with the host
            if finishing:
                _finish(tasks, form, part, index, ended, max_iter)
            remaining = (part.going == 1).nonzero()[:, 0]
            if len(remaining) <= len(index) // 2:
                progress.write_back(index, part)
                if len(remaining) == 0:
                    break
                index, part = index[remaining], part.take(remaining)
                form.take(remaining)
                form.going = part.going
        stuck = iterate_once(form, part, max_iter, may_give_up=may_give_up)
        given_up[index] |= stuck
    progress.write_back(index, part)
    return given_up[all_tasks]


def _finish(tasks: Tasks, form: KernelForm, progress: Progress, index: Tensor, ended: Tensor, max_iter: int) -> None:
    """Run the finish on tasks that have reached their target; unsettled ones continue to a tenth of their gap.

    Args:
        progress: of the tasks ``index``.
        ended: (B,) bool, tasks that have ended; updated in place.
    """
    reached = (progress.going == 0) & (progress.relative_gap <= progress.target) & ~ended[index]
    place = reached.nonzero()[:, 0]
    if len(place) == 0:
        return
    L, Z = (value[place] for value in form.variables[:2])
    done = finish(tasks.take(index[place]).in_float64(), L, Z, max_iter - progress.n_iter[place])
    progress.keep_better(place, done.dual, done.relative_gap)
    progress.n_iter[place] += done.n_iter.to(torch.int32)
    progress.target[place] = progress.relative_gap[place] / 10
    newly_ended = done.settled | (progress.relative_gap[place] <= FINAL_GAP)
    ended[index[place]] = newly_ended
    state = torch.where(progress.n_iter[place] < max_iter, 1, 2).to(torch.int32)
    progress.going[place] = torch.where(newly_ended, 0, state)


def iterate_once(form: KernelForm, progress: Progress, max_iter: int, *, may_give_up: bool = False) -> Tensor:
    """Check every task and advance it by one iteration, without synchronising, so that a CUDA graph can capture it.

    Returns:
        (B,) bool: the tasks that the light form gives up, all False unless ``may_give_up``.
    """
    going_before = progress.going == 1
    at = check(
        form.problem,
        form.dual,
        progress.going,
        torch.float64,
        store=True,
        progress=progress,
        max_iter=max_iter,
        patience=NEWTON_PATIENCE,
    )
    stuck = torch.zeros_like(going_before)
    if may_give_up:
        stuck = going_before & (progress.relative_gap > progress.target) & (progress.n_iter < max_iter)
        slow = (progress.n_iter >= LIGHT_ITERATIONS) & ~(at.relative_gap <= LIGHT_GAP)
        stuck &= full_form_exists(form.problem) & ((progress.going == 0) | slow)
        progress.going.masked_fill_(stuck, 0)
    form.advance(at)  # type: ignore[arg-type]
    progress.n_iter += progress.going == 1
    return stuck
