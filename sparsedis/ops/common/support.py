"""Linear systems on a support: the rows and columns of H (B, p, p) that belong to active variables."""

from __future__ import annotations

import torch
from torch import Tensor

# Below this pivot of a factor, with a unit diagonal, variables may be dependent: eigenvalues tell.
_SAFE_PIVOT = 1e-9


def damped_step(H: Tensor, active: Tensor, gradient: Tensor) -> Tensor:
    """(H_A + shift)^-1 gradient on the active variables, 0 elsewhere, (B, p).

    The shift is that of rounding, relative to the diagonal. It makes a factor exist where active variables are
    dependent: there the step is long along what H does not see, which in a Lasso brings one of them to zero.
    """
    matrix, scale = _on_support(H, active)
    matrix.diagonal(dim1=1, dim2=2).add_(_rounding(H))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    step = torch.cholesky_solve((scale * gradient * active)[..., None], factor)[..., 0]
    step = torch.where((failed == 0)[:, None], step, scale * gradient)
    return scale * step * active


def least_step(H: Tensor, active: Tensor, gradient: Tensor) -> Tensor:
    """H_A^+ gradient on the active variables, 0 elsewhere, (B, p): of least norm where active variables are dependent.

    Norms are those of the variables times the root of their diagonal entry.
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
    """What :func:`least_step` returns for H = X^T diag(weight) X + lambda2, from a matrix of the order of the samples.

    With P = diag(weight)^1/2 X_A and the eigenvalues of K = P P^T: for lambda2 > 0 the part of the gradient in the span
    of the samples is P^T K^+ P gradient, which P^T K^+ (K + lambda2)^-1 P gradient solves for; the rest is divided by
    lambda2. Without lambda2 it is P^T (K^+)^2 P gradient, the features being scaled to a unit diagonal.

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
    """H scaled to a unit diagonal, all but the active rows and columns the identity's; and the scale (B, p)."""
    diagonal = H.diagonal(dim1=1, dim2=2)
    scale = torch.where(active & (diagonal > 0), diagonal, 1).rsqrt()
    both = active[:, :, None] & active[:, None, :]
    scaled = torch.where(both, scale[:, :, None] * H * scale[:, None, :], 0)
    scaled.diagonal(dim1=1, dim2=2).fill_(1)
    return scaled, scale


def _rounding(H: Tensor) -> float:
    """What rounding leaves of a zero eigenvalue of a matrix with a unit diagonal, with a margin."""
    return 16 * H.shape[1] * torch.finfo(H.dtype).eps
