from pathlib import Path

import pytest

from sparsedis.data import SPLITS, load
from sparsedis.data.sources import absolute


@pytest.mark.parametrize("spec", ["", "mnist", "mnist:x", "omniglot", "omniglot:", "pictograms:x"])
def test_unknown_names_are_rejected(spec: str) -> None:
    with pytest.raises(ValueError, match="data: expected"):
        load(spec)


def test_a_missing_path_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(f"omniglot:{tmp_path / 'nowhere'}")


def test_data_sets_are_loaded_by_name(omniglot_folder: Path) -> None:
    data = load(f"omniglot:{omniglot_folder}")
    assert data.images.shape == (240, 1, 28, 28)
    assert [len(data.splits[split]) for split in SPLITS] == [18, 4, 8]


def test_pictograms_are_loaded_by_name() -> None:
    pytest.importorskip("sparsedis.data.pictograms", reason="the pictograms are not installed")
    data = load("pictograms")
    assert data.images.shape[1:] == (1, 28, 28)
    assert min(len(data.splits[split]) for split in SPLITS) >= 5


def test_absolute_makes_paths_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("pictograms") == "pictograms"
    assert absolute("omniglot:a/b") == f"omniglot:{tmp_path}/a/b"
