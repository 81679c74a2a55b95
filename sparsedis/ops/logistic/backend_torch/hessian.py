"""Linear systems with the Hessian of P in some rows of W: by a factor of order a k, or of order n k where n is smaller.

With x_i (a,) the features of these rows, the Hessian is D + sum_i (x_i x_i^T) (x) S_i: the loss has the curvature
S_i = c_i (diag(p_i) - p_i p_i^T), the penalties have D_j = lambda1/||W_j|| (1 - u u^T) + lambda2, u = W_j/||W_j||.
Adding one number to a row changes no probability, and all gradients' rows sum to zero: along it H may be anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from sparsedis.ops.common import support
from sparsedis.ops.common.batches import apply_in_slices
from sparsedis.ops.logistic.backend_torch.rows import Rows
from sparsedis.ops.logistic.problem import row_norms

_TINY = torch.finfo(torch.float64).tiny
# The largest condition of a system in the samples; refinements make up for what it costs.
_CONDITION, _REFINEMENTS = 1e8, 2
# Scratch memory, in bytes, that the tasks solved together may take.
_MEMORY = 1 << 30


def damped_step(rows: Rows, p: Tensor, right: Tensor) -> Tensor:
    """H^-1 right at probabilities p (B, n, k), H shifted by rounding where it may be singular.

    Args:
        rows: the rows.
        p: (B, n, k).
        right: (B, a, k), each row summing to zero, 0 where no row is present.

    Returns:
        (B, a, k), likewise.
    """
    return _solve(rows, p, right, support.damped_step)


def least_step(rows: Rows, p: Tensor, right: Tensor) -> Tensor:
    """H^+ right, of least norm where H is singular; otherwise as :func:`damped_step`."""
    return _solve(rows, p, right, support.least_step)


def _solve(rows: Rows, p: Tensor, right: Tensor, by_factor: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    n, k = p.shape[1:]
    in_samples = _fewer_samples(rows)

    def run(p: Tensor, right: Tensor, *columns: Tensor) -> tuple[Tensor]:
        part = Rows(*columns)
        if in_samples:
            return (_in_samples(part, p, right),)
        entries = part.present.repeat_interleave(k, dim=1)
        return (by_factor(_hessian(part, p), entries, right.flatten(1)).unflatten(1, (-1, k)),)

    order = k * (n if in_samples else rows.X.shape[2])
    columns = [getattr(rows, field.name) for field in fields(rows)]
    return apply_in_slices(run, (p, right, *columns), 3 * 8 * order**2, _MEMORY)[0]


def _bend(rows: Rows) -> tuple[Tensor, Tensor]:
    """u (B, a, k) and lambda1/||W_j|| (B, a), 0 for rows at zero."""
    norms = row_norms(rows.W)
    bend = torch.where(norms > 0, rows.lambda1 / norms.clamp_min(_TINY), 0)
    return rows.W / norms.clamp_min(_TINY)[..., None], bend


def _hessian(rows: Rows, p: Tensor) -> Tensor:
    """H, (B, a k, a k); along what moves nothing filled up with the loss's own curvature."""
    X = rows.X
    batch, _, a = X.shape
    k = p.shape[2]
    weighted = rows.weight * p
    H = X.new_zeros(batch, a, k, a, k)
    for c in range(k):
        for e in range(c + 1):
            factor = weighted[..., c] * ((1.0 if c == e else 0.0) - p[..., e])
            block = (factor[..., None] * X).mT @ X
            H[:, :, c, :, e] = block
            H[:, :, e, :, c] = block
    unit, bend = _bend(rows)
    eye = torch.eye(k, dtype=X.dtype, device=X.device)
    each = torch.arange(a, device=X.device)
    fill = (rows.weight * X**2).sum(1)[..., None, None] / k
    own = (
        bend[..., None, None] * (eye - unit[..., :, None] * unit[..., None, :])
        + rows.lambda2[..., None, None] * eye
        + fill / k
    )
    H[:, each, :, each, :] += own.transpose(0, 1)
    return H.reshape(batch, a * k, a * k)


def _fewer_samples(rows: Rows) -> bool:
    """Whether systems are smaller in the samples, and as well-conditioned as :func:`_in_samples` needs them."""
    if rows.X.shape[2] <= rows.X.shape[1]:
        return False
    most = (rows.present * (rows.weight * rows.X**2).sum(1)).sum(1)
    least = torch.where(rows.present, rows.lambda2, torch.inf).amin(1)
    return bool((most <= _CONDITION * least).all())


def _in_samples(rows: Rows, p: Tensor, right: Tensor) -> Tensor:
    """H^-1 right by a system of order n k: with S_i = R_i R_i^T and A = R^T X, Woodbury's identity

    H^-1 = D^-1 - D^-1 A^T (1 + A D^-1 A^T)^-1 A D^-1.
    """
    X = rows.X * rows.present[:, None]
    n, k = p.shape[1:]
    unit, bend = _bend(rows)
    # D is `across` on what is orthogonal to u and `along` on u; a row that is not present is alone with a 1.
    across = torch.where(rows.present, bend + rows.lambda2, 1)[..., None]
    along = torch.where(rows.present, rows.lambda2, 1)[..., None]

    def split(values: Tensor, on_rest: Tensor, on_unit: Tensor) -> Tensor:
        return on_rest * values + (on_unit - on_rest) * (values * unit).sum(-1, keepdim=True) * unit

    root = p.sqrt()
    eye = torch.eye(k, dtype=X.dtype, device=X.device)
    # diag(p) - p p^T = diag(root) (1 - root root^T) diag(root), and a projection is its own square.
    R = (rows.weight.sqrt() * root)[..., None] * (eye - root[..., :, None] * root[..., None, :])

    def forth(values: Tensor) -> Tensor:  # A, to (B, n, k)
        return torch.einsum("bnce,bnc->bne", R, X @ values)

    def back(scores: Tensor) -> Tensor:  # A^T
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
    system.diagonal(dim1=1, dim2=2).add_(1)
    factor = torch.linalg.cholesky(system)

    def approximate(residual: Tensor) -> Tensor:
        values = split(residual, 1 / across, 1 / along)
        seen = torch.cholesky_solve(forth(values).flatten(1)[..., None], factor)[..., 0]
        return values - split(back(seen.unflatten(1, (n, k))), 1 / across, 1 / along)

    step = approximate(right)
    for _ in range(_REFINEMENTS):
        step = step + approximate(right - split(step, across, along) - back(forth(step)))
    return step
