"""Ridge regression, from features and targets to a Solution."""

from __future__ import annotations

from torch import Tensor

from sparsedis import checks
from sparsedis.arguments import as_batch, per_task, times_scale, total_weight, weights_of
from sparsedis.ops import ridge
from sparsedis.ops.common.backend import Request
from sparsedis.ops.common.precision import working_dtype
from sparsedis.ops.ridge.signature import SOLVER, Inputs, Options
from sparsedis.solution import Solution


def solve_ridge(
    features: Tensor,
    targets: Tensor,
    *,
    lambda2: float | Tensor,
    relative: bool = False,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    backend: str = "auto",
    tol: float = 1e-5,
    throw: bool = False,
) -> Solution:
    """Solve a batch of ridge regressions in closed form.

    Every task minimises over w (d,) or (d, m), without intercept::

        1/(2 N) sum_i s_i ||x_i.w - y_i||^2 + lambda2/2 ||w||^2,
        N = sum_i s_i

    For one target this is :func:`solve_lasso` with lambda1 = 0. The solver factors a system of order min(n, d) and
    applies iterative refinement. ``Solution.weights`` is differentiable in features, targets and lambda2; everything
    else is as in :func:`solve_lasso`.

    Args:
        features: X, (B, n, d), or (n, d) for a single task.
        targets: y, (B, n), or (B, n, m) for m targets; (n,) or (n, m) for a single task.
        lambda2: > 0, weight of the squared norm: a number, a 0-d tensor or (B,).
        relative: if True, lambda2 is a multiple of the mean squared norm of each task's samples, sum_i s_i ||x_i||^2 /
            N (||X||_F^2 / n without sample weights), which is held constant in the gradient.
        reduction: as in :func:`solve_lasso`.
        sample_weight: s, (B, n) or (n,), >= 0; 0 marks padding. Default: 1 for all samples.
        backend: "torch" (any device) or "auto".
        tol: > 0, the relative gap up to which a task counts as certified; it does not change the weights.
        throw: raise NotCertifiedError if a task is not certified.

    Returns:
        The :class:`Solution` with weights (B, d) or (B, d, m), and the residuals as dual, in the targets' shape.

    Raises:
        TypeError, ValueError: invalid input; the message states what was expected and what was given.
        NotCertifiedError: with ``throw``, a relative gap remained above ``tol``; the message lists tasks and gaps.
    """
    checks.regression_tensors(features, targets, sample_weight, several_targets=True)
    features, targets, sample_weight, single = as_batch(features, targets, sample_weight)
    batch, n, d = features.shape
    lambda2 = checks.hyperparameter("lambda2", lambda2, batch, features, positive=True)
    tol = checks.number("tol", tol, above=0)
    for name, value in (("relative", relative), ("throw", throw)):
        checks.flag(name, value)
    one = targets.dim() == 2
    request = Request(features.device, features.dtype, n, d, 1 if one else targets.shape[2], SOLVER)
    chosen = ridge.OPERATION.choose(backend, request)

    working = working_dtype(features.device)
    weight = weights_of(sample_weight, features, working)
    l2 = per_task(lambda2, batch, working, features.device)
    # The operation minimises the mean loss. For "sum", divide the penalty by N and multiply gap and objective by N.
    total = total_weight(weight, reduction, wanted="sum")
    if relative:
        l2 = times_scale(l2, ridge.mean_square(features.detach(), weight))
    elif total is not None:
        l2 = l2 / total
    inputs = Inputs(features, targets[..., None] if one else targets, l2, weight)
    weights, dual, *rest = ridge.OPERATION.solve(*inputs, *Options(float(tol)), chosen, bool(throw))
    if one:
        weights, dual = weights[..., 0], dual[..., 0]
    return Solution.of((weights, dual, *rest), total, single=single, solver=SOLVER, backend=chosen)
