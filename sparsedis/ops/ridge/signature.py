"""The signature of the operation: what its backends are given and give back.

B tasks of n samples, d features and m targets. "Working precision" is float64, or float32 on devices without it.
"""

from typing import NamedTuple

from torch import Tensor

from sparsedis import checks

SOLVER = "direct"


class Inputs(NamedTuple):
    """What describes the tasks."""

    features: Tensor  # (B, n, d): float32, float64, bfloat16 or float16
    targets: Tensor  # (B, n, m), likewise
    lambda2: Tensor  # (B,), working precision, like the following
    sample_weight: Tensor  # (B, n); 0 marks padding


class Options(NamedTuple):
    """How they are solved."""

    tol: float  # duality gap, relative to P(0), that decides on the status; the solve is direct


class Saved(NamedTuple):
    """Outputs that the derivatives need."""

    weights: Tensor  # (B, d, m)


class Differentials(NamedTuple):
    """Gradients or tangents."""

    features: Tensor  # (B, n, d)
    targets: Tensor  # (B, n, m)
    lambda2: Tensor  # (B,)


def shapes(inputs: Inputs, options: Options) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of weights and dual without B."""
    (_, n, d), m = inputs.features.shape, inputs.targets.shape[2]
    return (d, m), (n, m)


def check_values(inputs: Inputs, options: Options) -> None:
    """What can only be seen in the values: run where the values are, inside the operation.

    Raises:
        ValueError: names the input, what was expected and what came.
    """
    checks.finite("features", inputs.features, ("task", "sample", "feature"))
    checks.finite("targets", inputs.targets, ("task", "sample", "target"))
    checks.weight_values(inputs.sample_weight)
    checks.parameter_values(lambda2=inputs.lambda2, positive=("lambda2",))
