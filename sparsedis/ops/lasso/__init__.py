"""The operation: batched Lassos (elastic nets), and the adjoint of their solution, as torch custom ops.

The contract of a backend, B tasks of n samples and d features:

``solve(features, targets, lambda1, lambda2, sample_weight, tol, max_iter)`` with features (B, n, d) and targets (B, n)
float32, float64, bfloat16 or float16; lambda1, lambda2 (B,) and sample_weight (B, n) in the working precision (float64;
float32 on devices without it). Returns weights (B, d) in the features' dtype (float32 for half precision); in the
working precision dual (B, n), gap, relative_gap and objective (B,); n_iter and status (B,) int64; active (B, d) bool;
margin (B,) in the working precision. gap, relative_gap and objective are those of the weights as returned, rounded to
their dtype. Solves to rounding, as a right gradient takes, where ``tol`` is looser. A backend with ``checks_values``
raises what :func:`check_values` would; for others it is called beforehand.

``adjoint(features, targets, lambda1, lambda2, sample_weight, weights, dual, grad_weights)``, dual being the residual to
more digits than the weights have, returns the gradients in features and targets (their dtypes), lambda1 and lambda2
(working precision) for a loss whose gradient in the weights is grad_weights (B, d).

``tangent``, of the same arguments but grad_weights, and of the tangents of features, targets, lambda1 and lambda2,
returns that of the weights, in their dtype: what forward mode asks for.
"""

import torch
from torch import Tensor

from sparsedis.ops import registry
from sparsedis.ops.lasso.kernel_cpp import CppBackend
from sparsedis.ops.lasso.kernel_triton import TritonBackend
from sparsedis.ops.lasso.problem import check_values, zero_threshold
from sparsedis.ops.lasso.reference import ReferenceBackend
from sparsedis.ops.least_squares import shares
from sparsedis.ops.operation import empty_solution, fold_batch, operation, raise_unless_certified
from sparsedis.problem import working_dtype

OPERATION = "lasso"
SOLVER = "cd"

registry.register(OPERATION, CppBackend())
registry.register(OPERATION, TritonBackend())
registry.register(OPERATION, ReferenceBackend())


@operation("sparsedis::lasso")
def solve(
    features: Tensor,
    targets: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    sample_weight: Tensor,
    backend: str,
    tol: float,
    max_iter: int,
    throw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Check the values, run the backend; see the module's docstring."""
    chosen = registry.named(OPERATION, backend)
    if not chosen.checks_values:  # type: ignore[attr-defined]
        check_values(features, targets, lambda1, lambda2, sample_weight)
    with torch.autocast(features.device.type, enabled=False):
        result = chosen.solve(features, targets, lambda1, lambda2, sample_weight, tol, max_iter)  # type: ignore[attr-defined]
    if throw:
        raise_unless_certified(result[6], result[3], tol)
    return result


@solve.register_fake
def _(features, targets, lambda1, lambda2, sample_weight, *options):  # type: ignore[no-untyped-def]
    _, n, d = features.shape
    return empty_solution(features, lambda1, (d,), (n,))


@operation("sparsedis::lasso_adjoint")
def adjoint(
    features: Tensor,
    targets: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    sample_weight: Tensor,
    weights: Tensor,
    dual: Tensor,
    grad_weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients at a solution; see the module's docstring."""
    run = registry.named(OPERATION, backend).adjoint  # type: ignore[attr-defined]
    with torch.autocast(features.device.type, enabled=False):
        return run(features, targets, lambda1, lambda2, sample_weight, weights, dual, grad_weights)


@adjoint.register_fake
def _(features, targets, lambda1, lambda2, *others):  # type: ignore[no-untyped-def]
    # Contiguous, whatever the strides of the input: what the backends return.
    return (
        features.new_empty(features.shape),
        targets.new_empty(targets.shape),
        torch.empty_like(lambda1),
        torch.empty_like(lambda2),
    )


@operation("sparsedis::lasso_tangent")
def tangent(
    features: Tensor,
    targets: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    sample_weight: Tensor,
    weights: Tensor,
    dual: Tensor,
    by_features: Tensor,
    by_targets: Tensor,
    by_lambda1: Tensor,
    by_lambda2: Tensor,
    backend: str,
) -> Tensor:
    """Tangent at a solution; see the module's docstring."""
    run = registry.named(OPERATION, backend).tangent  # type: ignore[attr-defined]
    problem = features, targets, lambda1, lambda2, sample_weight
    with torch.autocast(features.device.type, enabled=False):
        return run(*problem, weights, dual, by_features, by_targets, by_lambda1, by_lambda2)


@tangent.register_fake
def _(features, targets, lambda1, lambda2, sample_weight, weights, *others):  # type: ignore[no-untyped-def]
    return weights.new_empty(weights.shape)


@operation("sparsedis::lasso_lambda1_max")
def lambda1_max(features: Tensor, targets: Tensor, sample_weight: Tensor) -> Tensor:
    """The smallest lambda1 with w = 0, (B,), in the working precision."""
    check_values(features, targets, None, None, sample_weight)
    working = working_dtype(features.device)
    with torch.autocast(features.device.type, enabled=False):
        return zero_threshold(features.to(working), targets.to(working), shares(sample_weight, working))


@lambda1_max.register_fake
def _(features, targets, sample_weight):  # type: ignore[no-untyped-def]
    return features.new_empty(features.shape[0], dtype=working_dtype(features.device))


solve.register_vmap(fold_batch(solve, 5))
adjoint.register_vmap(fold_batch(adjoint, 8))
tangent.register_vmap(fold_batch(tangent, 11))
lambda1_max.register_vmap(fold_batch(lambda1_max, 3))
