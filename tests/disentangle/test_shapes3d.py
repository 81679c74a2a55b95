import colorsys
import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparsedis.disentangle import raycaster, shapes3d
from sparsedis.runs import lock


@pytest.fixture(scope="module")
def rendered() -> shapes3d.Rendered:
    return shapes3d.Rendered()


def some(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(shapes3d.COUNT, (count,), generator=torch.Generator().manual_seed(seed))


def test_indices_coordinates_and_values_of_the_grid() -> None:
    assert shapes3d.COUNT == 480_000
    assert tuple(map(len, shapes3d.VALUES)) == shapes3d.SIZES
    for place, index in [((0, 0, 0, 0, 0, 0), 0), ((0, 0, 0, 0, 0, 14), 14), ((0, 0, 0, 0, 1, 0), 15)]:
        assert shapes3d.coordinates(torch.tensor(index)).tolist() == list(place)
    everything = list(itertools.product(*map(range, shapes3d.SIZES)))
    for index in some(200).tolist():
        assert tuple(shapes3d.coordinates(torch.tensor(index)).tolist()) == everything[index]
    indices = some(1000)
    assert torch.equal(shapes3d.index_of(shapes3d.coordinates(indices)), indices)
    assert shapes3d.values(torch.tensor([0, 479_999])).tolist() == [
        [0, 0, 0, 0.75, 0, -30],
        [0.9, 0.9, 0.9, 1.25, 3, 30],
    ]


@pytest.mark.slow
def test_images_depend_on_their_index_only(rendered: shapes3d.Rendered) -> None:
    indices = some(300)
    images = rendered.images(indices)
    assert images.shape == (300, 3, 64, 64)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rendered.images(indices[order]), images[order])
    for i in (0, 77, 299):
        assert torch.equal(rendered.images(indices[i : i + 1])[0], images[i])
    assert rendered.images(indices[:0]).shape == (0, 3, 64, 64)


@pytest.mark.slow
def test_every_factor_is_visible(rendered: shapes3d.Rendered) -> None:
    """A step of one factor changes the image by at least a threshold, whatever the other factors are."""
    places = shapes3d.coordinates(some(300))
    base = rendered.images(shapes3d.index_of(places)).float()
    for factor, size in enumerate(shapes3d.SIZES):
        moved = places.clone()
        moved[:, factor] = torch.where(moved[:, factor] + 1 < size, moved[:, factor] + 1, moved[:, factor] - 1)
        change = (rendered.images(shapes3d.index_of(moved)).float() - base).abs()
        changed = (change.amax(1) > 8).float().mean((1, 2))  # the share of pixels with a visible change
        assert float(changed.min()) > 0.003, shapes3d.FACTORS[factor]
        assert float(change.mean((1, 2, 3)).min()) > 0.2, shapes3d.FACTORS[factor]


@pytest.mark.slow
def test_every_factor_can_be_predicted_linearly(rendered: shapes3d.Rendered) -> None:
    """A linear probe of the pixels, fitted to other images, is far better than chance."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    known, unseen = some(3000, 1), some(500, 2)
    pixels = [rendered.images(x).float()[:, :, ::2, ::2].flatten(1).numpy() / 255 for x in (known, unseen)]
    answers = [shapes3d.coordinates(x).numpy() for x in (known, unseen)]
    for factor in range(6):
        onehot = np.eye(shapes3d.SIZES[factor])[answers[0][:, factor]]
        probe = sklearn.Ridge(alpha=30.0).fit(pixels[0], onehot)
        right = (probe.predict(pixels[1]).argmax(1) == answers[1][:, factor]).mean()
        assert right > 4 / shapes3d.SIZES[factor] * (0.75 if factor == 4 else 1), shapes3d.FACTORS[factor]


@pytest.mark.slow
def test_hues_colour_floor_wall_and_object(rendered: shapes3d.Rendered) -> None:
    """A red floor, a green wall and a blue object."""
    image = rendered.images(shapes3d.index_of(torch.tensor([[0, 3, 7, 4, 2, 7]])))[0].float()
    for (row, column), channel in (((60, 5), 0), ((16, 50), 1), ((38, 32), 2)):
        assert int(image[:, row, column].argmax()) == channel


@pytest.mark.slow
def test_images_agree_with_their_traced_scene(rendered: shapes3d.Rendered) -> None:
    """Composed from the ray-traced maps of the exact scale, shape and orientation, and the colours of the hues."""
    for places in ([2, 5, 8, 0, 0, 14], [9, 0, 4, 7, 3, 0], [6, 1, 7, 3, 1, 8]):
        floor, wall, thing, scale, shape, orientation = places
        (maps,) = raycaster.trace(0.75 + scale / 14, shapes3d.SHAPES[shape], (-30 + orientation * 60 / 14,))
        paint = [colorsys.hsv_to_rgb(hue / 10, 0.95, 1) for hue in (floor, wall, thing)]
        light = maps.double() @ torch.tensor([*paint, (0.72, 0.86, 0.98), (1, 1, 1)], dtype=torch.float64)
        expected = (255 * light).clamp(0, 255).reshape(64, 64, 3)
        image = rendered.images(shapes3d.index_of(torch.tensor([places])))[0].permute(1, 2, 0).double()
        assert float((image - expected).abs().max()) < 0.51


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.tensor([-1]), "from 0 to 479999, got -1 to -1"),
        (torch.tensor([0, 480_000]), "got 0 to 480000"),
        (torch.tensor([[0]]), r"int64 of shape \(N,\)"),
        (torch.tensor([0.0]), r"got torch\.float32"),
    ],
)
def test_invalid_indices_are_rejected(rendered: shapes3d.Rendered, indices: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rendered.images(indices)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Restrict the data set to its first 300 images."""
    monkeypatch.setattr(shapes3d, "COUNT", 300)
    monkeypatch.setattr(shapes3d, "_CHUNK", 70)
    return 300


@pytest.mark.slow
def test_the_cache_has_the_rendered_images(small: int, rendered: shapes3d.Rendered, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    shapes3d.write_cache(path)
    cached = shapes3d.open_source(f"cache:{path}")
    indices = torch.arange(small).flip(0)
    assert torch.equal(cached.images(indices), rendered.images(indices))
    assert cached.images(indices).is_contiguous(memory_format=torch.channels_last)
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]
    with pytest.raises(ValueError, match="from 0 to 299"):
        cached.images(torch.tensor([300]))


@pytest.mark.slow
def test_writing_the_cache_can_be_resumed(
    small: int, rendered: shapes3d.Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, drawn = tmp_path / "cache", []
    images = shapes3d.Rendered.images

    def counted(self: shapes3d.Rendered, indices: torch.Tensor) -> torch.Tensor:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(int(indices[0]))
        return images(self, indices)

    monkeypatch.setattr(shapes3d.Rendered, "images", counted)
    with pytest.raises(KeyboardInterrupt):
        shapes3d.write_cache(path)
    assert [file.name for file in tmp_path.iterdir()] == [".cache.part"]
    with (tmp_path / ".cache.part").open("ab") as file:
        file.write(b"half an image")
    drawn.clear()
    drawn.append(-1)  # so that one more chunk is written before the next interruption
    with pytest.raises(KeyboardInterrupt):
        shapes3d.write_cache(path)
    assert drawn == [-1, 140]
    monkeypatch.setattr(shapes3d.Rendered, "images", images)
    shapes3d.write_cache(path)
    indices = torch.arange(small)
    assert torch.equal(shapes3d.Cached(path).images(indices), rendered.images(indices))


def test_partial_caches_of_other_versions_are_not_used(small: int, rendered: shapes3d.Rendered, tmp_path: Path) -> None:
    (tmp_path / ".cache.part").write_bytes(bytes(128 + 5 * 64 * 64 * 3))
    shapes3d.write_cache(tmp_path / "cache")
    indices = torch.arange(small)
    assert torch.equal(shapes3d.Cached(tmp_path / "cache").images(indices), rendered.images(indices))


def test_a_cache_is_written_by_one_process(small: int, tmp_path: Path) -> None:
    """Two processes would append to the same file."""
    path = tmp_path / "cache"
    with (
        lock.held(tmp_path / ".cache.lock", "it"),
        pytest.raises(BlockingIOError, match=rf"cache: .*cache is in use by process {os.getpid()} on host"),
    ):
        shapes3d.write_cache(path)
    assert not list(tmp_path.iterdir())
    shapes3d.write_cache(path)
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]


def test_damaged_caches_are_rejected(small: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cache"
    with pytest.raises(FileNotFoundError, match="found no file at"):
        shapes3d.Cached(path)
    shapes3d.write_cache(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is damaged, or not a cache of version"):
        shapes3d.Cached(path)
    path.write_bytes(content)
    monkeypatch.setattr(shapes3d, "VERSION", shapes3d.VERSION + 1)
    with pytest.raises(ValueError, match="is damaged, or not a cache of version"):
        shapes3d.Cached(path)


def published(path: Path, change: Callable[[np.ndarray], None] = lambda _: None) -> dict[int, np.ndarray]:
    """Write a file in the published layout with only some of the images, after ``change`` of its labels."""
    h5py = pytest.importorskip("h5py")
    generator = np.random.default_rng(0)
    written = {i: generator.integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in (3, 77_777, 479_999)}
    with h5py.File(path, "w") as file:
        images = file.create_dataset("images", (480_000, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3))
        for i, image in written.items():
            images[i] = image
        grid = np.stack(np.meshgrid(*map(np.array, shapes3d.VALUES), indexing="ij"), -1).reshape(-1, 6)
        change(grid)
        file["labels"] = grid
    return written


def test_the_published_file_is_read(tmp_path: Path) -> None:
    written = published(tmp_path / "3dshapes.h5")
    source = shapes3d.open_source(f"h5:{tmp_path / '3dshapes.h5'}")
    order = [479_999, 3, 77_777, 3]
    images = source.images(torch.tensor(order))
    assert images.shape == (4, 3, 64, 64)
    for i, image in zip(order, images, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), written[i])
    with pytest.raises(ValueError, match="indices: expected"):
        source.images(torch.tensor([480_000]))


def test_files_of_other_layouts_are_rejected(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with pytest.raises(FileNotFoundError, match=r"expected the file 3dshapes\.h5"):
        shapes3d.Published(tmp_path / "none")
    (tmp_path / "text").write_text("no")
    with pytest.raises(ValueError, match=r"not 3dshapes\.h5"):
        shapes3d.Published(tmp_path / "text")
    with h5py.File(tmp_path / "other", "w") as file:
        file["images"] = np.zeros((3, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"not 3dshapes\.h5"):
        shapes3d.Published(tmp_path / "other")
    with h5py.File(tmp_path / "small", "w") as file:
        file["images"], file["labels"] = np.zeros((3, 64, 64, 3), np.uint8), np.zeros((3, 6))
    with pytest.raises(ValueError, match="images and labels of shapes"):
        shapes3d.Published(tmp_path / "small")
    with h5py.File(tmp_path / "float", "w") as file:
        file.create_dataset("images", (480_000, 64, 64, 3), np.float32, chunks=(1, 64, 64, 3))
        file["labels"] = np.zeros((480_000, 6))
    with pytest.raises(ValueError, match=r"expected uint8 images .*, got float32 images"):
        shapes3d.Published(tmp_path / "float")


def swap(labels: np.ndarray) -> None:
    labels[[200_000, 300_000]] = labels[[300_000, 200_000]]


@pytest.mark.parametrize("change", [lambda labels: np.add(labels, 0.1, labels), swap])
def test_labels_in_another_order_are_rejected(tmp_path: Path, change: Callable[[np.ndarray], None]) -> None:
    """Wherever they differ, because images are looked up by their position."""
    published(tmp_path / "other", change)
    with pytest.raises(ValueError, match="other labels, or in another order"):
        shapes3d.Published(tmp_path / "other")


def test_damaged_images_are_reported(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "3dshapes.h5"
    published(path)
    with h5py.File(path, "a") as file:
        del file["images"]
        images = file.create_dataset(
            "images", (480_000, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3), compression="gzip"
        )
        images[7] = np.arange(64 * 64 * 3).reshape(64, 64, 3) % 251
        place = images.id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(50))
    source = shapes3d.Published(path)
    assert not source.images(torch.tensor([8])).any()
    with pytest.raises(ValueError, match=r"3dshapes\.h5 is damaged: ."):
        source.images(torch.tensor([7]))


@pytest.mark.parametrize("spec", ["", "render", "cache", "cache:", "h5:", "rendered:x", "zip:x"])
def test_unknown_sources_are_rejected(spec: str) -> None:
    with pytest.raises(ValueError, match="data: expected one of rendered, cache:FILE, h5:FILE"):
        shapes3d.open_source(spec)


def test_the_contact_sheet_shows_images(rendered: shapes3d.Rendered) -> None:
    sheet = np.asarray(Image.open(io.BytesIO(shapes3d.contact_sheet(scale=1))))
    assert sheet.shape == (6 * 66, 15 * 66, 3)
    image = rendered.images(shapes3d.index_of(torch.tensor([[0, 6, 3, 5, 2, 4]])))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(sheet[4 * 66 : 4 * 66 + 64, 2 * 66 : 2 * 66 + 64], image)
