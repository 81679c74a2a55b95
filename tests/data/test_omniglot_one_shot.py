"""Synthetic runs in the published layout of the 20 runs."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparsedis.data import omniglot_one_shot


def write_runs(root: Path, runs: int = 3, classes: int = 5) -> Path:
    """The layout of all_runs.zip, with 7x7 patterns and noisy test images; item i has class (3 i + run) mod classes."""
    generator = np.random.default_rng(0)
    for run in range(1, runs + 1):
        name, lines = f"run{run:02d}", []
        patterns = generator.random((classes, 7, 7)) < 0.3
        for part in ("training", "test"):
            (root / name / part).mkdir(parents=True)
        for i in range(classes):
            label = (3 * i + run) % classes
            noise = generator.random((7, 7)) < 0.02
            for path, pattern in (
                (f"{name}/training/class{i + 1:02d}.png", patterns[i]),
                (f"{name}/test/item{i + 1:02d}.png", patterns[label] ^ noise),
            ):
                Image.fromarray(~np.kron(pattern, np.ones((15, 15), bool))).save(root / path)
            lines.append(f"{name}/test/item{i + 1:02d}.png {name}/training/class{label + 1:02d}.png\n")
        (root / name / "class_labels.txt").write_text("".join(lines))
    return root


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/run01/class_labels.txt", b"\0")
    return path


def test_runs_are_read(tmp_path: Path) -> None:
    runs = omniglot_one_shot.load(write_runs(tmp_path / "all_runs"))
    assert [run.name for run in runs] == ["run01", "run02", "run03"]
    for number, run in enumerate(runs, 1):
        assert run.training.shape == run.test.shape == (5, 1, 28, 28)
        assert run.labels.tolist() == [(3 * i + number) % 5 for i in range(5)]
        nearest = torch.cdist(run.test.flatten(1).float(), run.training.flatten(1).float()).argmin(1)
        assert torch.equal(nearest, run.labels), "a test image resembles its training image"


@pytest.mark.parametrize("prefix", ["", "all_runs/"])
def test_folder_and_zip_file_have_the_same_data(tmp_path: Path, prefix: str) -> None:
    folder = write_runs(tmp_path / "all_runs")
    expected = omniglot_one_shot.load(folder)
    for other in (zipped(folder, tmp_path / "all_runs.zip", prefix), tmp_path):
        if other == tmp_path:
            (tmp_path / "all_runs.zip").unlink()
        loaded = omniglot_one_shot.load(other)
        assert len(loaded) == 3
        assert all(
            torch.equal(a, b) for x, y in zip(loaded, expected, strict=True) for a, b in zip(x[1:], y[1:], strict=True)
        )


def test_a_single_run_is_read(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "all_runs")
    (run,) = omniglot_one_shot.load(folder / "run02")
    assert run.name == "run02"


@pytest.mark.parametrize("packed", [True, False])
def test_system_files_are_ignored(tmp_path: Path, packed: bool) -> None:
    folder = write_runs(tmp_path / "all_runs", 2)
    for place in (
        ".ipynb_checkpoints/run01/class_labels.txt",
        "run01/test/._item01.png",
        "__MACOSX/run09/class_labels.txt",
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(b"x")
    assert len(omniglot_one_shot.load(zipped(folder, tmp_path / "x.zip") if packed else folder)) == 2


@pytest.mark.parametrize("packed", [True, False])
def test_truncated_or_duplicated_labels_are_rejected(tmp_path: Path, packed: bool) -> None:
    """With fewer classes, the error would be lower."""
    folder = write_runs(tmp_path / "all_runs", 1)
    labels = folder / "run01" / "class_labels.txt"
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join(lines[:-1]))
    with pytest.raises(
        ValueError, match=r"expected every image in .*class_labels\.txt, found no run01/test/item05\.png"
    ):
        omniglot_one_shot.load(zipped(folder, tmp_path / "x.zip") if packed else folder / "run01")
    labels.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(ValueError, match="expected every test image once"):
        omniglot_one_shot.load(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run01/test/item01.png", "expected 'run01/test/FILE run01/training/FILE', got 'run01/test/item01.png'"),
        ("run01/test/item01.png run02/training/class01.png", "expected 'run01/test/FILE"),
        ("run01/test/../../../x.png run01/training/class01.png", "expected 'run01/test/FILE"),
        ("/etc/passwd run01/training/class01.png", "expected 'run01/test/FILE"),
        ("run01/test/item99.png run01/training/class01.png", "expected the (file|member) .*item99"),
        ("\xff", "expected 'run01/test/FILE"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_malformed_lines_are_rejected(tmp_path: Path, line: str, message: str, packed: bool) -> None:
    folder = write_runs(tmp_path / "all_runs", 1)
    labels = folder / "run01" / "class_labels.txt"
    labels.write_text(labels.read_text() + line + "\n", encoding="latin1")
    with pytest.raises(ValueError, match=message):
        omniglot_one_shot.load(zipped(folder, tmp_path / "x.zip") if packed else folder)


def test_missing_or_damaged_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected all_runs\.zip"):
        omniglot_one_shot.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="found none"):
        omniglot_one_shot.load(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="expected a zip file"):
        omniglot_one_shot.load(tmp_path / "x.zip")
    folder = write_runs(tmp_path / "all_runs", 1)
    (folder / "run01" / "test" / "item01.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"expected a PNG image, got .*item01\.png"):
        omniglot_one_shot.load(folder)
    (folder / "run01" / "class_labels.txt").write_text("run01/test/item02.png run01/training/class01.png\n")
    with pytest.raises(ValueError, match="expected two classes or more, got 1"):
        omniglot_one_shot.load(folder)


def test_runs_can_be_read_at_another_size(tmp_path: Path) -> None:
    run = omniglot_one_shot.load(write_runs(tmp_path / "all_runs"), 42)[0]
    assert run.training.shape == run.test.shape == (5, 1, 42, 42)
