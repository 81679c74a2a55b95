"""Outputs of the Python backends: the certificate of the returned weights, after rounding to their dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.backend import Outputs
from sparsedis.ops.common.batches import status_as_returned
from sparsedis.ops.common.precision import returned_dtype
from sparsedis.ops.common.primal import Certificate
from sparsedis.ops.lasso.problem import attainable, certificate, kink_margin


def outputs(
    X: Tensor,
    y: Tensor,
    weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    w: Tensor,
    at: Certificate,
    n_iter: Tensor,
    status: Tensor,
    *,
    tol: float,
    features_dtype: torch.dtype,
) -> Outputs:
    """The operation's outputs, from the solver's w (B, d) and its certificate, for features of that dtype."""
    solver_gap = at.relative_gap
    weights = w.to(returned_dtype(features_dtype))
    if weights.dtype != w.dtype:
        at = certificate(X, y, weight, lambda1, lambda2, w, at.gap, weights.to(w.dtype))
    status = status_as_returned(status, solver_gap, at.relative_gap, tol, attainable(X, y, weight, w))
    return Outputs(weights, *at, n_iter, status, weights != 0, kink_margin(X, y, weight, lambda1, w))
