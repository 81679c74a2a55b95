"""The signature of the operation: what its backends are given and give back.

B tasks of n samples, d features and k classes. "Working precision" is float64, or float32 on devices without it.
"""

from typing import NamedTuple

from torch import Tensor

from sparsedis import checks

SOLVERS = ("newton", "fista", "bcd")


class Inputs(NamedTuple):
    """What describes the tasks. Labels of samples without weight may be anything."""

    features: Tensor  # (B, n, d): float32, float64, bfloat16 or float16
    labels: Tensor  # (B, n) int64
    lambda1: Tensor  # (B,), working precision, like the following
    lambda2: Tensor  # (B,)
    dual_reg: Tensor  # (B,)
    sample_weight: Tensor  # (B, n); 0 marks padding


class Options(NamedTuple):
    """How they are solved."""

    n_classes: int
    solver: str  # one of SOLVERS
    tol: float  # relative duality gap to reach
    max_iter: int
    exact: bool  # to rounding, as a right gradient takes, even where tol is looser


class Saved(NamedTuple):
    """Outputs that the derivatives need."""

    dual: Tensor  # L, (B, n, k)
    active: Tensor  # (B, d) bool


class Differentials(NamedTuple):
    """Gradients or tangents."""

    features: Tensor  # (B, n, d)
    lambda1: Tensor  # (B,), as the following
    lambda2: Tensor
    dual_reg: Tensor


def shapes(inputs: Inputs, options: Options) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of weights and dual without B."""
    _, n, d = inputs.features.shape
    return (d, options.n_classes), (n, options.n_classes)


def check_values(inputs: Inputs, options: Options) -> None:
    """What can only be seen in the values: run where the values are, inside the operation.

    Raises:
        ValueError: names the input, what was expected and what came.
    """
    check_tasks(inputs.features, inputs.labels, inputs.sample_weight, options.n_classes)
    checks.parameter_values(
        lambda1=inputs.lambda1, lambda2=inputs.lambda2, dual_reg=inputs.dual_reg, positive=("lambda2",)
    )


def check_tasks(features: Tensor, labels: Tensor, sample_weight: Tensor, n_classes: int) -> None:
    """:func:`check_values` without the hyperparameters."""
    checks.finite("features", features, ("task", "sample", "feature"))
    checks.weight_values(sample_weight)
    checks.label_values(labels, sample_weight, n_classes)
