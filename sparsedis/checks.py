"""Input validation; every error message states what was expected and what was given."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

_FEATURE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
_LARGEST = sys.float_info.max
_MOST_CLASSES = 2**31 - 1


class NotFiniteError(ValueError):
    """A NaN or infinite value where a finite one is expected, such as in a diverged training run."""


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """ValueError unless ``value`` is among ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def task_tensors(features: Tensor, labels: Tensor, sample_weight: Tensor | None) -> None:
    """Check types, shapes and devices of the tensors that describe classification tasks."""
    _features(features)
    dense("labels", labels)
    if labels.dtype not in (*_SIGNED, *_UNSIGNED):
        raise TypeError(f"labels: expected an integer dtype (int64), got {labels.dtype}")
    if labels.shape != features.shape[:-1]:
        raise ValueError(f"labels: expected shape {tuple(features.shape[:-1])}, got {tuple(labels.shape)}")
    same_device("labels", labels, features)
    _sample_weight(sample_weight, features)


def regression_tensors(
    features: Tensor, targets: Tensor, sample_weight: Tensor | None, *, several_targets: bool = False
) -> None:
    """Check types, shapes and devices of the tensors that describe regression tasks."""
    _features(features)
    dense("targets", targets)
    if targets.dtype not in _FEATURE_DTYPES:
        raise TypeError(f"targets: expected a floating-point dtype, got {targets.dtype}")
    samples = tuple(features.shape[:-1])
    shape = tuple(targets.shape)
    if several_targets and len(shape) == len(samples) + 1:
        shape = shape[:-1]
    if shape != samples or 0 in targets.shape:
        more = f" or {str(samples)[:-1].rstrip(',')}, m)" if several_targets else ""
        raise ValueError(f"targets: expected shape {samples}{more}, got {tuple(targets.shape)}")
    same_device("targets", targets, features)
    _sample_weight(sample_weight, features)


def dense(name: str, value: Tensor) -> None:
    """TypeError unless ``value`` is a dense tensor: not nested, sparse or quantized."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.is_nested:
        raise TypeError(
            f"{name}: expected a dense tensor, got a nested one; torch.nested.to_padded_tensor makes one, and "
            "sample_weight 0 marks its padding"
        )
    if value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {value.layout}; to_dense() makes one")
    if value.is_quantized:
        raise TypeError(f"{name}: expected a dense tensor, got a quantized one; dequantize() makes one")


def floating(name: str, value: Tensor) -> None:
    """TypeError unless ``value`` is a dense floating-point tensor; ValueError if it is on the meta device."""
    dense(name, value)
    if value.dtype not in _FEATURE_DTYPES:
        raise TypeError(f"{name}: expected a floating-point dtype, got {value.dtype}")
    _has_values(name, value)


def _has_values(name: str, value: Tensor) -> None:
    if value.device.type == "meta":
        raise ValueError(f"{name}: expected a tensor with values, got one on the device meta")


def _features(features: Tensor) -> None:
    floating("features", features)
    if features.dim() not in (2, 3):
        raise ValueError(f"features: expected shape (B, n, d) or (n, d), got {tuple(features.shape)}")
    if 0 in features.shape:
        raise ValueError(f"features: expected no empty dimension, got shape {tuple(features.shape)}")


def _sample_weight(sample_weight: Tensor | None, features: Tensor) -> None:
    if sample_weight is None:
        return
    dense("sample_weight", sample_weight)
    samples = tuple(features.shape[:-1])
    if sample_weight.shape != samples:
        raise ValueError(f"sample_weight: expected shape {samples}, got {tuple(sample_weight.shape)}")
    if sample_weight.dtype not in (*_FEATURE_DTYPES, *_SIGNED, *_UNSIGNED, torch.bool):
        raise TypeError(f"sample_weight: expected a real dtype, got {sample_weight.dtype}")
    same_device("sample_weight", sample_weight, features)


def same_device(name: str, value: Tensor, features: Tensor) -> None:
    """ValueError unless ``value`` is on the features' device."""
    if value.device != features.device:
        raise ValueError(f"{name}: expected device {features.device} (that of features), got {value.device}")


def hyperparameter(name: str, value: float | Tensor, batch: int, features: Tensor, *, positive: bool) -> float | Tensor:
    """Check a hyperparameter: a number, a 0-d tensor or (B,). :func:`parameter_values` checks the values of tensors.

    Returns:
        The tensor, or the number as a Python number.
    """
    if isinstance(value, Tensor):
        dense(name, value)
        if value.dtype == torch.bool or value.is_complex():
            raise TypeError(f"{name}: expected a real dtype, got {value.dtype}")
        if value.shape not in ((), (batch,)):
            raise ValueError(f"{name}: expected a number, a 0-d tensor or shape ({batch},), got {tuple(value.shape)}")
        if value.dim() > 0:
            same_device(name, value, features)
        _has_values(name, value)
        return value
    result = _real(name, value, "a number or a torch.Tensor")
    _sign(name, result, positive=positive)
    return result


def _real(name: str, value: object, expected: str = "a number") -> float:
    """The value as a Python number; TypeError for a bool and for anything that is not a real number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value  # no conversion: under torch.compile the number may be symbolic
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)  # NumPy scalars
    raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")


def _sign(name: str, value: float, *, positive: bool) -> None:
    # Comparisons also work for symbolic numbers, and are false for NaN.
    if not 0 <= value <= _LARGEST or (positive and value == 0):
        error = ValueError if abs(value) <= _LARGEST else NotFiniteError
        raise error(f"{name}: expected a finite number {'> 0' if positive else '>= 0'}, got {value}")


def number(name: str, value: float | Tensor, *, above: float | None = None) -> float:
    """Check a finite number and return it as a Python number.

    Args:
        name: of the argument, for the messages.
        value: a Python or NumPy number, or a 0-d tensor that does not require a gradient.
        above: exclusive lower bound; default: none.

    Raises:
        TypeError: not a real number, or it requires a gradient.
        ValueError: not finite, or not above the bound.
    """
    if isinstance(value, Tensor):
        dense(name, value)
        _has_values(name, value)
        if value.dim() or value.dtype == torch.bool or value.is_complex():
            raise TypeError(f"{name}: expected a real number, got a tensor {tuple(value.shape)} of {value.dtype}")
        if value.requires_grad:
            raise TypeError(f"{name}: expected a constant, got a tensor that requires a gradient")
        value = value.item()
    result = _real(name, value)
    if not -_LARGEST <= result <= _LARGEST or (above is not None and result <= above):
        raise ValueError(f"{name}: expected a finite number{'' if above is None else f' > {above}'}, got {result}")
    return result


def flag(name: str, value: object) -> None:
    """TypeError unless ``value`` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def n_classes(value: int) -> None:
    """TypeError unless ``value`` is an int; ValueError unless it is from 2 to 2^31 - 1."""
    if isinstance(value, bool) or not isinstance(value, int | Integral):
        raise TypeError(f"n_classes: expected an int, got {type(value).__name__}")
    if value < 2:
        raise ValueError(f"n_classes: expected at least 2 classes, got {value}")
    if value > _MOST_CLASSES:
        raise ValueError(f"n_classes: expected at most {_MOST_CLASSES} classes, got {value}")


def finite(name: str, value: Tensor, dimensions: Sequence[str]) -> None:
    """NotFiniteError unless all values are finite; ``dimensions`` are the names of the dimensions for the message."""
    if bool(torch.isfinite(value).all()):
        return
    where = (~torch.isfinite(value)).nonzero()
    first = ", ".join(f"{dimension} {i}" for dimension, i in zip(dimensions, where[0].tolist(), strict=False))
    raise NotFiniteError(f"{name}: expected finite values, got {len(where)} NaN or infinite ones (first: {first})")


def weight_values(sample_weight: Tensor) -> None:
    """ValueError unless all sample weights are finite and nonnegative."""
    if not bool((torch.isfinite(sample_weight) & (sample_weight >= 0)).all()):
        raise ValueError(f"sample_weight: expected finite values >= 0, got {sample_weight.min().item()}")


def label_values(labels: Tensor, sample_weight: Tensor, classes: int) -> None:
    """ValueError unless all labels (B, n) of samples with positive weight are from 0 to ``classes`` - 1."""
    outside = ((labels < 0) | (labels >= classes)) & (sample_weight > 0)
    if bool(outside.any()):
        task, sample = outside.nonzero()[0].tolist()
        raise ValueError(
            f"labels: expected values from 0 to {classes - 1}, got {int(labels[task, sample])} "
            f"(task {task}, sample {sample})"
        )


def parameter_values(*, positive: Sequence[str] = (), **parameters: Tensor | None) -> None:
    """ValueError unless all parameters are finite and nonnegative, and those named in ``positive`` positive."""
    for name, value in parameters.items():
        if value is None:
            continue
        bad = ~torch.isfinite(value) | (value < 0) | ((value == 0) & (name in positive))
        if bool(bad.any()):
            _sign(name, float(value[bad][0]), positive=name in positive)
