"""The four-block convolutional encoder of the few-shot literature (Vinyals et al., NeurIPS 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch normalisation, ReLU and 2x2 max pooling; the last one without
    pooling.

    28x28 images give width * 3 * 3 features: 576 at the default width.

    Args:
        width: channels of every block.
        in_channels: channels of the images.
        final_pool: pool in the last block too, as in the original.
    """

    def __init__(self, width: int = 64, in_channels: int = 1, final_pool: bool = False) -> None:
        super().__init__()
        for name, value in (("width", width), ("in_channels", in_channels)):
            if value < 1:
                raise ValueError(f"{name}: expected a number >= 1, got {value}")
        self.width, self.in_channels, self.final_pool = width, in_channels, final_pool
        self.blocks = nn.Sequential(
            _block(in_channels, width, pool=True),
            _block(width, width, pool=True),
            _block(width, width, pool=True),
            _block(width, width, pool=final_pool),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the quicker on CPUs

    def features(self, height: int, width: int) -> int:
        """Number of features d of images of this size."""
        shrink = 16 if self.final_pool else 8
        if height < shrink or width < shrink:
            raise ValueError(f"images: expected at least {shrink}x{shrink} pixels, got {height}x{width}")
        return self.width * (height // shrink) * (width // shrink)

    def forward(self, images: Tensor) -> Tensor:
        """Features (..., d) of images (..., C, H, W)."""
        if images.dim() < 3 or images.shape[-3] != self.in_channels:
            raise ValueError(f"images: expected shape (..., {self.in_channels}, H, W), got {tuple(images.shape)}")
        flat = images.reshape(-1, *images.shape[-3:]).contiguous(memory_format=torch.channels_last)
        return self.blocks(flat).flatten(1).reshape(*images.shape[:-3], -1)


def _block(in_channels: int, out_channels: int, *, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        # The normalisation takes away any bias.
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if pool:
        layers.append(nn.MaxPool2d(2))  # ahead of the ReLU, with which it commutes: a quarter of the work
    layers.append(nn.ReLU())
    return nn.Sequential(*layers)
