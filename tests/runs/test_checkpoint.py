import json
import random
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sparsedis.runs import checkpoint


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    tensors = {
        "a": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "b": torch.tensor(3),
        "c": torch.arange(5, dtype=torch.uint8),
    }
    checkpoint.save(tmp_path / "x", tensors, {"iteration": 3, "value": 0.1 + 0.2})
    loaded, about = checkpoint.load(tmp_path / "x")
    assert about == {"iteration": 3, "value": 0.1 + 0.2}
    checkpoint.check(tensors, loaded, tmp_path / "x")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_equal_contents_have_equal_bytes(tmp_path: Path) -> None:
    for name in "xy":
        checkpoint.save(tmp_path / name, {"a": torch.ones(3), "b": torch.zeros(2)}, {"p": 1, "q": 2, "r": 3})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def header(text: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(**changes: object) -> bytes:
    about = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return json.dumps({"__metadata__": {"sparsedis": "{}"}, "a": about}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        random.Random(0).randbytes(100),
        b"\x80\x04\x95pickle",
        header(b"{}", length=2**62),
        header(b"{"),
        header(b"[" * 100_000),
        header(tensor(), data=b"\0" * 7),
        header(tensor(data_offsets=[0, 2**40]), data=b"\0" * 8),
        header(tensor(data_offsets=[8, 0]), data=b"\0" * 8),
        header(tensor(shape=[2**40, 2**40]), data=b"\0" * 8),
        header(tensor(shape=[-2]), data=b"\0" * 8),
        header(tensor(dtype="F31"), data=b"\0" * 8),
        safetensors.torch.save({"a": torch.ones(1)}),
        safetensors.torch.save({"a": torch.ones(1)}, {"sparsedis": "no json"}),
        safetensors.torch.save({"a": torch.ones(1)}, {"sparsedis": "[1]"}),
        safetensors.torch.save({"a": torch.ones(1)}, {"sparsedis": "[" * 100_000}),
    ],
)
def test_malformed_files_are_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint: .*x is damaged"):
        checkpoint.load(tmp_path / "x")


def test_every_truncation_is_detected(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x", {"a": torch.ones(5)}, {"iteration": 3})
    content = (tmp_path / "x").read_bytes()
    for length in range(len(content)):
        (tmp_path / "x").write_bytes(content[:length])
        with pytest.raises(ValueError, match="is damaged"):
            checkpoint.load(tmp_path / "x")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a file, found none at"):
        checkpoint.load(tmp_path / "x")


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        ({}, "'a' on one side only"),
        ({"a": torch.ones(2), "b": torch.ones(2)}, "'b' on one side only"),
        ({"a": torch.ones(3)}, r"'a': expected torch.float32 \(2,\), got torch.float32 \(3,\)"),
        ({"a": torch.ones(2, dtype=torch.float64)}, r"got torch.float64 \(2,\)"),
    ],
)
def test_check_names_the_tensor_that_differs(loaded: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint.check({"a": torch.ones(2)}, loaded, Path("x"))


def test_optimizer_state_round_trip() -> None:
    def steps(optimizer: torch.optim.Optimizer, weight: torch.Tensor, count: int) -> None:
        for _ in range(count):
            weight.grad = weight.detach().clone() + 1
            optimizer.step()

    weight = torch.nn.Parameter(torch.rand(4, 3, 3, 3).to(memory_format=torch.channels_last))
    optimizer = torch.optim.Adam([weight])
    steps(optimizer, weight, 3)
    saved = {name: value.contiguous().clone() for name, value in checkpoint.optimizer_tensors(optimizer).items()}
    assert sorted(saved) == ["0.exp_avg", "0.exp_avg_sq", "0.step"]
    copy = torch.nn.Parameter(weight.detach().clone())
    other = torch.optim.Adam([copy])
    checkpoint.fill_optimizer(other, saved, Path("x"))
    assert other.state[copy]["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    steps(optimizer, weight, 2)
    steps(other, copy, 2)
    assert torch.equal(weight, copy)


@pytest.mark.parametrize("name", ["1.exp_avg", "x.exp_avg", "exp_avg", "-1.exp_avg", "0.exp_avg"])
def test_optimizer_state_that_does_not_fit_is_rejected(name: str) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match=f"optimizer state '{name}'"):
        checkpoint.fill_optimizer(optimizer, {name: torch.ones(3)}, Path("x"))
