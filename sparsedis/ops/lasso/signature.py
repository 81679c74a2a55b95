"""The signature of the operation: what its backends are given and give back.

B tasks of n samples and d features. "Working precision" is float64, or float32 on devices without it. Every solve
continues to rounding, as a right gradient takes, where ``tol`` is looser.
"""

from typing import NamedTuple

from torch import Tensor

from sparsedis import checks

SOLVER = "cd"


class Inputs(NamedTuple):
    """What describes the tasks."""

    features: Tensor  # (B, n, d): float32, float64, bfloat16 or float16
    targets: Tensor  # (B, n), likewise
    lambda1: Tensor  # (B,), working precision, like the following
    lambda2: Tensor  # (B,)
    sample_weight: Tensor  # (B, n); 0 marks padding


class Options(NamedTuple):
    """How they are solved."""

    tol: float  # duality gap to reach, relative to P(0)
    max_iter: int


class Saved(NamedTuple):
    """Outputs that the derivatives need."""

    weights: Tensor  # (B, d)
    dual: Tensor  # (B, n): the residual to more digits than the weights give it


class Differentials(NamedTuple):
    """Gradients or tangents."""

    features: Tensor  # (B, n, d)
    targets: Tensor  # (B, n)
    lambda1: Tensor  # (B,), as the following
    lambda2: Tensor


def shapes(inputs: Inputs, options: Options) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of weights and dual without B."""
    _, n, d = inputs.features.shape
    return (d,), (n,)


def check_values(inputs: Inputs, options: Options) -> None:
    """What can only be seen in the values: run where the values are, inside the operation.

    Raises:
        ValueError: names the input, what was expected and what came.
    """
    check_tasks(inputs.features, inputs.targets, inputs.sample_weight)
    checks.parameter_values(lambda1=inputs.lambda1, lambda2=inputs.lambda2)


def check_tasks(features: Tensor, targets: Tensor, sample_weight: Tensor) -> None:
    """:func:`check_values` without the hyperparameters."""
    checks.finite("features", features, ("task", "sample", "feature"))
    checks.finite("targets", targets, ("task", "sample"))
    checks.weight_values(sample_weight)
