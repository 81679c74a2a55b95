"""Alignment of drawings: normalises the position and size of the ink."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_SPREAD = 0.36
"""Root mean square distance of the ink from its centre along an axis, as a fraction of half the image side."""
_LEAST = 1e-6  # sum of the pixels below which an image counts as blank
_SCALES = (0.25, 2.0)  # bounds, so that a dot is not enlarged to a disc


def align(images: Tensor) -> Tensor:
    """Shift and scale every image so that its bright ink is centred at its centre of mass and has a fixed spread.

    Centre of mass and root mean square distance are those of the sum over channels. Images are resampled bilinearly
    with scales between 1/4 and 2; blank images are unchanged.

    Args:
        images: (N, C, H, W), with a dark background.

    Returns:
        The aligned images, (N, C, H, W).
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
    """Centres of ``count`` pixels on an axis from -1 to 1."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) * (2 / count) - 1
