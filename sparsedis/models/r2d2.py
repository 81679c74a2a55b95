"""The encoder of R2-D2 (Bertinetto et al., ICLR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsedis.models.shape import by_image, check_positive, check_size

_CHANNELS = (1.5, 3, 6, 8)
_DROP = (0.0, 0.0, 0.1, 0.3)


class R2D2(nn.Module):
    """Four blocks of 3x3 convolution, batch normalisation, 2x2 max pooling and leaky ReLU.

    The features are the concatenated outputs of the last two blocks.

    The blocks have 1.5, 3, 6 and 8 times ``width`` channels: by default 96, 192, 384 and 512. The last block has no
    activation, and the last two end in dropout of 0.1 and 0.3, as in MetaOptNet. 32x32 images have 8,192 features,
    84x84 images 51,200.

    Args:
        width: even; sets the number of channels.
        in_channels: channels of the images.
    """

    def __init__(self, width: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        check_positive(width=width, in_channels=in_channels)
        if width % 2:
            raise ValueError(f"width: expected an even number of channels, got {width}")
        self.width, self.in_channels = width, in_channels
        channels = [in_channels, *(int(factor * width) for factor in _CHANNELS)]
        self.blocks = nn.ModuleList(
            _block(channels[i], channels[i + 1], _DROP[i], last=i == len(_CHANNELS) - 1) for i in range(len(_CHANNELS))
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, height: int, width: int) -> int:
        """Number of features d of images of this size."""
        check_size(height, width, 16)
        return self.width * (6 * (height // 8) * (width // 8) + 8 * (height // 16) * (width // 16))

    def forward(self, images: Tensor) -> Tensor:
        """Features (..., d) of images (..., C, H, W)."""
        return by_image(images, self.in_channels, self._encode)

    def _encode(self, images: Tensor) -> Tensor:
        third = images
        for block in self.blocks[:-1]:
            third = block(third)
        return torch.cat([third.flatten(1), self.blocks[-1](third).flatten(1)], 1)


def _block(in_channels: int, out_channels: int, drop: float, last: bool) -> nn.Sequential:
    layers = [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.MaxPool2d(2),
        *([] if last else [nn.LeakyReLU(0.1)]),
        *([nn.Dropout(drop)] if drop else []),
    ]
    return nn.Sequential(*layers)
