"""Encoders by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from torch import nn

from sparsedis.models.conv4 import Conv4
from sparsedis.models.r2d2 import R2D2
from sparsedis.models.resnet12 import ResNet12

Encoder = Literal["conv4", "resnet12", "resnet12-pooled", "r2d2", "identity"]

_IMAGES: dict[str, Callable[..., nn.Module]] = {
    "conv4": Conv4,
    "resnet12": ResNet12,
    "resnet12-pooled": lambda width, in_channels: ResNet12(width, in_channels, pooled=True),
    "r2d2": R2D2,
}


def build(name: str, shape: Sequence[int], width: int = 64, final_width: int | None = None) -> nn.Module:
    """Build an encoder by name.

    Args:
        name: "conv4", "resnet12", "resnet12-pooled" or "r2d2" for images, "identity" for a table of features.
        shape: shape of one input: (C, H, W) for images, (d,) for a row of a table.
        width: channels of the first block.
        final_width: channels of the last block of "conv4"; default: ``width``.

    Raises:
        ValueError: an unknown name, an encoder that does not fit the shape, images too small for it, or
            ``final_width`` for an encoder other than "conv4".
    """
    if name not in get_args(Encoder):
        raise ValueError(f"encoder: expected one of {', '.join(get_args(Encoder))}, got {name!r}")
    if (name == "identity") != (len(shape) == 1):
        expected = "identity" if len(shape) == 1 else ", ".join(_IMAGES)
        raise ValueError(f"encoder: expected {expected} for inputs of shape {tuple(shape)}, got {name!r}")
    if final_width is not None and name != "conv4":
        raise ValueError(f"final_width: expected none for the encoder {name}, got {final_width}")
    if name == "identity":
        return nn.Identity()
    own = {} if final_width is None else {"final_width": final_width}
    encoder = _IMAGES[name](width, shape[0], **own)
    encoder.features(*shape[1:])  # type: ignore[operator]  # raises now for too small images, not in the first step
    return encoder
