"""The signature of the logistic operation: inputs, options, outputs and differentials of its backends.

B tasks of n samples, d features and k classes. d' = d, or with an intercept d + 1; the intercept is the last row of the
weights. "Working precision" is float64, or float32 on devices without float64. Every solve continues to rounding error
even if ``tol`` is looser, because an accurate gradient requires the correct active set.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis import checks

SOLVER = "newton"


class Inputs(NamedTuple):
    """The tensors that describe the tasks. Labels of samples with weight 0 are ignored."""

    features: Tensor  # (B, n, d): float32, float64, bfloat16 or float16
    labels: Tensor  # (B, n) int64
    lambda1: Tensor  # (B,), in the working precision, as are the fields below
    lambda2: Tensor  # (B,)
    sample_weight: Tensor  # (B, n); 0 marks padding


class Options(NamedTuple):
    """Options of the solver."""

    n_classes: int
    intercept: bool
    tol: float  # duality gap to reach, relative to P(0) with the optimal intercept
    max_iter: int


class Saved(NamedTuple):
    """Outputs that the derivatives need."""

    weights: Tensor  # (B, d', k)
    dual: Tensor  # (B, n, k): the probabilities, more accurate than recomputed from rounded weights


class Differentials(NamedTuple):
    """Gradients or tangents of the differentiable inputs."""

    features: Tensor  # (B, n, d)
    lambda1: Tensor  # (B,)
    lambda2: Tensor  # (B,)


def shapes(inputs: Inputs, options: Options) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of weights and dual without B."""
    _, n, d = inputs.features.shape
    return (d + options.intercept, options.n_classes), (n, options.n_classes)


def check_values(inputs: Inputs, options: Options) -> None:
    """Check the values of the inputs. Runs inside the operation, where values are available.

    Raises:
        ValueError: states the input, what was expected and what was given.
    """
    check_tasks(inputs.features, inputs.labels, inputs.sample_weight, options.n_classes, options.intercept)
    checks.parameter_values(lambda1=inputs.lambda1, lambda2=inputs.lambda2)
    if bool(((inputs.lambda1 == 0) & (inputs.lambda2 == 0)).any()):
        raise ValueError("lambda1, lambda2: expected one of them > 0 in every task, got 0 for both")


def check_tasks(features: Tensor, labels: Tensor, sample_weight: Tensor, n_classes: int, intercept: bool) -> None:
    """:func:`check_values` for all inputs but the hyperparameters."""
    checks.finite("features", features, ("task", "sample", "feature"))
    checks.weight_values(sample_weight)
    checks.label_values(labels, sample_weight, n_classes)
    if intercept:
        known = torch.where(sample_weight > 0, labels, 0)
        counts = (torch.nn.functional.one_hot(known, n_classes) * (sample_weight > 0)[..., None]).sum(1)
        absent = (counts == 0) & (counts.sum(1, keepdim=True) > 0)
        if bool(absent.any()):
            task, label = absent.nonzero()[0].tolist()
            raise ValueError(
                f"labels: with an intercept every class needs a sample, class {label} of task {task} has none"
            )
