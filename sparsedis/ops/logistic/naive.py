"""Reference implementation of group-Lasso multinomial logistic regression: one task, dense, float64, slow.

Over W (d, k) and optionally an intercept b (k,), which is not penalised and is stored as the last row of W,

    P(W, b) = 1/N sum_i s_i CE(x_i W + b, y_i) + lambda1 sum_j ||W_j|| + lambda2/2 ||W||^2,    N = sum_i s_i.
"""

import torch
from torch import Tensor

from sparsedis.ops.common.naive import fixed_point, implicit_gradients


def objective(
    W: Tensor, X: Tensor, labels: Tensor, s: Tensor, lambda1: Tensor, lambda2: Tensor, intercept: bool
) -> Tensor:
    """P(W, b)."""
    losses = torch.nn.functional.cross_entropy(with_ones(X, intercept) @ W, labels, reduction="none")
    penalised = W[: X.shape[1]]
    return (s * losses).sum() / s.sum() + lambda1 * penalised.norm(dim=1).sum() + lambda2 / 2 * penalised.square().sum()


def step(
    W: Tensor,
    X: Tensor,
    labels: Tensor,
    s: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    intercept: bool,
    size: float,
) -> Tensor:
    """A proximal gradient step: a gradient step on the smooth part, then the rows' block soft threshold."""
    d, k = X.shape[1], W.shape[1]
    features = with_ones(X, intercept)
    p = (features @ W).softmax(1)
    slope = (s / s.sum())[:, None] * (p - torch.nn.functional.one_hot(labels, k))
    penalised = torch.cat([W[:d], torch.zeros_like(W[d:])])
    Z = W - size * (features.T @ slope + lambda2 * penalised)
    norms = Z[:d].square().sum(1).clamp_min(1e-300).sqrt()
    shrunk = (1 - size * lambda1 / norms).clamp_min(0)[:, None] * Z[:d]
    return torch.cat([shrunk, Z[d:]])


def solve(
    X: Tensor, labels: Tensor, s: Tensor, lambda1: Tensor, lambda2: Tensor, k: int, intercept: bool = False
) -> Tensor:
    """The solution W of one task, (d, k), or (d + 1, k) with an intercept.

    Args:
        X: features, (n, d) float64.
        labels: (n,) int64.
        s: sample weights, (n,) float64.
        lambda1, lambda2: 0-d float64.
        k: number of classes.
    """
    size = step_size(X, s, lambda2, intercept)
    start = X.new_zeros(X.shape[1] + intercept, k)
    return fixed_point(lambda W: step(W, X, labels, s, lambda1, lambda2, intercept, size), start)


def gradients(
    W: Tensor,
    grad_W: Tensor,
    X: Tensor,
    labels: Tensor,
    s: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    intercept: bool = False,
) -> tuple[Tensor, ...]:
    """Gradients in X, lambda1 and lambda2 of a loss with gradient grad_W, at the solution W.

    Adding a constant to a row of W changes no probability. The rows of the solution sum to zero, so only the part of
    grad_W whose rows sum to zero matters.
    """
    size = step_size(X, s, lambda2, intercept)
    return implicit_gradients(
        lambda W, X, l1, l2: step(W, X, labels, s, l1, l2, intercept, size),
        lambda W, *_: W,
        W,
        (X, lambda1, lambda2),
        grad_W - grad_W.mean(1, keepdim=True),
    )


def with_ones(X: Tensor, intercept: bool) -> Tensor:
    """The features, with a column of ones for an intercept."""
    return torch.cat([X, torch.ones_like(X[:, :1])], 1) if intercept else X


def step_size(X: Tensor, s: Tensor, lambda2: Tensor, intercept: bool) -> float:
    """One over the Lipschitz constant of the smooth part's gradient; the softmax's curvature is at most 1/2."""
    scaled = (s / s.sum()).sqrt()[:, None] * with_ones(X, intercept)
    return float(1 / (torch.linalg.matrix_norm(scaled, 2) ** 2 / 2 + lambda2))
