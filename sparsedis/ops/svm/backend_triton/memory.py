"""Estimates of scratch memory, in bytes."""

from __future__ import annotations

from collections.abc import Sequence

# Budget for the tasks that are solved together.
LARGEST = 4 << 30


def task_bytes(features: Sequence[int], n_classes: int, solver: str) -> int:
    """Scratch memory per task, for features (B, n, d); for newton's full form see :func:`full_form_bytes`."""
    _, n, d = features
    # The last term is the features in float64, for the finish and the adjoint.
    size = 8 * (20 * n * n_classes + 3 * d * n_classes + n * d)
    if solver == "newton":
        # The matrix, its factor and its terms; V and u.
        size += 8 * (3 * (n * (n_classes - 1)) ** 2 + 2 * d * n_classes)
    return size


def full_form_bytes(features: Sequence[int], n_classes: int) -> int:
    """Scratch memory per task in the full form, which has about 15 more arrays of the size of W."""
    return task_bytes(features, n_classes, "newton") + 8 * 15 * features[2] * n_classes
