"""Batched group-Lasso multiclass SVMs. ``problem`` holds the mathematics, ``signature`` the backends' interface."""

from torch import Tensor

from sparsedis.ops.common.operation import Operation, value_per_task
from sparsedis.ops.common.precision import working
from sparsedis.ops.svm.backend_cpp import CppBackend
from sparsedis.ops.svm.backend_cuda import CudaBackend
from sparsedis.ops.svm.backend_torch import TorchBackend
from sparsedis.ops.svm.backend_triton import TritonBackend
from sparsedis.ops.svm.problem import zero_threshold
from sparsedis.ops.svm.signature import Differentials, Inputs, Options, Saved, check_tasks, check_values, shapes

OPERATION = Operation(
    "svm",
    inputs=Inputs,
    options=Options,
    saved=Saved,
    differentials=Differentials,
    shapes=shapes,
    check_values=check_values,
    backends=(CppBackend(), CudaBackend(), TritonBackend(), TorchBackend()),
)


@value_per_task("svm_lambda1_max")
def lambda1_max(features: Tensor, labels: Tensor, sample_weight: Tensor, n_classes: int, check: bool) -> Tensor:
    """Upper bound on the smallest lambda1 with W = 0, (B,), in the working precision.

    With ``check``, invalid values raise ValueError. Before a solve, which checks the values itself, the check would
    take longer than the computation and would synchronise with a GPU.
    """
    if check:
        check_tasks(features, labels, sample_weight, n_classes)
    return zero_threshold(working(features), labels, working(sample_weight), n_classes)
