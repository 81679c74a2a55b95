"""The dtypes of the arithmetic and of the results, and the gap of a solution that is exact to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

# An iterate with this relative gap is the solution to rounding; on the correct support, gaps of 1e-15 are usual.
ROUNDING = 1e-13


def working_dtype(device: torch.device) -> torch.dtype:
    """The dtype of the arithmetic: float64, or float32 on a device without float64 (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def working(value: Tensor) -> Tensor:
    """The tensor in its device's working precision."""
    return value.to(working_dtype(value.device))


def returned_dtype(features: torch.dtype) -> torch.dtype:
    """The dtype of the weights for features of that dtype: float32 for half precision, otherwise unchanged."""
    return torch.promote_types(features, torch.float32)
