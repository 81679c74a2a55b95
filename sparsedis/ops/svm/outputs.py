"""Outputs of the backends written in Python: weights rounded to the dtype that is returned, and their certificate."""

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
    """Weights as returned (B, d, k), their gap, their objective, and a gap that rounding may keep, (B,) each."""

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
    """The outputs of an operation from a dual point.

    Rounding to float32 takes samples off their margin, to both sides, and what is lost on the one may be much beside a
    small objective. Weights that are longer by a few roundings have all of them on the right side, at hardly more.

    Args:
        divisor: of each task's sample weights, lambdas and objective, (B,); see
            :func:`sparsedis.ops.svm.problem.normalised`.
        at: the certificate of ``dual``.
        scores_of: X W (B, n, k), in the working precision, of weights W (B, d, k) of the problem.
        n_iter, status: of the solver, which knew its own weights only, (B,).
        dtype: of the weights as returned.
        scale: by which W as returned is larger than the problem's own, broadcast against (B, d, k).
    """

    def rounded(longer: float) -> _Rounded:
        weights = ((1 + longer) * at.weights * scale).to(dtype)
        given = weights.to(dual.dtype) / scale
        gap, objective = certificate_of(problem, dual, at, given, scores_of(given))
        error, attainable = rounding_of(problem, dual, given)
        return _Rounded(weights, gap + error, objective, attainable)

    best = rounded(0)
    longer = LENGTHEN_LEAST
    while dtype == torch.float32 and longer <= LENGTHEN_MOST:
        badly_rounded = best.relative_gap - at.relative_gap > WELL_ROUNDED
        if not badly_rounded.any():
            break
        stretched = rounded(longer)
        better = badly_rounded & (stretched.relative_gap < best.relative_gap)
        best = _Rounded(
            torch.where(better[:, None, None], stretched.weights, best.weights),
            *(torch.where(better, new, old) for new, old in zip(stretched[1:], best[1:], strict=True)),
        )
        longer *= LENGTHEN_FACTOR
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
