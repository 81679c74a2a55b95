"""Block coordinate descent on the dual, one sample at a time."""

from __future__ import annotations

import torch

from sparsedis.ops.svm.backend_torch.progress import Progress
from sparsedis.ops.svm.problem import Problem, block_soft_threshold, certificate, row_norms, simplex_projection

_TINY = torch.finfo(torch.float64).tiny


def bcd(problem: Problem, tol: float, max_iter: int) -> Progress:
    """Solve every task to a relative gap of ``tol``; an iteration is one sweep over the samples.

    A sample's step size is one over its own Lipschitz constant s^2 ||x||^2/lambda2 + s rho. V is updated in every step
    and recomputed from L at the certificate of every sweep, so that rounding errors do not accumulate.
    """
    progress = Progress(problem, tol, patience=100)
    index = torch.arange(problem.shape[0], device=problem.features.device)
    dual = progress.dual.clone()
    for sweep in range(max_iter + 1):
        at = certificate(problem, dual)
        going = progress.record(index, dual, at.relative_gap, sweep) & ~progress.certified[index]
        if sweep == max_iter or not bool(going.any()):
            break
        V = at.V
        if not bool(going.all()):
            kept = going.nonzero()[:, 0]
            index, problem, dual, V = index[kept], problem.take(kept), dual[kept], V[kept]
        _sweep(problem, dual, V)
    return progress


def _sweep(problem: Problem, dual: torch.Tensor, V: torch.Tensor) -> None:
    """One pass over the samples; updates ``dual`` and ``V`` in place."""
    weight = problem.weight[..., 0]
    constant = weight * (problem.features**2).sum(-1) / problem.lambda2[:, None] + problem.rho[:, None]
    # Padding has constant 0 and no influence; its step need only be finite.
    step = 1 / torch.maximum(constant, 1e-12 * constant.amax(1, keepdim=True)).clamp_min(_TINY)
    for i in range(problem.shape[1]):
        x = problem.features[:, i]
        W = block_soft_threshold(V, row_norms(V), problem.lambda1) / problem.lambda2[:, None, None]
        target = problem.targets[:, i]
        gradient = target - (x[:, None] @ W)[:, 0] + problem.rho[:, None] * (dual[:, i] - target)
        new, _ = simplex_projection(dual[:, i] - step[:, i, None] * gradient)
        change = weight[:, i, None] * (dual[:, i] - new)
        V += x[..., None] * change[:, None]
        dual[:, i] = new
