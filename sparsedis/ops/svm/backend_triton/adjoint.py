"""Gradients of the solution: two fused passes over the features and the solution of one Newton system."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsedis.ops.common.triton_launch import launch, span, splits
from sparsedis.ops.svm.backend_torch.adjoint import TOLERANCE
from sparsedis.ops.svm.backend_torch.finish import bound_multipliers, free_entries
from sparsedis.ops.svm.backend_torch.hessian import Coordinates, Curvature, FreeSystem, active_curvature
from sparsedis.ops.svm.backend_triton.certify import check
from sparsedis.ops.svm.backend_triton.device import (
    load_features,
    load_rows,
    one_hot,
    residual,
    shrinkage,
    store_rows,
)
from sparsedis.ops.svm.backend_triton.hessian import newton_matrix
from sparsedis.ops.svm.backend_triton.tasks import Tasks
from sparsedis.ops.svm.backend_triton.tiles import checked_tile
from sparsedis.ops.svm.problem import Certificate


@triton.jit
def primal_map_derivative(V, norm, c, lambda1, lambda2):
    """J_j(c) = [(1 - t_j) c_j + t_j u_j <u_j, c_j>] / lambda2 and <u_j, c_j> on the active features, 0 elsewhere."""
    active = norm > lambda1
    safe = tl.where(active, norm, 1.0)
    t = lambda1 / safe
    along = tl.where(active, tl.sum(V * c, 1) / safe, 0.0)
    J = (1.0 - t)[:, None] * c + (t * along / safe)[:, None] * V
    return tl.where(active[:, None], J / lambda2, 0.0), along


@triton.jit
def right_side_kernel(
    X,
    stride_b,
    stride_n,
    stride_d,
    scale,
    lambda1,
    lambda2,
    V_at,
    norms,
    grad,
    out,
    n,
    d,
    k,
    features_per_program,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program's part of X J(dloss/dW), for one task."""
    b = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    l1 = tl.load(lambda1 + b)
    l2 = tl.load(lambda2 + b)
    factor = tl.load(scale + b)
    start = part * features_per_program
    stop = tl.minimum(start + features_per_program, d)
    total = tl.zeros((N, K), tl.float64)
    for first in range(start, stop, BLOCK):
        j = first + tl.arange(0, BLOCK)
        at = (b * d + first) * k
        V = load_rows(V_at + at, stop - first, k, BLOCK, K, tl.float64)
        norm = tl.load(norms + b * d + j, mask=j < stop, other=0.0)
        # dloss/dW for the scaled problem, whose W is the returned W divided by scale.
        g = load_rows(grad + at, stop - first, k, BLOCK, K, tl.float64) * factor
        J, _along = primal_map_derivative(V, norm, g, l1, l2)
        x = load_features(X + b * stride_b, stride_n, stride_d, first, n, stop, factor, N, BLOCK, tl.float64)
        total = tl.dot(x, J, total, input_precision="ieee", out_dtype=tl.float64)
    store_rows(out + (b * tl.num_programs(1) + part) * n * k, total, n, k, N, K)


@triton.jit
def gradient_kernel(
    X,
    stride_b,
    stride_n,
    stride_d,
    scale,
    labels,
    weight,
    lambda1,
    lambda2,
    dual,
    q_at,
    V_at,
    norms,
    grad,
    grad_features,
    scalars,
    n,
    d,
    k,
    features_per_program,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program's columns of dloss/dX = A J(c~)^T + diag(s) q W^T with c~ = dloss/dW + X^T diag(s) q, for one task.

    It also writes its parts of sum_S <c~_j, u_j> and <c~, W>.
    """
    b = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    i = tl.arange(0, N)
    s = tl.load(weight + b * n + i, mask=i < n, other=0.0)
    A = residual(load_rows(dual + b * n * k, n, k, N, K, tl.float64), one_hot(labels + b * n, n, N, K), s, tl.float64)
    q = load_rows(q_at + b * n * k, n, k, N, K, tl.float64) * s[:, None]
    l1 = tl.load(lambda1 + b)
    l2 = tl.load(lambda2 + b)
    factor = tl.load(scale + b)
    start = part * features_per_program
    stop = tl.minimum(start + features_per_program, d)
    along_sum = tl.zeros((BLOCK,), tl.float64)
    product_sum = tl.zeros((BLOCK,), tl.float64)
    for first in range(start, stop, BLOCK):
        j = first + tl.arange(0, BLOCK)
        at = (b * d + first) * k
        V = load_rows(V_at + at, stop - first, k, BLOCK, K, tl.float64)
        norm = tl.load(norms + b * d + j, mask=j < stop, other=0.0)
        x = load_features(X + b * stride_b, stride_n, stride_d, first, n, stop, factor, N, BLOCK, tl.float64)
        c = load_rows(grad + at, stop - first, k, BLOCK, K, tl.float64) * factor
        c = tl.dot(tl.trans(x), q, c, input_precision="ieee", out_dtype=tl.float64)
        J, along = primal_map_derivative(V, norm, c, l1, l2)
        W = V * shrinkage(norm, l1, l2)[:, None]
        along_sum += along
        product_sum += tl.sum(c * W, 1)
        # The gradient in the scaled features, hence the factor.
        dX = tl.dot(A, tl.trans(J), input_precision="ieee", out_dtype=tl.float64)
        dX = tl.dot(q, tl.trans(W), dX, input_precision="ieee", out_dtype=tl.float64) * factor
        place = grad_features + b * n * d + i[:, None] * d + j[None, :]
        tl.store(place, dX.to(grad_features.dtype.element_ty), mask=(i < n)[:, None] & (j < stop)[None, :])
    slot = (b * tl.num_programs(1) + part) * 2
    tl.store(scalars + slot, tl.sum(along_sum, 0))
    tl.store(scalars + slot + 1, tl.sum(product_sum, 0))


def _system(tasks: Tasks, curvature: Curvature, at: Certificate, dual: Tensor, all_tasks: Tensor) -> FreeSystem:
    """H on the free entries, as in the torch backend. Kernels compute the matrix of all entries in float64."""
    problem, k = tasks.in_float64(), dual.shape[2]
    free = free_entries(problem, dual, bound_multipliers(problem, dual, at.scores), curvature)
    chosen = Coordinates(dual, free)
    smoothing = (tasks.weight * tasks.rho[:, None, None]).expand_as(dual).contiguous()
    matrix = newton_matrix(tasks, curvature, smoothing, chosen.pivot[..., 0], all_tasks, torch.float64)
    row = chosen.sample * (k - 1) + chosen.class_index - (chosen.class_index > chosen.pivots).to(torch.int64)
    row = torch.where(chosen.valid, row, 0)
    matrix = matrix.gather(1, row[..., None].expand(-1, -1, matrix.shape[2]))
    matrix = matrix.gather(2, row[:, None].expand(-1, row.shape[1], -1))
    return FreeSystem(torch.where(chosen.valid[:, :, None] & chosen.valid[:, None], matrix, 0), chosen)


def adjoint(tasks: Tasks, dual: Tensor, grad_weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a loss at the solution ``dual`` (B, n, k), float64, by the torch backend's formulas.

    Args:
        tasks: B tasks.
        dual: L, (B, n, k), float64.
        grad_weights: dloss/dW for W of the original features, (B, d, k).

    Returns:
        Gradients in the original features (B, n, d), in their dtype, and in lambda1, lambda2 and dual_reg, (B,), of the
        tasks with a largest sample weight of 1.
    """
    batch, n, d, k = tasks.shape
    all_tasks = torch.ones_like(tasks.labels[:, 0])
    at = check(tasks, dual, all_tasks, torch.float64, store=True)
    curvature = active_curvature(tasks, at)  # type: ignore[arg-type]
    system = _system(tasks, curvature, at, dual, all_tasks)  # type: ignore[arg-type]

    # Without a group Lasso, a feature with V_j = 0 is active like the others.
    zero_but_active = (at.norms == 0) & (tasks.lambda1 == 0)[:, None]
    norms = torch.where(zero_but_active, torch.finfo(torch.float64).tiny, at.norms)

    tile = checked_tile(n, k, torch.float64)
    # Products with J^T and W^T sum over the classes, and tl.dot sums over at least 16 entries.
    shape = {"N": tile.N, "K": max(tile.K, 16), "BLOCK": min(tile.short_block, 32)}
    parts = splits(batch, d, shape["BLOCK"], tasks.features.device)
    per_program = span(d, parts, shape["BLOCK"])
    features = (*tasks.readable(torch.float64), tasks.scale)
    grad_weights = grad_weights.contiguous()
    rows = dual.new_empty((batch, parts, n, k))
    launch(
        right_side_kernel,
        (batch, parts),
        *features,
        tasks.lambda1,
        tasks.lambda2,
        at.V,
        norms,
        grad_weights,
        rows,
        n,
        d,
        k,
        per_program,
        num_warps=tile.warps,
        **shape,
    )
    present = (tasks.weight > 0).to(dual.dtype)
    q = (present * system.solve(-tasks.weight * rows.sum(1), TOLERANCE)).contiguous()
    grad_features = tasks.features.new_empty((batch, n, d))
    scalars = dual.new_empty((batch, parts, 2))
    launch(
        gradient_kernel,
        (batch, parts),
        *features,
        tasks.labels,
        tasks.weight,
        tasks.lambda1,
        tasks.lambda2,
        dual,
        q,
        at.V,
        norms,
        grad_weights,
        grad_features,
        scalars,
        n,
        d,
        k,
        per_program,
        num_warps=tile.warps,
        **shape,
    )
    along, product = scalars.sum(1).unbind(-1)
    smoothing = (tasks.weight * q * (dual - tasks.targets)).sum((1, 2))
    scale, lambda2 = tasks.scale, tasks.lambda2
    grad_lambda1 = -along / lambda2 * scale
    grad_lambda2 = (tasks.rho * smoothing - product) / lambda2 * scale**2
    return grad_features, grad_lambda1, grad_lambda2, -smoothing / lambda2 * scale**2
