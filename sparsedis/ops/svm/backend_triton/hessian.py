"""Newton systems: weighted Gram matrices of the features with curvature, assembled in reduced coordinates."""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsedis.ops.common import triton_device
from sparsedis.ops.common.triton_launch import REAL, launch, splits
from sparsedis.ops.svm.backend_torch.hessian import Coordinates, Curvature, DenseSystem
from sparsedis.ops.svm.backend_triton.tasks import Tasks


def precisions() -> tuple[str, ...]:
    """Input precisions of tl.dot for float32, the default first.

    They are one TF32 product (sufficient for the interior point), three TF32 products, and IEEE float32.
    """
    return ("ieee",) if triton_device.AMD else ("tf32", "tf32x3", "ieee")


PRECISION = os.environ.get("SPARSEDIS_TRITON_PRECISION", precisions()[0])
if PRECISION not in precisions():
    raise ValueError(f"SPARSEDIS_TRITON_PRECISION: expected one of {', '.join(precisions())}, got {PRECISION!r}")

# Features per iteration; larger tiles take twice as many.
BLOCK = 32


@triton.jit
def lower_row(entry):
    """Row of an entry of a lower triangle stored row by row, for at most 2^20 entries."""
    row = ((tl.sqrt(8.0 * entry.to(tl.float32) + 1.0) - 1.0) / 2.0).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > entry, row - 1, row)
    return tl.where((row + 1) * (row + 2) // 2 <= entry, row + 1, row)


@triton.jit
def load_gathered(X, stride_n, stride_d, samples, features, n, inside, REAL: tl.constexpr):
    """X at the given samples and features, as a samples x features tile."""
    mask = (samples < n)[:, None] & inside[None, :]
    rows = X + samples[:, None].to(tl.int64) * stride_n
    return tl.load(rows + features[None, :].to(tl.int64) * stride_d, mask=mask, other=0.0).to(REAL)


@triton.jit
def gram_kernel(
    X,
    stride_b,
    stride_n,
    stride_d,
    scale,
    going,
    index,
    count,
    alpha,
    beta,
    unit,
    out,
    n,
    d,
    k,
    pairs,
    parts,
    T: tl.constexpr,
    BLOCK: tl.constexpr,
    REAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One T x T tile of G_lr = sum_j (alpha_j [l = r] + beta_j u_jl u_jr) x_j x_j^T, for one pair of classes l <= r.

    j runs over the program's share of the ``count`` features in ``index``. Only tiles on and below the diagonal are
    computed.
    """
    b = tl.program_id(0).to(tl.int64)
    if tl.load(going + b) != 1:
        return
    pair = tl.program_id(1) % pairs
    part = tl.program_id(1) // pairs
    tile_row = lower_row(tl.program_id(2))
    row = tile_row * T + tl.arange(0, T)
    column = (tl.program_id(2) - tile_row * (tile_row + 1) // 2) * T + tl.arange(0, T)
    # The pairs l <= r, row by row, are those of a lower triangle in reverse order.
    last = k * (k + 1) // 2 - 1 - pair
    row_from_end = lower_row(last)
    l = k - 1 - row_from_end
    r = k - 1 - (last - row_from_end * (row_from_end + 1) // 2)
    factor = tl.load(scale + b).to(REAL)
    n_used = tl.load(count + b)
    each = tl.cdiv(n_used, parts * BLOCK) * BLOCK
    stop = tl.minimum((part + 1) * each, n_used)
    total = tl.zeros((T, T), REAL)
    for first in range(part * each, stop, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < stop
        j = tl.load(index + b * d + at, mask=inside, other=0)
        base = (b * d + j) * k
        across = tl.load(unit + base + l, mask=inside, other=0.0) * tl.load(unit + base + r, mask=inside, other=0.0)
        c = tl.load(beta + b * d + j, mask=inside, other=0.0) * across
        # alpha counts only for l = r; Triton 3.9's interpreter does not accept the mask `inside & (l == r)`.
        c += tl.load(alpha + b * d + j, mask=tl.where(inside, l, -1) == r, other=0.0)
        left = load_gathered(X + b * stride_b, stride_n, stride_d, row, j, n, inside, REAL) * factor
        right = load_gathered(X + b * stride_b, stride_n, stride_d, column, j, n, inside, REAL) * factor
        left *= c.to(REAL)[None, :]
        total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION, out_dtype=REAL)
    base_out = ((b * parts + part) * pairs + pair) * n * n
    mask = (row < n)[:, None] & (column < n)[None, :]
    tl.store(out + base_out + row[:, None] * n + column[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def gram_entries(grams, parts, pairs, l, r, at, n, k, mask):
    """G_lr at the positions ``at`` of the n x n matrices, summed over the parts."""
    low = tl.minimum(l, r)
    high = tl.maximum(l, r)
    pair = low * k - (low * (low - 1)) // 2 + (high - low)
    value = tl.load(grams + pair.to(tl.int64) * n * n + at, mask=mask, other=0.0).to(tl.float64)
    for part in range(1, parts):
        value += tl.load(grams + (part * pairs + pair).to(tl.int64) * n * n + at, mask=mask, other=0.0).to(tl.float64)
    return value


@triton.jit
def assemble_kernel(
    grams,
    weight,
    bounds,
    pivot,
    going,
    out,
    n,
    k,
    pairs,
    parts,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The rows of one sample i of M in reduced coordinates, for a block of columns.

    Entry ((i, a), (m, c)) is s_i s_m <e_l - e_p, G(i, m) (e_r - e_q)>, plus the bounds if i = m, where l and r are the
    classes of coordinates a and c, and p and q are the samples' pivots.
    """
    b = tl.program_id(0).to(tl.int64)
    if tl.load(going + b) != 1:
        return
    i = tl.program_id(1)
    order = n * (k - 1)
    a = tl.arange(0, K)[:, None]
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    m = column // (k - 1)
    c = column % (k - 1)
    inside = column < order
    p = tl.load(pivot + b * n + i)
    q = tl.load(pivot + b * n + m, mask=inside, other=0)[None, :]
    l = tl.where(a >= p, a + 1, a)
    r = tl.where(c[None, :] >= q, c[None, :] + 1, c[None, :])
    at = tl.maximum(i, m) * n + tl.minimum(i, m)
    mask = (a < k - 1) & inside[None, :]
    base = grams + b * parts * pairs * n * n
    at = at[None, :]
    value = gram_entries(base, parts, pairs, l, r, at, n, k, mask)
    value -= gram_entries(base, parts, pairs, p + 0 * l, r, at, n, k, mask)
    value -= gram_entries(base, parts, pairs, l, q + 0 * r, at, n, k, mask)
    value += gram_entries(base, parts, pairs, p + 0 * l, q + 0 * r, at, n, k, mask)
    s = tl.load(weight + b * n + i)
    value *= s * tl.load(weight + b * n + m, mask=inside, other=0.0)[None, :]
    bound = bounds + (b * n + i) * k
    own = (m == i)[None, :]
    value += tl.where(own, tl.load(bound + p), 0.0)
    value += tl.where(own & (a == c[None, :]), tl.load(bound + l, mask=l < k, other=0.0), 0.0)
    row = i * (k - 1) + a
    tl.store(out + b * order * order + row.to(tl.int64) * order + column[None, :], value, mask=mask)


def _tile(n: int, dtype: torch.dtype) -> int:
    """Rows and columns of a tile; larger ones in float32 spill registers on sm_80."""
    return 32 if n <= 32 or (dtype == torch.float32 and not triton_device.AMD) else 64


def _grams(
    tasks: Tasks, going: Tensor, index: Tensor, count: Tensor, curvature: Curvature, pairs: int, dtype: torch.dtype
) -> Tensor:
    """G for the first ``pairs`` pairs of classes, in parts: (B, parts, pairs, n, n), on and below the diagonal."""
    batch, n, d, _ = tasks.shape
    device = tasks.features.device
    k = curvature.unit.shape[2]
    T = _tile(n, dtype)
    strips = -(-n // T)
    tiles = strips * (strips + 1) // 2
    parts = splits(batch * pairs * tiles, d, BLOCK, device)
    out = tasks.lambda1.new_empty((batch, parts, pairs, n, n), dtype=dtype)
    launch(
        gram_kernel,
        (batch, pairs * parts, tiles),
        *tasks.readable(dtype),
        tasks.scale,
        going,
        index,
        count,
        curvature.alpha,
        curvature.beta,
        curvature.unit,
        out,
        n,
        d,
        k,
        pairs,
        parts,
        T=T,
        BLOCK=BLOCK if T == 32 else 2 * BLOCK,
        REAL=REAL[dtype],
        PRECISION=PRECISION if dtype == torch.float32 else "ieee",
        num_warps=4 if T == 32 else 8,
    )
    return out


def gram(tasks: Tasks, dtype: torch.dtype) -> Tensor:
    """X X^T of every task, (B, n, n) float64, computed in ``dtype``."""
    batch, _, d, _ = tasks.shape
    new = tasks.lambda1.new_ones
    going = new(batch, dtype=torch.int32)
    index = torch.arange(d, dtype=torch.int32, device=going.device).expand(batch, d).contiguous()
    unit_weights = Curvature(new((batch, d)), new((batch, d)), new((batch, d, 1)).zero_())
    G = _grams(tasks, going, index, d * going, unit_weights, 1, dtype)[:, :, 0].double().sum(1)
    return G.tril() + G.tril(-1).mT


def features_with_curvature(curvature: Curvature) -> tuple[Tensor, Tensor]:
    """Indices of the features with curvature, ascending and first in (B, d) int32, and their number (B,) int32."""
    has_curvature = (curvature.alpha > 0) | (curvature.beta > 0)
    batch, d = has_curvature.shape
    position = torch.where(has_curvature, has_curvature.cumsum(1) - 1, d)
    numbers = torch.arange(d, dtype=torch.int32, device=has_curvature.device).expand(batch, d)
    index = torch.zeros((batch, d + 1), dtype=torch.int32, device=has_curvature.device).scatter_(1, position, numbers)
    return index[:, :d].contiguous(), has_curvature.sum(1).to(torch.int32)


def newton_matrix(
    tasks: Tasks, curvature: Curvature, bounds: Tensor, pivot: Tensor, going: Tensor, dtype: torch.dtype
) -> Tensor:
    """M in the coordinates of all classes except each sample's pivot, (B, n (k-1), n (k-1)) float64.

    Args:
        curvature: alpha, beta and u of the features.
        bounds: diagonal (B, n, k), float64.
        pivot: (B, n), the classes that are left out.
        going: (B,) int32; the matrices of tasks whose entry is not 1 are not written.
        dtype: of the products over the features.
    """
    batch, n, _, k = tasks.shape
    index, count = features_with_curvature(curvature)
    pairs = k * (k + 1) // 2
    grams = _grams(tasks, going, index, count, curvature, pairs, dtype)
    order = n * (k - 1)
    matrix = bounds.new_empty((batch, order, order))
    K = triton.next_power_of_2(max(k - 1, 1))
    columns = max(1024 // K, 16)
    launch(
        assemble_kernel,
        (batch, n, triton.cdiv(order, columns)),
        grams,
        tasks.weight,
        bounds,
        pivot.to(torch.int32),
        going,
        matrix,
        n,
        k,
        pairs,
        grams.shape[1],
        K=K,
        COLUMNS=columns,
    )
    return matrix


class KernelSystem(DenseSystem):
    """The torch backend's factored system, with a matrix computed by kernels and never read by the host.

    A matrix that is not positive definite up to rounding raises no error: ``failed`` marks it, and the caller tries
    again with a larger ridge.

    Args:
        going: (B,) int32; tasks whose entry is not 1 are skipped.
        ridge: (B,), relative to the diagonal.
    """

    def __init__(
        self,
        tasks: Tasks,
        curvature: Curvature,
        bounds: Tensor,
        dual: Tensor,
        going: Tensor,
        ridge: Tensor,
        dtype: torch.dtype,
    ) -> None:
        self._at = Coordinates(dual)
        matrix = newton_matrix(tasks, curvature, bounds, self._at.pivot[..., 0], going, dtype)
        diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
        diagonal.copy_(torch.where(diagonal > 0, diagonal, 1.0) * (1 + ridge)[:, None])
        self._factor, info = torch.linalg.cholesky_ex(matrix)
        self.failed = info > 0
