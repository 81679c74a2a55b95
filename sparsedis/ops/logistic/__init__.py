"""Batched group-Lasso multinomial logistic regressions.

``problem`` holds the mathematics, ``signature`` the interface of the backends.
"""

from torch import Tensor

from sparsedis.ops.common.operation import Operation, value_per_task
from sparsedis.ops.logistic.backend_torch import TorchBackend
from sparsedis.ops.logistic.problem import Problem, zero_threshold
from sparsedis.ops.logistic.signature import Differentials, Inputs, Options, Saved, check_tasks, check_values, shapes

OPERATION = Operation(
    "logistic",
    inputs=Inputs,
    options=Options,
    saved=Saved,
    differentials=Differentials,
    shapes=shapes,
    check_values=check_values,
    backends=(TorchBackend(),),
)


@value_per_task("logistic_lambda1_max")
def lambda1_max(features: Tensor, labels: Tensor, sample_weight: Tensor, n_classes: int, intercept: bool) -> Tensor:
    """The smallest lambda1 with W = 0, (B,), in the working precision."""
    check_tasks(features, labels, sample_weight, n_classes, intercept)
    none = sample_weight.new_zeros(len(features))
    return zero_threshold(Problem.of(Inputs(features, labels, none, none, sample_weight), n_classes, intercept))
