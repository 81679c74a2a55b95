"""Weighted least squares, the datafit of the Lasso and of ridge regression.

    f(w) = 1/(2 N) sum_i s_i ||x_i.w - y_i||^2 + lambda2/2 ||w||^2,    N = sum_i s_i

over w (d, m), for B tasks with features X (B, n, d) and targets Y (B, n, m). A sample enters by its share s_i / N,
which is 0 for all samples of a task without weight.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shares(sample_weight: Tensor, dtype: torch.dtype) -> Tensor:
    """s_i / N, (B, n)."""
    weight = sample_weight.to(dtype)
    # By the largest first, whatever the scale: the sum could overflow.
    largest = weight.amax(1, keepdim=True)
    weight = weight / torch.where(largest > 0, largest, torch.ones_like(largest))
    total = weight.sum(1, keepdim=True)
    return weight / torch.where(total > 0, total, torch.ones_like(total))


def normal_equations(features: Tensor, targets: Tensor, share: Tensor, lambda2: Tensor) -> tuple[Tensor, Tensor]:
    """H = X^T diag(share) X + lambda2 I, (B, d, d), and b = X^T diag(share) Y, (B, d, m): H w = b at the minimum."""
    weighted = (share[..., None] * features).mT
    H = weighted @ features
    H = (H + H.mT) / 2
    H.diagonal(dim1=1, dim2=2).add_(lambda2[:, None])
    return H, weighted @ targets


def perturbed(
    features: Tensor, residual: Tensor, share: Tensor, w: Tensor, by_features: Tensor, by_targets: Tensor
) -> Tensor:
    """Tangent of X^T diag(share) (Y - X w), (B, d, m), along tangents of X and Y, at constant w; its transpose is
    :func:`differentiate`."""
    moved = share[..., None] * (by_targets - by_features @ w)
    return by_features.mT @ (share[..., None] * residual) + features.mT @ moved


def differentiate(features: Tensor, residual: Tensor, share: Tensor, w: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients in X (B, n, d) and Y (B, n, m) of a loss, from q = H^-1 dloss/dw (B, d, m) and the residual Y - X w."""
    along = share[..., None] * (features @ q)
    return (share[..., None] * residual) @ q.mT - along @ w.mT, along
