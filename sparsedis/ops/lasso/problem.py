"""The Lasso: objective and certificate, batched over tasks of one shape.

    P(w) = sum_i c_i/2 (x_i.w - y_i)^2 + lambda1 ||w||_1 + lambda2/2 ||w||^2,    c_i = s_i / sum s

Its dual variable is a residual t (n,); with V = X^T diag(c) t and g*(V) = sum_j (|V_j| - lambda1)_+^2 / (2 lambda2), or
the bound |V_j| <= lambda1 where lambda2 = 0, the dual objective is D(t) = sum_i c_i (t_i y_i - t_i^2/2) - g*(V).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis import checks

_TINY = torch.finfo(torch.float64).tiny


class Certificate(NamedTuple):
    """What the residual says about weights."""

    dual: Tensor  # t, (B, n), 0 for absent samples
    gap: Tensor  # (B,)
    relative_gap: Tensor  # gap / P(0), (B,)
    objective: Tensor  # P(w), (B,)


def certificate(
    features: Tensor, targets: Tensor, share: Tensor, lambda1: Tensor, lambda2: Tensor, w: Tensor, step: Tensor
) -> Certificate:
    """The duality gap of w (B, d), as a sum of terms that are not negative one by one: it does not cancel.

    The smallest of up to three, with the residual r = y - X w and the gradient v = X^T diag(c) r - lambda2 w:

    - of t = a r with a = min(1, lambda1/max_j |v_j|), the elastic net seen as a Lasso with lambda2 in the features;
    - for lambda2 > 0 that of t = r, by g*;
    - for lambda1 = 0 the distance to the minimum itself, v . H^-1 v / 2, with ``step`` = H^-1 v (B, d) from the caller.
    """
    r = targets - (features @ w[..., None])[..., 0]
    correlation = (features.mT @ (share * r)[..., None])[..., 0]
    v = correlation - lambda2[:, None] * w
    size = w.abs()
    l1, l2 = lambda1[:, None], lambda2[:, None]
    misfit = (share * r**2).sum(1)
    ridge = lambda2 * (w**2).sum(1)

    a = (lambda1 / v.abs().amax(1).clamp_min(_TINY)).clamp_max(1)
    gap = (1 - a) ** 2 / 2 * (misfit + ridge) + (l1 * size - a[:, None] * v * w).clamp_min(0).sum(1)
    above = (correlation.abs() - l1).clamp_min(0)
    opposed = correlation * w < 0
    aligned = (l1 - correlation.abs()).clamp_min(0) * size + (l2 * size - above) ** 2 / (2 * l2).clamp_min(_TINY)
    against = (l1 + correlation.abs()) * size + l2 / 2 * size**2 + above**2 / (2 * l2).clamp_min(_TINY)
    by_conjugate = torch.where(opposed, against, aligned).sum(1)
    unscaled = (lambda2 > 0) & (by_conjugate < gap)
    gap = torch.where(unscaled, by_conjugate, gap)
    to_minimum = (v * step).sum(1).clamp_min(0) / 2
    quadratic = (lambda1 == 0) & (to_minimum < gap)
    gap = torch.where(quadratic, to_minimum, gap)

    dual = torch.where((unscaled | quadratic)[:, None], r, a[:, None] * r) * (share > 0)
    objective = (misfit + ridge) / 2 + lambda1 * size.sum(1)
    at_zero = (share * targets**2).sum(1) / 2
    return Certificate(dual, gap, gap / at_zero.clamp_min(_TINY), objective)


def zero_threshold(features: Tensor, targets: Tensor, share: Tensor) -> Tensor:
    """max_j |X_j^T diag(c) y|, (B,): w = 0 is the solution exactly from this lambda1 on."""
    return (features.mT @ (share * targets)[..., None]).abs().amax((1, 2))


def check_values(
    features: Tensor, targets: Tensor, lambda1: Tensor | None, lambda2: Tensor | None, sample_weight: Tensor
) -> None:
    """What can only be seen in the values: run where the values are, inside the operation."""
    checks.finite("features", features, ("task", "sample", "feature"))
    checks.finite("targets", targets, ("task", "sample"))
    checks.weight_values(sample_weight)
    checks.parameter_values(lambda1=lambda1, lambda2=lambda2)
