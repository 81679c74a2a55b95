"""Weighted least squares, the data-fit term of the Lasso and of ridge regression.

    f(w) = 1/(2 N) sum_i s_i ||x_i.w - y_i||^2 + lambda2/2 ||w||^2,    N = sum_i s_i

over w (d, m), for B tasks with features X (B, n, d) and targets Y (B, n, m). The normalised weight of a sample is
s_i / N. In a task whose sample weights are all 0 it is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def normalised_weights(sample_weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalised weights s_i / N, (B, n)."""
    weight = sample_weight.to(dtype)
    # Divide by the largest weight first: the sum of unscaled weights could overflow.
    largest = weight.amax(1, keepdim=True)
    weight = weight / torch.where(largest > 0, largest, torch.ones_like(largest))
    total = weight.sum(1, keepdim=True)
    return weight / torch.where(total > 0, total, torch.ones_like(total))


def normal_equations(features: Tensor, targets: Tensor, weight: Tensor, lambda2: Tensor) -> tuple[Tensor, Tensor]:
    """H = X^T diag(weight) X + lambda2 I, (B, d, d), and b = X^T diag(weight) Y, (B, d, m); the minimum has H w = b."""
    weighted = (weight[..., None] * features).mT
    H = weighted @ features
    H = (H + H.mT) / 2
    H.diagonal(dim1=1, dim2=2).add_(lambda2[:, None])
    return H, weighted @ targets


def perturbed(
    features: Tensor, residual: Tensor, weight: Tensor, w: Tensor, by_features: Tensor, by_targets: Tensor
) -> Tensor:
    """Tangent of X^T diag(weight) (Y - X w), (B, d, m), at constant w, for the tangents of X and Y.

    The transposed map is :func:`differentiate`.
    """
    moved = weight[..., None] * (by_targets - by_features @ w)
    return by_features.mT @ (weight[..., None] * residual) + features.mT @ moved


def differentiate(features: Tensor, residual: Tensor, weight: Tensor, w: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients in X (B, n, d) and Y (B, n, m) from q = H^-1 dloss/dw (B, d, m) and the residual Y - X w (B, n, m)."""
    along = weight[..., None] * (features @ q)
    return (weight[..., None] * residual) @ q.mT - along @ w.mT, along
