"""Decoding of image files, with limits on bytes and pixels that also hold for malicious files.

Every kind of PNG and JPEG file is converted to 8 bits per channel, without misinterpreting any pixel:

16 bits per channel     reduced to the upper 8
1, 2, 4 bits, palettes  converted to the displayed colours
transparency            composed on white, for an alpha channel, a palette or a transparent colour
EXIF orientation        applied
CMYK                    converted to RGB by Pillow's formula; colour profiles are ignored
several frames          animated PNG is rejected; of a JPEG file with previews or depth maps (MPO) the photo is used
"""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image, ImageOps

_MAX_BYTES = 1 << 26
_MAX_PIXELS = 1 << 26
_BIT_DEPTH_OFFSET = 24
"""Offset of the bit depth in a PNG file, whose first chunk is the header."""
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpositions that undo the EXIF orientations."""


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
    """Decode an image file. Its dimensions are read from the header and checked before pixels are decoded.

    Args:
        content: the file.
        name: of the file, for messages.
        mode: Pillow mode of the result: "RGB" or "L".
        reader: prefix of the error messages.
        formats: accepted formats, in Pillow's names: "PNG", "JPEG".
        max_bytes: largest size of the file.
        size: (width, height) that the image must have; default: any with at most 2^26 pixels.

    Raises:
        ValueError: the file is larger than the limit, damaged or in another format; the image has another size, several
            frames, or a transparent colour with 16 bits per channel.
    """
    if len(content) > max_bytes:
        raise ValueError(f"{reader}: expected an image file of at most {max_bytes} bytes, got more in {name}")
    pixels = None
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            problem = _problem(image, content, size)
            if problem is None:
                image.load()  # EXIF data may follow the pixels; its errors are ignored
                transposition = _exif_transposition(image)
                pixels = _on_white(image, content).convert(mode)
                pixels = pixels if transposition is None else pixels.transpose(transposition)
    except Exception as error:  # Pillow documents no complete list of exceptions for malicious files
        raise ValueError(f"{reader}: expected a {' or '.join(formats)} image, got {name}: {error}") from error
    if pixels is None:
        raise ValueError(f"{reader}: expected {problem} in {name}")
    return pixels


def decode_rgb(content: bytes, name: str, size: int | None = None) -> np.ndarray:
    """Decode a PNG or JPEG file to (3, H, W) uint8.

    Args:
        content: the file.
        name: of the file, for messages.
        size: crop to the largest central square and scale to (size, size) pixels; default: unchanged.

    Raises:
        ValueError: as in :func:`decode`.
    """
    pixels = decode(content, name, "RGB")
    if size is not None and pixels.size != (size, size):
        pixels = ImageOps.fit(pixels, (size, size), Image.Resampling.BILINEAR)  # Pillow's averages when shrinking
    return np.asarray(pixels).transpose(2, 0, 1)


def _problem(image: Image.Image, content: bytes, size: tuple[int, int] | None) -> str | None:
    """The reason why an image is rejected (what was expected and what was given), or None."""
    width, height = image.size
    if image.size != size if size else width * height > _MAX_PIXELS:
        expected = f"{size[0]}x{size[1]} pixels" if size else f"at most {_MAX_PIXELS} pixels"
        return f"{expected}, got {width}x{height}"
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        return "one image, got an animation of several"
    # Pillow keeps only the upper 8 bits, from which the pixels of the transparent colour cannot be identified.
    if image.mode == "RGB" and "transparency" in image.info and content[_BIT_DEPTH_OFFSET] == 16:
        return "an alpha channel where one colour is transparent and channels have 16 bits, got none"
    return None


def _exif_transposition(image: Image.Image) -> Image.Transpose | None:
    """The transposition that applies the image's EXIF orientation."""
    try:
        return _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data, which viewers ignore too
        return None


def _on_white(image: Image.Image, content: bytes) -> Image.Image:
    """The image composed on white, with 8 bits per channel: grey, RGB or CMYK."""
    colour = image.info.get("transparency")
    if image.mode in ("1", "L", "I", "I;16"):
        return _grey_on_white(image, content, colour)
    if image.mode == "RGB" and colour is not None:
        levels = np.array(image)
        levels[(levels == colour).all(-1)] = 255
        return Image.fromarray(levels)
    if image.mode in ("RGB", "CMYK"):
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _grey_on_white(image: Image.Image, content: bytes, colour: int | None) -> Image.Image:
    levels = np.asarray(image.convert("L") if image.mode == "1" else image)
    grey = (levels if levels.dtype == np.uint8 else levels >> 8).astype(np.uint8)
    if colour is not None:
        if image.mode == "1":
            colour = 255 if colour else 0
        elif image.mode == "L":  # 2, 4 or 8 bits; Pillow scales the pixels but not the transparent value
            colour = colour * 255 // ((1 << content[_BIT_DEPTH_OFFSET]) - 1)
        grey[levels == colour] = 255
    return Image.fromarray(grey)
