import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsedis.data import SPLITS, image_folder, load


def image(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (6, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)


def test_split_folders(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "val", "test")):
        for j in range(i + 1):
            for k in range(2):
                image(tmp_path / split / f"class{j}" / f"{k}.png", (10 * i, 20 * j, 30 * k))
    image(tmp_path / "train" / "class0" / "2.jpg", (50, 50, 50))
    (tmp_path / "train" / "class0" / "notes.txt").write_text("left alone")
    data = load(f"images:{tmp_path}")
    assert [len(data.splits[split]) for split in SPLITS] == [1, 2, 3]
    assert data.class_names == (
        "train/class0",
        *(f"validation/class{j}" for j in (0, 1)),
        *(f"test/class{j}" for j in range(3)),
    )
    assert data.labels.bincount().tolist() == [3, 2, 2, 2, 2, 2]
    assert data.images.shape == (13, 3, 6, 6)
    assert data.images[data.labels == 2][1, :, 0, 0].tolist() == [10, 20, 30]


def test_classes_without_split_folders(tmp_path: Path) -> None:
    for name in "abcdefghijklmnopqrst":
        image(tmp_path / name / "0.png", (1, 2, 3), mode="L")
    data = image_folder.load(tmp_path)
    assert [len(data.splits[split]) for split in SPLITS] == [12, 3, 5]
    assert sorted(data.class_names) == list("abcdefghijklmnopqrst")
    # Places 13 to 15 in the order of sha256sum of the names: the split is fixed for good.
    assert [data.class_names[i] for i in data.splits["validation"]] == ["h", "k", "q"]
    assert data.images.shape[1] == 3


def test_sizes(tmp_path: Path) -> None:
    image(tmp_path / "a" / "0.png", (9, 9, 9), (8, 4))
    image(tmp_path / "a" / "1.png", (9, 9, 9), (5, 12))
    with pytest.raises(ValueError, match=r"expected 8x4 pixels, got 5x12 in .*1\.png; set image_size"):
        image_folder.load(tmp_path)
    data = load(f"images:{tmp_path}", image_size=6)
    assert data.images.shape == (2, 3, 6, 6)
    assert (data.images == 9).all()


def test_the_central_square_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    assert (image_folder.load(tmp_path, 4).images == 200).all()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(50)])
def test_hostile_images(tmp_path: Path, own_cache: Path, content: bytes) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected a PNG or JPEG image, got .*0\.png"):
        image_folder.load(tmp_path)
    assert not list(own_cache.iterdir())


def test_declared_pixels_are_not_decoded(tmp_path: Path) -> None:
    image(tmp_path / "a" / "0.png", (1, 1, 1))
    bomb = bytearray((tmp_path / "a" / "0.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 9000, 9000)
    (tmp_path / "a" / "0.png").write_bytes(bytes(bomb))
    with pytest.raises(ValueError, match=r"0\.png"):
        image_folder.load(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an existing folder"):
        image_folder.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="expected CLASS"):
        image_folder.load(tmp_path)


def test_other_data_is_not_scaled() -> None:
    with pytest.raises(ValueError, match=r"image_size: expected none for pictograms, .* got 32"):
        load("pictograms", 32)
