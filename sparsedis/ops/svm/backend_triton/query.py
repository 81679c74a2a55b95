"""Logits of query points: Q W with W made on the fly from (X, L), for the features that are on, and its derivative."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsedis.ops.common.triton_launch import REAL, launch
from sparsedis.ops.svm.backend_triton.device import (
    load_features,
    load_rows,
    residual_at,
    shrinkage,
    store_rows,
)
from sparsedis.ops.svm.backend_triton.tasks import Tasks, readable
from sparsedis.ops.svm.backend_triton.tiles import checked_tile

# Query points that a program takes.
QUERIES = 32


@triton.jit
def logits_kernel(
    X,
    stride_b,
    stride_n,
    stride_d,
    Q,
    query_stride_b,
    query_stride_q,
    query_stride_d,
    scale,
    labels,
    weight,
    lambda1,
    lambda2,
    dual,
    out,
    n,
    queries,
    d,
    k,
    N: tl.constexpr,
    K: tl.constexpr,
    QUERIES: tl.constexpr,
    BLOCK: tl.constexpr,
    REAL: tl.constexpr,
):
    """Q W for some query points of one task; a block of features that are all off is not multiplied."""
    b = tl.program_id(0).to(tl.int64)
    first_query = tl.program_id(1) * QUERIES
    rows = residual_at(dual, labels, weight, b, n, k, N, K, REAL)
    l1 = tl.load(lambda1 + b).to(REAL)
    l2 = tl.load(lambda2 + b).to(REAL)
    factor = tl.load(scale + b).to(REAL)
    Q += b * query_stride_b + first_query * query_stride_q
    total = tl.zeros((QUERIES, K), REAL)
    for first in range(0, d, BLOCK):
        x = load_features(X + b * stride_b, stride_n, stride_d, first, n, d, factor, N, BLOCK, REAL)
        V = tl.dot(tl.trans(x), rows, input_precision="ieee", out_dtype=REAL)
        shrink = shrinkage(tl.sqrt(tl.sum(V * V, 1)), l1, l2)
        if tl.max(shrink, 0) > 0:
            q = load_features(
                Q, query_stride_q, query_stride_d, first, queries - first_query, d, factor, QUERIES, BLOCK, REAL
            )
            total = tl.dot(q, V * shrink[:, None], total, input_precision="ieee", out_dtype=REAL)
    store_rows(out + (b * queries + first_query) * k, total, queries - first_query, k, QUERIES, K)


@triton.jit
def logits_backward_kernel(
    X,
    stride_b,
    stride_n,
    stride_d,
    Q,
    query_stride_b,
    query_stride_q,
    query_stride_d,
    scale,
    labels,
    weight,
    lambda1,
    lambda2,
    dual,
    grad,
    grad_query,
    grad_weights,
    n,
    queries,
    d,
    k,
    N: tl.constexpr,
    K: tl.constexpr,
    QUERIES: tl.constexpr,
    BLOCK: tl.constexpr,
    REAL: tl.constexpr,
):
    """One block of features of one task: dloss/dQ = G W^T, and dloss/dW = Q^T G, 0 where the feature is off."""
    b = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    j = first + tl.arange(0, BLOCK)
    rows = residual_at(dual, labels, weight, b, n, k, N, K, REAL)
    l1 = tl.load(lambda1 + b).to(REAL)
    l2 = tl.load(lambda2 + b).to(REAL)
    factor = tl.load(scale + b).to(REAL)
    x = load_features(X + b * stride_b, stride_n, stride_d, first, n, d, factor, N, BLOCK, REAL)
    V = tl.dot(tl.trans(x), rows, input_precision="ieee", out_dtype=REAL)
    shrink = shrinkage(tl.sqrt(tl.sum(V * V, 1)), l1, l2)
    W = V * (shrink * factor)[:, None]
    dW = tl.zeros((BLOCK, K), REAL)
    one = factor * 0.0 + 1.0
    for start in range(0, queries, QUERIES):
        left = queries - start
        place = tl.arange(0, QUERIES)[:, None]
        q = load_features(
            Q + b * query_stride_b + start * query_stride_q,
            query_stride_q,
            query_stride_d,
            first,
            left,
            d,
            one,
            QUERIES,
            BLOCK,
            REAL,
        )
        G = load_rows(grad + (b * queries + start) * k, left, k, QUERIES, K, REAL)
        dQ = tl.dot(G, tl.trans(W), input_precision="ieee", out_dtype=REAL)
        at = grad_query + (b * queries + start + place) * d + j[None, :]
        tl.store(at, dQ.to(grad_query.dtype.element_ty), mask=(place < left) & (j < d)[None, :])
        dW = tl.dot(tl.trans(q), G, dW, input_precision="ieee", out_dtype=REAL)
    # Without a group Lasso no feature is off, also where V_j happens to be 0.
    dW = tl.where((shrink > 0)[:, None], dW, tl.where(l1 == 0, dW, 0.0))
    store_rows(grad_weights + (b * d + first) * k, dW, d - first, k, BLOCK, K)


def query_logits(tasks: Tasks, dual: Tensor, query: Tensor, dtype: torch.dtype) -> Tensor:
    """Q W for the W at_dual to the dual point (B, n, k), W never in memory: (B, q, k), in ``dtype``.

    Args:
        query: Q, (B, q, d), any floating dtype and strides.
    """
    batch, n, d, k = tasks.shape
    queries = query.shape[1]
    tile = checked_tile(n, k, dtype)
    out = dual.new_empty((batch, queries, k), dtype=dtype)
    launch(
        logits_kernel,
        (batch, triton.cdiv(queries, QUERIES)),
        *_inputs(tasks, dual, query, dtype),
        out,
        n,
        queries,
        d,
        k,
        N=tile.N,
        K=tile.K,
        QUERIES=QUERIES,
        BLOCK=tile.BLOCK,
        REAL=REAL[dtype],
        num_warps=tile.warps,
    )
    return out


def query_logits_backward(
    tasks: Tasks, dual: Tensor, query: Tensor, grad: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """dloss/dQ (B, q, d), in Q's dtype, and dloss/dW (B, d, k), in ``dtype``, for ``grad`` = dloss/dlogits (B, q, k).

    dloss/dW, what the adjoint starts from, is left 0 at features that are off: the solution does not move with it.
    """
    batch, n, d, k = tasks.shape
    queries = query.shape[1]
    tile = checked_tile(n, k, dtype)
    block = min(tile.short_block, 32)
    grad_query = query.new_empty((batch, queries, d))
    grad_weights = dual.new_empty((batch, d, k), dtype=dtype)
    launch(
        logits_backward_kernel,
        (batch, triton.cdiv(d, block)),
        *_inputs(tasks, dual, query, dtype),
        grad.contiguous(),
        grad_query,
        grad_weights,
        n,
        queries,
        d,
        k,
        N=tile.N,
        K=max(tile.K, 16),  # a product sums over 16 at least
        QUERIES=QUERIES,
        BLOCK=block,
        REAL=REAL[dtype],
        num_warps=tile.warps,
    )
    return grad_query, grad_weights


def _inputs(tasks: Tasks, dual: Tensor, query: Tensor, dtype: torch.dtype) -> tuple[Tensor | int, ...]:
    return (
        *tasks.readable(dtype),
        *readable(query, dtype),
        tasks.scale,
        tasks.labels,
        tasks.weight,
        tasks.lambda1,
        tasks.lambda2,
        dual,
    )
