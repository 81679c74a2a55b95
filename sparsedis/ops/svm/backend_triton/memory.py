"""Scratch memory of the kernels' callers, in bytes."""

from __future__ import annotations

from collections.abc import Sequence

# What the tasks that are solved together may take.
LARGEST = 4 << 30


def task_bytes(features: Sequence[int], n_classes: int, solver: str) -> int:
    """Of a task whose features are (B, n, d); newton's full form takes more, see :func:`full_form_bytes`."""
    _, n, d = features
    # The features in float64, for the finish and the adjoint.
    size = 8 * (20 * n * n_classes + 3 * d * n_classes + n * d)
    if solver == "newton":
        # The matrix, its factor and its parts; V and u.
        size += 8 * (3 * (n * (n_classes - 1)) ** 2 + 2 * d * n_classes)
    return size


def full_form_bytes(features: Sequence[int], n_classes: int) -> int:
    """Of a task in the full form: some 15 arrays of the size of W."""
    return task_bytes(features, n_classes, "newton") + 8 * 15 * features[2] * n_classes
