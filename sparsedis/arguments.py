"""Convert the arguments of the public solvers to those of the operations: batches, class counts, (B,) parameters."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from sparsedis import checks

# How the losses of a task's samples are combined.
REDUCTIONS = ("sum", "mean")

# Cap on max_iter: the kernels count iterations in 32-bit integers.
_NO_LIMIT = 2**31 - 1


def task_batch(
    features: Tensor, labels: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """Check classification tasks and return them as :func:`as_batch` does, with int64 labels."""
    checks.task_tensors(features, labels, sample_weight)
    return as_batch(features, labels.to(torch.int64), sample_weight)


def as_batch(
    features: Tensor, targets: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """Add a batch dimension of 1 to a single task.

    Args:
        features: (B, n, d) or (n, d).
        targets: labels or regression targets, (B, n, ...) or (n, ...).
        sample_weight: (B, n), (n,) or None.

    Returns:
        features, targets, sample weights (see :func:`comparable`), and whether a single task was passed.
    """
    if sample_weight is not None:
        sample_weight = comparable(sample_weight)
    if features.dim() != 2:
        return features, targets, sample_weight, False
    return features[None], targets[None], None if sample_weight is None else sample_weight[None], True


def comparable(sample_weight: Tensor) -> Tensor:
    """Sample weights, converted to int64 unless floating-point: torch cannot compare most unsigned integers."""
    return sample_weight if sample_weight.is_floating_point() else sample_weight.to(torch.int64)


def class_count(labels: Tensor, sample_weight: Tensor | None, n_classes: int | None) -> int:
    """``n_classes``, or by default the largest label of a sample with positive weight + 1, but at least 2."""
    if n_classes is not None:
        checks.n_classes(n_classes)
        return int(n_classes)
    if torch.compiler.is_compiling():
        raise ValueError("n_classes: expected an int under torch.compile, got None")
    present = labels if sample_weight is None else torch.where(sample_weight > 0, labels, 0)
    try:
        largest = int(present.max())
    except RuntimeError as error:  # values cannot be read inside a torch.func transform
        raise ValueError("n_classes: expected an int under torch.func.vmap, got None") from error
    return max(largest + 1, 2)


def per_task(value: float | Tensor, batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A hyperparameter, a number, a 0-d tensor or (B,), as a tensor (B,)."""
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype).expand(batch)
    return torch.full((batch,), value, dtype=dtype, device=device)


def is_zero(value: float | Tensor) -> bool:
    """Whether a hyperparameter is the number 0. False for tensors, whose values may not be readable."""
    return not isinstance(value, Tensor) and value == 0


def times_scale(relative: Tensor, scale: Tensor) -> Tensor:
    """Absolute hyperparameters (B,): the relative ones times the scale of each task.

    A scale of 0 is replaced by 1, so that a task with uninformative features does not make the batch invalid. Its
    weights are zero for any positive hyperparameter.
    """
    return relative * torch.where(scale > 0, scale, torch.ones_like(scale))


def weights_of(sample_weight: Tensor | None, features: Tensor, dtype: torch.dtype) -> Tensor:
    """The sample weights (B, n), detached; ones if None."""
    if sample_weight is None:
        return torch.ones(features.shape[:2], dtype=dtype, device=features.device)
    return sample_weight.detach().to(dtype)


def step_limit(max_iter: int | None, default: int) -> int:
    """Check ``max_iter`` and return it, capped at 2^31 - 1, or the default if it is None."""
    if max_iter is None:
        return default
    if isinstance(max_iter, bool) or not isinstance(max_iter, Integral):
        raise TypeError(f"max_iter: expected an int, got {type(max_iter).__name__}")
    if max_iter < 1:
        raise ValueError(f"max_iter: expected a finite number > 0, got {max_iter}")
    return min(int(max_iter), _NO_LIMIT)


def total_weight(weight: Tensor, reduction: str, *, wanted: str) -> Tensor | None:
    """N = sum_i s_i, (B,), if ``reduction`` equals ``wanted``, else None; 1 for a task without positive weight."""
    checks.one_of("reduction", reduction, REDUCTIONS)
    if reduction != wanted:
        return None
    total = weight.sum(1)
    return torch.where(total > 0, total, torch.ones_like(total))
