"""Reference implementation of the group-Lasso multiclass SVM that follows the paper: one task, dense, float64, slow.

Source: Lachapelle et al., ICML 2023 (arXiv 2211.14666), section 3.3 and appendix. Over W (d, k), with one-hot Y (n, k),

    P(W) = sum_i s_i phi(m_i) + lambda1 sum_j ||W_j|| + lambda2/2 ||W||^2
    m_il = 1 - Y_il + x_i.W_l - x_i.W_{y_i}
    phi(m) = max over a in the simplex of <a, m> - rho/2 ||a - Y_i||^2,    rho = dual_reg / lambda2.

The dual variable L (n, k) has its rows in the simplex. W(L) = BST(V, lambda1) / lambda2 with V = X^T diag(s) (Y - L),
and L minimises

    f(L) = lambda2/2 ||W(L)||^2 + sum_i s_i (<L_i, Y_i> + rho/2 ||L_i - Y_i||^2).
"""

import torch
from torch import Tensor

from sparsedis.ops.common.naive import fixed_point, implicit_gradients


def weights(L: Tensor, Y: Tensor, s: Tensor, X: Tensor, lambda1: Tensor, lambda2: Tensor) -> Tensor:
    """W(L) by the primal map, (d, k): every row of V shrunk by lambda1, divided by lambda2."""
    V = X.T @ (s[:, None] * (Y - L))
    norms = V.square().sum(1).clamp_min(1e-300).sqrt()
    return (1 - lambda1 / norms).clamp_min(0)[:, None] * V / lambda2


def objective(W: Tensor, Y: Tensor, s: Tensor, X: Tensor, lambda1: Tensor, lambda2: Tensor, dual_reg: Tensor) -> Tensor:
    """P(W)."""
    scores = X @ W
    m = 1 - Y + scores - (scores * Y).sum(1, keepdim=True)
    rho = dual_reg / lambda2
    a = project(Y + m / rho) if rho > 0 else torch.nn.functional.one_hot(m.argmax(1), m.shape[1]).to(m.dtype)
    phi = (a * m).sum(1) - rho / 2 * (a - Y).square().sum(1)
    return (s * phi).sum() + lambda1 * W.norm(dim=1).sum() + lambda2 / 2 * W.square().sum()


def project(points: Tensor) -> Tensor:
    """Euclidean projection of every row onto the simplex: max(z - tau, 0), with tau such that it sums to one."""
    ordered = points.sort(dim=1, descending=True).values
    tau = (ordered.cumsum(1) - 1) / torch.arange(1, points.shape[1] + 1)
    support = (ordered > tau).sum(1, keepdim=True)
    return (points - tau.gather(1, support - 1)).clamp_min(0)


def step(
    L: Tensor, Y: Tensor, s: Tensor, X: Tensor, lambda1: Tensor, lambda2: Tensor, dual_reg: Tensor, size: float
) -> Tensor:
    """A projected gradient step on f."""
    W = weights(L, Y, s, X, lambda1, lambda2)
    gradient = s[:, None] * (Y - X @ W + dual_reg / lambda2 * (L - Y))
    return project(L - size * gradient)


def solve(
    X: Tensor, labels: Tensor, s: Tensor, lambda1: Tensor, lambda2: Tensor, dual_reg: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The solution of one task: W (d, k) and L (n, k).

    Args:
        X: features, (n, d) float64.
        labels: (n,) int64.
        s: sample weights, (n,) float64.
        lambda1, lambda2, dual_reg: 0-d float64.
        k: number of classes.
    """
    Y = torch.nn.functional.one_hot(labels, k).to(X.dtype)
    size = step_size(X, s, lambda2, dual_reg)
    L = fixed_point(lambda L: step(L, Y, s, X, lambda1, lambda2, dual_reg, size), torch.full_like(Y, 1 / k))
    return weights(L, Y, s, X, lambda1, lambda2), L


def gradients(
    L: Tensor,
    grad_W: Tensor,
    X: Tensor,
    labels: Tensor,
    s: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    dual_reg: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients in X, lambda1, lambda2 and dual_reg of a loss with gradient grad_W (d, k), at the solution L."""
    Y = torch.nn.functional.one_hot(labels, L.shape[1]).to(X.dtype)
    size = step_size(X, s, lambda2, dual_reg)
    return implicit_gradients(
        lambda L, X, l1, l2, reg: step(L, Y, s, X, l1, l2, reg, size),
        lambda L, X, l1, l2, reg: weights(L, Y, s, X, l1, l2),
        L,
        (X, lambda1, lambda2, dual_reg),
        grad_W,
    )


def step_size(X: Tensor, s: Tensor, lambda2: Tensor, dual_reg: Tensor) -> float:
    """A step size of at most one over the Lipschitz constant of the gradient of f."""
    scaled = s.sqrt()[:, None] * X
    return float(lambda2 / (s.max() * (torch.linalg.matrix_norm(scaled, 2) ** 2 + dual_reg)))
