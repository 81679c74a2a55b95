"""Linear systems with the Hessian of P restricted to some rows of W.

They are solved by a factor of order a k, by one of order n k if n is smaller, or by conjugate gradients if both are
large. With x_i (a,) the features of these rows, the Hessian is D + sum_i (x_i x_i^T) (x) S_i. The loss contributes
S_i = c_i (diag(p_i) - p_i p_i^T), the penalties D_j = lambda1/||W_j|| (1 - u u^T) + lambda2 with u = W_j/||W_j||.
Adding a constant to a row of W changes no probability, and the rows of all gradients sum to zero. The Hessian's value
along these constant rows is therefore arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis.ops.common import support
from sparsedis.ops.common.batches import apply_in_slices
from sparsedis.ops.logistic.backend_torch.rows import Rows
from sparsedis.ops.logistic.problem import row_norms

_TINY = torch.finfo(torch.float64).tiny
# Largest condition number of a system in the samples, and the number of refinements that recover the lost accuracy.
_CONDITION, _REFINEMENTS = 1e8, 2
# Conjugate gradients are tried from this order of the factor on, with this many products, to this relative residual.
_LARGE, _PRODUCTS, _RESIDUAL = 800, 100, 1e-9
# Budget of scratch memory for the tasks that are solved together, in bytes.
_MEMORY = 1 << 30


class Curvature(NamedTuple):
    """D_j = across (1 - u u^T) + along u u^T: u (B, a, k) of norm 1 or 0, across and along (B, a)."""

    unit: Tensor
    across: Tensor
    along: Tensor


def damped_step(rows: Rows, p: Tensor, right: Tensor) -> Tensor:
    """H^-1 right at probabilities p (B, n, k). Factors are shifted by rounding error, since H may be singular.

    If the factor would be large, conjugate gradients are tried first, to a relative residual of ``_RESIDUAL``.

    Args:
        rows: the active rows.
        p: (B, n, k).
        right: (B, a, k), each row summing to zero; 0 in padded rows.

    Returns:
        (B, a, k), with rows summing to zero; 0 in padded rows.
    """
    D, in_samples = _curvature(rows), _fewer_samples(rows)
    if _order(rows, p, in_samples) < _LARGE:
        return _solve(rows, D, p, right, support.damped_step, in_samples)
    a, k = right.shape[1:]
    tensors = (rows.X * rows.present[:, None], rows.weight, p, right * rows.present[..., None], *D)
    task_bytes = 8 * (5 * a * k**2 + 2 * p.shape[1] * k**2 + 3 * p.shape[1] * a)
    step, unconverged = apply_in_slices(_by_conjugate_gradients, tensors, task_bytes, _MEMORY)
    if bool(unconverged.any()):
        D, rest = Curvature(*(value[unconverged] for value in D)), rows.tasks(unconverged)
        step[unconverged] = _solve(rest, D, p[unconverged], right[unconverged], support.damped_step, in_samples)
    return step


def least_step(rows: Rows, p: Tensor, right: Tensor) -> Tensor:
    """H^+ right, of least norm if H is singular; otherwise as :func:`damped_step`."""
    return _solve(rows, _curvature(rows), p, right, support.least_step, _fewer_samples(rows))


def interior_step(rows: Rows, D: Curvature, p: Tensor, right: Tensor) -> Tensor:
    """As :func:`damped_step`, with the barrier's D > 0 instead of the penalties', by the smaller of the two systems."""
    return _solve(rows, D, p, right, support.damped_step, rows.X.shape[2] > rows.X.shape[1])


def _solve(
    rows: Rows,
    D: Curvature,
    p: Tensor,
    right: Tensor,
    by_factor: Callable[[Tensor, Tensor, Tensor], Tensor],
    in_samples: bool,
) -> Tensor:
    k = p.shape[2]

    def run(p: Tensor, right: Tensor, X: Tensor, weight: Tensor, present: Tensor, *d_fields: Tensor) -> tuple[Tensor]:
        D = Curvature(*d_fields)
        if in_samples:
            return (_in_samples(X * present[:, None], weight, D, p, right),)
        entries = present.repeat_interleave(k, dim=1)
        return (by_factor(_hessian(X, weight, D, p), entries, right.flatten(1)).unflatten(1, (-1, k)),)

    tensors = (p, right, rows.X, rows.weight, rows.present, *D)
    return apply_in_slices(run, tensors, 3 * 8 * _order(rows, p, in_samples) ** 2, _MEMORY)[0]


def _order(rows: Rows, p: Tensor, in_samples: bool) -> int:
    """The order of the matrix to factor."""
    return p.shape[2] * rows.X.shape[1 if in_samples else 2]


def _curvature(rows: Rows) -> Curvature:
    """The curvature of the penalties, with 1 in padded rows."""
    norms = row_norms(rows.W)
    norm_curvature = torch.where(norms > 0, rows.lambda1 / norms.clamp_min(_TINY), 0)
    return Curvature(
        rows.W / norms.clamp_min(_TINY)[..., None],
        torch.where(rows.present, norm_curvature + rows.lambda2, 1),
        torch.where(rows.present, rows.lambda2, 1),
    )


def _hessian(X: Tensor, sample_weight: Tensor, D: Curvature, p: Tensor) -> Tensor:
    """H, (B, a k, a k). Along constant rows of W it is filled with the loss's own curvature."""
    batch, _, a = X.shape
    k = p.shape[2]
    weighted = sample_weight * p
    H = X.new_zeros(batch, a, k, a, k)
    for c in range(k):
        for e in range(c + 1):
            factor = weighted[..., c] * ((1.0 if c == e else 0.0) - p[..., e])
            block = (factor[..., None] * X).mT @ X
            H[:, :, c, :, e] = block
            H[:, :, e, :, c] = block
    diagonal_index = torch.arange(a, device=X.device)
    fill = (sample_weight * X**2).sum(1)[..., None, None] / k**2
    H[:, diagonal_index, :, diagonal_index, :] += (_penalty_blocks(D, k) + fill).transpose(0, 1)
    return H.reshape(batch, a * k, a * k)


def _penalty_blocks(D: Curvature, k: int) -> Tensor:
    """The matrices D_j, (B, a, k, k)."""
    eye = torch.eye(k, dtype=D.unit.dtype, device=D.unit.device)
    along = D.unit[..., :, None] * D.unit[..., None, :]
    return D.across[..., None, None] * (eye - along) + D.along[..., None, None] * along


def _by_conjugate_gradients(
    X: Tensor, weight: Tensor, p: Tensor, right: Tensor, *d_fields: Tensor
) -> tuple[Tensor, Tensor]:
    """H^-1 right, (B, a, k), preconditioned by H's diagonal blocks; and the tasks that did not converge, (B,) bool.

    X and right are 0 in padded rows; ``d_fields`` are the fields of D.
    """
    D, k = Curvature(*d_fields), p.shape[2]
    squares = weight * X**2
    both = (p[..., :, None] * p[..., None, :]).flatten(2)
    blocks = _penalty_blocks(D, k) - (squares.mT @ both).unflatten(2, (k, k))
    # Along constant rows, as in `_hessian`.
    blocks += squares.sum(1)[..., None, None] / k**2
    blocks.diagonal(dim1=2, dim2=3).add_(squares.mT @ p)
    # Not by LU, which can hang in batches of order above 150 with MKL on several threads (PyTorch #141358).
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(blocks)[0])

    def product(values: Tensor) -> Tensor:
        along = X @ values
        slope_change = weight * p * (along - (p * along).sum(-1, keepdim=True))
        on_unit = (D.along - D.across)[..., None] * (values * D.unit).sum(-1, keepdim=True) * D.unit
        return D.across[..., None] * values + on_unit + X.mT @ slope_change

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2), keepdim=True)

    step, residual = torch.zeros_like(right), right
    goal = _RESIDUAL**2 * inner(residual, residual)
    preconditioned = direction = (inverse @ residual[..., None])[..., 0]
    size = inner(residual, preconditioned)
    for _ in range(_PRODUCTS):
        H_direction = product(direction)
        length = size / inner(direction, H_direction).clamp_min(_TINY)
        step, residual = step + length * direction, residual - length * H_direction
        if bool((inner(residual, residual) <= goal).all()):
            break
        preconditioned = (inverse @ residual[..., None])[..., 0]
        size, before = inner(residual, preconditioned), size
        direction = preconditioned + size / before.clamp_min(_TINY) * direction
    unconverged = ~(inner(residual, residual) <= goal)[:, 0, 0]
    return step - step.mean(-1, keepdim=True), unconverged


def _fewer_samples(rows: Rows) -> bool:
    """Whether systems in the samples are smaller, and well-conditioned enough for :func:`_in_samples`."""
    if rows.X.shape[2] <= rows.X.shape[1]:
        return False
    squares = (rows.present * (rows.weight * rows.X**2).sum(1)).sum(1)
    return bool(well_conditioned(squares, torch.where(rows.present, rows.lambda2, torch.inf).amin(1)).all())


def well_conditioned(squares: Tensor, lambda2: Tensor) -> Tensor:
    """Whether a system in the samples is well-conditioned, given the sum of the rows' squared features, (B,)."""
    return squares <= _CONDITION * lambda2


def _in_samples(X: Tensor, sample_weight: Tensor, D: Curvature, p: Tensor, right: Tensor) -> Tensor:
    """H^-1 right by a system of order n k. With S_i = R_i R_i^T and A = R^T X, Woodbury's identity is

    H^-1 = D^-1 - D^-1 A^T (1 + A D^-1 A^T)^-1 A D^-1.
    """
    n, k = p.shape[1:]
    unit, across, along = D.unit, D.across[..., None], D.along[..., None]

    def split(values: Tensor, on_rest: Tensor, on_unit: Tensor) -> Tensor:
        return on_rest * values + (on_unit - on_rest) * (values * unit).sum(-1, keepdim=True) * unit

    root = p.sqrt()
    eye = torch.eye(k, dtype=X.dtype, device=X.device)
    # diag(p) - p p^T = diag(root) (1 - root root^T) diag(root), and the projection in the middle equals its square.
    R = (sample_weight.sqrt() * root)[..., None] * (eye - root[..., :, None] * root[..., None, :])

    def to_samples(values: Tensor) -> Tensor:  # A, to (B, n, k)
        return torch.einsum("bnce,bnc->bne", R, X @ values)

    def to_rows(scores: Tensor) -> Tensor:  # A^T
        return X.mT @ torch.einsum("bnce,bne->bnc", R, scores)

    kernel = X.new_empty(len(X), n, k, n, k)  # X D^-1 X^T
    for c in range(k):
        for e in range(c + 1):
            weight = (1 / along - 1 / across)[..., 0] * unit[..., c] * unit[..., e]
            if c == e:
                weight = weight + 1 / across[..., 0]
            block = (X * weight[:, None]) @ X.mT
            kernel[:, :, c, :, e] = block
            kernel[:, :, e, :, c] = block
    system = torch.einsum("bnce,bncmd,bmdf->bnemf", R, kernel, R).reshape(len(X), n * k, n * k)
    diagonal = system.diagonal(dim1=1, dim2=2)
    diagonal += 1 + 10 * torch.finfo(X.dtype).eps * diagonal.amax(1, keepdim=True)
    factor, failed = torch.linalg.cholesky_ex(system)

    def approximate(residual: Tensor) -> Tensor:
        values = split(residual, 1 / across, 1 / along)
        solved = torch.cholesky_solve(to_samples(values).flatten(1)[..., None], factor)[..., 0]
        return values - split(to_rows(solved.unflatten(1, (n, k))), 1 / across, 1 / along)

    step = approximate(right)
    for _ in range(_REFINEMENTS):
        step = step + approximate(right - split(step, across, along) - to_rows(to_samples(step)))
    return torch.where((failed == 0)[:, None, None], step, split(right, 1 / across, 1 / along))
