"""Linear systems on a support: H (B, p, p) restricted to the rows and columns of the active variables."""

from __future__ import annotations

import torch
from torch import Tensor

# If the smallest pivot of a unit-diagonal matrix is below this, eigenvalues decide whether variables are dependent.
_SAFE_PIVOT = 1e-9


def damped_step(H: Tensor, active: Tensor, gradient: Tensor) -> Tensor:
    """(H_A + shift)^-1 gradient on the active variables, 0 elsewhere, (B, p).

    The shift is of the size of rounding error relative to the diagonal, so that the Cholesky factor exists even if
    active variables are dependent. The step is then long in the null space of H, which in a Lasso drives one of the
    dependent variables to zero.
    """
    matrix, scale = _on_support(H, active)
    matrix.diagonal(dim1=1, dim2=2).add_(_rounding(H))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    step = torch.cholesky_solve((scale * gradient * active)[..., None], factor)[..., 0]
    step = torch.where((failed == 0)[:, None], step, scale * gradient)
    return scale * step * active


def least_step(H: Tensor, active: Tensor, gradient: Tensor) -> Tensor:
    """H_A^+ gradient on the active variables, 0 elsewhere, (B, p): the step of least norm if they are dependent.

    The norm weights each variable by the square root of its diagonal entry.
    """
    matrix, scale = _on_support(H, active)
    right = (scale * gradient * active)[..., None]
    factor, failed = torch.linalg.cholesky_ex(matrix)
    pivot = factor.diagonal(dim1=1, dim2=2).square().amin(1)
    step = torch.cholesky_solve(right, factor)
    unsafe = (failed != 0) | ~(pivot > _SAFE_PIVOT)
    if bool(unsafe.any()):
        values, vectors = torch.linalg.eigh(matrix[unsafe])
        cut = 100 * _rounding(H) * values[:, -1:].clamp_min(1)
        inverse = torch.where(values > cut, 1 / torch.where(values > cut, values, 1), 0)
        step[unsafe] = vectors @ (inverse[..., None] * (vectors.mT @ right[unsafe]))
    return scale * step[..., 0] * active


def least_step_by_samples(
    features: Tensor, weight: Tensor, lambda2: Tensor, active: Tensor, gradient: Tensor
) -> Tensor:
    """:func:`least_step` for H = X^T diag(weight) X + lambda2 I, computed from a matrix of the order of the samples.

    Let P = diag(weight)^1/2 X_A and K = P P^T. For lambda2 > 0, the component of the gradient in the row space of P
    is P^T K^+ P gradient, on which the inverse acts as P^T K^+ (K + lambda2)^-1 P; the orthogonal component is divided
    by lambda2. For lambda2 = 0 the step is P^T (K^+)^2 P gradient, with the features scaled to a unit diagonal.

    Args:
        features: (B, n, d).
        weight: (B, n), >= 0.
        lambda2: (B,).
        active: (B, d) bool.
        gradient: (B, d).
    """
    P = weight.sqrt()[..., None] * features * active[:, None]
    diagonal = P.square().sum(1)
    scale = torch.where((lambda2 == 0)[:, None] & (diagonal > 0), diagonal, 1).rsqrt()
    P, right = P * scale[:, None], scale * gradient * active
    values, vectors = torch.linalg.eigh(P @ P.mT)
    _, n, d = P.shape
    cut = 100 * 16 * max(n, d) * torch.finfo(P.dtype).eps * values[:, -1:]
    values, kept = torch.where(values > cut, values, 1), values > cut
    along = (vectors.mT @ (P @ right[..., None]))[..., 0] * kept

    def back(weighed: Tensor) -> Tensor:
        return (P.mT @ (vectors @ weighed[..., None]))[..., 0]

    l2 = lambda2[:, None]
    outside = torch.where(l2 > 0, (right - back(along / values)) / torch.where(l2 > 0, l2, 1), 0)
    return scale * (back(along / values / (values + l2)) + outside) * active


def _on_support(H: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """H scaled to a unit diagonal, with inactive rows and columns replaced by the identity's; and the scale (B, p)."""
    diagonal = H.diagonal(dim1=1, dim2=2)
    scale = torch.where(active & (diagonal > 0), diagonal, 1).rsqrt()
    both = active[:, :, None] & active[:, None, :]
    scaled = torch.where(both, scale[:, :, None] * H * scale[:, None, :], 0)
    scaled.diagonal(dim1=1, dim2=2).fill_(1)
    return scaled, scale


def _rounding(H: Tensor) -> float:
    """Bound, with a margin, on the rounding error in a zero eigenvalue of a matrix with a unit diagonal."""
    return 16 * H.shape[1] * torch.finfo(H.dtype).eps
