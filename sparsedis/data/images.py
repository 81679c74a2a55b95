"""Image files decoded to arrays, with limits that a hostile file cannot pass."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

_MAX_BYTES = 1 << 26
_MAX_PIXELS = 1 << 26


def decode(content: bytes, name: str, size: int | None = None) -> np.ndarray:
    """The image as (3, H, W) uint8.

    Args:
        content: a PNG or JPEG file.
        name: for messages.
        size: crop to the largest central square and scale to (size, size); default: as it is.

    Raises:
        ValueError: it is no such image, a broken one, or one of more than 2^26 bytes or pixels.
    """
    if len(content) > _MAX_BYTES:
        raise ValueError(f"images: expected a file of at most {_MAX_BYTES} bytes, got {len(content)} in {name}")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
            width, height = image.size  # known before a pixel is decoded
            small = width * height <= _MAX_PIXELS
            pixels = image.convert("RGB") if small else None
    except Exception as error:  # Pillow documents no closed list of what a hostile file may raise
        raise ValueError(f"images: expected a PNG or JPEG image, got {name}: {error}") from error
    if pixels is None:
        raise ValueError(f"images: expected at most {_MAX_PIXELS} pixels, got {width}x{height} in {name}")
    if size is not None and pixels.size != (size, size):
        pixels = ImageOps.fit(pixels, (size, size), Image.Resampling.BILINEAR)  # Pillow's averages where it shrinks
    return np.asarray(pixels).transpose(2, 0, 1)
