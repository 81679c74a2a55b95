"""Alignment of drawings: a common centre and size of the ink, whatever place on the paper it was drawn at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_SPREAD = 0.36
"""Root mean square distance of the ink from its centre, along an axis, in units of half the side."""
_LEAST = 1e-6  # sum of the pixels: with less ink there is nothing to align
_SCALES = (0.25, 2.0)  # a dot is not blown up to a disc


def align(images: Tensor) -> Tensor:
    """Shift and scale every image so that its bright ink has its centre of mass in the middle and a common spread.

    The centre of mass and the root mean square distance from it are those of the sum over channels; the image is
    resampled bilinearly. Scales are between 1/4 and 2, and an image without ink stays as it is.

    Args:
        images: (N, C, H, W), dark where there is no ink.
    """
    height, width = images.shape[-2:]
    with torch.no_grad():
        ink = images.sum(1).clamp_min(0)
        weight = ink.sum((1, 2))
        blank = weight < _LEAST
        weight = weight.masked_fill(blank, 1.0)
        across, down = (_places(n, ink) for n in (width, height))
        x, y = (ink.sum(1) * across).sum(1) / weight, (ink.sum(2) * down).sum(1) / weight
        square = (ink.sum(1) * (across - x[:, None]) ** 2).sum(1) + (ink.sum(2) * (down - y[:, None]) ** 2).sum(1)
        scale = ((square / (2 * weight)).sqrt() / _SPREAD).clamp(*_SCALES)
        x, y, scale = x.masked_fill(blank, 0.0), y.masked_fill(blank, 0.0), scale.masked_fill(blank, 1.0)
        none = torch.zeros_like(scale)
        transform = torch.stack([torch.stack([scale, none, x], -1), torch.stack([none, scale, y], -1)], 1)
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _places(count: int, like: Tensor) -> Tensor:
    """The middles of ``count`` pixels, from -1 to 1."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) * (2 / count) - 1
