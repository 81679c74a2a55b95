"""The published pickles in all known formats, from synthetic files."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sparsedis.data import load, split_pickles

NAMES = {
    "miniimagenet": "miniImageNet_category_split_{}.pickle",
    "cifar-fs": "CIFAR_FS_{}.pickle",
    "fc100": "FC100_{}.pickle",
}


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def split(seed: int, classes: int, first: int) -> tuple[np.ndarray, list[int]]:
    """Images (N, 8, 8, 3) and unsorted labels that start at ``first``."""
    images = np.random.default_rng(seed).integers(0, 256, (4 * classes, 8, 8, 3), dtype=np.uint8)
    return images, [first + 3 * (i % classes) for i in range(4 * classes)]


def put(path: Path, value: Any, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(value, protocol))


def assert_read(data: Any, splits: dict[str, tuple[np.ndarray, list[int]]]) -> None:
    start = 0
    for name, (images, labels) in splits.items():
        stop = start + len(images)
        assert (data.images[start:stop].numpy() == images.transpose(0, 3, 1, 2)).all()
        order = sorted(set(labels))
        assert [data.splits[name].index(x) for x in data.labels[start:stop].tolist()] == [
            order.index(x) for x in labels
        ]
        start = stop
    assert len(data.images) == start
    assert data.images.dtype == torch.uint8


SPLITS = {"train": split(0, 5, 10), "validation": split(1, 3, 30), "test": split(2, 4, 50)}
SHORT = {"train": "train", "validation": "val", "test": "test"}


@pytest.mark.parametrize("name", NAMES)
def test_data_and_labels_are_read(tmp_path: Path, name: str) -> None:
    for key, (images, labels) in SPLITS.items():
        word = "train_phase_train" if (name, key) == ("miniimagenet", "train") else SHORT[key]
        put(tmp_path / NAMES[name].format(word), {"data": images, "labels": labels})
    put(tmp_path / NAMES[name].format("train_phase_val"), {"data": 0})  # other images of the training classes
    (tmp_path / "README.txt").write_text("left alone")
    data = load(f"{name}:{tmp_path}")
    assert_read(data, SPLITS)
    assert data.name == name
    assert data.class_names[:2] == ("train/10", "train/13")


@pytest.mark.parametrize("kind", ["bytes", "uint8 arrays", "(n, 1) arrays", "array of objects", "text", "npz"])
@pytest.mark.parametrize("key", ["labels", "label_specific"])
def test_separate_files_of_images_and_labels_are_read(tmp_path: Path, kind: str, key: str) -> None:
    for name, (images, labels) in SPLITS.items():
        encoded: Any = [png(image) for image in images]
        if kind == "uint8 arrays":
            encoded = [np.frombuffer(content, np.uint8) for content in encoded]
        elif kind == "(n, 1) arrays":
            encoded = [np.frombuffer(content, np.uint8)[:, None] for content in encoded]
        elif kind == "array of objects":
            columns = [np.frombuffer(content, np.uint8)[:, None] for content in encoded]
            encoded = np.empty(len(columns), object)
            encoded[:] = columns
        elif kind == "text":
            encoded = [content.decode("latin1") for content in encoded]
        if kind == "npz":
            np.savez(tmp_path / f"{SHORT[name]}_images.npz", images=images)
        else:
            put(tmp_path / f"{SHORT[name]}_images_png.pkl", encoded)
        names = [f"class {i}" for i in range(max(labels) + 1)]
        put(tmp_path / f"{SHORT[name]}_labels.pkl", {key: np.array(labels), "label_specific_str": names})
    data = load(f"tieredimagenet:{tmp_path}")
    assert_read(data, SPLITS)
    assert data.class_names[:2] == ("class 10", "class 13")


def test_indices_by_class_and_keys_of_bytes_are_read(tmp_path: Path) -> None:
    for name, (images, labels) in SPLITS.items():
        places = {f"n{label}": [i for i, x in enumerate(labels) if x == label] for label in sorted(set(labels))}
        put(tmp_path / f"mini-imagenet-cache-{SHORT[name]}.pkl", {b"image_data": images, b"class_dict": places})
    data = load(f"pickles:{tmp_path}")
    assert_read(data, SPLITS)
    assert data.class_names[0] == "n10"


def folder(path: Path, **changes: Any) -> Path:
    path.mkdir(exist_ok=True)
    for name, (images, labels) in SPLITS.items():
        put(path / f"x_{SHORT[name]}.pickle", changes.get(name, {"data": images, "labels": labels}))
    return path


def test_files_are_decoded_again_only_if_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path / "data")
    first = split_pickles.load(path)
    monkeypatch.setattr(split_pickles.safe_pickle, "load", lambda _: pytest.fail("read again"))
    second = split_pickles.load(path)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert first.splits == second.splits
    monkeypatch.undo()
    images, labels = split(5, 4, 70)
    put(path / "x_test.pickle", {"data": images, "labels": labels})
    assert_read(split_pickles.load(path), {**SPLITS, "test": (images, labels)})


IMAGES, LABELS = SPLITS["train"]


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"data": IMAGES, "labels": LABELS[1:]}, "expected as many images as labels, got 20 and 19"),
        ({"data": IMAGES}, "expected a list of labels, got NoneType"),
        ({"labels": LABELS}, "expected images, got NoneType"),
        ({"data": IMAGES, "labels": ["a"] * 20}, "expected whole numbers as labels, got 'a'"),
        ({"data": IMAGES, "labels": [1.5] * 20}, "expected whole numbers as labels, got 1.5"),
        ({"data": IMAGES[:, :7], "labels": LABELS}, r"expected images of shape \(3, 7, 8\), got \(3, 8, 8\)"),
        ({"data": IMAGES[..., :2], "labels": LABELS}, "expected 1 or 3 channels"),
        ({"data": IMAGES.astype(np.float32), "labels": LABELS}, "got float32 of shape"),
        ({"data": [b"no image"] * 20, "labels": LABELS}, "expected a PNG or JPEG image"),
        ({"data": [7] * 20, "labels": LABELS}, "expected pixels or an image file's bytes, got int"),
        ({"data": IMAGES[:0], "labels": []}, "expected images, got none"),
        ({"data": IMAGES, "class_dict": {"a": [0, 1], "b": [1]}}, "expected every image in one class"),
        ({"data": IMAGES, "class_dict": {"a": [0, 2]}}, "expected every image in one class"),
        ([Malicious()], "the name posix.system"),
        (3, "expected a list of labels, got int"),
    ],
)
def test_invalid_contents_are_rejected(tmp_path: Path, own_cache: Path, train: Any, message: str) -> None:
    path = folder(tmp_path / "data", train=train)
    with pytest.raises(ValueError, match=message) as caught:
        split_pickles.load(path)
    assert "x_" in str(caught.value)
    assert not list(own_cache.glob("*")), "no incomplete entry is left"


@pytest.mark.parametrize("form", ["list", "array", "(n,)"])
def test_encoded_images_of_equal_length_are_decoded(tmp_path: Path, form: str) -> None:
    """An array (N, n, 1) or (N, n) of file contents is not mistaken for N grey images with one column."""
    for name, (images, labels) in SPLITS.items():
        contents = [png(image) for image in images]
        longest = max(map(len, contents))
        # Decoders ignore bytes after the end of a PNG file.
        columns = [np.frombuffer(content.ljust(longest, b"\0"), np.uint8) for content in contents]
        encoded: Any = [column if form == "(n,)" else column[:, None] for column in columns]
        put(tmp_path / f"{SHORT[name]}_images_png.pkl", encoded if form == "list" else np.stack(encoded))
        put(tmp_path / f"{SHORT[name]}_labels.pkl", {"labels": labels})
    assert_read(load(f"tieredimagenet:{tmp_path}"), SPLITS)


def test_arrays_of_one_column_without_encoded_images_are_rejected(tmp_path: Path) -> None:
    path = folder(tmp_path / "data", train={"data": IMAGES[:, :, :1, 0], "labels": LABELS})
    with pytest.raises(ValueError, match=r"expected a PNG or JPEG image, got .*x_train\.pickle, image 0"):
        split_pickles.load(path)
    path = folder(tmp_path / "data", train={"data": IMAGES[:, :0], "labels": LABELS})
    with pytest.raises(ValueError, match=r"expected pixels, got shape \(0, 8, 3\)"):
        split_pickles.load(path)


def test_classes_in_two_splits_are_rejected(tmp_path: Path) -> None:
    """Classes are identified by their names or, without names, by their labels, as in the published files."""
    images, labels = SPLITS["validation"]
    again = [label - 20 for label in labels]  # 10, 13, 16: labels of the training split
    path = folder(tmp_path / "a", validation={"data": images, "labels": again})
    with pytest.raises(ValueError, match="every class in one split, got '10' in train and validation of "):
        split_pickles.load(path)
    names = {"validation": [f"validation {i}" for i in range(20)], "train": [f"train {i}" for i in range(30)]}
    for key, numbers in (("validation", again), ("train", LABELS)):
        put(
            path / f"x_{SHORT[key]}.pickle",
            {"data": SPLITS[key][0], "labels": numbers, "label_specific_str": names[key]},
        )
    data = split_pickles.load(path)
    assert [data.class_names[i] for i in data.splits["validation"]] == [
        "validation 10",
        "validation 13",
        "validation 16",
    ]
    named = {"data": images, "labels": labels, "catname2label": {"a": 30, "train 13": 33, "c": 36}}
    put(path / "x_val.pickle", named)
    with pytest.raises(ValueError, match="got 'train 13' in train and validation"):
        split_pickles.load(path)
    places = {"train 16": list(range(len(images)))}
    put(path / "x_val.pickle", {"image_data": images, "class_dict": places})
    with pytest.raises(ValueError, match="got 'train 16' in train and validation"):
        split_pickles.load(path)


def test_class_names_may_have_any_type(tmp_path: Path) -> None:
    images, labels = SPLITS["validation"]
    numbers = np.array(labels) - 30
    for keys in (np.array(["a", "b", "c", "d", "e", "f", "g"]), [b"a", "b", 3, b"d", "e", "f", "g"]):
        content = {b"data": images, b"labels": numbers, b"label_specific_str": keys}
        data = split_pickles.load(folder(tmp_path / "data", validation=content))
        assert [data.class_names[i] for i in data.splits["validation"]] == ["a", "d", "g"]
    named = {"data": images, "labels": labels, "catname2label": {"a": np.int64(30), b"d": 33, "g": 36, "other": "x"}}
    data = split_pickles.load(folder(tmp_path / "data", validation=named))
    assert [data.class_names[i] for i in data.splits["validation"]] == ["a", "d", "g"]


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_the_validation_split_may_have_several_names_and_system_files_are_ignored(tmp_path: Path, word: str) -> None:
    path = folder(tmp_path / "data")
    (path / "x_val.pickle").rename(path / f"x_{word}.pickle")
    for name in ("._x_train.pickle", ".x_test.pickle", ".DS_Store", "__MACOSX_train"):
        (path / name).write_bytes(b"no pickle")
    assert_read(split_pickles.load(path), SPLITS)
    put(path / ("x_val.pickle" if word != "val" else "x_valid.pickle"), {})
    with pytest.raises(ValueError, match="expected one file of each, got x_val"):
        split_pickles.load(path)


def test_incomplete_or_ambiguous_folders_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an existing folder"):
        split_pickles.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="got none for the train split"):
        split_pickles.load(tmp_path)
    path = folder(tmp_path / "data")
    (path / "x_val.pickle").unlink()
    with pytest.raises(ValueError, match="got none for the validation split"):
        split_pickles.load(path)
    put(path / "x_val_labels.pkl", [1])
    with pytest.raises(ValueError, match=r"got x_val_labels\.pkl for the validation split"):
        split_pickles.load(path)
    put(path / "y_train.pickle", {})
    with pytest.raises(ValueError, match=r"expected one file of each, got x_train\.pickle and y_train\.pickle"):
        split_pickles.load(path)
