"""ResNet-12, the residual encoder of the few-shot literature, as MetaOptNet trains it (Lee et al., CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsedis.models.drop_block import DropBlock
from sparsedis.models.shape import by_image, check_positive, check_size


class ResNet12(nn.Module):
    """Four residual blocks of three 3x3 convolutions with batch normalisation, leaky ReLU and 2x2 max pooling.

    The blocks have 1, 2.5, 5 and 10 times ``width`` channels: by default 64, 160, 320 and 640. 84x84 images have
    640 * 5 * 5 = 16,000 features, or 640 with ``pooled``. The first two blocks end in dropout, the last two in
    DropBlock.

    Args:
        width: channels of the first block, even.
        in_channels: channels of the images.
        pooled: average the last maps over their pixels.
        drop_rate: of dropout and DropBlock; 0 disables both.
        drop_ramp: number of training steps until DropBlock's rate is reached.
    """

    def __init__(
        self,
        width: int = 64,
        in_channels: int = 3,
        pooled: bool = False,
        drop_rate: float = 0.1,
        drop_ramp: int = 40_000,
    ) -> None:
        super().__init__()
        check_positive(width=width, in_channels=in_channels)
        if width % 2:
            raise ValueError(f"width: expected an even number of channels, got {width}")
        self.width, self.in_channels, self.pooled = width, in_channels, pooled
        channels = [in_channels, width, width * 5 // 2, width * 5, width * 10]
        drops = [
            nn.Dropout(drop_rate),
            nn.Dropout(drop_rate),
            *(DropBlock(drop_rate, ramp=drop_ramp) for _ in range(2)),
        ]
        self.blocks = nn.Sequential(
            *(_Block(a, b, drop) for a, b, drop in zip(channels, channels[1:], drops, strict=False))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, height: int, width: int) -> int:
        """Number of features d of images of this size."""
        check_size(height, width, 16)
        return self.width * 10 * (1 if self.pooled else (height // 16) * (width // 16))

    def forward(self, images: Tensor) -> Tensor:
        """Features (..., d) of images (..., C, H, W)."""
        return by_image(images, self.in_channels, self._encode)

    def _encode(self, images: Tensor) -> Tensor:
        maps = self.blocks(images)
        return maps.mean((2, 3)) if self.pooled else maps.flatten(1)


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, drop: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (in_channels, out_channels, out_channels):
            layers += [nn.Conv2d(before, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)]
            layers.append(nn.LeakyReLU(0.1))
        self.residual = nn.Sequential(*layers[:-1])  # the last activation follows the sum
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.end = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2), drop)

    def forward(self, maps: Tensor) -> Tensor:
        return self.end(self.residual(maps) + self.shortcut(maps))
