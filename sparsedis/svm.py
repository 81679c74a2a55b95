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
    """Solve a batch of group-Lasso multiclass SVMs, each to its own certificate.

    Every task minimises over W (d, k)::

        sum_i s_i phi(m_i) + lambda1 sum_j ||W_j|| + lambda2/2 ||W||^2,
        m_il = 1 - [l = y_i] + x_i.W_l - x_i.W_{y_i},

    with phi the maximum of the margins (Crammer-Singer), smoothed where dual_reg > 0; there is no intercept. Source:
    Lachapelle et al., ICML 2023 (arXiv 2211.14666), section 3.3.

    ``Solution.weights`` is differentiable in features, lambda1, lambda2 and dual_reg, by implicit differentiation: no
    iteration is unrolled and nothing but the solution is kept. In reverse and forward mode, and through the transforms
    of torch.func; a second derivative raises RuntimeError. Works under autocast and torch.compile(fullgraph=True);
    forward mode inside a compiled function raises RuntimeError.

    Args:
        features: X, (B, n, d), or (n, d) for one task, whose results then have no batch dimension. float32 or float64;
            half precision is read as it is and solved and returned in float32.
        labels: (B, n) or (n,), integers from 0 to k-1, of any integer dtype. A class may have no sample.
        lambda1: >= 0, weight of the group Lasso: a number, a 0-d tensor or (B,). At 0 the SVM is dense.
        lambda2: > 0, weight of the squared norm, likewise.
        dual_reg: >= 0, smoothing of the hinge, likewise; 0 (default) is the exact hinge.
        relative: lambda1 is a multiple of each task's :func:`svm_lambda1_max`, held constant in the gradient.
        reduction: "sum": as above; "mean": the hinge is averaged, s_i / sum s instead of s_i, as the other solvers
            average their losses by default.
        n_classes: k >= 2; default: the largest label + 1. Needed under torch.compile and torch.func.vmap.
        sample_weight: s, (B, n) >= 0; 0 marks padding, whose labels may be anything. Default: 1 everywhere.
        solver: "newton" (interior point), "fista", "bcd" (block coordinate descent), or "auto": newton.
        backend: "cpp" (CPU), "cuda" (CUDA), "triton" (CUDA or ROCm), "torch" (any device), or "auto": the first of
            these that can run the problem.
        tol: the ``Solution.relative_gap`` to reach. newton continues to rounding where it is below 1e-3, every solver
            where a gradient will be asked for (docs/solvers.md).
        max_iter: default 200 (newton, which mostly takes less than 30), 5000 (fista), 2000 sweeps (bcd). Not counted:
            what finishes a first-order solution for a gradient, the first-order steps that newton falls back on.
        throw: raise instead of reporting a task that is not certified.

    Returns:
        The :class:`Solution`; look at ``status`` or ``certified``, or set ``throw``.

    Raises:
        TypeError, ValueError: bad input; the message names what was expected and what came.
        NotCertifiedError: with ``throw``, a task stayed above ``tol``; names which, and by how much.
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
    """``max_j ||X_j^T diag(s)(Y - (1-Y)/(k-1))||``, (B,): from this lambda1 on, every feature is off.

    Sufficient, not tight: an upper bound on the smallest such lambda1. Not differentiable: relative lambda1's hold it
    constant.

    Args:
        features: (B, n, d) or (n, d).
        labels: (B, n) or (n,).
        reduction: as :func:`solve_svm`.
        n_classes: default: the largest label + 1. Needed under torch.compile and torch.func.vmap.
        sample_weight: (B, n) >= 0; default 1.

    Returns:
        (B,), or a 0-d tensor for one task, in float64.

    Raises:
        TypeError, ValueError: as :func:`solve_svm`.
    """
    features, labels, sample_weight, single = task_batch(features, labels, sample_weight)
    classes = class_count(labels, sample_weight, n_classes)
    weight = _reduced(weights_of(sample_weight, features, working_dtype(features.device)), reduction)
    result = svm.lambda1_max(features.detach(), labels, weight, classes, True)
    return result[0] if single else result


def _reduced(weight: Tensor, reduction: str) -> Tensor:
    """The sample weights (B, n) of the sum that the operation minimises: those of a mean divided by their total."""
    total = total_weight(weight, reduction, wanted="mean")
    return weight if total is None else weight / total[:, None]
