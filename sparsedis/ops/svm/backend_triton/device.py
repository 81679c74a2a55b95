"""Device functions that the kernels share: tiles of a task, primal map, simplex projection, gap.

A task's n samples and k classes occupy the corner of an N x K tile, both powers of two; other entries are zero. Sums
over samples and classes are computed within one program, so that results do not depend on the batch.
"""

import triton
import triton.language as tl


@triton.jit
def load_rows(base, n, k, N: tl.constexpr, K: tl.constexpr, REAL: tl.constexpr):
    """Load the row-major (n, k) matrix at ``base`` as an N x K tile."""
    i = tl.arange(0, N)[:, None]
    l = tl.arange(0, K)[None, :]
    return tl.load(base + i * k + l, mask=(i < n) & (l < k), other=0.0).to(REAL)


@triton.jit
def store_rows(base, rows, n, k, N: tl.constexpr, K: tl.constexpr):
    """Store an N x K tile as the row-major (n, k) matrix at ``base``, converted to its dtype."""
    i = tl.arange(0, N)[:, None]
    l = tl.arange(0, K)[None, :]
    tl.store(base + i * k + l, rows.to(base.dtype.element_ty), mask=(i < n) & (l < k))


@triton.jit
def load_features(
    base, stride_n, stride_d, first, n, d, scale, N: tl.constexpr, BLOCK: tl.constexpr, REAL: tl.constexpr
):
    """Features ``first`` to ``first + BLOCK`` - 1 of all samples, times ``scale``, as an N x BLOCK tile."""
    i = tl.arange(0, N)[:, None]
    j = first + tl.arange(0, BLOCK)[None, :]
    x = tl.load(base + i.to(tl.int64) * stride_n + j.to(tl.int64) * stride_d, mask=(i < n) & (j < d), other=0.0)
    return x.to(REAL) * scale


@triton.jit
def one_hot(labels, n, N: tl.constexpr, K: tl.constexpr):
    """N x K mask of the samples' labels; False outside the samples."""
    i = tl.arange(0, N)
    label = tl.load(labels + i, mask=i < n, other=-1)
    return label[:, None] == tl.arange(0, K)[None, :]


@triton.jit
def residual(dual, is_label, weight, REAL: tl.constexpr):
    """diag(s)(Y - L), with the label's entry as the sum of the others (see ``problem.residual``)."""
    others = tl.where(is_label, 0.0, dual)
    total = tl.sum(others, 1)[:, None]
    return (weight[:, None] * tl.where(is_label, total, -others)).to(REAL)


@triton.jit
def residual_at(point, labels, weight, b, n, k, N: tl.constexpr, K: tl.constexpr, REAL: tl.constexpr):
    """The residual of task b at a dual point in memory."""
    s = tl.load(weight + b * n + tl.arange(0, N), mask=tl.arange(0, N) < n, other=0.0)
    dual = load_rows(point + b * n * k, n, k, N, K, tl.float64)
    return residual(dual, one_hot(labels + b * n, n, N, K), s, REAL)


@triton.jit
def shrinkage(norm, lambda1, lambda2):
    """W_j / V_j by the primal map: (1 - lambda1/||V_j||)_+ / lambda2."""
    above = norm > lambda1
    return tl.where(above, 1.0 - lambda1 / tl.where(above, norm, 1.0), 0.0) / lambda2


@triton.jit
def primal_pass(
    X,
    stride_n,
    stride_d,
    scale,
    rows,
    lambda1,
    lambda2,
    values_out,
    norms_out,
    n,
    k,
    start,
    stop,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    REAL: tl.constexpr,
    STORE: tl.constexpr,
):
    """One pass over the features ``start`` to ``stop``: X W, sum ||W_j|| and sum ||W_j||^2 for W = W(V), V = X^T rows.

    V and W of a block of features stay in registers; with STORE, V and its norms are also written.
    """
    l = tl.arange(0, K)[None, :]
    scores = tl.zeros((N, K), REAL)
    sizes = tl.zeros((BLOCK,), REAL)
    squares = tl.zeros((BLOCK,), REAL)
    for first in range(start, stop, BLOCK):
        x = load_features(X, stride_n, stride_d, first, n, stop, scale, N, BLOCK, REAL)
        V = tl.dot(tl.trans(x), rows, input_precision="ieee", out_dtype=REAL)
        norm = tl.sqrt(tl.sum(V * V, 1))
        shrink = shrinkage(norm, lambda1, lambda2)
        W = V * shrink[:, None]
        scores = tl.dot(x, W, scores, input_precision="ieee", out_dtype=REAL)
        size = norm * shrink
        if STORE:
            j = first + tl.arange(0, BLOCK)
            at = values_out + j[:, None] * k + l
            tl.store(at, V.to(values_out.dtype.element_ty), mask=(j < stop)[:, None] & (l < k))
            tl.store(norms_out + j, norm, mask=j < stop)
        sizes += size
        squares += size * size
    return scores, tl.sum(sizes, 0), tl.sum(squares, 0)


@triton.jit
def project(points, k, K: tl.constexpr):
    """Projection of every row's first k entries onto the simplex, and its threshold tau.

    tau is the root of a convex, piecewise linear function. Newton's method starts at max - 1, never above the root, and
    only ever drops entries, so that it reaches the exact root after at most k iterations.
    """
    valid = (tl.arange(0, K) < k)[None, :]
    top = tl.max(tl.where(valid, points, float("-inf")), 1)
    shifted = tl.where(valid, points - top[:, None], -2.0)
    kept = shifted > -1.0
    count = tl.sum(kept.to(tl.int32), 1)
    tau = (tl.sum(tl.where(kept, shifted, 0.0), 1) - 1.0) / count
    dropped = 1
    while dropped > 0:
        kept = kept & (shifted > tau[:, None])
        now = tl.sum(kept.to(tl.int32), 1)
        dropped = tl.max(count - now, 0)
        count = now
        tau = (tl.sum(tl.where(kept, shifted, 0.0), 1) - 1.0) / count
    return tl.maximum(shifted - tau[:, None], 0.0), tau + top


@triton.jit
def gap_and_hinge(scores, dual, is_label, weight, rho, n, k, N: tl.constexpr, K: tl.constexpr):
    """Duality gap and the hinge part of P(W), with the same terms as ``problem.certificate``."""
    valid = (tl.arange(0, K) < k)[None, :]
    own = tl.sum(tl.where(is_label, scores, 0.0), 1)
    m = tl.where(is_label, 0.0, 1.0 + scores - own[:, None])
    top = tl.max(tl.where(valid, m, float("-inf")), 1)
    slack = tl.sum(tl.where(valid, dual * (top[:, None] - m), 0.0), 1)
    hinge = top
    if rho > 0:
        z = tl.where(is_label, 1.0, 0.0) + (m - top[:, None]) / rho
        a, tau = project(z, k, K)
        distance = tl.sum(tl.where(valid, (a - dual) * (a - dual), 0.0), 1)
        above = tl.sum(tl.where(valid, dual * tl.maximum(tau[:, None] - z, 0.0), 0.0), 1)
        slack = rho * (above + 0.5 * distance)
        moved = a - tl.where(is_label, 1.0, 0.0)
        hinge = tl.sum(tl.where(valid, a * m, 0.0), 1) - 0.5 * rho * tl.sum(tl.where(valid, moved * moved, 0.0), 1)
    present = (tl.arange(0, N) < n) & (weight > 0)
    gap = tl.sum(tl.where(present, weight * slack, 0.0), 0)
    return gap, tl.sum(tl.where(present, weight * hinge, 0.0), 0)


@triton.jit
def gradient(scores, point, is_label, weight, rho):
    """Gradient of the dual objective: s_i (Y_i - x_i W + rho (L_i - Y_i))."""
    Y = tl.where(is_label, 1.0, 0.0)
    return weight[:, None] * (Y - scores + rho * (point - Y))


@triton.jit
def update_best(relative_gap, best_gap, since, target, PATIENCE: tl.constexpr):
    """Whether a checked point is the best, the best gap, checks since the best, and whether the task continues."""
    better = relative_gap < best_gap
    since = tl.where(better, 0, since + 1)
    best = tl.minimum(tl.where(better, relative_gap, best_gap), best_gap)
    finite = relative_gap < float("inf")  # false for NaN
    continues = (best > target) & (since < PATIENCE) & finite
    return better, best, since, continues
