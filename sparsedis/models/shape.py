"""Shape checks of the encoders, and their application to images with any leading dimensions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def check_positive(**values: int) -> None:
    """ValueError unless all are >= 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}: expected a number >= 1, got {value}")


def check_size(height: int, width: int, least: int) -> None:
    """ValueError unless both sides of an image are at least ``least`` pixels."""
    if height < least or width < least:
        raise ValueError(f"images: expected at least {least}x{least} pixels, got {height}x{width}")


def by_image(images: Tensor, in_channels: int, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Features (..., d) of images (..., C, H, W), by an ``encode`` for (N, C, H, W) in channels-last layout."""
    if images.dim() < 3 or images.shape[-3] != in_channels:
        raise ValueError(f"images: expected shape (..., {in_channels}, H, W), got {tuple(images.shape)}")
    flat = images.reshape(-1, *images.shape[-3:]).contiguous(memory_format=torch.channels_last)
    return encode(flat).reshape(*images.shape[:-3], -1)
