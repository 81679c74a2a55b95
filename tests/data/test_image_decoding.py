"""PNG and JPEG files of all kinds are decoded as a viewer shows them on white."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from sparsedis.data.image_decoding import decode, decode_rgb

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(depth: int, kind: int, rows: list[bytes], width: int, **chunks: bytes) -> bytes:
    """A PNG file with these encoded rows, including kinds that Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    before = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def pixels(content: bytes) -> list[tuple[int, ...]]:
    """The colours of the first row."""
    return [tuple(colour) for colour in decode_rgb(content, "x.png")[:, 0].T.tolist()]


def grey(*levels: int) -> list[tuple[int, ...]]:
    return [(level,) * 3 for level in levels]


def shorts(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def test_16_bits_are_scaled_and_not_clipped() -> None:
    levels = (0, 255, 256, 257, 32768, 65279, 65280, 65535)
    expected = grey(0, 0, 1, 1, 128, 254, 255, 255)
    assert pixels(png(16, GREY, [shorts(*levels)], 8)) == expected
    # All kinds keep the upper 8 bits.
    assert pixels(png(16, RGB, [shorts(*(level for level in levels for _ in range(3)))], 8)) == expected
    assert pixels(png(16, GREY_ALPHA, [shorts(*(x for level in levels for x in (level, 65535)))], 8)) == expected
    assert (
        pixels(png(16, RGBA, [shorts(*(x for level in levels for x in (level, level, level, 65535)))], 8)) == expected
    )
    assert decode(png(16, GREY, [shorts(*levels)], 8), "x", "L").getpixel((4, 0)) == 128


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_few_bits_are_scaled(depth: int) -> None:
    top = 2**depth - 1
    packed = int("".join(f"{level:0{depth}b}" for level in (0, top, 1, 0)).ljust(32, "0"), 2).to_bytes(4, "big")
    row = packed[: (4 * depth + 7) // 8]
    assert pixels(png(depth, GREY, [row], 4)) == grey(0, 255, 255 // top, 0)
    # tRNS refers to the level as stored, not as scaled.
    assert pixels(png(depth, GREY, [row], 4, tRNS=shorts(0))) == grey(255, 255, 255 // top, 255)
    assert pixels(png(depth, GREY, [row], 4, tRNS=shorts(1))) == grey(0, 255, 255, 0)
    assert pixels(png(depth, GREY, [row], 4, tRNS=shorts(top))) == grey(0, 255, 255 // top, 0)
    palette = bytes([9, 8, 7]) + bytes([1, 2, 3]) * top
    assert pixels(png(depth, PALETTE, [row], 4, PLTE=palette)) == [(9, 8, 7), (1, 2, 3), (1, 2, 3), (9, 8, 7)]
    black = bytes(3 * (top + 1))
    assert pixels(png(depth, PALETTE, [row], 4, PLTE=black, tRNS=b"\0" + b"\xff" * top)) == grey(255, 0, 0, 255)
    assert pixels(png(depth, PALETTE, [row], 4, PLTE=black, tRNS=b"\x33")) == grey(204, 0, 0, 204)


def test_black_on_transparent_is_not_all_black() -> None:
    layer = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    layer.putpixel((1, 0), (0, 0, 0, 255))
    layer.putpixel((2, 0), (255, 0, 0, 51))
    assert pixels(saved(layer)) == [(255, 255, 255), (0, 0, 0), (255, 204, 204)]
    assert pixels(saved(layer.convert("LA").crop((0, 0, 2, 1)))) == grey(255, 0)
    assert pixels(saved(layer.quantize(4).crop((0, 0, 2, 1)))) == grey(255, 0)
    assert np.asarray(decode(saved(layer), "x", "L"))[0, :2].tolist() == [255, 0]


def test_opaque_pixels_are_exact() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    opaque = image.copy()
    opaque.putalpha(255)
    for content in (saved(image), saved(opaque), saved(opaque, interlace=1)):
        assert np.array_equal(decode_rgb(content, "x").transpose(1, 2, 0), levels)


def test_a_single_transparent_colour_becomes_white() -> None:
    row = bytes([1, 2, 3, 1, 2, 4, 0, 0, 0])
    assert pixels(png(8, RGB, [row], 3, tRNS=shorts(1, 2, 3))) == [(255, 255, 255), (1, 2, 4), (0, 0, 0)]
    assert pixels(png(16, GREY, [shorts(512, 513)], 2, tRNS=shorts(512))) == grey(255, 2)
    # Pillow keeps 8 of 16 bits, so that pixels of the transparent colour cannot be identified.
    with pytest.raises(ValueError, match=r"expected an alpha channel .* 16 bits, got none in x\.png"):
        pixels(png(16, RGB, [shorts(1, 1, 1, 0, 0, 0)], 2, tRNS=shorts(0, 0, 0)))


def test_interlaced_images_are_decoded() -> None:
    """Adam7 with 2x2 pixels, in passes 1, 6 and 7."""
    header = struct.pack(">IIBBBBB", 2, 2, 8, GREY, 0, 0, 1)
    passes = zlib.compress(b"\0\x0a" + b"\0\x14" + b"\0\x1e\x28")
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", passes) + chunk(b"IEND", b"")
    assert decode_rgb(content, "x")[0].tolist() == [[10, 20], [30, 40]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    """The image is upright, dark at the top left, for every orientation of the camera."""
    upright = np.full((16, 24), 200, np.uint8)
    upright[:8, :8] = 20
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    loaded = decode_rgb(saved(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif), "x")[0]
    assert loaded.shape == upright.shape
    assert np.abs(loaded.astype(int) - upright).max() < 5


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0" + b"\xff" * 40])
def test_damaged_exif_is_ignored(exif: bytes) -> None:
    content = saved(Image.new("L", (8, 8), 77), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert decode_rgb(content[:2] + segment + content[2:], "x")[0, 0, 0] == 77


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan
    red, green, blue = decode_rgb(saved(image, "JPEG", quality=100), "x")[:, 0, 0]
    assert red < 5
    assert min(green, blue) > 250


def test_animations_are_refused() -> None:
    frames = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in (1, 2, 3)]
    content = saved(frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"expected one image, got an animation of several in x\.png"):
        pixels(content)
    assert pixels(saved(frames[0], save_all=True))[0] == (1, 0, 0)


def test_the_photo_of_a_file_with_preview_is_decoded() -> None:
    """Phones write JPEG files with several images (MPO), of which the first is the photo."""
    photo, preview = Image.new("L", (8, 8), 50), Image.new("L", (8, 8), 200)
    content = saved(photo, "MPO", save_all=True, append_images=[preview])
    assert decode_rgb(content, "x")[0, 0, 0] == 50


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(kind: str) -> None:
    mode = "F" if kind == "TIFF" else "RGB"
    with pytest.raises(ValueError, match=r"expected a PNG or JPEG image, got x\.png"):
        pixels(saved(Image.new(mode, (4, 4)), kind))


def test_truncated_files_are_refused_or_decode_completely() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (9, 9, 4), dtype=np.uint8)
    content = saved(Image.fromarray(levels))
    whole = decode_rgb(content, "x")
    for length in range(0, len(content), 3):
        try:
            loaded = decode_rgb(content[:length], "x")
        except ValueError:
            continue
        assert np.array_equal(loaded, whole)
