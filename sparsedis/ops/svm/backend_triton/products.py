"""X W and X^T R for given W and R, for features of any dtype and strides."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsedis.ops.common.triton_launch import REAL, launch, span, splits
from sparsedis.ops.svm.backend_triton.device import load_features, load_rows, store_rows
from sparsedis.ops.svm.backend_triton.tasks import Tasks
from sparsedis.ops.svm.backend_triton.tiles import checked_tile


@triton.jit
def scores_kernel(
    X,
    stride_b,
    stride_n,
    stride_d,
    scale,
    going,
    W,
    out,
    n,
    d,
    k,
    features_per_program,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    REAL: tl.constexpr,
):
    """A program's part of X W, for one task."""
    b = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if tl.load(going + b) != 1:
        return
    factor = tl.load(scale + b).to(REAL)
    start = part * features_per_program
    stop = tl.minimum(start + features_per_program, d)
    total = tl.zeros((N, K), REAL)
    for first in range(start, stop, BLOCK):
        x = load_features(X + b * stride_b, stride_n, stride_d, first, n, stop, factor, N, BLOCK, REAL)
        w = load_rows(W + (b * d + first) * k, stop - first, k, BLOCK, K, REAL)
        total = tl.dot(x, w, total, input_precision="ieee", out_dtype=REAL)
    store_rows(out + (b * tl.num_programs(1) + part) * n * k, total, n, k, N, K)


@triton.jit
def correlation_kernel(
    X,
    stride_b,
    stride_n,
    stride_d,
    scale,
    going,
    rows_at,
    out,
    n,
    d,
    k,
    features_per_program,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    REAL: tl.constexpr,
):
    """A program's features of X^T R, for one task."""
    b = tl.program_id(0).to(tl.int64)
    if tl.load(going + b) != 1:
        return
    factor = tl.load(scale + b).to(REAL)
    rows = load_rows(rows_at + b * n * k, n, k, N, K, REAL)
    start = tl.program_id(1) * features_per_program
    stop = tl.minimum(start + features_per_program, d)
    for first in range(start, stop, BLOCK):
        x = load_features(X + b * stride_b, stride_n, stride_d, first, n, stop, factor, N, BLOCK, REAL)
        V = tl.dot(tl.trans(x), rows, input_precision="ieee", out_dtype=REAL)
        store_rows(out + (b * d + first) * k, V, stop - first, k, BLOCK, K)


def scores(tasks: Tasks, weights: Tensor, going: Tensor, dtype: torch.dtype) -> Tensor:
    """X W for weights (B, d, k): (B, n, k), in ``dtype``, for tasks that continue."""
    batch, n, d, k = tasks.shape
    tile = checked_tile(n, k, dtype)
    parts = splits(batch, d, tile.short_block, tasks.features.device)
    out = weights.new_empty((batch, parts, n, k), dtype=dtype)
    _over_features(scores_kernel, tasks, going, weights.contiguous(), out, parts, dtype)
    return out.sum(1)


def correlation(tasks: Tasks, rows: Tensor, going: Tensor, dtype: torch.dtype) -> Tensor:
    """X^T R for rows (B, n, k): (B, d, k), in ``dtype``, for tasks that continue."""
    batch, n, d, k = tasks.shape
    tile = checked_tile(n, k, dtype)
    parts = splits(batch, d, tile.short_block, tasks.features.device)
    out = rows.new_empty((batch, d, k), dtype=dtype)
    _over_features(correlation_kernel, tasks, going, rows.contiguous(), out, parts, dtype)
    return out


def _over_features(
    kernel: object, tasks: Tasks, going: Tensor, operand: Tensor, out: Tensor, parts: int, dtype: torch.dtype
) -> None:
    batch, n, d, k = tasks.shape
    tile = checked_tile(n, k, dtype)
    launch(
        kernel,
        (batch, parts),
        *tasks.readable(dtype),
        tasks.scale,
        going,
        operand,
        out,
        n,
        d,
        k,
        span(d, parts, tile.short_block),
        N=tile.N,
        K=tile.K,
        BLOCK=tile.short_block,
        REAL=REAL[dtype],
        num_warps=tile.warps,
    )
