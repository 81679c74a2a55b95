"""Check, choose, run: from features and labels to a Solution."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis import checks
from sparsedis.ops import group_lasso_svm, registry
from sparsedis.problem import working_dtype
from sparsedis.solution import Solution

_MAX_ITER = {"newton": 50, "fista": 5000, "bcd": 2000}


def solve_svm(
    features: Tensor,
    labels: Tensor,
    *,
    lambda1: float | Tensor,
    lambda2: float | Tensor = 1.0,
    dual_reg: float | Tensor = 0.0,
    n_classes: int | None = None,
    sample_weight: Tensor | None = None,
    solver: str = "auto",
    backend: str = "auto",
    tol: float = 1e-5,
    max_iter: int | None = None,
    throw: bool = False,
) -> Solution:
    """Solve a batch of group-Lasso multiclass SVMs, each to its own certificate.

    Every task minimises over W (d, k)

        sum_i s_i phi(m_i) + lambda1 sum_j ||W_j|| + lambda2/2 ||W||^2,    m_il = 1 - [l = y_i] + x_i.W_l - x_i.W_{y_i},

    with phi the maximum of the margins (Crammer-Singer), smoothed where dual_reg > 0; the hinge is summed over samples,
    not averaged, and there is no intercept. Source: Lachapelle et al., ICML 2023 (arXiv 2211.14666), section 3.3.

    ``Solution.weights`` is differentiable in features, lambda1, lambda2 and dual_reg, by implicit differentiation: no
    iteration is unrolled and nothing but the solution is kept. A second derivative raises RuntimeError. Works under
    torch.compile(fullgraph=True), autocast and torch.func.vmap.

    Args:
        features: X, (B, n, d), or (n, d) for one task, whose results then have no batch dimension. float32 or float64;
            half precision is read as it is and solved and returned in float32.
        labels: (B, n) or (n,), integers from 0 to k-1. A class may have no sample.
        lambda1: >= 0, weight of the group Lasso: a number, a 0-d tensor or (B,). At 0 the SVM is dense.
        lambda2: > 0, weight of the squared norm, likewise.
        dual_reg: >= 0, smoothing of the hinge, likewise; 0 (default) is the exact hinge.
        n_classes: k >= 2; default: the largest label + 1. Needed under torch.compile and torch.func.vmap.
        sample_weight: s, (B, n) >= 0; 0 marks padding, whose labels may be anything. Default: 1 everywhere.
        solver: "newton" (interior point), "fista", "bcd" (block coordinate descent), or "auto": newton.
        backend: "reference" (pure torch), or "auto": the fastest that can run the problem.
        tol: the relative duality gap to reach, gap / P(W).
        max_iter: default 50 (newton), 5000 (fista), 2000 sweeps (bcd).
        throw: raise instead of reporting a task that is not certified.

    Returns:
        The :class:`Solution`; look at ``status`` or ``certified``, or set ``throw``.

    Raises:
        TypeError, ValueError: bad input; the message names what was expected and what came.
        NotCertifiedError: with ``throw``, a task stayed above ``tol``; names which, and by how much.
    """
    checks.task_tensors(features, labels, sample_weight)
    single = features.dim() == 2
    if single:
        features, labels, sample_weight = _as_batch(features, labels, sample_weight)
    batch, n, d = features.shape
    parameters = {"lambda1": lambda1, "lambda2": lambda2, "dual_reg": dual_reg}
    for name, value in parameters.items():
        checks.hyperparameter(name, value, batch, features, positive=name == "lambda2")
    checks.number("tol", tol, above=0)
    checks.one_of("solver", solver, ("auto", *group_lasso_svm.SOLVERS))
    if max_iter is not None:
        checks.number("max_iter", max_iter, above=0)
    classes = _n_classes(labels, sample_weight, n_classes)
    if solver == "auto":
        solver = "newton"
    request = registry.Request(features.device, features.dtype, n, d, classes, solver)
    chosen = registry.choose(group_lasso_svm.OPERATION, backend, request).name

    working = working_dtype(features.device)
    weights, *rest = group_lasso_svm.solve(
        features,
        labels.to(torch.int64),
        *(_per_task(value, batch, working, features.device) for value in parameters.values()),
        _weight(sample_weight, labels, working),
        classes,
        solver,
        chosen,
        float(tol),
        _MAX_ITER[solver] if max_iter is None else int(max_iter),
        throw,
    )
    # Only W is differentiable: L need not be unique, and the certificate is a statement, not a function to train on.
    dual, gap, relative_gap, objective, n_iter, status, active = (value.detach() for value in rest)
    sparsity = 1 - active.to(working).mean(-1)
    values: tuple[Tensor, ...] = (weights, dual, gap, relative_gap, objective, n_iter, status, active, sparsity)
    if single:
        values = tuple(value[0] for value in values)
    return Solution(*values, solver=solver, backend=chosen)  # type: ignore[misc, arg-type]


def lambda1_max(
    features: Tensor,
    labels: Tensor,
    *,
    n_classes: int | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """max_j ||X_j^T diag(s)(Y - (1-Y)/(k-1))||, (B,): from this lambda1 on, every feature is off.

    Sufficient, not tight: an upper bound on the smallest such lambda1. Not differentiable: relative lambda1's hold it
    constant.

    Args:
        features: (B, n, d) or (n, d).
        labels: (B, n) or (n,).
        n_classes: default: the largest label + 1. Needed under torch.compile and torch.func.vmap.
        sample_weight: (B, n) >= 0; default 1.

    Returns:
        (B,), or a 0-d tensor for one task, in float64.

    Raises:
        TypeError, ValueError: as :func:`solve_svm`.
    """
    checks.task_tensors(features, labels, sample_weight)
    single = features.dim() == 2
    if single:
        features, labels, sample_weight = _as_batch(features, labels, sample_weight)
    classes = _n_classes(labels, sample_weight, n_classes)
    weight = _weight(sample_weight, labels, working_dtype(features.device))
    result = group_lasso_svm.lambda1_max(features.detach(), labels.to(torch.int64), weight, classes)
    return result[0] if single else result


def _as_batch(features: Tensor, labels: Tensor, sample_weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    return features[None], labels[None], None if sample_weight is None else sample_weight[None]


def _n_classes(labels: Tensor, sample_weight: Tensor | None, n_classes: int | None) -> int:
    if n_classes is not None:
        checks.n_classes(n_classes)
        return n_classes
    if torch.compiler.is_compiling():
        raise ValueError("n_classes: expected an int under torch.compile, got None")
    present = labels if sample_weight is None else torch.where(sample_weight > 0, labels, 0)
    try:
        largest = int(present.max())
    except RuntimeError as error:  # the values cannot be read inside a torch.func transform
        raise ValueError("n_classes: expected an int under torch.func.vmap, got None") from error
    return max(largest + 1, 2)


def _per_task(value: float | Tensor, batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype).expand(batch)
    return torch.full((batch,), value, dtype=dtype, device=device)


def _weight(sample_weight: Tensor | None, labels: Tensor, dtype: torch.dtype) -> Tensor:
    if sample_weight is None:
        return torch.ones(labels.shape, dtype=dtype, device=labels.device)
    return sample_weight.detach().to(dtype)
