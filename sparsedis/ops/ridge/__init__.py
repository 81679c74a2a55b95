"""The operation: batched ridge regressions in closed form, and the adjoint of their solution, as torch custom ops.

The contract of a backend, B tasks of n samples, d features and m targets:

``solve(features, targets, lambda2, sample_weight, tol)`` with features (B, n, d) and targets (B, n, m) float32,
float64, bfloat16 or float16; lambda2 (B,) and sample_weight (B, n) in the working precision (float64; float32 on
devices without it). Returns weights (B, d, m) in the features' dtype (float32 for half precision); in the working
precision dual (B, n, m), gap, relative_gap and objective (B,); n_iter and status (B,) int64; active (B, d) bool; margin
(B,) in the working precision, inf: there is no kink. gap, relative_gap and objective are those of the weights as
returned, rounded to their dtype.

``adjoint(features, targets, lambda2, sample_weight, weights, grad_weights)`` returns the gradients in features and
targets (their dtypes) and lambda2 (working precision) for a loss whose gradient in the weights is grad_weights.

``tangent``, of the same arguments but grad_weights, and of the tangents of features, targets and lambda2, returns that
of the weights, in their dtype: what forward mode asks for.
"""

import torch
from torch import Tensor

from sparsedis import checks
from sparsedis.ops import registry
from sparsedis.ops.least_squares import shares
from sparsedis.ops.operation import empty_solution, fold_batch, operation, raise_unless_certified
from sparsedis.ops.ridge.reference import ReferenceBackend
from sparsedis.problem import working_dtype

OPERATION = "ridge"
SOLVER = "direct"

registry.register(OPERATION, ReferenceBackend())


@operation("sparsedis::ridge")
def solve(
    features: Tensor,
    targets: Tensor,
    lambda2: Tensor,
    sample_weight: Tensor,
    backend: str,
    tol: float,
    throw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Check the values, run the backend; see the module's docstring."""
    _check_values(features, targets, lambda2, sample_weight)
    run = registry.named(OPERATION, backend).solve  # type: ignore[attr-defined]
    with torch.autocast(features.device.type, enabled=False):
        result = run(features, targets, lambda2, sample_weight, tol)
    if throw:
        raise_unless_certified(result[6], result[3], tol)
    return result


def _check_values(features: Tensor, targets: Tensor, lambda2: Tensor | None, sample_weight: Tensor) -> None:
    checks.finite("features", features, ("task", "sample", "feature"))
    checks.finite("targets", targets, ("task", "sample", "target"))
    checks.weight_values(sample_weight)
    checks.parameter_values(lambda2=lambda2, positive=("lambda2",))


@solve.register_fake
def _(features, targets, lambda2, sample_weight, *options):  # type: ignore[no-untyped-def]
    (_, n, d), m = features.shape, targets.shape[2]
    return empty_solution(features, lambda2, (d, m), (n, m))


@operation("sparsedis::ridge_adjoint")
def adjoint(
    features: Tensor,
    targets: Tensor,
    lambda2: Tensor,
    sample_weight: Tensor,
    weights: Tensor,
    grad_weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients at a solution; see the module's docstring."""
    run = registry.named(OPERATION, backend).adjoint  # type: ignore[attr-defined]
    with torch.autocast(features.device.type, enabled=False):
        return run(features, targets, lambda2, sample_weight, weights, grad_weights)


@adjoint.register_fake
def _(features, targets, lambda2, sample_weight, weights, grad_weights, backend):  # type: ignore[no-untyped-def]
    # Contiguous, whatever the strides of the input: what the backends return.
    return features.new_empty(features.shape), targets.new_empty(targets.shape), torch.empty_like(lambda2)


@operation("sparsedis::ridge_tangent")
def tangent(
    features: Tensor,
    targets: Tensor,
    lambda2: Tensor,
    sample_weight: Tensor,
    weights: Tensor,
    by_features: Tensor,
    by_targets: Tensor,
    by_lambda2: Tensor,
    backend: str,
) -> Tensor:
    """Tangent at a solution; see the module's docstring."""
    run = registry.named(OPERATION, backend).tangent  # type: ignore[attr-defined]
    with torch.autocast(features.device.type, enabled=False):
        return run(features, targets, lambda2, sample_weight, weights, by_features, by_targets, by_lambda2)


@tangent.register_fake
def _(features, targets, lambda2, sample_weight, weights, *others):  # type: ignore[no-untyped-def]
    return weights.new_empty(weights.shape)


@operation("sparsedis::ridge_scale")
def scale(features: Tensor, sample_weight: Tensor) -> Tensor:
    """sum_i s_i ||x_i||^2 / sum_i s_i, (B,), in the working precision; what a relative lambda2 multiplies.

    1 for a task whose features are all zero: any lambda2 gives w = 0 there, and 0 is none.
    """
    checks.finite("features", features, ("task", "sample", "feature"))
    checks.weight_values(sample_weight)
    working = working_dtype(features.device)
    with torch.autocast(features.device.type, enabled=False):
        result = (shares(sample_weight, working) * features.to(working).square().sum(-1)).sum(1)
    return torch.where(result > 0, result, torch.ones_like(result))


@scale.register_fake
def _(features, sample_weight):  # type: ignore[no-untyped-def]
    return features.new_empty(features.shape[0], dtype=working_dtype(features.device))


solve.register_vmap(fold_batch(solve, 4))
adjoint.register_vmap(fold_batch(adjoint, 6))
tangent.register_vmap(fold_batch(tangent, 8))
scale.register_vmap(fold_batch(scale, 2))
