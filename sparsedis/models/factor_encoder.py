"""The encoder of the paper's disentanglement experiments."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FactorEncoder(nn.Module):
    """Four convolutions of stride 2 with 32, 32, 64 and 64 channels, a hidden layer of 256 units, and d features.

    The kernels have 4, 4, 2 and 2 pixels; activations are ReLU. The final batch normalisation has no scale and shift: a
    feature has mean 0 and variance 1 over a batch, so that the scale of the features cannot evade a penalty on
    coefficients.

    Weights are initialised by PyTorch's defaults, as published. They are so small that the initial features have a
    variance below the normalisation's eps; docs/disentanglement.md measures the effect of larger ones.

    Source: Lachapelle et al., ICML 2023, appendix on 3D Shapes. Images are 64x64.

    Args:
        features: number of features d.
        in_channels: channels of the images.
    """

    side = 64

    def __init__(self, features: int = 6, in_channels: int = 3) -> None:
        super().__init__()
        for name, value in (("features", features), ("in_channels", in_channels)):
            if value < 1:
                raise ValueError(f"{name}: expected a number >= 1, got {value}")
        self.features, self.in_channels = features, in_channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 2, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 2, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 256),
            nn.ReLU(),
            nn.Linear(256, features, bias=False),  # the batch normalisation would cancel a bias
        )
        self.norm = nn.BatchNorm1d(features, affine=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, d) of images (N, C, 64, 64)."""
        if images.dim() != 4 or images.shape[1:] != (self.in_channels, self.side, self.side):
            expected = (self.in_channels, self.side, self.side)
            raise ValueError(f"images: expected shape (N, {expected[0]}, 64, 64), got {tuple(images.shape)}")
        return self.norm(self.layers(images.contiguous(memory_format=torch.channels_last)))
