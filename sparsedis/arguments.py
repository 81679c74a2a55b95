"""From what users pass to what the operations take: batches, class counts, one hyperparameter per task."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis import checks


def as_batch(
    features: Tensor, targets: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """One task as a batch of one, a batch as it is, and whether it was one task.

    ``targets`` are labels or regression targets.
    """
    if features.dim() != 2:
        return features, targets, sample_weight, False
    return features[None], targets[None], None if sample_weight is None else sample_weight[None], True


def class_count(labels: Tensor, sample_weight: Tensor | None, n_classes: int | None) -> int:
    """The number of classes asked for, or the largest label of a sample with weight + 1, and at least 2."""
    if n_classes is not None:
        checks.n_classes(n_classes)
        return n_classes
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


def weights_of(sample_weight: Tensor | None, features: Tensor, dtype: torch.dtype) -> Tensor:
    """The sample weights (B, n), detached; 1 where none were given."""
    if sample_weight is None:
        return torch.ones(features.shape[:2], dtype=dtype, device=features.device)
    return sample_weight.detach().to(dtype)


def step_limit(max_iter: int | None, default: int) -> int:
    """The largest number of iterations given, checked, or the default."""
    if max_iter is None:
        return default
    checks.number("max_iter", max_iter, above=0)
    return int(max_iter)


def tolerance(tol: float | None, features: Tensor) -> float:
    """The tolerance given, checked; by default 1e-10 for float64 features and 1e-5 for others."""
    if tol is None:
        return 1e-10 if features.dtype == torch.float64 else 1e-5
    checks.number("tol", tol, above=0)
    return float(tol)
