"""Group-Lasso logistic regression, from features and labels to a Solution."""

from __future__ import annotations

from torch import Tensor

from sparsedis import checks
from sparsedis.arguments import (
    class_count,
    per_task,
    step_limit,
    task_batch,
    times_scale,
    total_weight,
    weights_of,
)
from sparsedis.ops import logistic
from sparsedis.ops.common.backend import Request
from sparsedis.ops.common.precision import working_dtype
from sparsedis.ops.logistic.signature import SOLVER, Inputs, Options
from sparsedis.solution import Solution

_MAX_ITER = 500


def solve_logistic(
    features: Tensor,
    labels: Tensor,
    *,
    lambda1: float | Tensor,
    lambda2: float | Tensor = 0.0,
    intercept: bool = False,
    relative: bool = False,
    reduction: str = "mean",
    n_classes: int | None = None,
    sample_weight: Tensor | None = None,
    backend: str = "auto",
    tol: float = 1e-5,
    max_iter: int | None = None,
    throw: bool = False,
) -> Solution:
    """Solve a batch of group-Lasso multinomial logistic regressions, each with its own duality-gap certificate.

    Every task minimises over W (d, k), and with ``intercept`` over b (k,)::

        1/N sum_i s_i CE(x_i W + b, y_i) + lambda1 sum_j ||W_j||_2 + lambda2/2 ||W||^2,
        N = sum_i s_i,

    where CE is the cross-entropy of the softmax and a row W_j holds all weights of feature j. The intercept is not
    penalised and sums to zero. Source: Lachapelle et al., ICML 2023, arXiv 2211.14666.

    ``Solution.weights`` and ``Solution.intercept`` are differentiable in features, lambda1 and lambda2 by implicit
    differentiation on the active rows. Reverse mode, forward mode and the transforms of torch.func are supported, as
    are autocast and torch.compile(fullgraph=True). A second derivative, and forward mode inside a compiled function,
    raise RuntimeError.

    Args:
        features: X, (B, n, d), or (n, d) for a single task, whose results then have no batch dimension. float32 or
            float64; half precision is solved and returned in float32.
        labels: (B, n) or (n,), integers from 0 to k-1, of any integer dtype. With an intercept every class needs a
            sample.
        lambda1: >= 0, weight of the group Lasso: a number, a 0-d tensor or (B,). lambda1 or lambda2 must be positive;
            otherwise there may be no minimum.
        lambda2: >= 0, weight of the squared norm: a number, a 0-d tensor or (B,).
        intercept: fit an intercept.
        relative: if True, lambda1 is a multiple of each task's :func:`logistic_lambda1_max`, which is held constant in
            the gradient.
        reduction: as in :func:`sparsedis.solve_lasso`.
        n_classes: k >= 2. Default: the largest label + 1. Required under torch.compile and torch.func.vmap.
        sample_weight: s, (B, n) or (n,), >= 0; 0 marks padding, whose labels are ignored. Default: 1 for all samples.
        backend: "torch" (any device) or "auto".
        tol: > 0, the ``Solution.relative_gap`` to reach. The solver continues to rounding error, because an accurate
            gradient requires the exact set of active features.
        max_iter: default 500. An iteration consists of sweeps of block coordinate descent and Newton steps.
        throw: raise NotCertifiedError if a task is not certified.

    Returns:
        The :class:`Solution` with weights (B, d, k), dual (B, n, k) and, with ``intercept``, intercept (B, k).

    Raises:
        TypeError, ValueError: invalid input; the message states what was expected and what was given.
        NotCertifiedError: with ``throw``, a relative gap remained above ``tol``; the message lists tasks and gaps.
    """
    features, labels, sample_weight, single = task_batch(features, labels, sample_weight)
    batch, n, d = features.shape
    lambda1 = checks.hyperparameter("lambda1", lambda1, batch, features, positive=False)
    lambda2 = checks.hyperparameter("lambda2", lambda2, batch, features, positive=False)
    tol = checks.number("tol", tol, above=0)
    for name, value in (("intercept", intercept), ("relative", relative), ("throw", throw)):
        checks.flag(name, value)
    steps = step_limit(max_iter, _MAX_ITER)
    classes = class_count(labels, sample_weight, n_classes)
    chosen = logistic.OPERATION.choose(backend, Request(features.device, features.dtype, n, d, classes, SOLVER))

    working = working_dtype(features.device)
    weight = weights_of(sample_weight, features, working)
    l1, l2 = (per_task(value, batch, working, features.device) for value in (lambda1, lambda2))
    # The operation minimises the mean loss. For "sum", divide the penalties by N and multiply gap and objective by N.
    total = total_weight(weight, reduction, wanted="sum")
    if relative:
        l1 = times_scale(l1, logistic.lambda1_max(features.detach(), labels, weight, classes, bool(intercept)))
    elif total is not None:
        l1 = l1 / total
    if total is not None:
        l2 = l2 / total
    inputs = Inputs(features, labels, l1, l2, weight)
    options = Options(classes, bool(intercept), float(tol), steps)
    weights, *rest = logistic.OPERATION.solve(*inputs, *options, chosen, bool(throw))
    return Solution.of(
        (weights[:, :d], *rest),
        total,
        single=single,
        solver=SOLVER,
        backend=chosen,
        intercept=weights[:, d] if intercept else None,
    )


def logistic_lambda1_max(
    features: Tensor,
    labels: Tensor,
    *,
    intercept: bool = False,
    reduction: str = "mean",
    n_classes: int | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """``max_j ||sum_i s_i x_ij (Y_i - p)|| / N``, (B,): W is zero if and only if lambda1 is at least this value.

    p is 1/k, or with an intercept the class frequencies. The value is not differentiable.

    Args:
        features: (B, n, d) or (n, d).
        labels: (B, n) or (n,).
        intercept, reduction: as in :func:`solve_logistic`.
        n_classes: default: the largest label + 1. Required under torch.compile and torch.func.vmap.
        sample_weight: (B, n) or (n,), >= 0. Default: 1 for all samples.

    Returns:
        (B,), or a 0-d tensor for one task, in float64.

    Raises:
        TypeError, ValueError: as in :func:`solve_logistic`.
    """
    features, labels, sample_weight, single = task_batch(features, labels, sample_weight)
    classes = class_count(labels, sample_weight, n_classes)
    checks.flag("intercept", intercept)
    weight = weights_of(sample_weight, features, working_dtype(features.device))
    result = logistic.lambda1_max(features.detach(), labels, weight, classes, bool(intercept))
    total = total_weight(weight, reduction, wanted="sum")
    result = result if total is None else result * total
    return result[0] if single else result
