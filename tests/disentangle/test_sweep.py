import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from sparsedis.disentangle import sweep as module
from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.disentangle.sweep import summary, sweep
from sparsedis.disentangle.tables import sweep_table

pytest.importorskip("scipy")
pytest.importorskip("sklearn")


def one(rho: float, inner: str, seed: int, mcc: float, ica: float) -> dict[str, object]:
    return {"rho": rho, "inner": inner, "seed": seed, "mcc": mcc, "r": 0.9, "mcc_ica": ica, "r_ica": 0.8}


def test_summary_of_small_records() -> None:
    records = [
        one(0.9, "lasso", 0, 0.7, 0.1),
        one(0.0, "lasso", 0, 0.8, 0.1),
        one(0.0, "lasso", 1, 1.0, 0.1),
        one(0.0, "ridge", 0, 0.5, 0.6),
    ]
    groups = {(x["value"], x["method"]): x for x in summary(records, "rho")}
    assert list(groups) == [
        (0.0, "inner lasso"),
        (0.0, "inner ridge"),
        (0.0, "inner ridge + ICA"),
        (0.9, "inner lasso"),
    ]
    lasso = groups[0.0, "inner lasso"]
    assert (lasso["seeds"], lasso["mcc_mean"]) == (2, pytest.approx(0.9))
    assert lasso["mcc_sd"] == pytest.approx(0.2 / 2**0.5)  # of two samples
    assert (groups[0.0, "inner ridge + ICA"]["mcc_mean"], groups[0.0, "inner ridge + ICA"]["r_mean"]) == (0.6, 0.8)
    assert groups[0.0, "inner ridge"]["mcc_sd"] is None  # undefined for one seed
    lines = sweep_table(list(groups.values()), "rho").splitlines()
    assert lines[2] == "| 0.0 | inner lasso | 2 | 0.900 ± 0.141 | 0.900 ± 0.000 |"
    assert lines[3] == "| 0.0 | inner ridge | 1 | 0.500 | 0.900 |"


@pytest.mark.slow
def test_sweeps_can_be_resumed(small: DisentangleConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = replace(small, iterations=2, validate_every=1, save_every=1)
    out, ran, train = tmp_path / "sweep", [], module.train

    def counted(config: DisentangleConfig, folder: Path, **options: object) -> object:
        ran.append((folder.name, options["resume"]))
        if len(ran) == 3:
            (folder).mkdir()
            (folder / "config.json").write_text(json.dumps(config.as_json()))
            raise KeyboardInterrupt
        return train(config, folder, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "train", counted)
    text = io.StringIO()
    arguments = {"vary": "rho", "values": (0.0, 0.9), "seeds": (0,), "console": Console(file=text, width=200)}
    with pytest.raises(KeyboardInterrupt):
        sweep(base, out, **arguments)  # type: ignore[arg-type]
    assert len(json.loads((out / "sweep.json").read_text())["runs"]) == 2
    records = sweep(base, out, **arguments)  # type: ignore[arg-type]
    names = ["rho-0.0-lasso-0", "rho-0.0-ridge-0", "rho-0.9-lasso-0", "rho-0.9-ridge-0"]
    assert ran == [(names[0], False), (names[1], False), (names[2], False), (names[2], True), (names[3], False)]
    assert [(x["rho"], x["inner"], x["seed"]) for x in records] == [
        (0.0, "lasso", 0),
        (0.0, "ridge", 0),
        (0.9, "lasso", 0),
        (0.9, "ridge", 0),
    ]
    assert set(records[0]) >= {"inner", "rho", "lambda1", "mcc", "r", "dci", "mcc_ica", "iterations", "seed", "seconds"}
    assert set(records[0]["dci"]) == {"disentanglement", "completeness", "informativeness"}
    assert (out / "sweep.md").read_text().count("\n") == 2 + 6
    assert "| 0.9 | inner ridge + ICA | 1 |" in text.getvalue()
    Image.open(out / "sweep.png").verify()

    ran.clear()
    assert sweep(base, out, **arguments) == records  # type: ignore[arg-type]
    assert not ran
    with pytest.raises(ValueError, match=r"resume: lambda1: the run in .* has 0\.1, got 0\.5"):
        sweep(replace(base, lambda1=0.5), out, **arguments)  # type: ignore[arg-type]


def test_invalid_settings_are_rejected(small: DisentangleConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vary: expected one of rho, noise, tasks, lambda1, got 'width'"):
        sweep(small, tmp_path, vary="width")
    with pytest.raises(ValueError, match="tasks: expected one of"):
        sweep(small, tmp_path / "new", vary="tasks", values=("bernoulli", "cauchy"))
    # Counting a run twice would reduce the standard deviation.
    with pytest.raises(ValueError, match="seeds: expected different ones, got 0, 1, 0"):
        sweep(small, tmp_path / "new", seeds=(0, 1, 0))
    with pytest.raises(ValueError, match="seeds: expected different ones, got none"):
        sweep(small, tmp_path / "new", seeds=())
    with pytest.raises(ValueError, match=r"values: expected different ones, got 0, 0\.0"):
        sweep(small, tmp_path / "new", values=(0, 0.0))
    assert not list(tmp_path.iterdir())
