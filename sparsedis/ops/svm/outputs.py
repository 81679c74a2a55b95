"""Outputs of the backends written in Python: the certificate of the weights as returned, rounded to their dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.backend import Outputs
from sparsedis.ops.common.batches import status_as_returned
from sparsedis.ops.svm.problem import Certificate, Problem, certificate_of, complementarity_margin, rounding_of

_TINY = torch.finfo(torch.float64).tiny


def outputs(
    problem: Problem,
    divisor: Tensor,
    dual: Tensor,
    at: Certificate,
    weights: Tensor,
    scores: Tensor,
    n_iter: Tensor,
    status: Tensor,
    tol: float,
    scale: Tensor | float = 1.0,
) -> Outputs:
    """The outputs of an operation from a dual point and its weights.

    Args:
        divisor: of each task's sample weights, lambdas and objective, (B,); see
            :func:`sparsedis.ops.svm.problem.normalised`.
        at: the certificate of ``dual``.
        weights: W as returned, (B, d, k).
        scores: X W of those, (B, n, k), in the working precision.
        n_iter, status: of the solver, which knew its own weights only, (B,).
        scale: by which W as returned is larger than the problem's own, broadcast against (B, d, k).
    """
    given = weights.to(dual.dtype) / scale
    gap, objective = certificate_of(problem, dual, at, given, scores)
    error, attainable = rounding_of(problem, dual, given)
    gap = gap + error
    relative_gap = gap / objective.clamp_min(_TINY)
    return Outputs(
        weights=weights,
        dual=dual,
        gap=divisor * gap,
        relative_gap=relative_gap,
        objective=divisor * objective,
        n_iter=n_iter,
        status=status_as_returned(status, at.relative_gap, relative_gap, tol, attainable / objective.clamp_min(_TINY)),
        active=at.norms > problem.lambda1[:, None],
        margin=complementarity_margin(problem, dual, at),
    )
