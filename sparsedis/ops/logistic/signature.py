"""The signature of the operation: what its backends are given and give back.

B tasks of n samples, d features and k classes; d' = d, or d + 1 with an intercept, which is then the last row of the
weights. "Working precision" is float64, or float32 on devices without it. Every solve continues to rounding, as a right
gradient takes, where ``tol`` is looser.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis import checks

SOLVER = "newton"


class Inputs(NamedTuple):
    """What describes the tasks. Labels of samples without weight may be anything."""

    features: Tensor  # (B, n, d): float32, float64, bfloat16 or float16
    labels: Tensor  # (B, n) int64
    lambda1: Tensor  # (B,), working precision, like the following
    lambda2: Tensor  # (B,)
    sample_weight: Tensor  # (B, n); 0 marks padding


class Options(NamedTuple):
    """How they are solved."""

    n_classes: int
    intercept: bool
    tol: float  # duality gap to reach, relative to P(0) with the best intercept
    max_iter: int


class Saved(NamedTuple):
    """Outputs that the derivatives need."""

    weights: Tensor  # (B, d', k)
    dual: Tensor  # (B, n, k): the probabilities to more digits than the weights give them


class Differentials(NamedTuple):
    """Gradients or tangents."""

    features: Tensor  # (B, n, d)
    lambda1: Tensor  # (B,), as the following
    lambda2: Tensor


def shapes(inputs: Inputs, options: Options) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of weights and dual without B."""
    _, n, d = inputs.features.shape
    return (d + options.intercept, options.n_classes), (n, options.n_classes)


def check_values(inputs: Inputs, options: Options) -> None:
    """What can only be seen in the values: run where the values are, inside the operation.

    Raises:
        ValueError: names the input, what was expected and what came.
    """
    check_tasks(inputs.features, inputs.labels, inputs.sample_weight, options.n_classes, options.intercept)
    checks.parameter_values(lambda1=inputs.lambda1, lambda2=inputs.lambda2)
    if bool(((inputs.lambda1 == 0) & (inputs.lambda2 == 0)).any()):
        raise ValueError("lambda1, lambda2: expected one of them > 0 in every task, got 0 for both")


def check_tasks(features: Tensor, labels: Tensor, sample_weight: Tensor, n_classes: int, intercept: bool) -> None:
    """:func:`check_values` without the hyperparameters."""
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
