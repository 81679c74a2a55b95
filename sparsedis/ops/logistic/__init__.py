"""The operation: batched group-Lasso multinomial logistic regressions, and the adjoint, as torch custom ops.

The contract of a backend, B tasks of n samples, d features and k classes; d' = d, or d + 1 with an intercept, which is
then the last row of the weights:

``solve(features, labels, lambda1, lambda2, sample_weight, n_classes, intercept, tol, max_iter)`` with features
(B, n, d) float32, float64, bfloat16 or float16; labels (B, n) int64; lambda1, lambda2 (B,) and sample_weight (B, n) in
the working precision (float64; float32 on devices without it). Returns weights (B, d', k) in the features' dtype
(float32 for half precision); in the working precision dual (B, n, k), gap, relative_gap and objective (B,); n_iter and
status (B,) int64; active (B, d) bool; margin (B,) in the working precision. gap, relative_gap and objective are those
of the weights as returned, rounded to their dtype. Solves to rounding, as a right gradient takes, where ``tol`` is
looser. Labels of samples without weight may be anything.

``adjoint(features, labels, lambda1, lambda2, sample_weight, weights, dual, grad_weights, intercept)``, dual being the
probabilities to more digits than the weights give them, returns the gradients in features (their dtype), lambda1 and
lambda2 (working precision) for a loss whose gradient in the weights is grad_weights.

``tangent(features, labels, lambda1, lambda2, sample_weight, weights, dual, by_features, by_lambda1, by_lambda2,
intercept)``, the last three tensors being tangents, returns that of the weights, in their dtype: what forward mode asks
for.
"""

import torch
from torch import Tensor

from sparsedis.ops import registry
from sparsedis.ops.logistic.problem import Problem, check_values, zero_threshold
from sparsedis.ops.logistic.reference import ReferenceBackend
from sparsedis.ops.operation import empty_solution, fold_batch, operation, raise_unless_certified
from sparsedis.problem import working_dtype

OPERATION = "logistic"
SOLVER = "newton"

registry.register(OPERATION, ReferenceBackend())


@operation("sparsedis::logistic")
def solve(
    features: Tensor,
    labels: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    sample_weight: Tensor,
    n_classes: int,
    intercept: bool,
    backend: str,
    tol: float,
    max_iter: int,
    throw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Check the values, run the backend; see the module's docstring."""
    check_values(features, labels, lambda1, lambda2, sample_weight, n_classes, intercept)
    run = registry.named(OPERATION, backend).solve  # type: ignore[attr-defined]
    with torch.autocast(features.device.type, enabled=False):
        result = run(features, labels, lambda1, lambda2, sample_weight, n_classes, intercept, tol, max_iter)
    if throw:
        raise_unless_certified(result[6], result[3], tol)
    return result


@solve.register_fake
def _(features, labels, lambda1, lambda2, sample_weight, n_classes, intercept, *options):  # type: ignore[no-untyped-def]
    _, n, d = features.shape
    return empty_solution(features, lambda1, (d + intercept, n_classes), (n, n_classes))


@operation("sparsedis::logistic_adjoint")
def adjoint(
    features: Tensor,
    labels: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    sample_weight: Tensor,
    weights: Tensor,
    dual: Tensor,
    grad_weights: Tensor,
    intercept: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients at a solution; see the module's docstring."""
    run = registry.named(OPERATION, backend).adjoint  # type: ignore[attr-defined]
    with torch.autocast(features.device.type, enabled=False):
        return run(features, labels, lambda1, lambda2, sample_weight, weights, dual, grad_weights, intercept)


@adjoint.register_fake
def _(features, labels, lambda1, lambda2, *others):  # type: ignore[no-untyped-def]
    # Contiguous, whatever the strides of the input: what the backends return.
    return features.new_empty(features.shape), torch.empty_like(lambda1), torch.empty_like(lambda2)


@operation("sparsedis::logistic_tangent")
def tangent(
    features: Tensor,
    labels: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    sample_weight: Tensor,
    weights: Tensor,
    dual: Tensor,
    by_features: Tensor,
    by_lambda1: Tensor,
    by_lambda2: Tensor,
    intercept: bool,
    backend: str,
) -> Tensor:
    """Tangent at a solution; see the module's docstring."""
    run = registry.named(OPERATION, backend).tangent  # type: ignore[attr-defined]
    problem = features, labels, lambda1, lambda2, sample_weight
    with torch.autocast(features.device.type, enabled=False):
        return run(*problem, weights, dual, by_features, by_lambda1, by_lambda2, intercept)


@tangent.register_fake
def _(features, labels, lambda1, lambda2, sample_weight, weights, *others):  # type: ignore[no-untyped-def]
    return weights.new_empty(weights.shape)


@operation("sparsedis::logistic_lambda1_max")
def lambda1_max(features: Tensor, labels: Tensor, sample_weight: Tensor, n_classes: int, intercept: bool) -> Tensor:
    """The smallest lambda1 with W = 0, (B,), in the working precision."""
    check_values(features, labels, None, None, sample_weight, n_classes, intercept)
    none = sample_weight.new_zeros(len(features))
    with torch.autocast(features.device.type, enabled=False):
        return zero_threshold(Problem.of(features, labels, none, none, sample_weight, n_classes, intercept))


@lambda1_max.register_fake
def _(features, labels, sample_weight, n_classes, intercept):  # type: ignore[no-untyped-def]
    return features.new_empty(features.shape[0], dtype=working_dtype(features.device))


solve.register_vmap(fold_batch(solve, 5))
adjoint.register_vmap(fold_batch(adjoint, 8))
tangent.register_vmap(fold_batch(tangent, 10))
lambda1_max.register_vmap(fold_batch(lambda1_max, 3))
