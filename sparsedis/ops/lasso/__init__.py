"""Batched Lassos (elastic nets). ``problem`` holds the mathematics, ``signature`` the interface of the backends."""

from torch import Tensor

from sparsedis.ops.common.least_squares import normalised_weights
from sparsedis.ops.common.operation import Operation, value_per_task
from sparsedis.ops.common.precision import working, working_dtype
from sparsedis.ops.lasso.backend_cpp import CppBackend
from sparsedis.ops.lasso.backend_torch import TorchBackend
from sparsedis.ops.lasso.backend_triton import TritonBackend
from sparsedis.ops.lasso.problem import zero_threshold
from sparsedis.ops.lasso.signature import Differentials, Inputs, Options, Saved, check_tasks, check_values, shapes

OPERATION = Operation(
    "lasso",
    inputs=Inputs,
    options=Options,
    saved=Saved,
    differentials=Differentials,
    shapes=shapes,
    check_values=check_values,
    backends=(CppBackend(), TritonBackend(), TorchBackend()),
)


@value_per_task("lasso_lambda1_max")
def lambda1_max(features: Tensor, targets: Tensor, sample_weight: Tensor) -> Tensor:
    """The smallest lambda1 with w = 0, (B,), in the working precision."""
    check_tasks(features, targets, sample_weight)
    weight = normalised_weights(sample_weight, working_dtype(features.device))
    return zero_threshold(working(features), working(targets), weight)
