"""The synthetic experiment on a small scale: data, cross-validation, and results."""

import io
import json

import pytest
import torch
from rich.console import Console

from sparsedis import cli
from sparsedis.disentangle import synthetic
from sparsedis.disentangle.synthetic import SyntheticConfig, cross_validate, draw

SMALL = SyntheticConfig(features=20, useful=(0.1,), samples=(20,), seeds=3, penalties=12)


def test_a_rotation_is_orthogonal():
    rotation = synthetic.random_rotation(torch.randn(9, 9, dtype=torch.float64))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(9, dtype=torch.float64))


def test_the_representations_differ_by_a_rotation_only():
    plain, rotated = (draw(SMALL, 0.1, 20, name, seed=1) for name in synthetic.REPRESENTATIONS)
    assert torch.equal(plain.targets, rotated.targets)
    assert plain.weights.count_nonzero() == 2
    assert (rotated.weights != 0).all()
    torch.testing.assert_close(plain.features @ plain.weights, rotated.features @ rotated.weights)
    torch.testing.assert_close(plain.features @ plain.features.T, rotated.features @ rotated.features.T)
    assert not torch.equal(draw(SMALL, 0.1, 20, "disentangled", seed=2).targets, plain.targets)


def test_r2_agrees_with_a_large_sample():
    config = SyntheticConfig(features=6, samples=(200_000,))
    data = draw(config, 0.5, 200_000, "entangled", seed=0)
    weights = data.weights + 0.2
    residual = data.targets - data.features @ weights - 0.3
    assert data.r2(weights, 0.3) == pytest.approx(1 - float(residual.square().mean() / data.targets.var()), abs=5e-3)
    assert data.r2(data.weights, 0.0) == pytest.approx(1 - config.noise)
    assert data.r2(torch.zeros(6), 0.0) == pytest.approx(0)


@pytest.mark.parametrize("method", synthetic.METHODS)
def test_cross_validation_agrees_with_scikit_learn(method):
    """Same folds, penalties and intercept, in a loop over scikit-learn's estimators."""
    linear = pytest.importorskip("sklearn.linear_model")
    data = draw(SMALL, 0.1, 20, "disentangled", seed=3)
    X, y = data.features.numpy(), data.targets.numpy()
    ours, intercept, certified = cross_validate(data, SMALL, method, seed=5)
    assert certified == 1

    order = torch.randperm(20, generator=torch.Generator().manual_seed(5))
    fold = torch.empty(20, dtype=torch.int64)
    fold[order] = torch.arange(20) % 5
    Xc, yc = X - X.mean(0), y - y.mean()
    if method == "lasso":
        grid = abs(Xc.T @ yc).max() / 20 * torch.logspace(0, -3, 12, dtype=torch.float64)
    else:
        grid = (Xc**2).sum() / 20 * torch.logspace(0, -4, 12, dtype=torch.float64)

    def fit(penalty, rows):
        if method == "lasso":
            return linear.Lasso(alpha=float(penalty), tol=1e-12, max_iter=10**6).fit(X[rows], y[rows])
        return linear.Ridge(alpha=float(penalty) * len(y[rows])).fit(X[rows], y[rows])

    errors = [
        sum(((y[fold == k] - fit(value, fold != k).predict(X[fold == k])) ** 2).sum() for k in range(5))
        for value in grid
    ]
    best = fit(grid[min(range(12), key=errors.__getitem__)], slice(None))
    torch.testing.assert_close(ours, torch.as_tensor(best.coef_), rtol=1e-4, atol=1e-6)
    assert intercept == pytest.approx(best.intercept_, rel=1e-4, abs=1e-6)


def test_a_rotation_affects_the_lasso_but_not_ridge():
    rows = {
        (name, method): synthetic.summarise(SMALL, 0.1, 20, name, method)
        for name in synthetic.REPRESENTATIONS
        for method in synthetic.METHODS
    }
    assert rows["entangled", "ridge"].r2_mean == pytest.approx(rows["disentangled", "ridge"].r2_mean, abs=1e-6)
    assert rows["disentangled", "lasso"].r2_mean > rows["disentangled", "ridge"].r2_mean + 0.1
    assert rows["disentangled", "lasso"].r2_mean > rows["entangled", "lasso"].r2_mean + 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"useful": ()}, "useful: expected different ones, got none"),
        ({"useful": (0.2, 0.2)}, r"useful: expected different ones, got 0\.2, 0\.2"),
        ({"samples": (25, 50, 25)}, "samples: expected different ones, got 25, 50, 25"),
        ({"samples": (4,)}, r"samples: expected at least 5 \(folds\), got 4"),
        ({"noise": float("nan")}, "noise: expected a number >= 0 and < 1, got nan"),
        ({"seeds": 0}, "seeds: expected a whole number >= 1, got 0"),
    ],
)
def test_invalid_settings_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**changes)


def test_one_seed_has_no_standard_error():
    rows = [synthetic.Row(0.2, 25, "disentangled", "lasso", 0.5, error, 1.0) for error in (None, 0.25)]
    shown = []
    for row in rows:
        console = Console(file=io.StringIO(), width=100)
        console.print(synthetic.table([row]))
        shown.append(console.file.getvalue())
    assert "0.500" in shown[0]
    assert "0.500 ±" not in shown[0]
    assert "0.500 ± 0.250" in shown[1]
    assert synthetic.figure(rows).startswith(b"\x89PNG")
    config = synthetic.SyntheticConfig(features=5, useful=(0.2,), samples=(10,), seeds=1, penalties=2)
    assert synthetic.summarise(config, 0.2, 10, "disentangled", "ridge").r2_se is None


@pytest.mark.slow
def test_the_command_writes_tables_and_figures(tmp_path, capsys):
    words = [
        "synthetic",
        "--features",
        "20",
        "--useful",
        "0.05",
        "0.5",
        "--samples",
        *("10", "15", "20", "25", "30", "35"),  # a table wider than 80 columns
        "--seeds",
        "2",
        "--penalties",
        "6",
    ]
    files = ["--json", str(tmp_path / "out.json"), "--figure", str(tmp_path / "out.png")]
    assert cli.main([*words, *files]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    assert len(rows) == 2 * 6 * 2 * 2
    for row in rows:
        assert set(row) >= {"useful", "n", "representation", "method", "r2_mean", "r2_se"}
        assert row["certified"] == 1
        assert row["r2_mean"] < 1
        assert row["r2_se"] > 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "0.633" in out  # published, 5% useful, n = 25
    for row in rows:
        assert f"{row['r2_mean']:.3f} ± {row['r2_se']:.3f}" in out
