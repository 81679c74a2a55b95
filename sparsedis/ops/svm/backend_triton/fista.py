"""Accelerated proximal gradient on the dual: several steps per launch, or steps whose features programs share."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsedis.ops.common.triton_launch import REAL, launch, splits
from sparsedis.ops.svm.backend_triton.certify import (
    Progress,
    check,
    make_pass,
    sum_parts,
)
from sparsedis.ops.svm.backend_triton.device import (
    gap_and_hinge,
    gradient,
    load_rows,
    one_hot,
    primal_pass,
    project,
    residual,
    store_rows,
    update_best,
)
from sparsedis.ops.svm.backend_triton.hessian import gram
from sparsedis.ops.svm.backend_triton.tasks import Tasks
from sparsedis.ops.svm.backend_triton.tiles import ROW_WARPS, checked_tile
from sparsedis.ops.svm.thresholds import CHECK_EVERY, FIRST_ORDER_PATIENCE

# Checks per launch, each followed by CHECK_EVERY steps. After each launch the host reads whether any task continues.
ROUNDS = 10


@triton.jit
def proximal(scores, extrapolated, size, is_label, weight, rho, n, k, N: tl.constexpr, K: tl.constexpr):
    """Proximal gradient step from ``extrapolated``, given its scores: gradient step and simplex projection."""
    valid = (tl.arange(0, N) < n)[:, None] & (tl.arange(0, K) < k)[None, :]
    new, _tau = project(extrapolated - size * gradient(scores, extrapolated, is_label, weight, rho), k, K)
    return tl.where(valid, new, 0.0)


@triton.jit
def accelerated(momentum, uphill):
    """Next momentum and extrapolation factor, with gradient restart."""
    momentum = tl.where(uphill > 0, 1.0, momentum)
    next_momentum = 0.5 * (1.0 + tl.sqrt(1.0 + 4.0 * momentum * momentum))
    return next_momentum, (momentum - 1.0) / next_momentum


@triton.jit
def steps_kernel(
    X,
    stride_b,
    stride_n,
    stride_d,
    scale,
    labels,
    weight,
    lambda1,
    lambda2,
    rho,
    step_size,
    target,
    dual_at,
    extrapolated_at,
    momentum_at,
    best,
    best_gap,
    since_at,
    n_iter,
    going,
    max_iter,
    rounds,
    n,
    d,
    k,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    REAL: tl.constexpr,
    EVERY: tl.constexpr,
    PATIENCE: tl.constexpr,
):
    """Up to ``rounds`` checks of one task, each followed by EVERY steps, until it is certified or stalled."""
    b = tl.program_id(0).to(tl.int64)
    running = tl.load(going + b)
    if running != 1:
        return
    i = tl.arange(0, N)
    s = tl.load(weight + b * n + i, mask=i < n, other=0.0).to(REAL)
    is_label = one_hot(labels + b * n, n, N, K)
    l1 = tl.load(lambda1 + b).to(REAL)
    l2 = tl.load(lambda2 + b).to(REAL)
    smoothing = tl.load(rho + b).to(REAL)
    factor = tl.load(scale + b).to(REAL)
    size = tl.load(step_size + b).to(REAL)
    target_gap = tl.load(target + b)
    X += b * stride_b
    dual = load_rows(dual_at + b * n * k, n, k, N, K, REAL)
    extrapolated = load_rows(extrapolated_at + b * n * k, n, k, N, K, REAL)
    momentum = tl.load(momentum_at + b)
    reached = tl.load(best_gap + b)
    since = tl.load(since_at + b)
    iteration = tl.load(n_iter + b)
    turn = 0
    while (running == 1) & (turn < rounds):
        rows = residual(dual, is_label, s, REAL)
        scores, sizes, squares = primal_pass(
            X, stride_n, stride_d, factor, rows, l1, l2, X, X, n, k, 0, d, N, K, BLOCK, REAL, False
        )
        gap, hinge = gap_and_hinge(scores, dual, is_label, s, smoothing, n, k, N, K)
        objective = hinge + l1 * sizes + 0.5 * l2 * squares
        relative = tl.where(objective == 0, 0.0, gap / objective)
        better, reached, since, continues = update_best(relative, reached, since, target_gap, PATIENCE)
        if better:
            store_rows(best + b * n * k, dual, n, k, N, K)
        running = tl.where(continues, tl.where(iteration >= max_iter, 2, 1), 0)
        count = tl.where(running == 1, tl.minimum(EVERY, max_iter - iteration), 0)
        for _ in range(count):
            rows = residual(extrapolated, is_label, s, REAL)
            scores, _sizes, _squares = primal_pass(
                X, stride_n, stride_d, factor, rows, l1, l2, X, X, n, k, 0, d, N, K, BLOCK, REAL, False
            )
            new = proximal(scores, extrapolated, size, is_label, s, smoothing, n, k, N, K)
            change = new - dual
            momentum, extrapolation = accelerated(momentum, tl.sum(tl.sum((extrapolated - new) * change, 1), 0))
            dual = new
            extrapolated = new + extrapolation * change
        iteration += count
        turn += 1
    store_rows(dual_at + b * n * k, dual, n, k, N, K)
    store_rows(extrapolated_at + b * n * k, extrapolated, n, k, N, K)
    tl.store(momentum_at + b, momentum)
    tl.store(best_gap + b, reached)
    tl.store(since_at + b, since)
    tl.store(n_iter + b, iteration)
    tl.store(going + b, running)


@triton.jit
def step_kernel(
    labels,
    weight,
    rho,
    step_size,
    scores,
    parts,
    dual_at,
    extrapolated_at,
    momentum_at,
    n_iter,
    going,
    max_iter,
    n,
    k,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    REAL: tl.constexpr,
):
    """One step of one task, from the parts of the pass at the point ``extrapolated``."""
    b = tl.program_id(0).to(tl.int64)
    iteration = tl.load(n_iter + b)
    if (tl.load(going + b) != 1) | (iteration >= max_iter):
        return
    size = tl.load(step_size + b).to(REAL)
    smoothing = tl.load(rho + b).to(REAL)
    uphill = tl.zeros((), REAL)
    i = tl.arange(0, ROWS)
    for first in range(0, n, ROWS):
        left = n - first
        start = b * n + first
        s = tl.load(weight + start + i, mask=i < left, other=0.0).to(REAL)
        is_label = one_hot(labels + start, left, ROWS, K)
        extrapolated = load_rows(extrapolated_at + start * k, left, k, ROWS, K, REAL)
        total = sum_parts(scores + (b * parts * n + first) * k, n * k, parts, left, k, ROWS, K, REAL)
        new = proximal(total, extrapolated, size, is_label, s, smoothing, left, k, ROWS, K)
        change = new - load_rows(dual_at + start * k, left, k, ROWS, K, REAL)
        uphill += tl.sum(tl.sum((extrapolated - new) * change, 1), 0)
        store_rows(dual_at + start * k, new, left, k, ROWS, K)
        store_rows(extrapolated_at + start * k, change, left, k, ROWS, K)
    momentum, extrapolation = accelerated(tl.load(momentum_at + b), uphill)
    tl.debug_barrier()
    for first in range(0, n, ROWS):
        start = b * n + first
        new = load_rows(dual_at + start * k, n - first, k, ROWS, K, REAL)
        change = load_rows(extrapolated_at + start * k, n - first, k, ROWS, K, REAL)
        store_rows(extrapolated_at + start * k, new + extrapolation * change, n - first, k, ROWS, K)
    tl.store(momentum_at + b, momentum)
    tl.store(n_iter + b, iteration + 1)


class _State:
    """State of a batch of tasks between launches."""

    def __init__(self, tasks: Tasks, tol: float, dtype: torch.dtype) -> None:
        self.tasks, self.dtype = tasks, dtype
        self.progress = Progress(tasks, tol, dtype)
        self.dual = self.progress.dual.clone()
        self.extrapolated = self.dual.clone()
        self.momentum = torch.ones_like(self.progress.relative_gap)
        self.step_size = 1 / lipschitz(tasks, dtype)

    def fused(self, max_iter: int, rounds: int) -> None:
        """``rounds`` checks and the steps between them in one launch, one program per task."""
        tasks, progress = self.tasks, self.progress
        batch, n, d, k = tasks.shape
        tile = checked_tile(n, k, self.dtype)
        launch(
            steps_kernel,
            (batch,),
            *tasks.readable(self.dtype),
            tasks.scale,
            tasks.labels,
            tasks.weight,
            tasks.lambda1,
            tasks.lambda2,
            tasks.rho,
            self.step_size,
            progress.target,
            self.dual,
            self.extrapolated,
            self.momentum,
            progress.dual,
            progress.relative_gap,
            progress.since,
            progress.n_iter,
            progress.going,
            max_iter,
            rounds,
            n,
            d,
            k,
            N=tile.N,
            K=tile.K,
            BLOCK=tile.BLOCK,
            REAL=REAL[self.dtype],
            EVERY=CHECK_EVERY,
            PATIENCE=FIRST_ORDER_PATIENCE,
            num_warps=tile.warps,
        )

    def shared(self, max_iter: int, rounds: int) -> None:
        """As :meth:`fused`, with two launches per step: a pass with the features split among programs, and the step."""
        tasks, progress, going = self.tasks, self.progress, self.progress.going
        batch, n, _, k = tasks.shape
        tile = checked_tile(n, k, self.dtype)
        for _ in range(rounds):
            check(
                tasks, self.dual, going, self.dtype, progress=progress, max_iter=max_iter, patience=FIRST_ORDER_PATIENCE
            )
            for _ in range(CHECK_EVERY):
                parts, *_others = make_pass(tasks, self.extrapolated, going, self.dtype)
                launch(
                    step_kernel,
                    (batch,),
                    tasks.labels,
                    tasks.weight,
                    tasks.rho,
                    self.step_size,
                    parts,
                    parts.shape[1],
                    self.dual,
                    self.extrapolated,
                    self.momentum,
                    progress.n_iter,
                    going,
                    max_iter,
                    n,
                    k,
                    ROWS=tile.rows,
                    K=tile.K,
                    REAL=REAL[self.dtype],
                    num_warps=ROW_WARPS,
                )


def lipschitz(tasks: Tasks, dtype: torch.dtype) -> Tensor:
    """Lipschitz constant of the dual gradient, (B,); rounded up in float32."""
    weight = tasks.weight[..., 0]
    G = gram(tasks, dtype) * weight[:, :, None] * weight[:, None]
    largest = torch.linalg.eigvalsh(G)[:, -1]
    if dtype == torch.float32:
        largest = largest * (1 + 1e-5)
    return (largest / tasks.lambda2 + tasks.rho).clamp_min(torch.finfo(torch.float32).tiny)


def fista(tasks: Tasks, tol: float, max_iter: int, dtype: torch.dtype, variant: str = "auto") -> Progress:
    """Solve every task to a relative gap of ``tol``, with steps in ``dtype`` and certificates in float64.

    Steps, checks, restarts and stopping rule are those of the torch backend. For a task that is certified in float32
    but not in float64, the target is halved.

    Args:
        tasks: B tasks.
        tol: relative gap to reach.
        max_iter: largest number of steps.
        dtype: of the steps.
        variant: "fused" (one program per task), "shared" (several per task), or "auto": fused if there are enough tasks
            for all multiprocessors. Tiles too large for a program's registers always use "shared".

    Returns:
        The progress with the best dual points (float64, rows summing to 1).
    """
    state = _State(tasks, tol, dtype)
    batch, n, d, k = tasks.shape
    tile = checked_tile(n, k, dtype)
    if variant == "auto":
        one_program = splits(batch, d, tile.BLOCK, tasks.features.device) == 1
        variant = "fused" if one_program else "shared"
    if not tile.fused:
        variant = "shared"
    progress = state.progress
    all_tasks = torch.ones_like(progress.going)
    # Every launch ends a task or advances it by ROUNDS checks. A task that continues repeats one check, without a
    # smaller gap, which counts towards its patience.
    for _ in range((max_iter // CHECK_EVERY + 2) // ROUNDS + 1 + FIRST_ORDER_PATIENCE):
        (state.fused if variant == "fused" else state.shared)(max_iter, ROUNDS)
        dual = progress.dual.double()
        progress.exact = dual / dual.sum(-1, keepdim=True)
        progress.exact_gap = check(tasks, progress.exact, all_tasks, torch.float64).relative_gap
        certified = progress.exact_gap <= tol
        again = (progress.going == 0) & (progress.relative_gap <= progress.target) & ~certified
        lower = torch.minimum(progress.target, progress.relative_gap) / 2
        progress.target = torch.where(again, lower, progress.target)
        resumed = torch.where(progress.n_iter < max_iter, 1, 2).to(torch.int32)
        progress.going = torch.where(again, resumed, torch.where(certified, 0, progress.going))
        if not bool((progress.going == 1).any()):  # the only synchronisation per launch
            break
    return progress
