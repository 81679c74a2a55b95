"""The Lasso: objective and certificate, batched over tasks of one shape.

    P(w) = sum_i c_i/2 (x_i.w - y_i)^2 + lambda1 ||w||_1 + lambda2/2 ||w||^2,    c_i = s_i / sum s

The dual variable is a residual t (n,). The dual objective is D(t) = sum_i c_i (t_i y_i - t_i^2/2) - g*(V) with
V = X^T diag(c) t and g*(V) = sum_j (|V_j| - lambda1)_+^2 / (2 lambda2); for lambda2 = 0, g* is the constraint
|V_j| <= lambda1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.primal import Certificate

_TINY = torch.finfo(torch.float64).tiny


def certificate(
    features: Tensor,
    targets: Tensor,
    weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    w: Tensor,
    to_minimum: Tensor,
    rounded: Tensor | None = None,
) -> Certificate:
    """The duality gap of w (B, d), computed as a sum of nonnegative terms to avoid cancellation.

    The result is the smallest of up to three gaps. Let r = y - X w and v = X^T diag(c) r - lambda2 w:

    - for the dual point t = a r with a = min(1, lambda1/max_j |v_j|), treating lambda2 as additional rows of the
      features, which turns the elastic net into a Lasso;
    - for lambda2 > 0, for t = r, by g*;
    - for lambda1 = 0, the distance from the minimum itself, v . H^-1 v / 2, passed as ``to_minimum`` (B,).

    With ``rounded`` (B, d), gap and objective are those of these weights. The dual point is still computed from w,
    whose residual is more accurate.
    """
    r = targets - (features @ w[..., None])[..., 0]
    correlation = (features.mT @ (weight * r)[..., None])[..., 0]
    v = correlation - lambda2[:, None] * w
    l1, l2 = lambda1[:, None], lambda2[:, None]
    returned, misfit = (w, r) if rounded is None else (rounded, targets - (features @ rounded[..., None])[..., 0])
    size = returned.abs()

    def distance(a: Tensor | float) -> Tensor:
        """Half the squared distance of ``returned`` from a w in the norm of H."""
        return ((weight * (misfit - a * r) ** 2).sum(1) + lambda2 * ((returned - a * w) ** 2).sum(1)) / 2

    a = (l1 / v.abs().amax(1, keepdim=True).clamp_min(_TINY)).clamp_max(1)
    gap = distance(a) + (l1 * size - a * v * returned).clamp_min(0).sum(1)
    above = (correlation.abs() - l1).clamp_min(0)
    opposed = correlation * returned < 0
    aligned = (l1 - correlation.abs()).clamp_min(0) * size + (l2 * size - above) ** 2 / (2 * l2).clamp_min(_TINY)
    against = (l1 + correlation.abs()) * size + l2 / 2 * size**2 + above**2 / (2 * l2).clamp_min(_TINY)
    by_conjugate = (weight * (misfit - r) ** 2).sum(1) / 2 + torch.where(opposed, against, aligned).sum(1)
    unscaled = (lambda2 > 0) & (by_conjugate < gap)
    gap = torch.where(unscaled, by_conjugate, gap)
    # Triangle inequality in the norm of H: the distance from the minimum is at most that from w plus w's own.
    by_minimum = to_minimum if rounded is None else (distance(1.0).sqrt() + to_minimum.sqrt()) ** 2
    quadratic = (lambda1 == 0) & (by_minimum < gap)
    gap = torch.where(quadratic, by_minimum, gap)

    dual = torch.where((unscaled | quadratic)[:, None], r, a * r) * (weight > 0)
    objective = ((weight * misfit**2).sum(1) + lambda2 * (returned**2).sum(1)) / 2 + lambda1 * size.sum(1)
    at_zero = (weight * targets**2).sum(1) / 2
    if rounded is not None:  # weights that overflowed in rounding
        gap, objective = (value.nan_to_num(torch.inf, torch.inf) for value in (gap, objective))
    return Certificate(dual, gap, gap / at_zero.clamp_min(_TINY), objective)


def attainable(features: Tensor, targets: Tensor, weight: Tensor, w: Tensor) -> Tensor:
    """Bound on the relative gap that rounding may leave at w (B, d), (B,).

    sum_i c_i eps s_i (s_i + |y_i|) with s_i = sum_j |x_ij w_j|, bounded by ||x_i|| ||w||. This is the order of the
    rounding errors in the residual and in its correlation with the features.
    """
    terms = torch.linalg.vector_norm(features, dim=2) * torch.linalg.vector_norm(w, dim=1, keepdim=True)
    error = torch.finfo(w.dtype).eps * (weight * terms * (terms + targets.abs())).sum(1)
    return error / ((weight * targets**2).sum(1) / 2).clamp_min(_TINY)


def kink_margin(features: Tensor, targets: Tensor, weight: Tensor, lambda1: Tensor, w: Tensor) -> Tensor:
    """Distance of solutions w (B, d) from the nearest kink: min_j | |z_j| / lambda1 - 1 |, (B,), inf if lambda1 = 0.

    Coordinate descent thresholds z_j = X_j^T diag(c) (y - X w) + w_j X_j^T diag(c) X_j: feature j is inactive if
    |z_j| <= lambda1. For an inactive feature the term is the relative slack of its correlation. For an active one it is
    (X_j^T diag(c) X_j + lambda2) |w_j| / lambda1.
    """
    r = targets - (features @ w[..., None])[..., 0]
    z = (features.mT @ (weight * r)[..., None])[..., 0] + (weight[..., None] * features**2).sum(1) * w
    sparse = (lambda1 > 0)[:, None]
    return torch.where(sparse, (z.abs() / torch.where(sparse, lambda1[:, None], 1) - 1).abs(), torch.inf).amin(1)


def zero_threshold(features: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """max_j |X_j^T diag(c) y|, (B,): w = 0 is the solution if and only if lambda1 is at least this."""
    return (features.mT @ (weight * targets)[..., None]).abs().amax((1, 2))
