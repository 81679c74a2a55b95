import io
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparsedis.data import SPLITS, load, omniglot

MEMBER = "images_background/Alphabet/character01/0001_01.png"


def png(size: tuple[int, int] = (105, 105)) -> bytes:
    content = io.BytesIO()
    Image.new("1", size, 1).save(content, "PNG")
    return content.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def zipped(folder: Path, path: Path) -> Path:
    return archive(path, {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*.png"))})


@pytest.mark.slow
def test_the_published_file_is_read(shared: Path) -> None:
    data = omniglot.load(shared / "data" / "omniglot" / "images_background_small1.zip")
    assert data.images.shape == (2720, 1, 28, 28)
    assert data.images.dtype == torch.uint8
    assert torch.bincount(data.labels).tolist() == [20] * 136
    assert list(data.class_names) == sorted(data.class_names)
    assert data.class_names[0] == "Balinese/character01"
    assert [len(data.splits[split]) for split in SPLITS] == [81, 21, 34]
    # Ink is bright and covers little of the image.
    assert 10 < data.images.float().mean() < 30
    assert data.images[:, :, 0, 0].float().mean() < 1


def test_folder_and_zip_file_have_the_same_data(omniglot_folder: Path, tmp_path: Path) -> None:
    folder = omniglot.load(omniglot_folder)
    inner = omniglot.load(omniglot_folder / "images_background")
    alone = omniglot.load(zipped(omniglot_folder, tmp_path / "images_background.zip"))
    beside = omniglot.load(tmp_path)
    for other in (inner, alone, beside):
        assert torch.equal(folder.images, other.images)
        assert torch.equal(folder.labels, other.labels)
        assert folder.class_names == other.class_names
        assert folder.splits == other.splits


def test_images_in_folder_and_zip_file_count_once(omniglot_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(omniglot_folder, tmp_path, dirs_exist_ok=True)
    zipped(omniglot_folder, tmp_path / "images_background.zip")
    assert len(omniglot.load(tmp_path).images) == 240


def test_images_are_reduced_by_area_averages(tmp_path: Path) -> None:
    pixels = np.ones((105, 105), bool)
    pixels[:, :30] = False  # ink in the left 8 of 28 columns
    path = tmp_path / MEMBER
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(path)
    image = omniglot.load(tmp_path).images[0, 0]
    assert (image[:, :8] == 255).all()
    assert (image[:, 8:] == 0).all()


def test_evaluation_part_is_the_test_set(tmp_path: Path) -> None:
    content = png()
    members = {f"images_background/A/character{i:02d}/{i:04d}_01.png": content for i in range(10)}
    members |= {f"images_evaluation/B/character{i:02d}/{i:04d}_01.png": content for i in range(3)}
    data = omniglot.load(archive(tmp_path / "both.zip", members))
    assert [len(data.splits[split]) for split in SPLITS] == [8, 2, 3]
    assert {data.class_names[i][0] for i in data.splits["test"]} == {"B"}
    assert {data.class_names[i][0] for i in data.splits["train"] + data.splits["validation"]} == {"A"}


def test_the_split_is_pinned(omniglot_folder: Path) -> None:
    data = omniglot.load(omniglot_folder)
    assert data.splits["validation"] == (1, 26, 27, 28)


def test_system_files_are_ignored(omniglot_folder: Path, tmp_path: Path) -> None:
    members = {
        "__MACOSX/images_background/Alphabet/character01/._0001_01.png": b"x",
        "images_background/Alphabet/character01/._0001_01.png": b"x",
        "images_background/Alphabet/character01/Thumbs.db": b"x",
        "images_background/.ipynb_checkpoints/character01/0001_01.png": b"x",
        "images_background/.DS_Store": b"x",
        "README": b"x",
    }
    assert len(omniglot.load(archive(tmp_path / "x.zip", {MEMBER: png(), **members})).images) == 1
    (tmp_path / "x.zip").unlink()
    for name, content in {**members, MEMBER: png(), "._y.zip": b"x"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert len(omniglot.load(tmp_path).images) == 1


def test_the_data_folder_may_be_hidden(tmp_path: Path) -> None:
    path = tmp_path / ".data" / MEMBER
    path.parent.mkdir(parents=True)
    path.write_bytes(png())
    assert len(omniglot.load(tmp_path / ".data").images) == 1


def test_different_images_of_one_name_are_rejected(tmp_path: Path) -> None:
    """Neither of them is dropped silently."""
    archive(tmp_path / "images_background.zip", {MEMBER: png()})
    content = io.BytesIO()
    Image.new("1", (105, 105), 0).save(content, "PNG")
    archive(tmp_path / "images_background_small1.zip", {MEMBER: content.getvalue()})
    with pytest.raises(
        ValueError, match=r"an image once, got two different ones, .*background\.zip.* and .*small1\.zip"
    ):
        omniglot.load(tmp_path)


def test_characters_in_both_parts_are_rejected(tmp_path: Path) -> None:
    members = {MEMBER: png(), MEMBER.replace("background", "evaluation"): png()}
    with pytest.raises(ValueError, match="every class in one split, got 'Alphabet/character01' in background and eval"):
        omniglot.load(archive(tmp_path / "x.zip", members))


def test_transparent_background_is_white(tmp_path: Path) -> None:
    layer = Image.new("LA", (105, 105), (0, 0))
    layer.paste((0, 255), (0, 0, 30, 105))
    content = io.BytesIO()
    layer.save(content, "PNG")
    image = omniglot.load(archive(tmp_path / "x.zip", {MEMBER: content.getvalue()})).images[0, 0]
    assert (image[:, :8] == 255).all()
    assert (image[:, 8:] == 0).all()


@pytest.mark.parametrize("method", [1, 9, 12, 14, 95, 99])
def test_unknown_compression_methods_are_rejected(tmp_path: Path, method: int) -> None:
    content = bytearray(archive(tmp_path / "x.zip", {MEMBER: png()}).read_bytes())
    content[8:10] = method.to_bytes(2, "little")
    start = content.index(b"PK\x01\x02") + 10
    content[start : start + 2] = method.to_bytes(2, "little")
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken member .*0001_01\.png"):
        omniglot.load(tmp_path)


def test_a_folder_without_images_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected images_background\*/ALPHABET/characterNN"):
        omniglot.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", "expected a PNG image"),
        (b"", "expected a PNG image"),
        (png()[:60], "expected a PNG image"),
        (png((104, 105)), "expected 105x105 pixels, got 104x105"),
        (png((9999, 9999)), "expected 105x105 pixels, got 9999x9999"),
        (bytes(10**7), "at most 65536 bytes"),
    ],
    ids=["text", "empty", "truncated", "size", "many pixels", "many bytes"],
)
@pytest.mark.parametrize("packed", [True, False], ids=["zip", "folder"])
def test_malformed_images_are_rejected(tmp_path: Path, content: bytes, message: str, packed: bool) -> None:
    if packed:
        archive(tmp_path / "x.zip", {MEMBER: content})
    else:
        (tmp_path / MEMBER).parent.mkdir(parents=True)
        (tmp_path / MEMBER).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        omniglot.load(tmp_path)
    assert "0001_01.png" in str(caught.value)


def test_images_that_declare_too_many_pixels_are_rejected(tmp_path: Path) -> None:
    bomb = bytearray(png())
    bomb[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    with pytest.raises(ValueError, match=r"0001_01\.png"):
        omniglot.load(archive(tmp_path / "x.zip", {MEMBER: bytes(bomb)}))


@pytest.mark.parametrize("name", ["../" + MEMBER, "/" + MEMBER, "images_background/../../x.png"])
def test_members_outside_the_archive_are_rejected(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "x.zip", {name: png()})
    with pytest.raises(ValueError, match="expected members inside the archive") as caught:
        omniglot.load(path)
    assert name in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_archives_are_rejected(omniglot_folder: Path, tmp_path: Path) -> None:
    whole = zipped(omniglot_folder, tmp_path / "whole.zip").read_bytes()
    path = tmp_path / "x.zip"
    for content in (b"", b"PK", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"expected a zip file, got .*x\.zip"):
            omniglot.load(path)
    start = 30 + len("images_background/Alphabet0/character01/0000_00.png")
    path.write_bytes(whole[:start] + bytes(40) + whole[start + 40 :])
    with pytest.raises(ValueError, match=r"broken member .*character01/0000_00\.png"):
        omniglot.load(path)


def test_encrypted_members_are_rejected(tmp_path: Path) -> None:
    content = bytearray(archive(tmp_path / "x.zip", {MEMBER: png()}).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken member .*0001_01\.png"):
        omniglot.load(tmp_path)


def test_alphabets_are_groups_that_can_be_left_out(omniglot_folder: Path) -> None:
    data = load(f"omniglot:{omniglot_folder}", left_out=["Alphabet1"])
    assert data.groups == ("Alphabet0",) * 15 + ("Alphabet1",) * 15
    assert data.splits == {"train": tuple(range(15)), "validation": (), "test": tuple(range(15, 30))}
    assert load(f"omniglot:{omniglot_folder}", left_out=[]).splits["train"] == tuple(range(30))
    with pytest.raises(ValueError, match="left_out: expected different ones of Alphabet0, Alphabet1, got Latin"):
        load(f"omniglot:{omniglot_folder}", left_out=["Latin"])
    with pytest.raises(ValueError, match="left_out: expected none for pictograms, whose classes have no groups"):
        load("pictograms", left_out=["Latin"])


def test_the_evaluation_part_is_never_trained_on(tmp_path: Path) -> None:
    content = png()
    members = {f"images_background/A/character{i:02d}/{i:04d}_01.png": content for i in range(4)}
    members |= {f"images_background/B/character{i:02d}/{i:04d}_01.png": content for i in range(3)}
    members |= {f"images_evaluation/C/character{i:02d}/{i:04d}_01.png": content for i in range(2)}
    path = archive(tmp_path / "both.zip", members)
    for left_out, train, test in (
        (["A"], (4, 5, 6), (0, 1, 2, 3)),
        ([], (0, 1, 2, 3, 4, 5, 6), (7, 8)),
        (["C"], (0, 1, 2, 3, 4, 5, 6), (7, 8)),
    ):
        assert omniglot.load(path, left_out=left_out).splits == {"train": train, "validation": (), "test": test}


def test_images_can_be_read_at_other_sizes(omniglot_folder: Path) -> None:
    images = load(f"omniglot:{omniglot_folder}", image_size=35).images
    assert images.shape == (240, 1, 35, 35)
    # Every square of the 7x7 patterns has 5x5 pixels.
    assert torch.equal(images, images[:, :, ::5, ::5].repeat_interleave(5, -1).repeat_interleave(5, -2))
    for size in (0, 106):
        with pytest.raises(ValueError, match=f"image_size: expected a number from 1 to 105 for omniglot, got {size}"):
            omniglot.load(omniglot_folder, size)
