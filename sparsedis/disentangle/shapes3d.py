"""3D Shapes (Burgess and Kim, 2018): six factors, with one 64x64 image for every combination of their values.

Three sources share the interface :class:`Shapes3D`. :class:`Rendered` renders a similar room with a ray caster
(:mod:`sparsedis.disentangle.raycaster`), :class:`Cached` reads a file of previously rendered images, and
:class:`Published` reads the published ``3dshapes.h5``.

The light of a scene is linear in the colours of its surfaces, so that an image is the sum of one map per surface, each
multiplied by the surface's colour. The maps depend only on scale, shape and orientation. These 480 combinations are
traced once (2.5 s); an image is then a product of matrices of 64 * 64 x 5 and 5 x 3, which is faster than reading it
from a disk.
"""

from __future__ import annotations

import colorsys
import math
import os
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sparsedis import paths
from sparsedis.disentangle import raycaster
from sparsedis.extras import need
from sparsedis.runs import lock

VERSION = 1
"""Version of the renderer, increased with every change of a pixel; caches of other versions are rejected."""

SIDE = 64
"""Height and width of the images, in pixels."""

FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
SIZES = (10, 10, 10, 8, 4, 15)
"""Number of values of each factor."""

SHAPES = ("cube", "cylinder", "sphere", "capsule")

VALUES = (
    tuple(i / 10 for i in range(10)),
    tuple(i / 10 for i in range(10)),
    tuple(i / 10 for i in range(10)),
    tuple(0.75 + 0.5 * i / 7 for i in range(8)),
    (0.0, 1.0, 2.0, 3.0),
    tuple(-30 + 60 * i / 14 for i in range(15)),
)
"""The values of each factor as in the published labels; that of shape is its index in :data:`SHAPES`."""

COUNT = math.prod(SIZES)
"""Number of images, 480,000."""

SOURCES = ("rendered", "cache:FILE", "h5:FILE")

_SKY, _WHITE = (0.72, 0.86, 0.98), (1.0, 1.0, 1.0)
_SATURATION = 0.95
_PRODUCT_SIZE = 64  # images per product; larger batches exceed the processor's caches
_CHUNK = 4800  # images per write of a cache


class Shapes3D(Protocol):
    """The images of all 480,000 combinations in the order of the published file: the last factor changes fastest."""

    def images(self, indices: Tensor) -> Tensor:
        """Images of indices (N,) from 0 to 479,999: (N, 3, 64, 64) uint8, channels last in memory."""
        ...


class Rendered:
    """Renders images on demand; on one machine, an index gives the same pixels in any batch."""

    def images(self, indices: Tensor) -> Tensor:
        """See :class:`Shapes3D`. ValueError for an index out of range."""
        _check(indices)
        result = torch.empty(len(indices), SIDE, SIDE, 3, dtype=torch.uint8)
        maps = _maps()
        colours = _colours()
        per_geometry = math.prod(SIZES[3:])
        for start in range(0, len(indices), _PRODUCT_SIZE):
            part = indices[start : start + _PRODUCT_SIZE].cpu()
            geometry = part % per_geometry
            hues = coordinates(part)[:, :3]
            paint = torch.cat([colours[hues], colours[10:].expand(len(part), -1, -1)], 1)
            drawn = torch.bmm(paint.mT, maps[geometry])  # (N, 3, 64 * 64): faster with the long dimension last
            drawn = drawn.add_(0.5).clamp_(0, 255)
            result[start : start + len(part)] = drawn.mT.reshape(-1, SIDE, SIDE, 3)
        return result.permute(0, 3, 1, 2)


class Cached:
    """Memory-maps the file written by :func:`write_cache`.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a cache, or of another version of the renderer.
    """

    def __init__(self, path: str | Path) -> None:
        path = paths.expanded(path)
        if not path.is_file():
            raise FileNotFoundError(f"shapes3d: expected a cache, found no file at {path}")
        header = _header()
        with path.open("rb") as file:
            start = file.read(len(header))
        if start != header or path.stat().st_size != len(header) + COUNT * SIDE * SIDE * 3:
            raise ValueError(f"shapes3d: {path} is damaged, or not a cache of version {VERSION}; create it again")
        self._pixels = np.memmap(path, np.uint8, "r", len(header), (COUNT, SIDE, SIDE, 3))

    def images(self, indices: Tensor) -> Tensor:
        """See :class:`Shapes3D`. ValueError for an index out of range."""
        _check(indices)
        return torch.from_numpy(self._pixels[indices.cpu().numpy()]).permute(0, 3, 1, 2)


class Published:
    """Reads the published ``3dshapes.h5``; needs h5py (``pip install 'sparsedis[disentangle]'``).

    Args:
        path: the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has other content.
        ImportError: h5py is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        h5py = need("h5py", "3dshapes.h5")
        self._path = paths.expanded(path)
        if not self._path.is_file():
            raise FileNotFoundError(f"shapes3d: expected the file 3dshapes.h5, found none at {self._path}")
        try:
            file = h5py.File(self._path, "r")
            self._pixels, labels = file["images"], file["labels"]
            kind = f"{self._pixels.dtype} images and labels of shapes {self._pixels.shape, labels.shape}"
            expected = f"uint8 images and labels of shapes {(COUNT, SIDE, SIDE, 3), (COUNT, len(SIZES))}"
            found = np.asarray(labels[:], np.float64) if kind == expected else None
        except Exception as error:  # h5py documents no complete list of exceptions for damaged files
            raise ValueError(f"shapes3d: {self._path} is damaged, or not 3dshapes.h5: {error}") from error
        if found is None:
            raise ValueError(f"shapes3d: {self._path} is not 3dshapes.h5: expected {expected}, got {kind}")
        if not np.allclose(found, values(torch.arange(COUNT)).numpy(), atol=1e-5):
            raise ValueError(f"shapes3d: {self._path} is not 3dshapes.h5: other labels, or in another order")

    def images(self, indices: Tensor) -> Tensor:
        """See :class:`Shapes3D`. ValueError for an index out of range or damaged images."""
        _check(indices)
        wanted, places = np.unique(indices.cpu().numpy(), return_inverse=True)  # h5py requires increasing indices
        try:
            pixels = self._pixels[wanted]
        except (OSError, RuntimeError) as error:
            raise ValueError(f"shapes3d: {self._path} is damaged: {error}") from error
        return torch.from_numpy(pixels[places]).permute(0, 3, 1, 2)


def open_source(spec: str) -> Shapes3D:
    """The images named by ``rendered``, ``cache:FILE`` or ``h5:FILE``.

    Raises:
        ValueError: an unknown name, or a file with other content.
        FileNotFoundError: the file does not exist.
        ImportError: h5py is required but not installed.
    """
    name, _, path = spec.partition(":")
    if spec == "rendered":
        return Rendered()
    if path and name in ("cache", "h5"):
        return Cached(path) if name == "cache" else Published(path)
    raise ValueError(f"data: expected one of {', '.join(SOURCES)}, got {spec!r}")


def absolute(spec: str) -> str:
    """The same images, named with an absolute path."""
    name, colon, path = spec.partition(":")
    return f"{name}{colon}{paths.expanded(path).absolute() if path else ''}"


def coordinates(indices: Tensor) -> Tensor:
    """The factors (..., 6) of images (...), as int64 indices into :data:`VALUES`."""
    places = []
    for size in reversed(SIZES):
        places.append(indices % size)
        indices = indices // size
    return torch.stack(places[::-1], -1)


def index_of(places: Tensor) -> Tensor:
    """The inverse of :func:`coordinates`."""
    index = torch.zeros_like(places[..., 0])
    for i, size in enumerate(SIZES):
        index = index * size + places[..., i]
    return index


def values(indices: Tensor) -> Tensor:
    """The factor values (..., 6) of images (...), float64."""
    places = coordinates(indices)
    columns = [torch.tensor(VALUES[i], dtype=torch.float64)[places[..., i]] for i in range(len(SIZES))]
    return torch.stack(columns, -1)


def write_cache(path: str | Path) -> None:
    """Render all images to a file of 5.9 GB for :class:`Cached`.

    The images are written to ``.NAME.part`` in the same folder, which is renamed when complete. After an interruption,
    the next call continues that file.

    Raises:
        BlockingIOError: another process is writing the file.
    """
    path = paths.expanded(path)
    with lock.held(path.with_name(f".{path.name}.lock"), f"cache: {path}"):
        _write_cache(path)


def _write_cache(path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    header, size = _header(), SIDE * SIDE * 3
    with part.open("ab") as file:
        done = max(file.tell() - len(header), 0) // size
        if file.tell() >= len(header):
            with part.open("rb") as before:
                done = done if before.read(len(header)) == header else 0
        file.truncate(len(header) + done * size if done else 0)
        if not done:
            file.write(header)
        while done < COUNT:
            indices = torch.arange(done, min(done + _CHUNK, COUNT))
            file.write(Rendered().images(indices).permute(0, 2, 3, 1).numpy().tobytes())
            file.flush()
            done += len(indices)
        os.fsync(file.fileno())
    os.replace(part, path)


def contact_sheet(source: Shapes3D | None = None, scale: int = 2) -> bytes:
    """A PNG image with one row per factor, whose values vary from left to right with the other factors constant.

    Args:
        source: source of the images; default: :class:`Rendered`.
        scale: pixels of the sheet per image pixel.
    """
    from PIL import Image

    source = source or Rendered()
    margin, columns = 2, max(SIZES)
    sheet = np.full((len(SIZES) * (SIDE + margin), columns * (SIDE + margin), 3), 255, np.uint8)
    for row, size in enumerate(SIZES):
        places = torch.tensor([0, 6, 3, 5, 0, 4]).repeat(size, 1)
        places[:, row] = torch.arange(size)
        for column, image in enumerate(source.images(index_of(places)).permute(0, 2, 3, 1).numpy()):
            top, left = row * (SIDE + margin), column * (SIDE + margin)
            sheet[top : top + SIDE, left : left + SIDE] = image
    picture = Image.fromarray(sheet)
    content = BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(content, "PNG")
    return content.getvalue()


def _check(indices: Tensor) -> None:
    if indices.dim() != 1 or indices.dtype != torch.int64:
        raise ValueError(f"indices: expected int64 of shape (N,), got {indices.dtype} of {tuple(indices.shape)}")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < COUNT:
        raise ValueError(
            f"indices: expected values from 0 to {COUNT - 1}, got {int(indices.min())} to {int(indices.max())}"
        )


@cache
def _maps() -> Tensor:
    """The maps (480, 5, 64 * 64), ordered by scale, shape and orientation."""
    maps = [raycaster.trace(scale, shape, VALUES[5]) for scale in VALUES[3] for shape in SHAPES]
    return torch.cat(maps).mT.contiguous()


@cache
def _colours() -> Tensor:
    """Colours (12, 3), from 0 to 255: the hues, then sky and highlight."""
    hues = [colorsys.hsv_to_rgb(hue, _SATURATION, 1.0) for hue in VALUES[0]]
    return 255 * torch.tensor([*hues, _SKY, _WHITE])


def _header() -> bytes:
    """The first 128 bytes of a cache; their number keeps the images aligned."""
    return f"sparsedis shapes3d, version {VERSION}, uint8 {COUNT} x {SIDE} x {SIDE} x 3".encode().ljust(128, b"\n")
