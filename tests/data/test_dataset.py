from pathlib import Path

import pytest
import torch

from sparsedis.data import SPLITS, FewShotData, load
from sparsedis.data.dataset import absolute


def test_one_channel_is_added(few_shot_data: FewShotData) -> None:
    assert few_shot_data.images.shape == (300, 1, 8, 8)


def parts(**changes: object) -> dict[str, object]:
    return {
        "name": "x",
        "images": torch.zeros(4, 8, 8, dtype=torch.uint8),
        "labels": torch.arange(4),
        "class_names": tuple("abcd"),
        "splits": {"train": (0, 1), "validation": (2,), "test": (3,)},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(4, 8, 8)}, "images: expected uint8"),
        ({"images": torch.zeros(4, 8, dtype=torch.uint8)}, r"got torch.uint8 of shape \(4, 8\)"),
        ({"labels": torch.arange(3)}, r"labels: expected int64 of shape \(4,\)"),
        ({"labels": torch.arange(4) + 1}, "labels: expected values from 0 to 3, got 1 to 4"),
        ({"splits": {"train": (0,), "test": (1,)}}, "splits: expected train, validation, test"),
        ({"splits": {"train": (0,), "validation": (1,), "test": (0,)}}, "at most once"),
        ({"splits": {"train": (0,), "validation": (1,), "test": (4,)}}, "from 0 to 3"),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FewShotData(**parts(**changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", ["", "mnist", "mnist:x", "omniglot", "omniglot:", "pictograms:x"])
def test_bad_names(spec: str) -> None:
    with pytest.raises(ValueError, match="data: expected"):
        load(spec)


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(f"omniglot:{tmp_path / 'nowhere'}")


def test_load_by_name(omniglot_folder: Path) -> None:
    data = load(f"omniglot:{omniglot_folder}")
    assert data.images.shape == (240, 1, 28, 28)
    assert [len(data.splits[split]) for split in SPLITS] == [18, 4, 8]


def test_pictograms() -> None:
    pytest.importorskip("sparsedis.data.pictograms", reason="the pictograms are not installed")
    data = load("pictograms")
    assert data.images.shape[1:] == (1, 28, 28)
    assert min(len(data.splits[split]) for split in SPLITS) >= 5


def test_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("pictograms") == "pictograms"
    assert absolute("omniglot:a/b") == f"omniglot:{tmp_path}/a/b"
