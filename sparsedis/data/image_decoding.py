"""Image files decoded to pixels, with limits on bytes and pixels that hold for hostile files too."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

_MAX_BYTES = 1 << 26
_MAX_PIXELS = 1 << 26


def decode(
    content: bytes,
    name: str,
    mode: str,
    *,
    reader: str = "images",
    formats: tuple[str, ...] = ("PNG", "JPEG"),
    max_bytes: int = _MAX_BYTES,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """Decode an image file. Its size is read from the header, and checked before any pixel is decoded.

    Args:
        content: the file.
        name: of the file, for messages.
        mode: of the result, as Pillow names it: "RGB", "L".
        reader: with which messages begin.
        formats: that are accepted, as Pillow names them.
        max_bytes: limit of the file's size.
        size: (width, height) that the image must have; default: any of at most 2^26 pixels.

    Raises:
        ValueError: the file is larger than the limit, damaged, in another format, or the image of another size.
    """
    if len(content) > max_bytes:
        raise ValueError(f"{reader}: expected an image file of at most {max_bytes} bytes, got more in {name}")
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            width, height = image.size
            fits = image.size == size if size else width * height <= _MAX_PIXELS
            pixels = image.convert(mode) if fits else None
    except Exception as error:  # Pillow documents no closed list of what a hostile file may raise
        raise ValueError(f"{reader}: expected a {' or '.join(formats)} image, got {name}: {error}") from error
    if pixels is None:
        expected = f"{size[0]}x{size[1]} pixels" if size else f"at most {_MAX_PIXELS} pixels"
        raise ValueError(f"{reader}: expected {expected}, got {width}x{height} in {name}")
    return pixels


def decode_rgb(content: bytes, name: str, size: int | None = None) -> np.ndarray:
    """A PNG or JPEG file as (3, H, W) uint8.

    Args:
        content: the file.
        name: of the file, for messages.
        size: crop to the largest central square and scale to (size, size) pixels; default: unchanged.

    Raises:
        ValueError: as :func:`decode`.
    """
    pixels = decode(content, name, "RGB")
    if size is not None and pixels.size != (size, size):
        pixels = ImageOps.fit(pixels, (size, size), Image.Resampling.BILINEAR)  # Pillow's averages where it shrinks
    return np.asarray(pixels).transpose(2, 0, 1)
