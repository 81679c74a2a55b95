"""The operation: batched Lassos (elastic nets), and the adjoint of their solution, as torch custom ops.

The contract of a backend, B tasks of n samples and d features:

``solve(features, targets, lambda1, lambda2, sample_weight, tol, max_iter)`` with features (B, n, d) and targets (B, n)
float32, float64, bfloat16 or float16; lambda1, lambda2 (B,) and sample_weight (B, n) in the working precision (float64;
float32 on devices without it). Returns weights (B, d) in the features' dtype (float32 for half precision); in the
working precision dual (B, n), gap, relative_gap and objective (B,); n_iter and status (B,) int64; active (B, d) bool. A
backend with ``checks_values`` raises what :func:`check_values` would; for others it is called beforehand.

``adjoint(features, targets, lambda1, lambda2, sample_weight, weights, grad_weights)`` returns the gradients in features
and targets (their dtypes), lambda1 and lambda2 (working precision) for a loss whose gradient in the weights is
grad_weights (B, d).
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
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
    grad_weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients at a solution; see the module's docstring."""
    run = registry.named(OPERATION, backend).adjoint  # type: ignore[attr-defined]
    with torch.autocast(features.device.type, enabled=False):
        return run(features, targets, lambda1, lambda2, sample_weight, weights, grad_weights)


@adjoint.register_fake
def _(features, targets, lambda1, lambda2, sample_weight, weights, grad_weights, backend):  # type: ignore[no-untyped-def]
    # Contiguous, whatever the strides of the input: what the backends return.
    return (
        features.new_empty(features.shape),
        targets.new_empty(targets.shape),
        torch.empty_like(lambda1),
        torch.empty_like(lambda2),
    )


@operation("sparsedis::lasso_lambda1_max")
def lambda1_max(features: Tensor, targets: Tensor, sample_weight: Tensor) -> Tensor:
    """The smallest lambda1 with w = 0, (B,), in the working precision."""
    check_values(features, targets, None, None, sample_weight)
    working = working_dtype(features.device)
    with torch.autocast(features.device.type, enabled=False):
        return zero_threshold(features.to(working), targets.to(working), shares(sample_weight, working))


@lambda1_max.register_fake
def _(features, targets, sample_weight):  # type: ignore[no-untyped-def]
    return features.new_empty(len(features), dtype=working_dtype(features.device))


solve.register_vmap(fold_batch(solve, 5))
adjoint.register_vmap(fold_batch(adjoint, 7))
lambda1_max.register_vmap(fold_batch(lambda1_max, 3))
