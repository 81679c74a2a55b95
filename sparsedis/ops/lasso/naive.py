"""Reference implementation of the Lasso (elastic net) that follows the paper: one task, dense, float64, slow.

Source: the inner problem of Lachapelle et al., ICML 2023 (arXiv 2211.14666), section 3.2. Over w (d,)

    P(w) = 1/(2 N) sum_i s_i (x_i.w - y_i)^2 + lambda1 ||w||_1 + lambda2/2 ||w||^2,    N = sum_i s_i.
"""

import torch
from torch import Tensor

from sparsedis.ops.common.naive import fixed_point, implicit_gradients


def objective(w: Tensor, X: Tensor, y: Tensor, s: Tensor, lambda1: Tensor, lambda2: Tensor) -> Tensor:
    """P(w)."""
    misfit = (s * (X @ w - y).square()).sum() / (2 * s.sum())
    return misfit + lambda1 * w.abs().sum() + lambda2 / 2 * w.square().sum()


def step(w: Tensor, X: Tensor, y: Tensor, s: Tensor, lambda1: Tensor, lambda2: Tensor, size: float) -> Tensor:
    """A proximal gradient step: a gradient step on the smooth part, then soft thresholding."""
    z = w - size * (X.T @ (s * (X @ w - y)) / s.sum() + lambda2 * w)
    return z.sign() * (z.abs() - size * lambda1).clamp_min(0)


def solve(X: Tensor, y: Tensor, s: Tensor, lambda1: Tensor, lambda2: Tensor) -> Tensor:
    """The solution w (d,) of one task.

    Args:
        X: features, (n, d) float64.
        y: targets, (n,) float64.
        s: sample weights, (n,) float64.
        lambda1, lambda2: 0-d float64.
    """
    size = step_size(X, s, lambda2)
    return fixed_point(lambda w: step(w, X, y, s, lambda1, lambda2, size), torch.zeros_like(X[0]))


def gradients(
    w: Tensor, grad_w: Tensor, X: Tensor, y: Tensor, s: Tensor, lambda1: Tensor, lambda2: Tensor
) -> tuple[Tensor, ...]:
    """Gradients in X, y, lambda1 and lambda2 of a loss with gradient grad_w (d,), at the solution w."""
    size = step_size(X, s, lambda2)
    return implicit_gradients(
        lambda w, X, y, l1, l2: step(w, X, y, s, l1, l2, size),
        lambda w, *_: w,
        w,
        (X, y, lambda1, lambda2),
        grad_w,
    )


def step_size(X: Tensor, s: Tensor, lambda2: Tensor) -> float:
    """One over the Lipschitz constant of the gradient of the smooth part."""
    scaled = (s / s.sum()).sqrt()[:, None] * X
    return float(1 / (torch.linalg.matrix_norm(scaled, 2) ** 2 + lambda2))
