"""Several processes beside one."""

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
def test_a_device_that_accelerate_does_not_use(quick: TrainConfig, device: str) -> None:
    """It takes its own, which would silently be another one."""
    if torch.cuda.is_available():
        pytest.skip("here it may be accelerate's")
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
    """Two processes, by PyTorch's launcher."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    return run(*launcher, f"--master-port={free_port()}", "-m", "sparsedis", *arguments)


def fork(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes of one that has imported what takes longest; the launcher and its two would do so three times."""
    return run("-c", FORKED, *arguments, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.fixture(scope="module")
def shared_out(quick: TrainConfig) -> TrainConfig:
    return replace(quick, batch=4, micro_batch=2, iterations=8, log_every=1, validate_every=4, query=2)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(shared_out: TrainConfig, tmp_path: Path) -> None:
    """Started as a user starts them."""
    # Without Adam's division by the gradients' size, which lets rounding grow.
    config = replace(shared_out, optimizer="sgd", learning_rate=0.1)
    one = train(config, tmp_path / "one")
    done = launch("train", *options(config), "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    expected, came = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(came) == len(expected) == 8
    print("largest relative difference", max(abs(a / b - 1) for a, b in zip(came, expected, strict=True)))
    assert came == pytest.approx(expected, rel=1e-5)
    assert came[0] == pytest.approx(expected[0], rel=1e-6)
    assert max(expected) > 1.05 * min(expected), "it learns, so that a wrong gradient would show"
    ours, theirs = (checkpoint.load(tmp_path / name / "last.safetensors")[0] for name in ("one", "two"))
    for name, value in ours.items():
        if name.startswith("learner."):
            torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-4, msg=name)
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert results["iteration"] == one.iteration
    assert [test["accuracy"] for test in results["tests"]] == pytest.approx([t.accuracy for t in one.tests], abs=0.02)


@pytest.mark.slow
def test_resumed_in_another_number_of_processes(shared_out: TrainConfig, tmp_path: Path) -> None:
    """Half of the run in one process, the rest in two: the losses of the whole run in one."""
    train(shared_out, tmp_path / "whole")

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
            train(shared_out, tmp_path / "run")
    done = fork("train", *options(shared_out), "--out", str(tmp_path / "run"), "--resume")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_an_error_in_two_processes(
    shared_out: TrainConfig, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first of them: it is found before they meet."""
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert cli.main(["train", *options(replace(shared_out, micro_batch=None)), "--out", "run"]) == 2
    message = "sparsedis: micro_batch: expected a divisor of 2, the tasks of each of 2 processes"
    assert capsys.readouterr().err.startswith(message)
    assert not list(here.iterdir())


@pytest.mark.slow
def test_bfloat16(shared_out: TrainConfig, tmp_path: Path) -> None:
    """Mixed precision is on, and near to full precision."""
    config = replace(shared_out, iterations=3, precision="bf16")
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
def test_shares_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, size: str, changes: dict[str, object], message: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match=message):
        processes(replace(TrainConfig(micro_batch=1), **changes))  # type: ignore[arg-type]


def test_without_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert processes(TrainConfig()).size == 1, "one process does not need it"
    with pytest.raises(
        ImportError, match=r"precision: accelerate is not installed; pip install 'sparsedis\[fewshot\]'"
    ):
        processes(TrainConfig(precision="bf16"))
