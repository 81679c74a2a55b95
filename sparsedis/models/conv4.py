"""The four-block convolutional encoder of the few-shot literature (Vinyals et al., NeurIPS 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsedis.models.shape import by_image, check_positive, check_size


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch normalisation, ReLU and 2x2 max pooling, by default none in the last.


    For 28x28 images there are width * 3 * 3 features: 576 at the default width.

    Args:
        width: channels of every block.
        in_channels: channels of the images.
        final_pool: pool in the last block too, as in the original.
        final_width: channels of the last block, for more features at little cost; default: ``width``.
    """

    def __init__(
        self, width: int = 64, in_channels: int = 1, final_pool: bool = False, final_width: int | None = None
    ) -> None:
        super().__init__()
        self.final_width = width if final_width is None else final_width
        check_positive(width=width, in_channels=in_channels, final_width=self.final_width)
        self.in_channels, self.final_pool = in_channels, final_pool
        self.blocks = nn.Sequential(
            _block(in_channels, width, pool=True),
            _block(width, width, pool=True),
            _block(width, width, pool=True),
            _block(width, self.final_width, pool=final_pool),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs

    def features(self, height: int, width: int) -> int:
        """Number of features d of images of this size."""
        shrink = 16 if self.final_pool else 8
        check_size(height, width, shrink)
        return self.final_width * (height // shrink) * (width // shrink)

    def forward(self, images: Tensor) -> Tensor:
        """Features (..., d) of images (..., C, H, W)."""
        return by_image(images, self.in_channels, lambda flat: self.blocks(flat).flatten(1))


def _block(in_channels: int, out_channels: int, *, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        # No bias: the batch normalisation would cancel it.
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if pool:
        layers.append(nn.MaxPool2d(2))  # before the ReLU, with which it commutes, to save three quarters of its work
    layers.append(nn.ReLU())
    return nn.Sequential(*layers)
