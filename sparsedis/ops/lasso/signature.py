"""The signature of the Lasso operation: inputs, options, outputs and differentials of its backends.

B tasks of n samples and d features. "Working precision" is float64, or float32 on devices without float64. Every solve
continues to rounding error even if ``tol`` is looser, because an accurate gradient requires the correct active set.
"""

from typing import NamedTuple

from torch import Tensor

from sparsedis import checks

SOLVER = "cd"


class Inputs(NamedTuple):
    """The tensors that describe the tasks."""

    features: Tensor  # (B, n, d): float32, float64, bfloat16 or float16
    targets: Tensor  # (B, n): same dtypes
    lambda1: Tensor  # (B,), in the working precision, as are the fields below
    lambda2: Tensor  # (B,)
    sample_weight: Tensor  # (B, n); 0 marks padding


class Options(NamedTuple):
    """Options of the solver."""

    tol: float  # duality gap to reach, relative to P(0)
    max_iter: int


class Saved(NamedTuple):
    """Outputs that the derivatives need."""

    weights: Tensor  # (B, d)
    dual: Tensor  # (B, n): the residual, more accurate than recomputed from rounded weights


class Differentials(NamedTuple):
    """Gradients or tangents of the differentiable inputs."""

    features: Tensor  # (B, n, d)
    targets: Tensor  # (B, n)
    lambda1: Tensor  # (B,)
    lambda2: Tensor  # (B,)


def shapes(inputs: Inputs, options: Options) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of weights and dual without B."""
    _, n, d = inputs.features.shape
    return (d,), (n,)


def check_values(inputs: Inputs, options: Options) -> None:
    """Check the values of the inputs. Runs inside the operation, where values are available.

    Raises:
        ValueError: states the input, what was expected and what was given.
    """
    check_tasks(inputs.features, inputs.targets, inputs.sample_weight)
    checks.parameter_values(lambda1=inputs.lambda1, lambda2=inputs.lambda2)


def check_tasks(features: Tensor, targets: Tensor, sample_weight: Tensor) -> None:
    """:func:`check_values` for all inputs but the hyperparameters."""
    checks.finite("features", features, ("task", "sample", "feature"))
    checks.finite("targets", targets, ("task", "sample"))
    checks.weight_values(sample_weight)
