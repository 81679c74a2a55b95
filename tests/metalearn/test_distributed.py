"""Training in several processes, compared with a single one."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsedis import cli
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.distributed import processes
from sparsedis.metalearn.train import train
from sparsedis.runs import checkpoint
from tests.command_line import options

pytest.importorskip("accelerate", reason="the extra 'fewshot' is not installed")


FORKED = """
import os, sys
import accelerate, torch._dynamo
from sparsedis import cli, metalearn

children = []
for rank in "01":
    children.append(os.fork())
    if children[-1] == 0:
        os.environ |= {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
        sys.exit(cli.main(sys.argv[1:]))
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.mark.parametrize("device", ["meta", "warp", "cuda"])
def test_devices_that_accelerate_does_not_use_are_rejected(quick: TrainConfig, device: str) -> None:
    """accelerate would silently use another one."""
    if torch.cuda.is_available():
        pytest.skip("accelerate may use this device here")
    with pytest.raises(ValueError, match=r"^device: "):
        processes(replace(quick, precision="bf16", device=device))


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, env=environment)


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes started by PyTorch's launcher."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    return run(*launcher, f"--master-port={free_port()}", "-m", "sparsedis", *arguments)


def fork(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes forked after the slow imports, which the launcher and its processes would repeat three times."""
    return run("-c", FORKED, *arguments, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.fixture(scope="module")
def base_config(quick: TrainConfig) -> TrainConfig:
    return replace(quick, batch=4, micro_batch=2, iterations=8, log_every=1, validate_every=4, query=2)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(base_config: TrainConfig, tmp_path: Path) -> None:
    """With PyTorch's launcher."""
    # Not Adam, whose division by the gradients' magnitude amplifies rounding errors.
    config = replace(base_config, optimizer="sgd", learning_rate=0.1)
    one = train(config, tmp_path / "one")
    done = launch("train", *options(config), "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    expected, found_losses = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(found_losses) == len(expected) == 8
    print("largest relative difference", max(abs(a / b - 1) for a, b in zip(found_losses, expected, strict=True)))
    assert found_losses == pytest.approx(expected, rel=1e-5)
    assert found_losses[0] == pytest.approx(expected[0], rel=1e-6)
    assert max(expected) > 1.05 * min(expected), "it has to learn, so that wrong gradients are detected"
    ours, theirs = (checkpoint.load(tmp_path / name / "last.safetensors")[0] for name in ("one", "two"))
    for name, value in ours.items():
        if name.startswith("learner."):
            torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-4, msg=name)
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert results["iteration"] == one.iteration
    assert [test["accuracy"] for test in results["tests"]] == pytest.approx([t.accuracy for t in one.tests], abs=0.02)


@pytest.mark.slow
def test_a_run_can_be_resumed_with_another_number_of_processes(base_config: TrainConfig, tmp_path: Path) -> None:
    """Half of the run in one process and the rest in two has the losses of a run in one process."""
    train(base_config, tmp_path / "whole")

    class Stopped(Exception):
        pass

    save = checkpoint.save

    def stopping(path: Path, *arguments: object) -> None:
        save(path, *arguments)  # type: ignore[arg-type]
        if path.name == "last.safetensors":
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", stopping)
        with pytest.raises(Stopped):
            train(base_config, tmp_path / "run")
    done = fork("train", *options(base_config), "--out", str(tmp_path / "run"), "--resume")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_errors_with_two_processes_are_reported(
    base_config: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this case by the first process, before it connects to the second."""
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert cli.main(["train", *options(replace(base_config, micro_batch=None)), "--out", "run"]) == 2
    message = "sparsedis: micro_batch: expected a divisor of 2, the tasks of each of 2 processes"
    assert capsys.readouterr().err.startswith(message)
    assert not list(here.iterdir())


@pytest.mark.slow
def test_bfloat16_losses_are_close_to_full_precision(base_config: TrainConfig, tmp_path: Path) -> None:
    """But they are not equal, so mixed precision is enabled."""
    config = replace(base_config, iterations=3, precision="bf16")
    train(config, tmp_path / "half")
    train(replace(config, precision="no"), tmp_path / "full")
    half, full = losses(tmp_path / "half"), losses(tmp_path / "full")
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        ("3", {}, "batch: expected a multiple of the 3 processes, got 4"),
        ("2", {"micro_batch": None}, "micro_batch: expected a divisor of 2"),
        ("2", {"micro_batch": 4}, "micro_batch: expected a divisor of 2, .* got 4"),
    ],
)
def test_batches_that_cannot_be_divided_are_rejected(
    monkeypatch: pytest.MonkeyPatch, size: str, changes: dict[str, object], message: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match=message):
        processes(replace(TrainConfig(micro_batch=1), **changes))  # type: ignore[arg-type]


def test_accelerate_is_needed_only_for_precision_and_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert processes(TrainConfig()).size == 1, "one process does not need it"
    with pytest.raises(
        ImportError, match=r"precision: accelerate is not installed; pip install 'sparsedis\[fewshot\]'"
    ):
        processes(TrainConfig(precision="bf16"))
