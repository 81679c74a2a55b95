"""The signature of the SVM operation: inputs, options, outputs and differentials of its backends.

B tasks of n samples, d features and k classes. "Working precision" is float64, or float32 on devices without float64.
"""

from typing import NamedTuple

from torch import Tensor

from sparsedis import checks

SOLVERS = ("newton", "fista", "bcd")


class Inputs(NamedTuple):
    """The tensors that describe the tasks. Labels of samples with weight 0 are ignored."""

    features: Tensor  # (B, n, d): float32, float64, bfloat16 or float16
    labels: Tensor  # (B, n) int64
    lambda1: Tensor  # (B,), in the working precision, as are the fields below
    lambda2: Tensor  # (B,)
    dual_reg: Tensor  # (B,)
    sample_weight: Tensor  # (B, n); 0 marks padding


class Options(NamedTuple):
    """Options of the solver."""

    n_classes: int
    solver: str  # one of SOLVERS
    tol: float  # relative duality gap to reach
    max_iter: int
    exact: bool  # solve to rounding error even if tol is looser, as an accurate gradient requires


class Saved(NamedTuple):
    """Outputs that the derivatives need."""

    dual: Tensor  # L, (B, n, k)
    active: Tensor  # (B, d) bool


class Differentials(NamedTuple):
    """Gradients or tangents of the differentiable inputs."""

    features: Tensor  # (B, n, d)
    lambda1: Tensor  # (B,)
    lambda2: Tensor  # (B,)
    dual_reg: Tensor  # (B,)


def shapes(inputs: Inputs, options: Options) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of weights and dual without B."""
    _, n, d = inputs.features.shape
    return (d, options.n_classes), (n, options.n_classes)


def check_values(inputs: Inputs, options: Options) -> None:
    """Check the values of the inputs. Runs inside the operation, where values are available.

    Raises:
        ValueError: states the input, what was expected and what was given.
    """
    check_tasks(inputs.features, inputs.labels, inputs.sample_weight, options.n_classes)
    checks.parameter_values(
        lambda1=inputs.lambda1, lambda2=inputs.lambda2, dual_reg=inputs.dual_reg, positive=("lambda2",)
    )


def check_tasks(features: Tensor, labels: Tensor, sample_weight: Tensor, n_classes: int) -> None:
    """:func:`check_values` for all inputs but the hyperparameters."""
    checks.finite("features", features, ("task", "sample", "feature"))
    checks.weight_values(sample_weight)
    checks.label_values(labels, sample_weight, n_classes)
