import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from sparsedis.metalearn.config import Head, TrainConfig
from sparsedis.metalearn.results import PATTERNS, Results
from sparsedis.metalearn.train import _Run, load_run, train
from sparsedis.runs import checkpoint
from sparsedis.runs.folder import FILES
from tests import training
from tests.training import CIRCUMSTANCES, assert_equal

run = partial(training.run, train)


@pytest.fixture(scope="module")
def whole(quick: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(quick, out)
    return out


@pytest.mark.slow
def test_a_run_writes_its_files(quick: TrainConfig, whole: Path) -> None:
    assert {file.name for file in whole.iterdir()} == {*FILES, PATTERNS, *CIRCUMSTANCES}
    assert TrainConfig.from_json(json.loads((whole / "config.json").read_text())) == quick.settled()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [x["iteration"] for x in lines if x["split"] == "train"] == [2, 4, 6, 8, 10, 12, 14]
    assert [x["iteration"] for x in lines if x["split"] == "validation"] == [5, 10, 14]
    assert all(0 <= x["features_used"] <= 1 and x["certified"] == 1 for x in lines)
    results = json.loads((whole / "results.json").read_text())
    best = max((x for x in lines if x["split"] == "validation"), key=lambda x: x["accuracy"])
    assert (results["iteration"], results["validation"]) == (best["iteration"], best["accuracy"])
    assert [(x["shot"], x["episodes"], x["split"]) for x in results["tests"]] == [
        (1, 20, "test"),
        (2, 20, "test"),
    ]
    learner, config = load_run(whole)
    assert config == quick.settled()
    assert not learner.training


@pytest.mark.slow
def test_training_learns(quick: TrainConfig, tmp_path: Path) -> None:
    """Noisy patterns of unseen classes are distinguished with far more than the chance accuracy of 1/3."""
    config = replace(quick, iterations=60, validate_every=60, log_every=60, save_every=60, test_episodes=50)
    results, text = run(config, tmp_path / "run")
    assert results.tests[1].accuracy > 0.8
    assert "iteration 60/60: loss" in text
    assert "3-way 2-shot" in text


@pytest.mark.slow
def test_the_callers_random_state_is_restored(quick: TrainConfig, whole: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(quick, tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)
    assert_equal(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 4, 5, 13])
def test_interrupted_runs_can_be_resumed(
    quick: TrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Ctrl-C ends the run after the current step; resumed, it has the files of an uninterrupted run."""
    step = _Run.advance

    def interrupted_step(self: _Run, *arguments: object) -> object:
        if self.progress.iteration + 1 == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)  # type: ignore[arg-type]

    out = tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "advance", interrupted_step)
        with pytest.raises(KeyboardInterrupt):
            run(quick, out)
    assert signal.getsignal(signal.SIGINT) is handler
    assert checkpoint.load(out / "last.safetensors")[1]["iteration"] == stop
    run(quick, out, resume=True)
    assert_equal(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("stop", range(1, 26, 3))
def test_runs_killed_at_any_write_can_be_resumed(
    quick: TrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """The process dies at its stop-th fsync, before or after the file is renamed."""

    class Killed(BaseException):
        pass

    writes = 0
    sync = os.fsync

    def dying_sync(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes == stop:
            raise Killed
        sync(descriptor)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dying_sync)
        with pytest.raises(Killed):
            run(quick, out)
    run(quick, out, resume=(out / "config.json").exists())
    assert_equal(out, whole)


@pytest.mark.slow
def test_an_incomplete_line_of_metrics_is_dropped(quick: TrainConfig, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.json", "best.safetensors", "last.safetensors"):
        (out / name).write_bytes((whole / name).read_bytes())
    (out / "metrics.jsonl").write_bytes((whole / "metrics.jsonl").read_bytes() + b'{"iteration": 15, "spl')
    run(quick, out, resume=True)
    assert_equal(out, whole)


COMMAND = (
    "import json, sys; from sparsedis.metalearn.config import TrainConfig; "
    "from sparsedis.metalearn.train import train; "
    "train(TrainConfig.from_json(json.loads(sys.argv[1])), sys.argv[2])"
)


ALL_FEATURES = {
    "encoder": "resnet12",
    "final_width": None,
    "width": 2,
    "augment": "crop-flip",
    "batch": 4,
    "micro_batch": 2,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "schedule": "metaoptnet",
    "label_smoothing": 0.1,
    "learn": ("lambda1", "lambda2"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("iterations", "changes"),
    # The test above covers the defaults.
    [pytest.param(30, {}, marks=pytest.mark.exhaustive), (10, ALL_FEATURES)],
    ids=["default", "everything"],
)
def test_runs_ended_by_sigkill_can_be_resumed(
    quick: TrainConfig, tmp_path: Path, iterations: int, changes: dict[str, object]
) -> None:
    """SIGKILL runs no handlers; the resumed run has the same bytes in all files as an uninterrupted one."""
    if "augment" in changes:
        pytest.importorskip("kornia", reason="the extra 'fewshot' is not installed")
    long = replace(quick, iterations=iterations, log_every=1, save_every=1, **changes)  # type: ignore[arg-type]
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, json.dumps(long.as_json()), str(out)], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (out / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "results.json").exists()
    run(long, out, resume=True)
    run(long, tmp_path / "whole")
    assert_equal(out, tmp_path / "whole")


@pytest.mark.slow
def test_a_finished_run_can_be_resumed(quick: TrainConfig, whole: Path, tmp_path: Path) -> None:
    before = {name: (whole / name).read_bytes() for name in FILES}
    _, text = run(quick, whole, resume=True)
    assert "3-way 1-shot" in text
    assert {name: (whole / name).read_bytes() for name in FILES} == before


def test_a_run_is_not_overwritten(quick: TrainConfig, whole: Path) -> None:
    with pytest.raises(FileExistsError, match=r"whole already holds config\.json"):
        train(quick, whole)


def test_resume_with_other_settings_is_refused(quick: TrainConfig, whole: Path) -> None:
    with pytest.raises(ValueError, match=r"resume: lambda1: the run in .*whole has 0\.05, got 0\.3"):
        train(replace(quick, lambda1=0.3), whole, resume=True)


def test_resume_without_a_run_is_refused(quick: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a run in .*nothing, found no config\.json"):
        train(quick, tmp_path / "nothing", resume=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"way": 9}, {"query": 7}, {"device": "gpu"}, {"test_shots": (1, 6)}])
def test_errors_leave_no_files(quick: TrainConfig, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"way: 9|images per class|device: 'gpu'"):
        train(replace(quick, **changes), tmp_path / "a" / "b")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_damaged_runs_are_not_resumed(quick: TrainConfig, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in FILES:
        (out / name).write_bytes((whole / name).read_bytes())

    def damaged(name: str, tensors: dict[str, torch.Tensor], about: dict[str, object], message: str) -> None:
        content = (out / name).read_bytes()
        checkpoint.save(out / name, tensors, about)
        with pytest.raises(ValueError, match=message):
            train(quick, out, resume=True)
        (out / name).write_bytes(content)

    for name in ("last.safetensors", "best.safetensors"):
        tensors, about = checkpoint.load(out / name)
        key = "learner.encoder.blocks.0.0.weight"
        damaged(name, {**tensors, key: torch.ones(3, 1, 3, 3)}, about, "does not fit its settings")
        damaged(name, {k: v for k, v in tensors.items() if k != "learner.head.scale"}, about, "one side only")
        damaged(name, tensors, {}, "is damaged")
    last, about = checkpoint.load(out / "last.safetensors")
    damaged("last.safetensors", last, {**about, "iteration": -1}, "is damaged")
    damaged("last.safetensors", last, {**about, "iteration": "x"}, "is damaged")
    damaged("last.safetensors", {**last, "random.torch": torch.ones(3)}, about, "is damaged")
    best, about = checkpoint.load(out / "best.safetensors")
    huge = {**quick.as_json(), "width": 10**9}
    damaged("best.safetensors", best, {**about, "config": huge}, "is damaged|does not fit")
    (out / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        train(quick, out, resume=True)


def test_a_non_finite_loss_is_reported(quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.functional.cross_entropy", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ValueError, match="diverged at iteration 1: the loss is nan; start again with a lower learning"):
        train(quick, tmp_path / "run")


@pytest.mark.parametrize("head", ["group-lasso-svm", "prototypes"])
def test_diverged_runs_are_reported(quick: TrainConfig, tmp_path: Path, head: Head) -> None:
    """The message for non-finite features names the cause, the learning rate."""
    config = replace(quick.with_head(head), learning_rate=1e30, optimizer="sgd")
    with pytest.raises(
        ValueError, match=r"^the run diverged at iteration \d: .*; start again with a lower learning_rate"
    ):
        train(config, tmp_path / "run")


@pytest.mark.slow
def test_clip_norm_limits_the_gradient(quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms, step = [], _Run.advance

    def measured(self: _Run) -> object:
        result = step(self)
        norms.append(torch.cat([p.grad.flatten() for p in self.learner.parameters() if p.grad is not None]).norm())
        return result

    monkeypatch.setattr(_Run, "advance", measured)
    train(replace(quick, iterations=2, clip_norm=1e-3), tmp_path / "run")
    assert max(norms) <= 1.001e-3
    norms.clear()
    train(replace(quick, iterations=2), tmp_path / "other")
    assert min(norms) > 1e-2


@pytest.mark.slow
def test_the_lock_is_held_until_the_end(
    quick: TrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second(self: _Run, *arguments: object) -> Results:
        for resume in (False, True):
            with pytest.raises(BlockingIOError, match=f"is in use by process {os.getpid()} on host"):
                train(quick, tmp_path / "run", resume=resume)
        return finish(self, *arguments)  # type: ignore[arg-type]

    finish = _Run.finish
    monkeypatch.setattr(_Run, "finish", second)
    train(quick, tmp_path / "run")
    assert_equal(tmp_path / "run", whole)


@pytest.fixture(scope="module")
def within(quick: TrainConfig) -> TrainConfig:
    """Episodes within one alphabet, the other one left out, so that there is no validation."""
    return replace(
        quick, episodes="within-alphabet", left_out=("Alphabet1",), image_size=20, align="ink", augment="drawings"
    )


@pytest.mark.slow
def test_with_a_group_left_out_the_last_learner_is_tested(
    within: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On all classes of the group, without validation."""
    results, text = run(within, tmp_path / "whole")
    assert results.iteration == 14
    assert results.validation is None
    assert [(test.split, test.shot) for test in results.tests] == [("test", 1), ("test", 2)]
    assert "15 classes to train on, none to choose among learners by, 15 others to test it on" in text
    assert "Test of the learner of iteration 14 (the last)" in text
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train"}
    learner, config = load_run(tmp_path / "whole")
    assert config == within.settled()
    assert learner.shape == (1, 20, 20)
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "the learner of step 14, the last one, is tested" in report
    # A resumed run has the same files and reports no missing lines of a validation.
    step = _Run.advance
    monkeypatch.setattr(_Run, "advance", lambda self: os.kill(os.getpid(), signal.SIGINT) or step(self))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(within, tmp_path / "run", resume=(tmp_path / "run").exists())
    monkeypatch.undo()
    _, text = run(within, tmp_path / "run", resume=True)
    assert "lacks" not in text
    assert_equal(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_training_on_all_classes_has_no_tests(within: TrainConfig, tmp_path: Path) -> None:
    results, text = run(replace(within, left_out=()), tmp_path / "run")
    assert results.tests == ()
    assert "no classes are left to test on" in text.lower()
    assert "No classes are left to test on" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / PATTERNS).exists()
    assert load_run(tmp_path / "run")[0].shape == (1, 20, 20)
