"""Outputs of the Python backends: the weights rounded to the returned dtype, and their certificate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis.ops.common.backend import Outputs
from sparsedis.ops.common.batches import status_as_returned
from sparsedis.ops.svm.problem import Certificate, Problem, certificate_of, complementarity_margin, rounding_of
from sparsedis.ops.svm.thresholds import LENGTHEN_FACTOR, LENGTHEN_LEAST, LENGTHEN_MOST, WELL_ROUNDED

_TINY = torch.finfo(torch.float64).tiny


class _Rounded(NamedTuple):
    """Weights in the returned dtype (B, d, k); their gap, objective and attainable gap under rounding, (B,) each."""

    weights: Tensor
    gap: Tensor
    objective: Tensor
    attainable: Tensor

    @property
    def relative_gap(self) -> Tensor:
        return self.gap / self.objective.clamp_min(_TINY)


def outputs(
    problem: Problem,
    divisor: Tensor,
    dual: Tensor,
    at: Certificate,
    scores_of: Callable[[Tensor], Tensor],
    n_iter: Tensor,
    status: Tensor,
    tol: float,
    dtype: torch.dtype,
    scale: Tensor | float = 1.0,
) -> Outputs:
    """The outputs of the operation from a dual point.

    Rounding to float32 moves samples off the margin to both sides, and the loss on one side can be large relative to a
    small objective. Weights that are longer by a few ulps put all of them on the right side at little cost, so such
    lengthenings are tried.

    Args:
        divisor: scale by which :func:`sparsedis.ops.svm.problem.normalised` divided each task, (B,).
        at: the certificate of ``dual``.
        scores_of: maps weights W (B, d, k) of the problem to X W (B, n, k), in the working precision.
        n_iter, status: of the solver, before rounding, (B,).
        tol: relative gap to reach.
        dtype: of the returned weights.
        scale: ratio of the returned W to the problem's W, broadcast against (B, d, k).
    """

    def rounded(lengthening: float) -> _Rounded:
        weights = ((1 + lengthening) * at.weights * scale).to(dtype)
        returned = weights.to(dual.dtype) / scale
        gap, objective = certificate_of(problem, dual, at, returned, scores_of(returned))
        error, attainable = rounding_of(problem, dual, returned)
        return _Rounded(weights, gap + error, objective, attainable)

    best = rounded(0)
    lengthening = LENGTHEN_LEAST
    while dtype == torch.float32 and lengthening <= LENGTHEN_MOST:
        badly_rounded = best.relative_gap - at.relative_gap > WELL_ROUNDED
        if not badly_rounded.any():
            break
        lengthened = rounded(lengthening)
        better = badly_rounded & (lengthened.relative_gap < best.relative_gap)
        best = _Rounded(
            torch.where(better[:, None, None], lengthened.weights, best.weights),
            *(torch.where(better, new, old) for new, old in zip(lengthened[1:], best[1:], strict=True)),
        )
        lengthening *= LENGTHEN_FACTOR
    limit = best.attainable / best.objective.clamp_min(_TINY)
    return Outputs(
        weights=best.weights,
        dual=dual,
        gap=divisor * best.gap,
        relative_gap=best.relative_gap,
        objective=divisor * best.objective,
        n_iter=n_iter,
        status=status_as_returned(status, at.relative_gap, best.relative_gap, tol, limit),
        active=at.norms > problem.lambda1[:, None],
        margin=complementarity_margin(problem, dual, at),
    )
