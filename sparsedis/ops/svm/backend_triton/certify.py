"""The certificate of dual points: a pass over the features, split among programs, and a kernel that sums the parts."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsedis.ops.common.triton_launch import REAL, launch, span, splits
from sparsedis.ops.svm.backend_triton.device import (
    gap_and_hinge,
    load_rows,
    one_hot,
    primal_pass,
    residual_at,
    store_rows,
    update_best,
)
from sparsedis.ops.svm.backend_triton.tasks import Tasks
from sparsedis.ops.svm.backend_triton.tiles import ROW_WARPS, checked_tile
from sparsedis.solution import Status


@triton.jit
def pass_kernel(
    X,
    stride_b,
    stride_n,
    stride_d,
    scale,
    labels,
    weight,
    lambda1,
    lambda2,
    going,
    point,
    scores,
    penalty,
    rows_out,
    norms_out,
    n,
    d,
    k,
    features_per_program,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    REAL: tl.constexpr,
    STORE: tl.constexpr,
):
    """Pass over a program's features of one task: their parts of X W, sum ||W_j|| and sum ||W_j||^2.

    With STORE it also writes V and its norms.
    """
    b = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if tl.load(going + b) != 1:
        return
    rows = residual_at(point, labels, weight, b, n, k, N, K, REAL)
    l1 = tl.load(lambda1 + b).to(REAL)
    l2 = tl.load(lambda2 + b).to(REAL)
    factor = tl.load(scale + b).to(REAL)
    start = part * features_per_program
    stop = tl.minimum(start + features_per_program, d)
    total, sizes, squares = primal_pass(
        X + b * stride_b,
        stride_n,
        stride_d,
        factor,
        rows,
        l1,
        l2,
        rows_out + b * d * k,
        norms_out + b * d,
        n,
        k,
        start,
        stop,
        N,
        K,
        BLOCK,
        REAL,
        STORE,
    )
    slot = b * tl.num_programs(1) + part
    store_rows(scores + slot * n * k, total, n, k, N, K)
    tl.store(penalty + slot * 2, sizes.to(penalty.dtype.element_ty))
    tl.store(penalty + slot * 2 + 1, squares.to(penalty.dtype.element_ty))


@triton.jit
def sum_parts(parts_at, stride, parts, n, k, N: tl.constexpr, K: tl.constexpr, REAL: tl.constexpr):
    """The sum of ``parts`` matrices (n, k) with stride ``stride``."""
    total = tl.zeros((N, K), REAL)
    for part in range(parts):
        total += load_rows(parts_at + part * stride, n, k, N, K, REAL)
    return total


@triton.jit
def check_kernel(
    labels,
    weight,
    lambda1,
    lambda2,
    rho,
    going,
    point,
    scores,
    penalty,
    parts,
    target,
    best,
    best_gap,
    since,
    n_iter,
    max_iter,
    gap_out,
    objective_out,
    relative_out,
    scores_out,
    n,
    k,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    REAL: tl.constexpr,
    RECORD: tl.constexpr,
    PATIENCE: tl.constexpr,
):
    """Gap, objective and scores of one task from the parts of its pass; with RECORD also its progress.

    ``going`` becomes 0 if the task is certified or stalled, and 2 if it has used up its iterations.
    """
    b = tl.program_id(0).to(tl.int64)
    if tl.load(going + b) != 1:
        return
    l1 = tl.load(lambda1 + b).to(REAL)
    l2 = tl.load(lambda2 + b).to(REAL)
    smoothing = tl.load(rho + b).to(REAL)
    sizes = tl.zeros((), REAL)
    squares = tl.zeros((), REAL)
    for part in range(parts):
        sizes += tl.load(penalty + (b * parts + part) * 2).to(REAL)
        squares += tl.load(penalty + (b * parts + part) * 2 + 1).to(REAL)
    gap = tl.zeros((), REAL)
    objective = l1 * sizes + 0.5 * l2 * squares
    i = tl.arange(0, ROWS)
    for first in range(0, n, ROWS):
        left = n - first
        start = b * n + first
        s = tl.load(weight + start + i, mask=i < left, other=0.0).to(REAL)
        is_label = one_hot(labels + start, left, ROWS, K)
        dual = load_rows(point + start * k, left, k, ROWS, K, REAL)
        total = sum_parts(scores + (b * parts * n + first) * k, n * k, parts, left, k, ROWS, K, REAL)
        slack, hinge = gap_and_hinge(total, dual, is_label, s, smoothing, left, k, ROWS, K)
        gap += slack
        objective += hinge
        store_rows(scores_out + start * k, total, left, k, ROWS, K)
    relative = tl.where(objective == 0, 0.0, gap / tl.where(objective == 0, 1.0, objective))
    tl.store(gap_out + b, gap.to(gap_out.dtype.element_ty))
    tl.store(objective_out + b, objective.to(objective_out.dtype.element_ty))
    tl.store(relative_out + b, relative.to(relative_out.dtype.element_ty))
    if RECORD:
        better, reached, waited, continues = update_best(
            relative, tl.load(best_gap + b), tl.load(since + b), tl.load(target + b), PATIENCE
        )
        if better:
            for first in range(0, n, ROWS):
                dual = load_rows(point + (b * n + first) * k, n - first, k, ROWS, K, best.dtype.element_ty)
                store_rows(best + (b * n + first) * k, dual, n - first, k, ROWS, K)
        tl.store(best_gap + b, reached)
        tl.store(since + b, waited)
        out_of_time = tl.load(n_iter + b) >= max_iter
        tl.store(going + b, tl.where(continues, tl.where(out_of_time, 2, 1), 0))


class Progress:
    """Best dual point and state of every task, kept on the device so that no synchronisation is needed.

    Attributes:
        dual: the best L, (B, n, k), in the kernels' dtype.
        relative_gap: gap of ``dual``, (B,).
        exact: the best L certified in float64, with rows summing to 1, (B, n, k).
        exact_gap: gap of ``exact``, (B,).
        target: relative gap at which a task stops, (B,).
        since: number of checks since the best, (B,) int32.
        n_iter: iterations, (B,) int32.
        going: (B,) int32: 1 if the task continues, 0 if certified or stalled, 2 if out of iterations.
    """

    def __init__(self, tasks: Tasks, tol: float, dtype: torch.dtype) -> None:
        batch, _, _, k = tasks.shape
        self.dual = torch.full(tasks.targets.shape, 1 / k, dtype=dtype, device=tasks.targets.device)
        self.relative_gap = torch.full_like(tasks.lambda1, torch.inf, dtype=dtype)
        self.target = torch.full_like(tasks.lambda1, tol, dtype=dtype)
        self.since = torch.zeros(batch, dtype=torch.int32, device=self.dual.device)
        self.n_iter = torch.zeros_like(self.since)
        self.going = torch.ones_like(self.since)
        self.exact = self.dual.to(torch.float64, copy=True)
        self.exact_gap = torch.full_like(tasks.lambda1, torch.inf)

    def take(self, index: Tensor) -> Progress:
        """The progress of the tasks ``index``; :meth:`write_back` writes it back."""
        part = object.__new__(Progress)
        part.__dict__ = {name: value[index] for name, value in vars(self).items()}
        return part

    def write_back(self, index: Tensor, part: Progress) -> None:
        for name, value in vars(self).items():
            value[index] = getattr(part, name)

    def keep_better(self, index: Tensor, dual: Tensor, gap: Tensor) -> None:
        """Keep dual points (M, n, k) of the tasks ``index``, certified in float64, that are better than ``exact``."""
        better = gap < self.exact_gap[index]
        self.exact[index[better]], self.exact_gap[index[better]] = dual[better], gap[better]

    def status(self, tol: float) -> Tensor:
        """(B,) int64: values of :class:`Status`."""
        ended = torch.where(self.going == 0, int(Status.STALLED), int(Status.MAX_ITER))
        return torch.where(self.exact_gap <= tol, int(Status.CERTIFIED), ended)


class DeviceCertificate(NamedTuple):
    """Certificates of dual points; only the entries of tasks that continue are written.

    ``V`` and ``norms`` are empty unless stored.
    """

    V: Tensor
    norms: Tensor
    scores: Tensor
    gap: Tensor
    objective: Tensor
    relative_gap: Tensor


def make_pass(
    tasks: Tasks,
    point: Tensor,
    going: Tensor,
    dtype: torch.dtype,
    *,
    store: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch :func:`pass_kernel`; returns parts of scores (B, parts, n, k) and penalties (B, parts, 2), V and norms."""
    batch, n, d, k = tasks.shape
    tile = checked_tile(n, k, dtype)
    parts = splits(batch, d, tile.BLOCK, tasks.features.device)
    new = point.new_empty
    scores = new((batch, parts, n, k), dtype=dtype)
    penalty = new((batch, parts, 2), dtype=dtype)
    rows = new((batch, d, k) if store else (1,), dtype=dtype)
    norms = new((batch, d) if store else (1,), dtype=dtype)
    launch(
        pass_kernel,
        (batch, parts),
        *tasks.readable(dtype),
        tasks.scale,
        tasks.labels,
        tasks.weight,
        tasks.lambda1,
        tasks.lambda2,
        going,
        point,
        scores,
        penalty,
        rows,
        norms,
        n,
        d,
        k,
        span(d, parts, tile.BLOCK),
        N=tile.N,
        K=tile.K,
        BLOCK=tile.BLOCK,
        REAL=REAL[dtype],
        STORE=store,
        num_warps=tile.warps,
    )
    return scores, penalty, rows, norms


def check(
    tasks: Tasks,
    point: Tensor,
    going: Tensor,
    dtype: torch.dtype,
    *,
    store: bool = False,
    progress: Progress | None = None,
    max_iter: int = 0,
    patience: int = 0,
) -> DeviceCertificate:
    """Certificates of the dual points (B, n, k) of the tasks that continue, computed in ``dtype``.

    With ``progress`` they are recorded there. With ``store`` V and its norms are returned.
    """
    batch, n, _, k = tasks.shape
    tile = checked_tile(n, k, dtype)
    parts, penalty, rows, norms = make_pass(tasks, point, going, dtype, store=store)
    per_task = [point.new_empty(batch, dtype=dtype) for _ in range(3)]
    scores = point.new_empty((batch, n, k), dtype=dtype)
    gap, objective, relative_gap = per_task
    state = (
        (progress.target, progress.dual, progress.relative_gap, progress.since, progress.n_iter)
        if progress is not None
        else (gap, point, gap, going, going)  # placeholders, not accessed
    )
    launch(
        check_kernel,
        (batch,),
        tasks.labels,
        tasks.weight,
        tasks.lambda1,
        tasks.lambda2,
        tasks.rho,
        going,
        point,
        parts,
        penalty,
        parts.shape[1],
        *state,
        max_iter,
        gap,
        objective,
        relative_gap,
        scores,
        n,
        k,
        ROWS=tile.rows,
        K=tile.K,
        REAL=REAL[dtype],
        RECORD=progress is not None,
        PATIENCE=patience,
        num_warps=ROW_WARPS,
    )
    return DeviceCertificate(rows, norms, scores, gap, objective, relative_gap)
