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
def test_read(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    path = write(tmp_path / name, {**GOOD, "features": GOOD["features"].to(dtype)})
    data = load(f"features:{path}")
    assert torch.equal(data.images, GOOD["features"])
    assert data.splits == {"train": (0,), "validation": (2,), "test": (1, 3)}
    episode = Episodes(data, "test", way=2, shot=1, query=1)[0]
    assert episode.support.shape == (2, 3)
    assert {tuple(row) for row in episode.support.tolist()} <= {tuple(row) for row in GOOD["features"].tolist()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.ones(8)}, r"expected floating-point numbers of shape \(N, d\)"),
        ({"features": torch.ones(8, 3, dtype=torch.int64)}, "expected floating-point numbers"),
        ({"features": torch.full((8, 3), float("nan"))}, "expected finite numbers"),
        ({"labels": torch.ones(7, dtype=torch.int64)}, "labels: expected int64"),
        ({"labels": torch.ones(8)}, "labels: expected int64"),
        ({"labels": torch.full((8,), 4)}, "labels: expected values from 0 to 3, got 4"),
        ({"splits": torch.tensor([0, 1, 2, 3])}, "splits of one number per class"),
        ({"splits": None}, "expected features, labels, splits in .*, found no splits"),
    ],
)
def test_bad_tables(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    values = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load(f"features:{write(tmp_path / 'x.npz', values)}")


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.npy"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04cos\nsystem\n.", b"\x93NUMPY\x01\x00"])
def test_damaged(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or not"):
        load(f"features:{tmp_path / name}")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an existing file"):
        load(f"features:{tmp_path / 'x.npz'}")
