"""From what users pass to what the operations take: batches, class counts, one hyperparameter per task."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from sparsedis import checks

# How the losses of the samples make that of a task.
REDUCTIONS = ("sum", "mean")

# Iterations that nothing reaches, whose number all kernels can count to.
_NO_LIMIT = 2**31 - 1


def task_batch(
    features: Tensor, labels: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """Classification tasks, checked, as :func:`as_batch` returns them; the labels are int64."""
    checks.task_tensors(features, labels, sample_weight)
    return as_batch(features, labels.to(torch.int64), sample_weight)


def as_batch(
    features: Tensor, targets: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """One task as a batch of one, a batch as it is, and whether it was one task.

    ``targets`` are labels or regression targets. Weights that are not floating-point come back as int64: torch cannot
    compare most unsigned integers.
    """
    if sample_weight is not None:
        sample_weight = comparable(sample_weight)
    if features.dim() != 2:
        return features, targets, sample_weight, False
    return features[None], targets[None], None if sample_weight is None else sample_weight[None], True


def comparable(sample_weight: Tensor) -> Tensor:
    """Weights of a dtype that torch can compare: floating-point ones as they are, others as int64."""
    return sample_weight if sample_weight.is_floating_point() else sample_weight.to(torch.int64)


def class_count(labels: Tensor, sample_weight: Tensor | None, n_classes: int | None) -> int:
    """The number of classes asked for, or the largest label of a sample with weight + 1, and at least 2."""
    if n_classes is not None:
        checks.n_classes(n_classes)
        return int(n_classes)
    if torch.compiler.is_compiling():
        raise ValueError("n_classes: expected an int under torch.compile, got None")
    present = labels if sample_weight is None else torch.where(sample_weight > 0, labels, 0)
    try:
        largest = int(present.max())
    except RuntimeError as error:  # the values cannot be read inside a torch.func transform
        raise ValueError("n_classes: expected an int under torch.func.vmap, got None") from error
    return max(largest + 1, 2)


def per_task(value: float | Tensor, batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A hyperparameter as (B,)."""
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype).expand(batch)
    return torch.full((batch,), value, dtype=dtype, device=device)


def is_zero(value: float | Tensor) -> bool:
    """Whether a hyperparameter is the number 0; a tensor that holds it is not looked at."""
    return not isinstance(value, Tensor) and value == 0


def times_scale(relative: Tensor, scale: Tensor) -> Tensor:
    """Relative hyperparameters (B,) times each task's own scale.

    A scale of 0 belongs to a task whose features say nothing, whose weights are zero with any positive hyperparameter:
    it counts as 1, so that such a task does not make a batch invalid.
    """
    return relative * torch.where(scale > 0, scale, torch.ones_like(scale))


def weights_of(sample_weight: Tensor | None, features: Tensor, dtype: torch.dtype) -> Tensor:
    """The sample weights (B, n), detached; 1 where none were given."""
    if sample_weight is None:
        return torch.ones(features.shape[:2], dtype=dtype, device=features.device)
    return sample_weight.detach().to(dtype)


def step_limit(max_iter: int | None, default: int) -> int:
    """The largest number of iterations given, checked, or the default; an int of any size may be given."""
    if max_iter is None:
        return default
    if isinstance(max_iter, bool) or not isinstance(max_iter, Integral):
        raise TypeError(f"max_iter: expected an int, got {type(max_iter).__name__}")
    if max_iter < 1:
        raise ValueError(f"max_iter: expected a finite number > 0, got {max_iter}")
    return min(int(max_iter), _NO_LIMIT)


def total_weight(weight: Tensor, reduction: str, *, wanted: str) -> Tensor | None:
    """N = sum_i s_i, (B,), where the losses are reduced in the wanted way, else None; 1 for a task without weight."""
    checks.one_of("reduction", reduction, REDUCTIONS)
    if reduction != wanted:
        return None
    total = weight.sum(1)
    return torch.where(total > 0, total, torch.ones_like(total))
