"""Input errors: every message names what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_FEATURE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """ValueError unless ``value`` is among ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def task_tensors(features: Tensor, labels: Tensor, sample_weight: Tensor | None) -> None:
    """Types, shapes and devices of the tensors that describe tasks."""
    if not isinstance(features, Tensor):
        raise TypeError(f"features: expected a torch.Tensor, got {type(features).__name__}")
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: expected a torch.Tensor, got {type(labels).__name__}")
    if features.dtype not in _FEATURE_DTYPES:
        raise TypeError(f"features: expected a floating-point dtype, got {features.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels: expected an integer dtype (int64), got {labels.dtype}")
    if features.dim() not in (2, 3):
        raise ValueError(f"features: expected shape (B, n, d) or (n, d), got {tuple(features.shape)}")
    if 0 in features.shape:
        raise ValueError(f"features: expected no empty dimension, got shape {tuple(features.shape)}")
    if labels.shape != features.shape[:-1]:
        raise ValueError(f"labels: expected shape {tuple(features.shape[:-1])}, got {tuple(labels.shape)}")
    same_device("labels", labels, features)
    if sample_weight is not None:
        if not isinstance(sample_weight, Tensor):
            raise TypeError(f"sample_weight: expected a torch.Tensor, got {type(sample_weight).__name__}")
        if sample_weight.shape != labels.shape:
            raise ValueError(f"sample_weight: expected shape {tuple(labels.shape)}, got {tuple(sample_weight.shape)}")
        if sample_weight.is_complex():
            raise TypeError(f"sample_weight: expected a real dtype, got {sample_weight.dtype}")
        same_device("sample_weight", sample_weight, features)


def same_device(name: str, value: Tensor, features: Tensor) -> None:
    """ValueError unless ``value`` lies on the features' device."""
    if value.device != features.device:
        raise ValueError(f"{name}: expected device {features.device} (that of features), got {value.device}")


def hyperparameter(name: str, value: float | Tensor, batch: int, features: Tensor, *, positive: bool) -> None:
    """A number, a 0-d tensor or one value per task; the values of tensors are checked by :func:`values`."""
    if isinstance(value, Tensor):
        if value.dtype == torch.bool or value.is_complex():
            raise TypeError(f"{name}: expected a real dtype, got {value.dtype}")
        if value.shape not in ((), (batch,)):
            raise ValueError(f"{name}: expected a number, a 0-d tensor or shape ({batch},), got {tuple(value.shape)}")
        if value.dim() > 0:
            same_device(name, value, features)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number or a torch.Tensor, got {type(value).__name__}")
    else:
        _sign(name, value, positive=positive)


def _sign(name: str, value: float, *, positive: bool) -> None:
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{name}: expected a finite number {'> 0' if positive else '>= 0'}, got {value}")


def number(name: str, value: float, *, above: float) -> None:
    """ValueError unless ``value`` is a finite number above ``above``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not math.isfinite(value) or value <= above:
        raise ValueError(f"{name}: expected a finite number > {above}, got {value}")


def n_classes(value: int) -> None:
    """At least two classes."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"n_classes: expected an int, got {type(value).__name__}")
    if value < 2:
        raise ValueError(f"n_classes: expected at least 2 classes, got {value}")


def values(
    features: Tensor,
    labels: Tensor,
    lambda1: Tensor | None,
    lambda2: Tensor | None,
    dual_reg: Tensor | None,
    sample_weight: Tensor,
    classes: int,
) -> None:
    """What can only be seen in the values: run where the values are, inside the operation."""
    if not bool(torch.isfinite(features).all()):
        where = (~torch.isfinite(features)).nonzero()
        task, sample, feature = where[0].tolist()
        raise ValueError(
            f"features: expected finite values, got {len(where)} NaN or infinite ones "
            f"(first: task {task}, sample {sample}, feature {feature})"
        )
    if not bool((torch.isfinite(sample_weight) & (sample_weight >= 0)).all()):
        raise ValueError(f"sample_weight: expected finite values >= 0, got {sample_weight.min().item()}")
    outside = ((labels < 0) | (labels >= classes)) & (sample_weight > 0)
    if bool(outside.any()):
        task, sample = outside.nonzero()[0].tolist()
        raise ValueError(
            f"labels: expected values from 0 to {classes - 1}, got {int(labels[task, sample])} "
            f"(task {task}, sample {sample})"
        )
    for name, value in (("lambda1", lambda1), ("lambda2", lambda2), ("dual_reg", dual_reg)):
        if value is None:
            continue
        positive = name == "lambda2"
        bad = ~torch.isfinite(value) | (value < 0) | ((value == 0) & positive)
        if bool(bad.any()):
            _sign(name, float(value[bad][0]), positive=positive)
