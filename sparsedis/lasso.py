"""Lassos and elastic nets, from features and targets to a Solution."""

from __future__ import annotations

from torch import Tensor

from sparsedis import checks
from sparsedis.arguments import as_batch, per_task, step_limit, times_scale, total_weight, weights_of
from sparsedis.ops import lasso
from sparsedis.ops.common.backend import Request
from sparsedis.ops.common.precision import working_dtype
from sparsedis.ops.lasso.signature import SOLVER, Inputs, Options
from sparsedis.solution import Solution

_MAX_ITER = 1000


def solve_lasso(
    features: Tensor,
    targets: Tensor,
    *,
    lambda1: float | Tensor,
    lambda2: float | Tensor = 0.0,
    relative: bool = False,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    backend: str = "auto",
    tol: float = 1e-5,
    max_iter: int | None = None,
    throw: bool = False,
) -> Solution:
    """Solve a batch of Lassos or elastic nets, each with its own duality-gap certificate.

    Every task minimises over w (d,), without intercept::

        1/(2 N) sum_i s_i (x_i.w - y_i)^2 + lambda1 ||w||_1 + lambda2/2 ||w||^2,
        N = sum_i s_i.

    ``Solution.weights`` is differentiable in features, targets, lambda1 and lambda2 by implicit differentiation on the
    active features. Reverse mode, forward mode and the transforms of torch.func are supported, as are autocast and
    torch.compile(fullgraph=True). A second derivative, and forward mode inside a compiled function, raise RuntimeError.
    Source: the inner problem of Lachapelle et al., ICML 2023 (arXiv 2211.14666), section 3.2.

    Args:
        features: X, (B, n, d), or (n, d) for a single task, whose results then have no batch dimension. float32 or
            float64; half precision is solved and returned in float32.
        targets: y, (B, n) or (n,), floating point.
        lambda1: >= 0, weight of the L1 norm: a number, a 0-d tensor or (B,). With lambda1 = lambda2 = 0 the solution is
            the least-squares solution of minimum norm (each weight multiplied by the scale of its feature).
        lambda2: >= 0, weight of the squared norm: a number, a 0-d tensor or (B,).
        relative: if True, lambda1 is a multiple of each task's :func:`lasso_lambda1_max`, which is held constant in the
            gradient.
        reduction: "mean" (the objective above) or "sum" (without 1/N, which is the default of :func:`solve_svm`).
        sample_weight: s, (B, n) or (n,), >= 0; 0 marks padding. Default: 1 for all samples.
        backend: "cpp" (CPU, up to 1024 features), "triton" (CUDA or ROCm, up to 64), "torch" (any device),
            or "auto": the first of these that can run the problem.
        tol: > 0, the ``Solution.relative_gap`` to reach. The solver continues to rounding error, usually 1e-15, because
            an accurate gradient requires the exact set of active features.
        max_iter: default 1000. An iteration consists of up to ten sweeps of coordinate descent, from the third
            iteration on the activation of further features, and direct solves on the active features.
        throw: raise NotCertifiedError if a task is not certified.

    Returns:
        The :class:`Solution` with weights (B, d) and dual (B, n), the scaled residual that certifies them. If features
        are linearly dependent, the predictions X w are unique but the weights are one of several solutions; the
        gradient is then that of the weights of least change.

    Raises:
        TypeError, ValueError: invalid input; the message states what was expected and what was given.
        NotCertifiedError: with ``throw``, a relative gap remained above ``tol``; the message lists tasks and gaps.
    """
    checks.regression_tensors(features, targets, sample_weight)
    features, targets, sample_weight, single = as_batch(features, targets, sample_weight)
    batch, n, d = features.shape
    lambda1 = checks.hyperparameter("lambda1", lambda1, batch, features, positive=False)
    lambda2 = checks.hyperparameter("lambda2", lambda2, batch, features, positive=False)
    tol = checks.number("tol", tol, above=0)
    for name, value in (("relative", relative), ("throw", throw)):
        checks.flag(name, value)
    steps = step_limit(max_iter, _MAX_ITER)
    chosen = lasso.OPERATION.choose(backend, Request(features.device, features.dtype, n, d, 1, SOLVER))

    working = working_dtype(features.device)
    weight = weights_of(sample_weight, features, working)
    l1, l2 = (per_task(value, batch, working, features.device) for value in (lambda1, lambda2))
    # The operation minimises the mean loss. For "sum", divide the penalties by N and multiply gap and objective by N.
    total = total_weight(weight, reduction, wanted="sum")
    if relative:
        l1 = times_scale(l1, lasso.lambda1_max(features.detach(), targets.detach(), weight))
    elif total is not None:
        l1 = l1 / total
    if total is not None:
        l2 = l2 / total
    inputs, options = Inputs(features, targets, l1, l2, weight), Options(float(tol), steps)
    outputs = lasso.OPERATION.solve(*inputs, *options, chosen, bool(throw))
    return Solution.of(outputs, total, single=single, solver=SOLVER, backend=chosen)


def lasso_lambda1_max(
    features: Tensor, targets: Tensor, *, reduction: str = "mean", sample_weight: Tensor | None = None
) -> Tensor:
    """``max_j |sum_i s_i x_ij y_i| / N``, (B,): the weights are zero if and only if lambda1 is at least this value.

    It is not differentiable.

    Args:
        features: (B, n, d) or (n, d).
        targets: (B, n) or (n,).
        reduction: as in :func:`solve_lasso`.
        sample_weight: (B, n) or (n,), >= 0. Default: 1 for all samples.

    Returns:
        (B,), or a 0-d tensor for one task, in float64.

    Raises:
        TypeError, ValueError: as in :func:`solve_lasso`.
    """
    checks.regression_tensors(features, targets, sample_weight)
    features, targets, sample_weight, single = as_batch(features, targets, sample_weight)
    weight = weights_of(sample_weight, features, working_dtype(features.device))
    result = lasso.lambda1_max(features.detach(), targets.detach(), weight)
    total = total_weight(weight, reduction, wanted="sum")
    result = result if total is None else result * total
    return result[0] if single else result
