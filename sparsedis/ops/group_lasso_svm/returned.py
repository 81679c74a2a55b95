"""What a backend written in torch returns: weights in their dtype, and the certificate of these weights."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.operation import status_as_returned
from sparsedis.problem import Certificate, Problem, certificate_of, complementarity_margin
from sparsedis.solution import Status

_TINY = torch.finfo(torch.float64).tiny


def returned(
    problem: Problem,
    divisor: Tensor,
    dual: Tensor,
    at: Certificate,
    weights: Tensor,
    scores: Tensor,
    n_iter: Tensor,
    status: Tensor,
    tol: float,
) -> tuple[Tensor, ...]:
    """dual, gap, relative_gap, objective, n_iter, status, active and margin of the contract.

    Args:
        divisor: of each task's weights, lambdas and objective, (B,); see :func:`sparsedis.problem.normalised`.
        at: the certificate of ``dual``.
        weights: rounded as they are returned, (B, d, k) in the problem's own scale and the working precision.
        scores: X W of those, (B, n, k).
        n_iter, status: of the solver, who knew its own weights only.
    """
    gap, objective = certificate_of(problem, dual, at, weights, scores)
    relative_gap = gap / objective.clamp_min(_TINY)
    reached = (at.relative_gap <= tol) | (relative_gap <= tol)
    status = torch.where(reached, int(Status.CERTIFIED), status)
    status = status_as_returned(status, relative_gap, tol)
    active = at.norms > problem.lambda1[:, None]
    margin = complementarity_margin(problem, dual, at)
    return dual, divisor * gap, relative_gap, divisor * objective, n_iter, status, active, margin
