"""Reference implementation of ridge regression: one task, dense, float64, differentiated by autograd.

Over w (d, m)

    P(w) = 1/(2 N) sum_i s_i ||x_i.w - y_i||^2 + lambda2/2 ||w||^2,    N = sum_i s_i.
"""

import torch
from torch import Tensor


def objective(w: Tensor, X: Tensor, Y: Tensor, s: Tensor, lambda2: Tensor) -> Tensor:
    """P(w)."""
    return (s[:, None] * (X @ w - Y).square()).sum() / (2 * s.sum()) + lambda2 / 2 * w.square().sum()


def solve(X: Tensor, Y: Tensor, s: Tensor, lambda2: Tensor) -> Tensor:
    """The solution w (d, m) of one task, differentiable.

    Args:
        X: features, (n, d) float64.
        Y: targets, (n, m) float64.
        s: sample weights, (n,) float64.
        lambda2: 0-d float64.
    """
    weighted = X.T * (s / s.sum())
    return torch.linalg.solve(weighted @ X + lambda2 * torch.eye(X.shape[1], dtype=X.dtype), weighted @ Y)
