"""Input errors: every message names what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

_FEATURE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """ValueError unless ``value`` is among ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def task_tensors(features: Tensor, labels: Tensor, sample_weight: Tensor | None) -> None:
    """Types, shapes and devices of the tensors that describe classification tasks."""
    _features(features)
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: expected a torch.Tensor, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels: expected an integer dtype (int64), got {labels.dtype}")
    if labels.shape != features.shape[:-1]:
        raise ValueError(f"labels: expected shape {tuple(features.shape[:-1])}, got {tuple(labels.shape)}")
    same_device("labels", labels, features)
    _sample_weight(sample_weight, features)


def regression_tensors(
    features: Tensor, targets: Tensor, sample_weight: Tensor | None, *, several_targets: bool = False
) -> None:
    """Types, shapes and devices of the tensors that describe regression tasks."""
    _features(features)
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets: expected a torch.Tensor, got {type(targets).__name__}")
    if targets.dtype not in _FEATURE_DTYPES:
        raise TypeError(f"targets: expected a floating-point dtype, got {targets.dtype}")
    samples = tuple(features.shape[:-1])
    given = tuple(targets.shape)
    if several_targets and len(given) == len(samples) + 1:
        given = given[:-1]
    if given != samples or 0 in targets.shape:
        more = f" or {str(samples)[:-1].rstrip(',')}, m)" if several_targets else ""
        raise ValueError(f"targets: expected shape {samples}{more}, got {tuple(targets.shape)}")
    same_device("targets", targets, features)
    _sample_weight(sample_weight, features)


def _features(features: Tensor) -> None:
    if not isinstance(features, Tensor):
        raise TypeError(f"features: expected a torch.Tensor, got {type(features).__name__}")
    if features.dtype not in _FEATURE_DTYPES:
        raise TypeError(f"features: expected a floating-point dtype, got {features.dtype}")
    if features.dim() not in (2, 3):
        raise ValueError(f"features: expected shape (B, n, d) or (n, d), got {tuple(features.shape)}")
    if 0 in features.shape:
        raise ValueError(f"features: expected no empty dimension, got shape {tuple(features.shape)}")


def _sample_weight(sample_weight: Tensor | None, features: Tensor) -> None:
    if sample_weight is None:
        return
    if not isinstance(sample_weight, Tensor):
        raise TypeError(f"sample_weight: expected a torch.Tensor, got {type(sample_weight).__name__}")
    samples = tuple(features.shape[:-1])
    if sample_weight.shape != samples:
        raise ValueError(f"sample_weight: expected shape {samples}, got {tuple(sample_weight.shape)}")
    if sample_weight.is_complex():
        raise TypeError(f"sample_weight: expected a real dtype, got {sample_weight.dtype}")
    same_device("sample_weight", sample_weight, features)


def same_device(name: str, value: Tensor, features: Tensor) -> None:
    """ValueError unless ``value`` lies on the features' device."""
    if value.device != features.device:
        raise ValueError(f"{name}: expected device {features.device} (that of features), got {value.device}")


def hyperparameter(name: str, value: float | Tensor, batch: int, features: Tensor, *, positive: bool) -> None:
    """A number, a 0-d tensor or one value per task; the values of tensors are checked by :func:`parameter_values`."""
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
    # By comparisons, which symbolic numbers know too; false for NaN.
    if not 0 <= value < math.inf or (positive and value == 0):
        raise ValueError(f"{name}: expected a finite number {'> 0' if positive else '>= 0'}, got {value}")


def number(name: str, value: float, *, above: float) -> None:
    """ValueError unless ``value`` is a finite number above ``above``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not above < value < math.inf:
        raise ValueError(f"{name}: expected a finite number > {above}, got {value}")


def n_classes(value: int) -> None:
    """At least two classes."""
    if isinstance(value, bool) or not isinstance(value, int | Integral):
        raise TypeError(f"n_classes: expected an int, got {type(value).__name__}")
    if value < 2:
        raise ValueError(f"n_classes: expected at least 2 classes, got {value}")


def finite(name: str, value: Tensor, dimensions: Sequence[str]) -> None:
    """ValueError unless all values are finite; ``dimensions`` name those of ``value`` in the message."""
    if bool(torch.isfinite(value).all()):
        return
    where = (~torch.isfinite(value)).nonzero()
    first = ", ".join(f"{dimension} {i}" for dimension, i in zip(dimensions, where[0].tolist(), strict=False))
    raise ValueError(f"{name}: expected finite values, got {len(where)} NaN or infinite ones (first: {first})")


def weight_values(sample_weight: Tensor) -> None:
    """ValueError unless all sample weights are finite and not negative."""
    if not bool((torch.isfinite(sample_weight) & (sample_weight >= 0)).all()):
        raise ValueError(f"sample_weight: expected finite values >= 0, got {sample_weight.min().item()}")


def label_values(labels: Tensor, sample_weight: Tensor, classes: int) -> None:
    """ValueError unless the labels of all samples with weight are from 0 to ``classes`` - 1."""
    outside = ((labels < 0) | (labels >= classes)) & (sample_weight > 0)
    if bool(outside.any()):
        task, sample = outside.nonzero()[0].tolist()
        raise ValueError(
            f"labels: expected values from 0 to {classes - 1}, got {int(labels[task, sample])} "
            f"(task {task}, sample {sample})"
        )


def parameter_values(*, positive: Sequence[str] = (), **parameters: Tensor | None) -> None:
    """ValueError unless the values, by name, are finite and not negative; above 0 for those in ``positive``."""
    for name, value in parameters.items():
        if value is None:
            continue
        bad = ~torch.isfinite(value) | (value < 0) | ((value == 0) & (name in positive))
        if bool(bad.any()):
            _sign(name, float(value[bad][0]), positive=name in positive)
