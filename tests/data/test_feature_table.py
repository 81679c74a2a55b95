import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from sparsedis.data import Episodes, load

GOOD = {
    "features": torch.arange(24, dtype=torch.float32).reshape(8, 3),
    "labels": torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]),
    "splits": torch.tensor([0, 2, 1, 2], dtype=torch.int8),
}


def write(path: Path, values: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(values, path)
    else:
        np.savez(path, **{name: value.numpy() for name, value in values.items()})
    return path


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tables_are_read(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    path = write(tmp_path / name, {**GOOD, "features": GOOD["features"].to(dtype)})
    data = load(f"features:{path}")
    assert torch.equal(data.images, GOOD["features"])
    assert data.splits == {"train": (0,), "validation": (2,), "test": (1, 3)}
    episode = Episodes(data, "test", way=2, shot=1, query=1)[0]
    assert episode.support.shape == (2, 3)
    assert {tuple(row) for row in episode.support.tolist()} <= {tuple(row) for row in GOOD["features"].tolist()}


def small(value: float) -> torch.Tensor:
    features = torch.ones(8, 3, dtype=torch.float64)
    features[5] = value
    return features


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.ones(8)}, r"expected floating-point numbers of shape \(N, d\)"),
        ({"features": torch.ones(8, 3, dtype=torch.int64)}, "expected floating-point numbers"),
        ({"features": torch.full((8, 3), float("nan"))}, "expected finite numbers"),
        ({"features": small(1e300)}, "expected finite numbers in the range of float32"),
        ({"features": small(-1e39)}, "expected finite numbers in the range of float32"),
        ({"features": small(1e-300)}, "expected rows that do not underflow to 0 in float32, got one"),
        ({"labels": torch.ones(7, dtype=torch.int64)}, "expected a label for each of 8 rows, got 7"),
        ({"labels": torch.ones(8)}, r"expected labels of whole numbers in one dimension, got torch\.float32"),
        ({"labels": torch.ones(8, dtype=torch.complex64)}, "expected labels of whole numbers"),
        ({"labels": torch.ones(8, dtype=torch.bool)}, "expected labels of whole numbers"),
        ({"labels": torch.ones(8, 1, dtype=torch.int64)}, r"expected labels .* of shape \(8, 1\)"),
        ({"labels": torch.full((8,), -1)}, "expected labels from 0 on, got -1"),
        (
            {"labels": torch.full((8,), 4)},
            r"expected splits of shape \(5,\), one for every class of the labels, got shape \(4",
        ),
        ({"labels": torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])}, r"expected splits of shape \(3,\)"),
        ({"splits": torch.tensor([0, 1, 2, 3])}, "expected splits of 0, 1 or 2"),
        ({"splits": torch.tensor([0.0, 1, 2, 2])}, "expected splits of whole numbers"),
        (
            {"splits": torch.tensor([0, 2, 0, 2, 0, 2, 1, 1])},
            r"expected splits of shape \(4,\), .* got shape \(8,\) in .* \(one for every sample\? no class can be",
        ),
        ({"splits": None}, "expected features, labels, splits in .*, found no splits"),
    ],
)
@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_invalid_tables_are_rejected(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    values = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message) as caught:
        load(f"features:{write(tmp_path / name, values)}")
    assert name in str(caught.value)


def test_small_numbers_next_to_others_become_zero(tmp_path: Path) -> None:
    """Numbers that underflow in float32 are negligible next to the sample's other features."""
    features = small(1.0)
    features[5, 0] = 1e-300
    data = load(f"features:{write(tmp_path / 'x.npz', {**GOOD, 'features': features})}")
    assert data.images[5].tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2"])
def test_other_dtypes_and_byte_orders_are_read(tmp_path: Path, dtype: str) -> None:
    values = {name: value.numpy() for name, value in GOOD.items()}
    np.savez(
        tmp_path / "x.npz",
        **{**values, "features": values["features"].astype(dtype), "labels": values["labels"].astype(">u2")},
    )
    data = load(f"features:{tmp_path / 'x.npz'}")
    assert torch.equal(data.images, GOOD["features"])
    assert torch.equal(data.labels, GOOD["labels"])


def test_arrays_of_text_or_objects_are_rejected(tmp_path: Path) -> None:
    values = {name: value.numpy() for name, value in GOOD.items()}
    np.savez(tmp_path / "x.npz", **{**values, "labels": np.array(list("abcdefgh"))})
    with pytest.raises(ValueError, match=r"expected arrays of numbers in .*x\.npz"):
        load(f"features:{tmp_path / 'x.npz'}")
    np.savez(tmp_path / "y.npz", **{**values, "labels": np.array([None] * 8)})
    with pytest.raises(ValueError, match=r"y\.npz is damaged or not a \.npz file of numbers"):
        load(f"features:{tmp_path / 'y.npz'}")


def test_members_that_are_not_arrays_are_rejected(tmp_path: Path) -> None:
    write(tmp_path / "x.npz", {name: value for name, value in GOOD.items() if name != "splits"})
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("splits.npy", b"0, 2, 1, 2")
    with pytest.raises(ValueError, match=r"expected an array under 'splits', got a file of another kind in .*x\.npz"):
        load(f"features:{tmp_path / 'x.npz'}")


def test_shapes_that_exceed_memory_are_rejected(tmp_path: Path) -> None:
    header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    header += str({"descr": "<f8", "fortran_order": False, "shape": (1 << 60, 4)}).ljust(117).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("features.npy", header)
    with pytest.raises(ValueError, match=r"x\.npz is damaged or not a \.npz file of numbers: ."):
        load(f"features:{tmp_path / 'x.npz'}")


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.npy"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04cos\nsystem\n.", b"\x93NUMPY\x01\x00"])
def test_damaged_files_are_rejected(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or not"):
        load(f"features:{tmp_path / name}")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an existing file"):
        load(f"features:{tmp_path / 'x.npz'}")


def test_groups_are_read_and_can_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", {**GOOD, "groups": torch.tensor([7, 3, 7, 4])})
    data = load(f"features:{path}")
    assert data.groups == ("7", "3", "7", "4")
    assert data.splits["test"] == (1, 3)
    left = load(f"features:{path}", left_out=["3"])
    assert left.splits == {"train": (0, 2), "validation": (), "test": (1,)}
    write(tmp_path / "y.npz", {**GOOD, "groups": torch.tensor([7, 3])})
    with pytest.raises(ValueError, match=r"expected groups of shape \(4,\), got shape \(2,\) in .*y\.npz"):
        load(f"features:{tmp_path / 'y.npz'}")
    write(tmp_path / "z.npz", {**GOOD, "groups": torch.tensor([0.5] * 4)})
    with pytest.raises(ValueError, match="expected groups of whole numbers"):
        load(f"features:{tmp_path / 'z.npz'}")
    with pytest.raises(ValueError, match=r"left_out: expected none, as .*w\.npz has no groups, got \['7'\]"):
        load(f"features:{write(tmp_path / 'w.npz', GOOD)}", left_out=["7"])
