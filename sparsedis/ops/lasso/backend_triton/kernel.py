"""The Triton kernel of the Lasso, one program per task: sweeps or an active-set method, and direct solves.

It implements :mod:`sparsedis.ops.lasso.backend_torch.descent` in float64 from the Gram matrix. Importing this module
imports Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsedis.ops.common.precision import ROUNDING
from sparsedis.ops.common.primal import PATIENCE
from sparsedis.ops.common.triton_launch import launch
from sparsedis.ops.lasso.backend_torch.descent import ACTIVE_PER_ENTRY, SOLVES, SWEEP_ITERATIONS, SWEEPS

# Compiled sizes (features): number of warps. No register spills up to 32 features; at 64, 232 to 288 bytes per thread
# on NVIDIA GPUs (8 warps: 344, 4 warps: 1672; with the matrix reloaded where needed: 408).
SIZES = {16: 2, 32: 8, 64: 16}


def descend(
    H: Tensor, b: Tensor, lambda1: Tensor, half: Tensor, present: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, Tensor]:
    """Solve B Lassos from their Gram matrices; returns weights (B, d) and iterations (B,).

    Args:
        H: (B, d, d), float64, contiguous like all arguments.
        b: X^T diag(weight) y, (B, d).
        lambda1: (B,). Tasks with lambda1 = 0 are not solved; their weights are zero.
        half: P(0), (B,).
        present: number of samples with positive weight, (B,), int64.
        tol: relative gap to reach. The gap is computed from H and limited by its rounding error.
        max_iter: largest number of iterations.
    """
    batch, d = b.shape
    size = next(size for size in SIZES if d <= size)
    w = torch.empty_like(b)
    n_iter = torch.empty(batch, dtype=torch.int64, device=b.device)
    shift = 16 * d * torch.finfo(torch.float64).eps
    # Passed in a tensor, since Triton passes Python floats as float32.
    options = torch.tensor([tol, min(tol, ROUNDING), shift], dtype=torch.float64, device=b.device)
    constants = {
        "SIZE": size,
        "SWEEP_ITERATIONS": SWEEP_ITERATIONS,
        "SWEEPS": SWEEPS,
        "SOLVES": SOLVES,
        "ACTIVE_PER_ENTRY": ACTIVE_PER_ENTRY,
        "PATIENCE": PATIENCE,
    }
    inputs = (H, b, lambda1, half, present, options)
    launch(descend_kernel, (batch,), *inputs, w, n_iter, d, max_iter, num_warps=SIZES[size], **constants)
    return w, n_iter


@triton.jit
def _sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(tl.float64)


@triton.jit
def _certify(H, b, w, lambda1, half):
    """The relative gap of w, the first of problem.certificate's, and the objective, from the Gram matrix."""
    Hw = tl.sum(H * w[None, :], 1)
    v = b - Hw
    largest = tl.max(tl.abs(v), 0)
    a = tl.where(largest > lambda1, lambda1 / tl.where(largest > 0, largest, 1.0), 1.0)
    misfit = 2 * half + tl.sum(w * (Hw - 2 * b), 0)
    misfit = tl.where(misfit > 0, misfit, 0.0)
    terms = lambda1 * tl.abs(w) - a * v * w
    gap = (1 - a) * (1 - a) / 2 * misfit + tl.sum(tl.where(terms > 0, terms, 0.0), 0)
    return gap / tl.where(half > 0, half, 1.0), misfit / 2 + lambda1 * tl.sum(tl.abs(w), 0)


@triton.jit
def _minimise_over(H_ptr, j, i, inside, diagonal, lambda1, w, g, d):
    """Minimise over feature j. Returns w, g, and w_j before and after. For j >= d nothing changes."""
    # Load the row from memory: extracting it from registers would require a reduction over all of H.
    row = tl.load(H_ptr + j * d + i, mask=inside & (i + j < i + d), other=0.0)
    is_j = i == j
    old = tl.sum(tl.where(is_j, w, 0.0), 0)
    curvature = tl.sum(tl.where(is_j, diagonal, 0.0), 0)
    z = tl.sum(tl.where(is_j, g, 0.0), 0) + curvature * old
    size = tl.abs(z) - lambda1
    new = tl.where((size > 0) & (curvature > 0), size / tl.where(curvature > 0, curvature, 1.0), 0.0)
    new = tl.where(z > 0, new, -new)
    return tl.where(is_j, new, w), g - row * (new - old), old, new


@triton.jit
def _solve_on_support(H, active, diagonal, right, shift, d, SIZE: tl.constexpr):
    """(H_A + shift)^-1 right on the active features, 0 elsewhere, by Gauss-Jordan elimination without pivoting."""
    i = tl.arange(0, SIZE)
    scale = tl.where(active & (diagonal > 0), 1 / tl.sqrt(tl.where(diagonal > 0, diagonal, 1.0)), 1.0)
    both = active[:, None] & active[None, :]
    eye = i[:, None] == i[None, :]
    M = tl.where(eye, 1 + shift, tl.where(both, scale[:, None] * H * scale[None, :], 0.0))
    x = tl.where(active, scale * right, 0.0)
    for k in range(0, d):
        row = tl.sum(tl.where(i[:, None] == k, M, 0.0), 0)
        column = tl.sum(tl.where(i[None, :] == k, M, 0.0), 1)
        pivot = tl.sum(tl.where(i == k, row, 0.0), 0)
        factor = tl.where(i == k, 0.0, column / pivot)
        x -= factor * tl.sum(tl.where(i == k, x, 0.0), 0)
        M -= factor[:, None] * row[None, :]
    return tl.where(active, scale * x / tl.sum(tl.where(eye, M, 0.0), 1), 0.0)


@triton.jit
def descend_kernel(
    H_ptr,
    b_ptr,
    lambda1_ptr,
    half_ptr,
    present_ptr,
    options_ptr,
    w_ptr,
    n_iter_ptr,
    d,
    max_iter,
    SIZE: tl.constexpr,
    SWEEP_ITERATIONS: tl.constexpr,
    SWEEPS: tl.constexpr,
    SOLVES: tl.constexpr,
    ACTIVE_PER_ENTRY: tl.constexpr,
    PATIENCE: tl.constexpr,
):
    task = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, SIZE)
    inside = i < d
    H_ptr += task * d * d
    H = tl.load(H_ptr + i[:, None] * d + i[None, :], mask=inside[:, None] & inside[None, :], other=0.0)
    b = tl.load(b_ptr + task * d + i, mask=inside, other=0.0)
    lambda1, half = tl.load(lambda1_ptr + task), tl.load(half_ptr + task)
    present = tl.load(present_ptr + task).to(tl.int32)
    tol, goal, shift = tl.load(options_ptr), tl.load(options_ptr + 1), tl.load(options_ptr + 2)
    diagonal = tl.sum(tl.where(i[:, None] == i[None, :], H, 0.0), 1)

    w = tl.zeros((SIZE,), tl.float64)
    best = w
    best_gap, lowest = _certify(H, b, w, lambda1, half)
    since = 0
    iteration = 0
    going = (best_gap > goal) & (lambda1 > 0)
    while going:
        signs = _sign(w)
        sweeping = iteration < SWEEP_ITERATIONS
        size = tl.sum((w != 0).to(tl.int32), 0)
        underdetermined = size > tl.where(iteration == SWEEP_ITERATIONS, present, SIZE)
        w = tl.where(underdetermined, 0.0, w)
        size = tl.where(underdetermined, 0, size)
        lowest = tl.where(underdetermined, half, lowest)
        g = b - tl.sum(H * w[None, :], 1)
        sweep = 0
        changed = tl.where(sweeping, 1, 0)
        while (sweep < SWEEPS) & (changed > 0):
            changed = 0
            for j in range(0, d):
                w, g, old, new = _minimise_over(H_ptr, j, i, inside, diagonal, lambda1, w, g, d)
                changed += tl.where(((new > 0) != (old > 0)) | ((new < 0) != (old < 0)), 1, 0)
            sweep += 1
        n_entering = 1 + size // ACTIVE_PER_ENTRY
        n_entering = tl.where(n_entering < present - size, n_entering, present - size)
        n_entering = tl.where(sweeping, 0, tl.where(n_entering > 1, n_entering, 1))
        while n_entering > 0:
            excess = tl.abs(g) - lambda1
            candidate = (w == 0) & (diagonal > 0) & (excess > 0)
            gain = tl.where(candidate, excess * excess / tl.where(diagonal > 0, diagonal, 1.0), 0.0)
            most = tl.max(gain, 0)
            chosen = tl.min(tl.where((gain == most) & (gain > 0), i, SIZE), 0)
            w, g, old, new = _minimise_over(H_ptr, chosen, i, inside, diagonal, lambda1, w, g, d)
            n_entering = tl.where(most > 0, n_entering - 1, 0)
        n_solves = 0
        most_solves = tl.where(sweeping, SOLVES, d + 1)  # every solve but the last drops a feature
        ended = 1
        while (n_solves < most_solves) & (ended > 0):
            g = b - tl.sum(H * w[None, :], 1)
            sign = _sign(w)
            active = w != 0
            step = _solve_on_support(H, active, diagonal, g - lambda1 * sign, shift, d, SIZE)
            beyond = w + step
            crossed = active & (beyond * sign <= 0)
            ended = tl.sum(crossed.to(tl.int32), 0)
            # Set all entries that change sign to zero if that lowers the objective, otherwise only the first one.
            dropped = tl.where(crossed, 0.0, beyond)
            ratio = tl.where(crossed, w / tl.where(crossed, w - beyond, 1.0), 2.0)
            length = tl.min(ratio, 0)
            length = tl.where(length < 1, length, 1.0)
            first = tl.where(crossed & (ratio <= length), 0.0, w + length * step)
            move = dropped - w
            change = tl.sum(move * (tl.sum(H * move[None, :], 1) / 2 - g), 0)
            change += lambda1 * tl.sum(tl.abs(dropped) - tl.abs(w), 0)
            w = tl.where((ended > 0) & (change >= 0), first, dropped)
            n_solves += 1
        iteration += 1
        gap, objective = _certify(H, b, w, lambda1, half)
        better = gap < best_gap
        progress = better | (objective < lowest)
        lowest = tl.where(objective < lowest, objective, lowest)
        best = tl.where(better, w, best)
        best_gap = tl.where(better, gap, best_gap)
        since = tl.where(progress, 0, since + 1)
        signs_changed = tl.max(tl.where(_sign(w) != signs, 1, 0), 0) > 0
        unsettled = (best_gap > tol) | better | signs_changed
        going = (best_gap > goal) & unsettled & (since < PATIENCE) & (iteration < max_iter)
    tl.store(w_ptr + task * d + i, best, mask=inside)
    tl.store(n_iter_ptr + task, tl.full((), 0, tl.int64) + iteration)
