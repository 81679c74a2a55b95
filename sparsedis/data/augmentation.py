"""Augmentation of training images: random crops, flips, colour changes and redrawing, on the images' device."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sparsedis.extras import need

Augmentation = Literal["none", "crop-flip", "crop-flip-color", "drawings"]


def augmentation(kind: Augmentation, size: tuple[int, int]) -> nn.Module:
    """A module that augments the images of tasks (B, m, C, *size), float in [0, 1].

    The operations are kornia's and draw from PyTorch's global random state. Every image is changed independently:

    - "crop-flip": crops of the image padded by a tenth of its side, and horizontal flips.
    - "crop-flip-color": also brightness, contrast and saturation between 0.6 and 1.4, as in MetaOptNet (Lee et al.,
      CVPR 2019).
    - "drawings": rotations by up to 12 degrees, shears by up to 12 degrees, scales between 0.8 and 1.2 and shifts by up
      to a tenth of the side, as if redrawn. Before that, all images of a task are rotated by the same random multiple
      of 90 degrees, and mirrored in half of the tasks, which creates new characters (rotations: Santoro et al., ICML
      2016).

    Raises:
        ImportError: kornia is not installed.
        ValueError: "drawings" for images that are not square.
    """
    if kind == "none":
        return nn.Identity()
    K = need("kornia.augmentation", "augment")
    if kind == "drawings":
        if size[0] != size[1]:
            raise ValueError(f"augment: expected square images to turn, got {size[0]}x{size[1]}")
        affine = K.RandomAffine(degrees=12.0, translate=(0.1, 0.1), scale=(0.8, 1.2), shear=(-12, 12, -12, 12), p=1.0)
        return nn.Sequential(_RotateAndMirror(), _PerImage(affine))
    steps: list[nn.Module] = [K.RandomCrop(size, padding=max(min(size) // 10, 1)), K.RandomHorizontalFlip(p=0.5)]
    if kind == "crop-flip-color":
        steps.append(_ColorChange(K.ColorJiggle(0.4, 0.4, 0.4, p=1.0)))
    return _PerImage(*steps)


class _PerImage(nn.Sequential):
    """Applies its modules in sequence to the images of all tasks as one batch (N, C, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        changed = images.flatten(0, 1)
        for step in self:
            changed = step(changed)
        return changed.unflatten(0, images.shape[:2])


class _RotateAndMirror(nn.Module):
    """Rotates all images of a task by the same random multiple of 90 degrees, and mirrors them with probability 1/2."""

    def forward(self, images: Tensor) -> Tensor:
        kinds = torch.randint(8, (len(images),)).tolist()
        rotated = [task.rot90(kind % 4, (-2, -1)) for task, kind in zip(images, kinds, strict=True)]
        return torch.stack([task.flip(-1) if kind >= 4 else task for task, kind in zip(rotated, kinds, strict=True)])


class _ColorChange(nn.Module):
    """Applies a colour change to images with 3 channels; grey images are unchanged."""

    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(images) if images.shape[1] == 3 else images
