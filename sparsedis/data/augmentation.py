"""Augmentation of training images: random crops, flips and colours, in batches, on the images' device."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sparsedis.extras import need

Augmentation = Literal["none", "crop-flip", "crop-flip-color"]


def augmentation(kind: Augmentation, size: tuple[int, int]) -> nn.Module:
    """A module that augments every image of a batch (N, C, *size), float in 0..1, independently.

    The operations are kornia's: crops of the image padded by a tenth of its side, horizontal flips, and for
    "crop-flip-color" brightness, contrast and saturation between 0.6 and 1.4, as MetaOptNet trains (Lee et al., CVPR
    2019). They draw from PyTorch's global random state.

    Raises:
        ImportError: kornia is not installed.
    """
    if kind == "none":
        return nn.Identity()
    K = need("kornia.augmentation", "augment")
    steps: list[nn.Module] = [K.RandomCrop(size, padding=max(min(size) // 10, 1)), K.RandomHorizontalFlip(p=0.5)]
    if kind == "crop-flip-color":
        steps.append(_Colored(K.ColorJiggle(0.4, 0.4, 0.4, p=1.0)))
    return nn.Sequential(*steps)


class _Colored(nn.Module):
    """Changes the colours of images of 3 channels; grey images have no saturation."""

    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(images) if images.shape[1] == 3 else images
