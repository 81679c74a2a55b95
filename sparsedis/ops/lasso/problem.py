"""The Lasso: objective and certificate, batched over tasks of one shape.

    P(w) = sum_i c_i/2 (x_i.w - y_i)^2 + lambda1 ||w||_1 + lambda2/2 ||w||^2,    c_i = s_i / sum s

Its dual variable is a residual t (n,); with V = X^T diag(c) t and g*(V) = sum_j (|V_j| - lambda1)_+^2 / (2 lambda2), or
the bound |V_j| <= lambda1 where lambda2 = 0, the dual objective is D(t) = sum_i c_i (t_i y_i - t_i^2/2) - g*(V).
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
    """The duality gap of w (B, d), as a sum of terms that are not negative one by one: it does not cancel.

    The smallest of up to three, with the residual r = y - X w and the gradient v = X^T diag(c) r - lambda2 w:

    - of t = a r with a = min(1, lambda1/max_j |v_j|), the elastic net seen as a Lasso with lambda2 in the features;
    - for lambda2 > 0 that of t = r, by g*;
    - for lambda1 = 0 the distance to the minimum itself, ``to_minimum`` (B,) from the caller: v . H^-1 v / 2.

    With ``rounded`` (B, d), gap and objective are those of these weights; the dual point is still that of w, whose
    residual is the better one.
    """
    r = targets - (features @ w[..., None])[..., 0]
    correlation = (features.mT @ (weight * r)[..., None])[..., 0]
    v = correlation - lambda2[:, None] * w
    l1, l2 = lambda1[:, None], lambda2[:, None]
    given, misfit = (w, r) if rounded is None else (rounded, targets - (features @ rounded[..., None])[..., 0])
    size = given.abs()

    def distance(a: Tensor | float) -> Tensor:
        """Half the squared distance of ``given`` and a w, in the norm of H."""
        return ((weight * (misfit - a * r) ** 2).sum(1) + lambda2 * ((given - a * w) ** 2).sum(1)) / 2

    a = (l1 / v.abs().amax(1, keepdim=True).clamp_min(_TINY)).clamp_max(1)
    gap = distance(a) + (l1 * size - a * v * given).clamp_min(0).sum(1)
    above = (correlation.abs() - l1).clamp_min(0)
    opposed = correlation * given < 0
    aligned = (l1 - correlation.abs()).clamp_min(0) * size + (l2 * size - above) ** 2 / (2 * l2).clamp_min(_TINY)
    against = (l1 + correlation.abs()) * size + l2 / 2 * size**2 + above**2 / (2 * l2).clamp_min(_TINY)
    by_conjugate = (weight * (misfit - r) ** 2).sum(1) / 2 + torch.where(opposed, against, aligned).sum(1)
    unscaled = (lambda2 > 0) & (by_conjugate < gap)
    gap = torch.where(unscaled, by_conjugate, gap)
    # The norm of H is one: the way to the minimum is at most that to w and from there.
    by_minimum = to_minimum if rounded is None else (distance(1.0).sqrt() + to_minimum.sqrt()) ** 2
    quadratic = (lambda1 == 0) & (by_minimum < gap)
    gap = torch.where(quadratic, by_minimum, gap)

    dual = torch.where((unscaled | quadratic)[:, None], r, a * r) * (weight > 0)
    objective = ((weight * misfit**2).sum(1) + lambda2 * (given**2).sum(1)) / 2 + lambda1 * size.sum(1)
    at_zero = (weight * targets**2).sum(1) / 2
    if rounded is not None:  # weights that overflow
        gap, objective = (value.nan_to_num(torch.inf, torch.inf) for value in (gap, objective))
    return Certificate(dual, gap, gap / at_zero.clamp_min(_TINY), objective)


def attainable(features: Tensor, targets: Tensor, weight: Tensor, w: Tensor) -> Tensor:
    """A relative gap that rounding may keep w (B, d) from going below, (B,).

    sum_i c_i eps s_i (s_i + |y_i|) with s_i = sum_j |x_ij w_j|, bounded by ||x_i|| ||w||: the residual and the
    correlation with it are as far from exact.
    """
    terms = torch.linalg.vector_norm(features, dim=2) * torch.linalg.vector_norm(w, dim=1, keepdim=True)
    error = torch.finfo(w.dtype).eps * (weight * terms * (terms + targets.abs())).sum(1)
    return error / ((weight * targets**2).sum(1) / 2).clamp_min(_TINY)


def kink_margin(features: Tensor, targets: Tensor, weight: Tensor, lambda1: Tensor, w: Tensor) -> Tensor:
    """How far solutions w (B, d) are from a kink, (B,), >= 0: min_j | |z_j| / lambda1 - 1 |, inf without lambda1.

    z_j = X_j^T diag(c) (y - X w) + w_j X_j^T diag(c) X_j is what coordinate descent thresholds: a feature is off while
    |z_j| <= lambda1. The margin is that of the correlation for a feature that is off, and (X_j^T diag(c) X_j + lambda2)
    |w_j| / lambda1 for one that is on.
    """
    r = targets - (features @ w[..., None])[..., 0]
    z = (features.mT @ (weight * r)[..., None])[..., 0] + (weight[..., None] * features**2).sum(1) * w
    sparse = (lambda1 > 0)[:, None]
    return torch.where(sparse, (z.abs() / torch.where(sparse, lambda1[:, None], 1) - 1).abs(), torch.inf).amin(1)


def zero_threshold(features: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """max_j |X_j^T diag(c) y|, (B,): w = 0 is the solution exactly from this lambda1 on."""
    return (features.mT @ (weight * targets)[..., None]).abs().amax((1, 2))
