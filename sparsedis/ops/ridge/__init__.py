"""Batched ridge regressions in closed form. ``signature`` documents the interface of the backends."""

from torch import Tensor

from sparsedis import checks
from sparsedis.ops.common.least_squares import normalised_weights
from sparsedis.ops.common.operation import Operation, value_per_task
from sparsedis.ops.common.precision import working, working_dtype
from sparsedis.ops.ridge.backend_torch import TorchBackend
from sparsedis.ops.ridge.signature import Differentials, Inputs, Options, Saved, check_values, shapes

OPERATION = Operation(
    "ridge",
    inputs=Inputs,
    options=Options,
    saved=Saved,
    differentials=Differentials,
    shapes=shapes,
    check_values=check_values,
    backends=(TorchBackend(),),
)


@value_per_task("ridge_mean_square")
def mean_square(features: Tensor, sample_weight: Tensor) -> Tensor:
    """sum_i s_i ||x_i||^2 / sum_i s_i, (B,), in the working precision; the scale of a relative lambda2."""
    checks.finite("features", features, ("task", "sample", "feature"))
    checks.weight_values(sample_weight)
    weight = normalised_weights(sample_weight, working_dtype(features.device))
    return (weight * working(features).square().sum(-1)).sum(1)
