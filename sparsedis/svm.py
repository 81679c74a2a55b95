"""Group-Lasso multiclass SVMs, from features and labels to a Solution."""

from __future__ import annotations

from torch import Tensor

from sparsedis import checks
from sparsedis.arguments import (
    class_count,
    is_zero,
    per_task,
    step_limit,
    task_batch,
    times_scale,
    total_weight,
    weights_of,
)
from sparsedis.ops import svm
from sparsedis.ops.common.backend import Request
from sparsedis.ops.common.custom_op import may_be_differentiated
from sparsedis.ops.common.precision import working_dtype
from sparsedis.ops.svm.signature import SOLVERS, Inputs, Options
from sparsedis.solution import Solution

_MAX_ITER = {"newton": 200, "fista": 5000, "bcd": 2000}


def solve_svm(
    features: Tensor,
    labels: Tensor,
    *,
    lambda1: float | Tensor,
    lambda2: float | Tensor = 1.0,
    dual_reg: float | Tensor = 0.0,
    relative: bool = False,
    reduction: str = "sum",
    n_classes: int | None = None,
    sample_weight: Tensor | None = None,
    solver: str = "auto",
    backend: str = "auto",
    tol: float = 1e-5,
    max_iter: int | None = None,
    throw: bool = False,
) -> Solution:
    """Solve a batch of group-Lasso multiclass SVMs, each with its own duality-gap certificate.

    Every task minimises over W (d, k)::

        sum_i s_i phi(m_i) + lambda1 sum_j ||W_j|| + lambda2/2 ||W||^2,
        m_il = 1 - [l = y_i] + x_i.W_l - x_i.W_{y_i},

    where phi is the maximum over the classes (Crammer-Singer hinge), smoothed if dual_reg > 0. There is no intercept.
    Source: Lachapelle et al., ICML 2023 (arXiv 2211.14666), section 3.3.

    ``Solution.weights`` is differentiable in features, lambda1, lambda2 and dual_reg by implicit differentiation: no
    iteration is unrolled, and only the inputs and the solution are stored. Reverse mode, forward mode and the
    transforms of torch.func are supported, as are autocast and torch.compile(fullgraph=True). A second derivative, and
    forward mode inside a compiled function, raise RuntimeError.

    Args:
        features: X, (B, n, d), or (n, d) for a single task, whose results then have no batch dimension. float32 or
            float64; half precision is solved and returned in float32.
        labels: (B, n) or (n,), integers from 0 to k-1, of any integer dtype. A class may have no sample.
        lambda1: >= 0, weight of the group Lasso: a number, a 0-d tensor or (B,). With 0 the SVM is dense.
        lambda2: > 0, weight of the squared norm: a number, a 0-d tensor or (B,).
        dual_reg: >= 0, smoothing of the hinge: a number, a 0-d tensor or (B,). 0 is the exact hinge.
        relative: if True, lambda1 is a multiple of each task's :func:`svm_lambda1_max`, which is held constant in the
            gradient.
        reduction: "sum" (the objective above) or "mean" (s_i / sum s in place of s_i, which is the default of the other
            solvers).
        n_classes: k >= 2. Default: the largest label + 1. Required under torch.compile and torch.func.vmap.
        sample_weight: s, (B, n) or (n,), >= 0; 0 marks padding, whose labels are ignored. Default: 1 for all samples.
        solver: "newton" (interior point), "fista", "bcd" (block coordinate descent), or "auto", which is "newton".
        backend: "cpp" (CPU), "cuda" (CUDA), "triton" (CUDA or ROCm), "torch" (any device), or "auto": the first of
            these that can run the problem.
        tol: > 0, the ``Solution.relative_gap`` to reach. newton continues to rounding error if tol < 1e-3; every solver
            does if a gradient can be requested later (docs/solvers.md).
        max_iter: default 200 for newton (which usually needs fewer than 30), 5000 for fista, 2000 sweeps for bcd.
            Excludes the steps that refine a first-order solution for a gradient, and newton's first-order fallback.
        throw: raise NotCertifiedError if a task is not certified.

    Returns:
        The :class:`Solution`. Unless ``throw`` is set, check its ``status`` or ``certified``.

    Raises:
        TypeError, ValueError: invalid input; the message states what was expected and what was given.
        NotCertifiedError: with ``throw``, a relative gap remained above ``tol``; the message lists tasks and gaps.
    """
    features, labels, sample_weight, single = task_batch(features, labels, sample_weight)
    batch, n, d = features.shape
    parameters = {
        name: checks.hyperparameter(name, value, batch, features, positive=name == "lambda2")
        for name, value in (("lambda1", lambda1), ("lambda2", lambda2), ("dual_reg", dual_reg))
    }
    tol = checks.number("tol", tol, above=0)
    for name, value in (("relative", relative), ("throw", throw)):
        checks.flag(name, value)
    checks.one_of("solver", solver, ("auto", *SOLVERS))
    if solver == "auto":
        solver = "newton"
    steps = step_limit(max_iter, _MAX_ITER[solver])
    classes = class_count(labels, sample_weight, n_classes)
    chosen = svm.OPERATION.choose(backend, Request(features.device, features.dtype, n, d, classes, solver))

    working = working_dtype(features.device)
    l1, l2, reg = (per_task(value, batch, working, features.device) for value in parameters.values())
    weight = _reduced(weights_of(sample_weight, features, working), reduction)
    if relative and not is_zero(parameters["lambda1"]):
        l1 = times_scale(l1, svm.lambda1_max(features.detach(), labels, weight, classes, False))
    inputs = Inputs(features, labels, l1, l2, reg, weight)
    exact = may_be_differentiated(features, *parameters.values())
    options = Options(classes, solver, float(tol), steps, exact)
    outputs = svm.OPERATION.solve(*inputs, *options, chosen, bool(throw))
    return Solution.of(outputs, single=single, solver=solver, backend=chosen)


def svm_lambda1_max(
    features: Tensor,
    labels: Tensor,
    *,
    reduction: str = "sum",
    n_classes: int | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """``max_j ||X_j^T diag(s)(Y - (1-Y)/(k-1))||``, (B,): a lambda1 from which on every feature is inactive.

    This is an upper bound on the smallest such lambda1, not a tight one. It is not differentiable.

    Args:
        features: (B, n, d) or (n, d).
        labels: (B, n) or (n,).
        reduction: as in :func:`solve_svm`.
        n_classes: default: the largest label + 1. Required under torch.compile and torch.func.vmap.
        sample_weight: (B, n) or (n,), >= 0. Default: 1 for all samples.

    Returns:
        (B,), or a 0-d tensor for one task, in float64.

    Raises:
        TypeError, ValueError: as in :func:`solve_svm`.
    """
    features, labels, sample_weight, single = task_batch(features, labels, sample_weight)
    classes = class_count(labels, sample_weight, n_classes)
    weight = _reduced(weights_of(sample_weight, features, working_dtype(features.device)), reduction)
    result = svm.lambda1_max(features.detach(), labels, weight, classes, True)
    return result[0] if single else result


def _reduced(weight: Tensor, reduction: str) -> Tensor:
    """Sample weights (B, n) for the operation, which sums the losses: divided by their total for "mean"."""
    total = total_weight(weight, reduction, wanted="mean")
    return weight if total is None else weight / total[:, None]
