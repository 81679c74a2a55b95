"""Dtypes that solves compute in, and the gap at which a solution is exact to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

# The relative gap at which an iterate is the solution to rounding: on the right support gaps of 1e-15 are usual.
ROUNDING = 1e-13


def working_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64 (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def working(value: Tensor) -> Tensor:
    """The tensor in its device's working precision."""
    return value.to(working_dtype(value.device))


def returned_dtype(features: torch.dtype) -> torch.dtype:
    """The dtype of the weights for features of that dtype: float32 for half precision, else the same."""
    return torch.promote_types(features, torch.float32)
