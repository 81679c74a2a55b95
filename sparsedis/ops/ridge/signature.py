"""The signature of the ridge operation: inputs, options, outputs and differentials of its backends.

B tasks of n samples, d features and m targets. "Working precision" is float64, or float32 on devices without float64.
"""

from typing import NamedTuple

from torch import Tensor

from sparsedis import checks

SOLVER = "direct"


class Inputs(NamedTuple):
    """The tensors that describe the tasks."""

    features: Tensor  # (B, n, d): float32, float64, bfloat16 or float16
    targets: Tensor  # (B, n, m): same dtypes
    lambda2: Tensor  # (B,), in the working precision, as is sample_weight
    sample_weight: Tensor  # (B, n); 0 marks padding


class Options(NamedTuple):
    """Options of the solver."""

    tol: float  # duality gap, relative to P(0), up to which a task is certified


class Saved(NamedTuple):
    """Outputs that the derivatives need."""

    weights: Tensor  # (B, d, m)


class Differentials(NamedTuple):
    """Gradients or tangents of the differentiable inputs."""

    features: Tensor  # (B, n, d)
    targets: Tensor  # (B, n, m)
    lambda2: Tensor  # (B,)


def shapes(inputs: Inputs, options: Options) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of weights and dual without B."""
    (_, n, d), m = inputs.features.shape, inputs.targets.shape[2]
    return (d, m), (n, m)


def check_values(inputs: Inputs, options: Options) -> None:
    """Check the values of the inputs. Runs inside the operation, where values are available.

    Raises:
        ValueError: states the input, what was expected and what was given.
    """
    checks.finite("features", inputs.features, ("task", "sample", "feature"))
    checks.finite("targets", inputs.targets, ("task", "sample", "target"))
    checks.weight_values(inputs.sample_weight)
    checks.parameter_values(lambda2=inputs.lambda2, positive=("lambda2",))
