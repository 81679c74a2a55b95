"""Image files decoded to pixels, with limits on bytes and pixels that hold for hostile files too.

Every kind of PNG and JPEG file becomes 8 bits per channel, and no pixel changes its meaning on the way:

16 bits per channel     the upper 8 are kept
1, 2, 4 bits, palettes  as they are shown
transparency            on white, as a viewer shows it, from an alpha channel, a palette or a colour that stands for it
EXIF orientation        applied
CMYK                    to RGB by Pillow's formula; colour profiles are ignored, as everywhere in machine learning
several frames          refused (animated PNG); of a JPEG file with previews or depth maps (MPO) the photo is taken
"""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image, ImageOps

_MAX_BYTES = 1 << 26
_MAX_PIXELS = 1 << 26
_DEPTH = 24
"""Place of the bits per channel in a PNG file: the header is its first chunk."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an EXIF orientation."""


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
        formats: that are accepted, as Pillow names them: "PNG", "JPEG".
        max_bytes: limit of the file's size.
        size: (width, height) that the image must have; default: any of at most 2^26 pixels.

    Raises:
        ValueError: the file is larger than the limit, damaged, in another format, or the image of another size, or of
            several frames, or with a transparent colour of 16 bits per channel.
    """
    if len(content) > max_bytes:
        raise ValueError(f"{reader}: expected an image file of at most {max_bytes} bytes, got more in {name}")
    pixels = None
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            problem = _problem(image, content, size)
            if problem is None:
                image.load()  # EXIF data may come after the pixels, and its errors are passed over
                turn = _upright(image)
                pixels = _on_white(image, content).convert(mode)
                pixels = pixels if turn is None else pixels.transpose(turn)
    except Exception as error:  # Pillow documents no closed list of what a hostile file may raise
        raise ValueError(f"{reader}: expected a {' or '.join(formats)} image, got {name}: {error}") from error
    if pixels is None:
        raise ValueError(f"{reader}: expected {problem} in {name}")
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


def _problem(image: Image.Image, content: bytes, size: tuple[int, int] | None) -> str | None:
    """Why an image is refused: what was expected, and what came."""
    width, height = image.size
    if image.size != size if size else width * height > _MAX_PIXELS:
        expected = f"{size[0]}x{size[1]} pixels" if size else f"at most {_MAX_PIXELS} pixels"
        return f"{expected}, got {width}x{height}"
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        return "one image, got an animation of several"
    # Pillow keeps the upper 8 bits of the pixels, which do not tell what had the colour.
    if image.mode == "RGB" and "transparency" in image.info and content[_DEPTH] == 16:
        return "an alpha channel where one colour is transparent and channels have 16 bits, got none"
    return None


def _upright(image: Image.Image) -> Image.Transpose | None:
    """What turns the image as its EXIF orientation says."""
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of damaged EXIF data, which viewers pass over too
        return None


def _on_white(image: Image.Image, content: bytes) -> Image.Image:
    """The image with 8 bits per channel and without transparency: grey, RGB or CMYK."""
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
        elif image.mode == "L":  # of 2, 4 or 8 bits; Pillow scales the pixels, and not what they are compared with
            colour = colour * 255 // ((1 << content[_DEPTH]) - 1)
        grey[levels == colour] = 255
    return Image.fromarray(grey)
