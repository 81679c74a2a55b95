import json
import os
import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsedis.disentangle import figures
from sparsedis.disentangle import train as module
from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.disentangle.results import CORRELATIONS, record
from sparsedis.disentangle.sweep import summary
from sparsedis.disentangle.tables import sweep_table
from sparsedis.disentangle.train import Outcome, _Run, load_run, outer_loss, train
from sparsedis.models.factor_encoder import FactorEncoder
from sparsedis.runs import checkpoint
from sparsedis.runs.environment import SECONDS, seconds
from sparsedis.runs.folder import FILES
from tests import training
from tests.training import CIRCUMSTANCES, assert_equal

pytest.importorskip("scipy")
sklearn = pytest.importorskip("sklearn.linear_model")


run = partial(training.run, train)


@pytest.fixture(scope="module")
def whole(small: DisentangleConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(small, out)
    return out


@pytest.mark.slow
def test_a_run_writes_its_files(small: DisentangleConfig, whole: Path) -> None:
    assert {file.name for file in whole.iterdir()} == {*FILES, CORRELATIONS, *CIRCUMSTANCES}
    assert DisentangleConfig.from_json(json.loads((whole / "config.json").read_text())) == small
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [x["iteration"] for x in lines if x["split"] == "train"] == [2, 4, 6, 8, 10, 12, 14]
    validations = [x for x in lines if x["split"] == "validation"]
    assert [x["iteration"] for x in validations] == [5, 10, 14]
    assert all(x["certified"] == 1 and 0 < x["features_used"] <= 1 for x in lines)
    assert all(0 <= x["mcc"] <= x["r"] + 1e-6 <= 1 + 1e-5 for x in validations)
    results = json.loads((whole / "results.json").read_text())
    best = min(validations, key=lambda x: x["loss"])
    assert (results["iteration"], results["validation_loss"]) == (best["iteration"], best["loss"])
    # Features are in the order of the assignment, so that MCC is the mean of the diagonal.
    correlations = np.abs(results["correlations"])
    assert correlations.shape == (6, 6)
    assert results["mcc"] == pytest.approx(np.diag(correlations).mean())
    assert results["r_ica"] == pytest.approx(results["r"], abs=1e-6)  # ICA is a linear map
    encoder, config = load_run(whole)
    assert config == small
    assert not encoder.training
    assert seconds(whole) > 0


def tasks(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (2, 30, 4) and targets (2, 3, 30) of sparse regressions."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 30, 4, generator=generator, dtype=torch.float64)
    w = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).clamp(-1, 1)
    w[..., 2:] = 0
    y = w @ x.mT + 0.1 * torch.randn(2, 3, 30, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


@pytest.mark.parametrize("inner", ["lasso", "ridge"])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("lambda1", [0.0, 0.2])
def test_the_outer_loss_agrees_with_scikit_learn(inner: str, split: bool, lambda1: float) -> None:
    x, y = tasks()
    config = DisentangleConfig(
        inner=inner, split=split, lambda1=lambda1, outer_l1=0.3, outer_l2=0.05, inner_samples=20, outer_samples=10
    )
    losses, used = [], []
    for g in range(2):
        for t in range(3):
            features, targets = x[g].numpy(), y[g, t].numpy()
            fit = slice(0, 20) if split else slice(None)
            out = slice(20, None) if split else slice(None)
            a, b = features[fit], targets[fit]
            if lambda1 == 0:
                w = np.linalg.lstsq(a, b, rcond=None)[0]
            elif inner == "lasso":
                alpha = lambda1 * np.abs(a.T @ b).max() / len(b)
                w = sklearn.Lasso(alpha=alpha, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(a, b).coef_
            else:
                w = sklearn.Ridge(alpha=lambda1 * (a**2).sum(), fit_intercept=False).fit(a, b).coef_
            a, b = features[out], targets[out]
            loss = 0.5 * ((a @ w - b) ** 2).mean()
            loss += 0.3 * np.abs(a.T @ b).max() / len(b) * np.abs(w).sum()
            loss += 0.5 * 0.05 * (a**2).sum() / len(b) * (w**2).sum()
            losses.append(loss)
            used.append((np.abs(w) > 1e-9).mean())
    outcome = outer_loss(x, y, config)
    assert outcome.loss.item() == pytest.approx(np.mean(losses), rel=1e-6)
    assert outcome.used == pytest.approx(np.mean(used))
    assert outcome.certified == 1
    assert 0 <= outcome.largest_gap <= 1e-5


@pytest.mark.parametrize("inner", ["lasso", "ridge"])
@pytest.mark.parametrize("split", [False, True])
def test_the_gradient_of_the_outer_loss_agrees_with_finite_differences(inner: str, split: bool) -> None:
    """The differences use absolute inner penalties, because relative penalties have no gradient through their scale."""
    x, y = tasks()
    config = DisentangleConfig(inner=inner, split=split, lambda1=0.1, inner_samples=20, outer_samples=10)
    x.requires_grad_(True)
    outer_loss(x, y, config).loss.backward()
    fit = slice(0, 20) if split else slice(None)
    out = slice(20, None) if split else slice(None)
    with torch.no_grad():
        inner_y = y[:, :, fit]
        alpha = 0.1 * (x[:, fit].mT[:, None] @ inner_y[..., None])[..., 0].abs().amax(-1) / inner_y.shape[-1]
        beta = 0.1 * x[:, fit].square().sum((1, 2))

    def loss(features: np.ndarray) -> float:
        total = 0.0
        for g in range(2):
            for t in range(3):
                a, b = features[g][fit], y[g, t].numpy()[fit]
                if inner == "lasso":
                    model = sklearn.Lasso(alpha[g, t].item(), fit_intercept=False, tol=1e-14, max_iter=10**6)
                else:
                    model = sklearn.Ridge(beta[g].item(), fit_intercept=False)
                w = model.fit(a, b).coef_
                total += 0.5 * ((features[g][out] @ w - y[g, t].numpy()[out]) ** 2).mean() / 6
        return total

    generator = np.random.default_rng(0)
    for _ in range(3):
        direction = generator.standard_normal(x.shape)
        base = x.detach().numpy()
        slope = (loss(base + 1e-5 * direction) - loss(base - 1e-5 * direction)) / 2e-5
        assert (x.grad.numpy() * direction).sum() == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.slow
def test_training_reduces_the_loss(small: DisentangleConfig, tmp_path: Path) -> None:
    config = replace(small, iterations=60, group_tasks=16, inner_samples=25, outer_samples=25, rho=0.0)
    config = replace(config, validate_every=20, validation_batches=2)
    run(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validations = [x for x in lines if x["split"] == "validation"]
    assert validations[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert validations[-1]["r"] > 0.6


@pytest.mark.slow
def test_the_callers_random_state_is_restored(small: DisentangleConfig, whole: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(small, tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)
    assert_equal(tmp_path / "run", whole)


# The tests of few-shot learning, which has the same loop, interrupt and kill it at more places.
@pytest.mark.slow
@pytest.mark.parametrize("stop", [5, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (1, 13))])
def test_interrupted_runs_can_be_resumed(
    small: DisentangleConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Ctrl-C ends the run after the current step; resumed, it has the files of an uninterrupted run."""
    advance = _Run.advance

    def interrupted(self: _Run) -> dict[str, float | None]:
        if self.progress.iteration + 1 == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(self)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(small, out)
    assert checkpoint.load(out / "last.safetensors")[1]["iteration"] == stop
    before = seconds(out)
    run(small, out, resume=True)
    assert seconds(out) > before > 0
    assert_equal(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [8, 26, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (2, 16))])
def test_runs_killed_at_a_write_can_be_resumed(
    small: DisentangleConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """The process dies at its stop-th fsync, before or after the file is renamed."""

    class Killed(BaseException):
        pass

    writes, sync = 0, os.fsync

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
            run(small, out)
    before = seconds(out)
    assert (before > 0) == (stop > 8), "the time up to the last checkpoint is saved"
    run(small, out, resume=True)
    assert seconds(out) > before
    assert_equal(out, whole)


@pytest.mark.slow
def test_early_stopping_ends_a_run(small: DisentangleConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two validations without progress; resuming does not continue the run."""
    losses = iter([3.0, 2.0, 2.5, 2.0, 1.0])
    evaluate = module.World.evaluate

    def scripted(self: module.World, encoder: object, tasks: object, batches: int, device: object) -> Outcome:
        outcome = evaluate(self, encoder, tasks, batches, device)  # type: ignore[arg-type]
        return outcome._replace(loss=torch.tensor(next(losses))) if tasks is self.validation else outcome

    monkeypatch.setattr(module.World, "evaluate", scripted)
    config = replace(small, iterations=50, validate_every=3, patience=2)
    results, _ = run(config, tmp_path / "run")
    assert (results.iteration, results.iterations, results.validation_loss) == (6, 12, 2.0)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(x["iteration"] for x in lines) == 12
    again, _ = run(config, tmp_path / "run", resume=True)
    assert again == results


@pytest.mark.slow
def test_a_run_is_not_overwritten(small: DisentangleConfig, whole: Path) -> None:
    with pytest.raises(FileExistsError, match=r"whole already holds config\.json"):
        train(small, whole)
    with pytest.raises(ValueError, match=r"resume: lambda1: the run in .*whole has 0\.1, got 0\.3"):
        train(replace(small, lambda1=0.3), whole, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "zip:x"}, "data: expected one of"),
        ({"data": "cache:nowhere"}, "found no file at /"),
        ({"device": "warp"}, "device: 'warp' is not available"),
    ],
)
def test_errors_leave_no_files(
    small: DisentangleConfig, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(replace(small, **changes), tmp_path / "a" / "b")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_damaged_runs_are_rejected(small: DisentangleConfig, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in FILES:
        (out / name).write_bytes((whole / name).read_bytes())
    tensors, about = checkpoint.load(out / "last.safetensors")
    for changed in ({}, {**about, "iteration": -1}, {**about, "best_iteration": "x"}):
        checkpoint.save(out / "last.safetensors", tensors, changed)
        with pytest.raises(ValueError, match="is damaged"):
            train(small, out, resume=True)
    for name, contents in {
        "config.json": ("{", "{}"),
        "results.json": ("", "[]", "{}", '{"mcc": 1}', "[" * 100_000),
        SECONDS: ("x", "[]", "null"),
    }.items():
        before = (whole / name).read_bytes()
        for content in contents:
            (out / name).write_text(content)
            with pytest.raises(ValueError, match=f"{name} is damaged"):
                record(out)
        (out / name).write_bytes(before)
    tensors, about = checkpoint.load(out / "best.safetensors")
    checkpoint.save(out / "best.safetensors", tensors, {})
    with pytest.raises(ValueError, match="is damaged"):
        load_run(out)
    checkpoint.save(out / "best.safetensors", {**tensors, "learner.norm.running_mean": torch.ones(3)}, about)
    with pytest.raises(ValueError, match="does not fit its settings"):
        load_run(out)


@pytest.mark.slow
def test_non_finite_losses_are_reported(
    small: DisentangleConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "outer_loss", lambda *_: Outcome(torch.tensor(float("nan")), 0.5, 1.0))
    with pytest.raises(ValueError, match="diverged at iteration 1: the loss is nan; start again with a lower learning"):
        train(small, tmp_path / "run")


@pytest.mark.slow
def test_with_a_constant_feature_only_ica_is_missing(
    small: DisentangleConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is printed and recorded."""
    forward = FactorEncoder.forward

    def dead(self: FactorEncoder, images: torch.Tensor) -> torch.Tensor:
        return forward(self, images) * torch.tensor([1.0, 0, 1, 1, 1, 1])

    monkeypatch.setattr(FactorEncoder, "forward", dead)
    config = replace(small, iterations=2, validate_every=2, clip_norm=1.0)
    results, text = run(config, tmp_path / "run")
    reason = "expected 6 linearly independent features, none of them constant, got 5 on the 100 samples to fit"
    assert (results.mcc_ica, results.r_ica, results.ica_missing) == (None, None, reason)
    assert 0 < results.mcc <= results.r
    assert f"FastICA: {reason}\n" in text
    assert re.search(r"MCC after FastICA .* missing", text)
    written = record(tmp_path / "run")
    assert (written["mcc_ica"], written["ica_missing"]) == (None, reason)
    groups = summary([{**written, "inner": "ridge"}], "rho")
    assert [(group["method"], group["seeds"]) for group in groups] == [("inner ridge", 1), ("inner ridge + ICA", 0)]
    assert sweep_table(groups, "rho").splitlines()[-1] == "| 0.9 | inner ridge + ICA | 0 | - | - |"
    assert figures.sweep(groups, "rho").startswith(b"\x89PNG")
