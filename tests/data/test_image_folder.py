import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsedis.data import SPLITS, image_folder, load


def image(
    path: Path, color: tuple[int, int, int] = (1, 2, 3), size: tuple[int, int] = (6, 6), mode: str = "RGB"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)


def test_split_folders_become_splits(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "val", "test")):
        for j in range(i + 1):
            for k in range(2):
                image(tmp_path / split / f"{split[0]}{j}" / f"{k}.png", (10 * i, 20 * j, 30 * k))
    image(tmp_path / "train" / "t0" / "2.jpg", (50, 50, 50))
    (tmp_path / "train" / "t0" / "notes.txt").write_text("left alone")
    (tmp_path / "README").write_text("left alone")
    image(tmp_path / "train" / "t0" / "3.PNG")
    for j in range(3):
        (tmp_path / "test" / f"t{j}").rename(tmp_path / "test" / f"e{j}")
    data = load(f"images:{tmp_path}")
    assert [len(data.splits[split]) for split in SPLITS] == [1, 2, 3]
    assert data.class_names == ("train/t0", *(f"validation/v{j}" for j in (0, 1)), *(f"test/e{j}" for j in range(3)))
    assert data.labels.bincount().tolist() == [4, 2, 2, 2, 2, 2]
    assert data.images.shape == (14, 3, 6, 6)
    assert data.images[data.labels == 2][1, :, 0, 0].tolist() == [10, 20, 30]


def test_classes_without_split_folders_are_split_by_hash(tmp_path: Path) -> None:
    for name in "abcdefghijklmnopqrst":
        image(tmp_path / name / "0.png", (1, 2, 3), mode="L")
    data = image_folder.load(tmp_path)
    assert [len(data.splits[split]) for split in SPLITS] == [12, 3, 5]
    assert sorted(data.class_names) == list("abcdefghijklmnopqrst")
    # Positions 13 to 15 in the order of sha256sum of the names; the split must never change.
    assert [data.class_names[i] for i in data.splits["validation"]] == ["h", "k", "q"]
    assert data.images.shape[1] == 3


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_class_may_have_the_name_of_a_split(tmp_path: Path, name: str) -> None:
    """For example, train as a vehicle."""
    for kind in ("bus", "car", name):
        image(tmp_path / kind / "0.png")
    assert set(image_folder.load(tmp_path).class_names) == {"bus", "car", name}


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_the_validation_split_may_have_several_names(tmp_path: Path, name: str) -> None:
    image(tmp_path / "train" / "a" / "0.png")
    image(tmp_path / name / "b" / "0.png")
    data = image_folder.load(tmp_path)
    assert [data.class_names[i] for i in data.splits["validation"]] == ["validation/b"]


def test_system_files_are_ignored(tmp_path: Path) -> None:
    image(tmp_path / "train" / "a" / "0.png")
    image(tmp_path / "test" / "b" / "0.png")
    expected = image_folder.load(tmp_path)
    image(tmp_path / ".ipynb_checkpoints" / "0.png")
    image(tmp_path / "train" / ".ipynb_checkpoints" / "0-checkpoint.png")
    image(tmp_path / "train" / "a" / ".ipynb_checkpoints" / "0-checkpoint.png")
    for place in ("__MACOSX/train/a/._0.png", "train/a/._0.png", ".DS_Store", "test/b/.DS_Store", "train/Thumbs.db"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"no image")
    image(tmp_path / "train" / "@eaDir" / "0.png" / "small.webp")
    loaded = image_folder.load(tmp_path)
    assert loaded.class_names == expected.class_names
    assert len(loaded.images) == len(expected.images) == 2


def test_the_data_folder_may_be_hidden(tmp_path: Path) -> None:
    image(tmp_path / ".data" / "a" / "0.png")
    assert len(image_folder.load(tmp_path / ".data").images) == 1


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            ["train/a/0.png", "test/a/0.png"],
            "every class in one split, got 'a' in train and test of ",
        ),
        (["val/a/0.png", "test/a/0.png"], "got 'a' in validation and test"),
        (
            ["train/a/0.png", "val/b/0.png", "validation/c/0.png"],
            "one folder of the validation split, got 'val' and 'val",
        ),
        (
            ["train/a/0.png", "valid/b/0.png", "val/b/1.png"],
            "one folder of the validation split, got 'val' and 'valid'",
        ),
        (["train/a/0.png", "extra/b/0.png"], "got the folder 'extra' of classes"),
        (["train/a/0.png", "b/0.png"], r"got .*b/0\.png and .*train/a/0\.png"),
        (["a/0.png", "0.png"], r"got .*0\.png and .*a/0\.png"),
        (["0.png"], r"expected CLASS/\*\.png or SPLIT/CLASS/\*\.png .*, got .*0\.png"),
        (["train/0.png", "test/0.png"], "expected class folders in 'test', got images"),
        (["train/0.png"], "expected class folders in 'train', got images"),
        (["a/0.png", "b/images/0.png"], r"got .*a/0\.png and .*b/images/0\.png"),
        (["train/a/0.png", "train/b/images/0.png"], r"got .*train/b/images/0\.png"),
        (["train/a/b/c/d/e/0.png"], r"got .*d/e/0\.png"),
        (["a/0.png", "a/1.webp"], r"expected \.png, \.jpg or \.jpeg, got .*1\.webp; convert it"),
        (["a/0.png", "a/1.JFIF"], r"got .*1\.JFIF"),
        (["a/0.png", "b/1.tiff"], r"got .*1\.tiff"),
    ],
)
def test_images_are_in_one_class_or_refused(tmp_path: Path, places: list[str], message: str) -> None:
    for place in places:
        image(tmp_path / "x.png")
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x.png").rename(tmp_path / place)
    with pytest.raises(ValueError, match=message) as caught:
        image_folder.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_links_to_classes_are_followed(tmp_path: Path) -> None:
    """A broken link is an error, because its image would be missing, and cycles of links end."""
    image(tmp_path / "elsewhere" / "0.png")
    image(tmp_path / "data" / "a" / "0.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    assert len(image_folder.load(tmp_path / "data").images) == 2
    (tmp_path / "data" / "a" / "1.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match=r"expected a file, got a broken link, .*1\.png"):
        image_folder.load(tmp_path / "data")
    (tmp_path / "data" / "a" / "1.png").unlink()
    (tmp_path / "data" / "b").unlink()
    for name in ("round", "and-round"):  # 2^40 paths, none of which is followed far
        (tmp_path / "data" / "a" / name).symlink_to(tmp_path / "data")
    with pytest.raises(ValueError, match="expected CLASS"):
        image_folder.load(tmp_path / "data")


def test_class_names_may_be_invalid_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    try:
        image(tmp_path / name / "0.png")
    except OSError:
        pytest.skip("this file system accepts Unicode names only")
    image(tmp_path / "b" / "0.png")
    for _ in range(2):  # also from the cache
        assert set(image_folder.load(tmp_path).class_names) == {name, "b"}


def test_images_of_different_sizes_need_image_size(tmp_path: Path) -> None:
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
def test_malformed_images_are_rejected(tmp_path: Path, own_cache: Path, content: bytes) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected a PNG or JPEG image, got .*0\.png"):
        image_folder.load(tmp_path)
    assert not list(own_cache.iterdir())


def test_images_that_declare_too_many_pixels_are_rejected(tmp_path: Path) -> None:
    image(tmp_path / "a" / "0.png", (1, 1, 1))
    bomb = bytearray((tmp_path / "a" / "0.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 9000, 9000)
    (tmp_path / "a" / "0.png").write_bytes(bytes(bomb))
    with pytest.raises(ValueError, match=r"0\.png"):
        image_folder.load(tmp_path)


def test_missing_or_empty_folders_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an existing folder"):
        image_folder.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="expected a path below an existing home folder, got '~no-such-user/x'"):
        image_folder.load("~no-such-user/x")
    with pytest.raises(ValueError, match="expected CLASS"):
        image_folder.load(tmp_path)


def test_image_size_is_rejected_for_pictograms() -> None:
    with pytest.raises(ValueError, match=r"image_size: expected none for pictograms, .* got 32"):
        load("pictograms", 32)
