"""The operation: batched group-Lasso multiclass SVMs, and the adjoint of their solution, as torch custom ops.

The contract of a backend, B tasks of n samples, d features and k classes:

``solve(features, labels, lambda1, lambda2, dual_reg, sample_weight, n_classes, solver, tol, max_iter, exact)`` with
features (B, n, d) float32, float64, bfloat16 or float16; labels (B, n) int64; the three hyperparameters (B,) and
sample_weight (B, n) in the working precision (float64; float32 on devices without it). Returns weights (B, d, k) in the
features' dtype (float32 for half precision); in the working precision dual (B, n, k), gap, relative_gap and objective
(B,); n_iter and status (B,) int64; active (B, d) bool; margin (B,) in the working precision. gap, relative_gap and
objective are those of the weights as returned, rounded to their dtype. With ``exact`` a task is solved to rounding, as
a right gradient takes, even where ``tol`` is looser. Labels of samples without weight may be anything. A backend with
``checks_values`` raises what :func:`sparsedis.checks.values` would; for others it is called beforehand.

``adjoint(features, labels, lambda1, lambda2, dual_reg, sample_weight, dual, active, grad_weights)``, dual and active
being the solution's, returns the gradients in features (their dtype), lambda1, lambda2 and dual_reg (working precision)
for a loss whose gradient in the weights is grad_weights (B, d, k).

``tangent``, of the same arguments but grad_weights, and of the tangents of features, lambda1, lambda2 and dual_reg,
returns that of the weights, in their dtype: what forward mode asks for.
"""

import torch
from torch import Tensor

from sparsedis import checks
from sparsedis.ops import registry
from sparsedis.ops.group_lasso_svm.kernel_cpp import CppBackend
from sparsedis.ops.group_lasso_svm.kernel_triton import TritonBackend
from sparsedis.ops.group_lasso_svm.reference import ReferenceBackend
from sparsedis.ops.operation import empty_solution, fold_batch, operation, raise_unless_certified
from sparsedis.problem import normalised, working_dtype, zero_threshold

OPERATION = "group_lasso_svm"
SOLVERS = ("newton", "fista", "bcd")

registry.register(OPERATION, CppBackend())
registry.register(OPERATION, TritonBackend())
registry.register(OPERATION, ReferenceBackend())


@operation("sparsedis::group_lasso_svm")
def solve(
    features: Tensor,
    labels: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    dual_reg: Tensor,
    sample_weight: Tensor,
    n_classes: int,
    solver: str,
    backend: str,
    tol: float,
    max_iter: int,
    exact: bool,
    throw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Check the values, run the backend; see the module's docstring."""
    chosen = registry.named(OPERATION, backend)
    if not chosen.checks_values:  # type: ignore[attr-defined]
        checks.values(features, labels, lambda1, lambda2, dual_reg, sample_weight, n_classes)
    with torch.autocast(features.device.type, enabled=False):
        result = chosen.solve(  # type: ignore[attr-defined]
            features,
            labels,
            lambda1,
            lambda2,
            dual_reg,
            sample_weight,
            n_classes,
            solver,
            tol,
            max_iter,
            exact,
        )
    if throw:
        raise_unless_certified(result[6], result[3], tol)
    return result


@solve.register_fake
def _(features, labels, lambda1, lambda2, dual_reg, sample_weight, n_classes, *options):  # type: ignore[no-untyped-def]
    _, n, d = features.shape
    return empty_solution(features, lambda1, (d, n_classes), (n, n_classes))


@operation("sparsedis::group_lasso_svm_adjoint")
def adjoint(
    features: Tensor,
    labels: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    dual_reg: Tensor,
    sample_weight: Tensor,
    dual: Tensor,
    active: Tensor,
    grad_weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients at a solution; see the module's docstring."""
    run = registry.named(OPERATION, backend).adjoint  # type: ignore[attr-defined]
    with torch.autocast(features.device.type, enabled=False):
        return run(
            features,
            labels,
            lambda1,
            lambda2,
            dual_reg,
            sample_weight,
            dual,
            active,
            grad_weights,
        )


@adjoint.register_fake
def _(features, labels, lambda1, lambda2, dual_reg, sample_weight, dual, active, grad_weights, backend):  # type: ignore[no-untyped-def]
    # Contiguous, whatever the strides of the input: what the backends return.
    return (
        features.new_empty(features.shape),
        torch.empty_like(lambda1),
        torch.empty_like(lambda2),
        torch.empty_like(dual_reg),
    )


@operation("sparsedis::group_lasso_svm_tangent")
def tangent(
    features: Tensor,
    labels: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    dual_reg: Tensor,
    sample_weight: Tensor,
    dual: Tensor,
    active: Tensor,
    by_features: Tensor,
    by_lambda1: Tensor,
    by_lambda2: Tensor,
    by_dual_reg: Tensor,
    backend: str,
) -> Tensor:
    """Tangent at a solution; see the module's docstring."""
    run = registry.named(OPERATION, backend).tangent  # type: ignore[attr-defined]
    problem = features, labels, lambda1, lambda2, dual_reg, sample_weight
    with torch.autocast(features.device.type, enabled=False):
        return run(*problem, dual, active, by_features, by_lambda1, by_lambda2, by_dual_reg)


@tangent.register_fake
def _(features, labels, lambda1, lambda2, dual_reg, sample_weight, dual, active, by_features, *others):  # type: ignore[no-untyped-def]
    shape = features.shape[0], features.shape[2], dual.shape[2]
    return features.new_empty(shape, dtype=torch.promote_types(features.dtype, torch.float32))


@operation("sparsedis::group_lasso_svm_lambda1_max")
def lambda1_max(features: Tensor, labels: Tensor, sample_weight: Tensor, n_classes: int) -> Tensor:
    """Upper bound on the smallest lambda1 with W = 0, (B,), in the working precision."""
    checks.values(features, labels, None, None, None, sample_weight, n_classes)
    one = sample_weight.new_ones(len(features), dtype=working_dtype(features.device))
    with torch.autocast(features.device.type, enabled=False):
        problem, scale = normalised(features, labels, one, one, one, sample_weight, n_classes)
        return scale * zero_threshold(problem)


@lambda1_max.register_fake
def _(features, labels, sample_weight, n_classes):  # type: ignore[no-untyped-def]
    return features.new_empty(features.shape[0], dtype=working_dtype(features.device))


solve.register_vmap(fold_batch(solve, 6))
adjoint.register_vmap(fold_batch(adjoint, 9))
tangent.register_vmap(fold_batch(tangent, 12))
lambda1_max.register_vmap(fold_batch(lambda1_max, 3))
