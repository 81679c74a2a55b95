"""The synthetic experiment: sparse targets on disentangled or rotated features, Lasso against ridge regression.

Source: Lachapelle et al., ICML 2023 (arXiv 2211.14666), figure 1 and its appendix; its generating code is not public.
Features are isotropic Gaussian, and a fraction of them is useful. A rotation keeps them isotropic and does not affect
ridge regression, whose penalty is invariant, but spreads the target's weights over all features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsedis.lasso import lasso_lambda1_max, solve_lasso
from sparsedis.ridge import solve_ridge
from sparsedis.runs import plots
from sparsedis.runs.config import check_distinct
from sparsedis.runs.tables import Grid
from sparsedis.solution import Solution

REPRESENTATIONS = ("disentangled", "entangled")
METHODS = ("lasso", "ridge")
SAMPLES = (25, 50, 75, 100, 125, 150)
# Published means over 10 seeds, by useful fraction, representation and method, for n = 25, 50, 75, 100, 125, 150.
PUBLISHED = {
    (0.05, "disentangled", "lasso"): (0.633, 0.921, 0.940, 0.948, 0.949, 0.949),
    (0.05, "entangled", "lasso"): (-0.077, 0.033, 0.441, 0.719, 0.844, 0.891),
    (0.05, "entangled", "ridge"): (-0.074, 0.406, 0.661, 0.791, 0.867, 0.901),
    (0.2, "disentangled", "lasso"): (-0.075, 0.449, 0.820, 0.882, 0.896, 0.906),
    (0.2, "entangled", "lasso"): (-0.142, 0.017, 0.325, 0.615, 0.759, 0.830),
    (0.2, "entangled", "ridge"): (0.042, 0.476, 0.487, 0.750, 0.810, 0.855),
}


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of the experiment.

    Attributes:
        features: number of features m.
        useful: fractions of the features that the target depends on.
        samples: numbers of training samples n.
        seeds: number of repetitions; each draws weights, features, noise, rotation and folds.
        noise: fraction of the target's variance that is noise; the best possible R^2 is 1 - noise.
        folds: number of folds of the cross-validation that selects the penalty.
        penalties: number of penalties tried, from the largest down to 1e-3 (lasso) or 1e-4 (ridge) times it.
    """

    features: int = 100
    useful: tuple[float, ...] = (0.05, 0.2, 0.8)
    samples: tuple[int, ...] = SAMPLES
    seeds: int = 10
    noise: float = 0.04
    folds: int = 5
    penalties: int = 30

    def __post_init__(self) -> None:
        for name in ("features", "seeds", "folds", "penalties"):
            least = 2 if name == "folds" else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected a whole number >= {least}, got {getattr(self, name)}")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise: expected a number >= 0 and < 1, got {self.noise}")
        check_distinct("useful", self.useful)
        check_distinct("samples", self.samples)
        for fraction in self.useful:
            if not 0 < fraction <= 1:
                raise ValueError(f"useful: expected numbers > 0 and <= 1, got {fraction}")
        for n in self.samples:
            if n < self.folds:
                raise ValueError(f"samples: expected at least {self.folds} (folds), got {n}")


@dataclass(frozen=True)
class Row:
    """Mean and standard error (None for one seed) of R^2 over seeds, and the fraction of certified solves."""

    useful: float
    n: int
    representation: str
    method: str
    r2_mean: float
    r2_se: float | None
    certified: float


@dataclass(frozen=True, eq=False)
class Data:
    """A regression problem: features X (n, m), targets y (n,), and their true weights w (m,) and noise variance."""

    features: Tensor
    targets: Tensor
    weights: Tensor
    noise: float

    def r2(self, weights: Tensor, intercept: float) -> float:
        """R^2 of a predictor on infinitely many samples; for isotropic features the error is a distance of weights."""
        error = (weights - self.weights).square().sum() + intercept**2 + self.noise
        return 1 - float(error / (self.weights.square().sum() + self.noise))


def draw(config: SyntheticConfig, useful: float, n: int, representation: str, seed: int) -> Data:
    """The data of one seed, with all useful weights 1; the two representations differ only by a rotation."""
    generator = torch.Generator().manual_seed(_one_seed(seed, n, round(1000 * useful)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    m = config.features
    X, w = normal(n, m), torch.zeros(m, dtype=torch.float64)
    count = max(1, round(useful * m))
    w[:count] = 1
    noise = float(w.square().sum()) * config.noise / (1 - config.noise)
    y = X @ w + math.sqrt(noise) * normal(n)
    if representation == "entangled":
        rotation = random_rotation(normal(m, m))
        X, w = X @ rotation, rotation.T @ w
    return Data(X, y, w, noise)


def _one_seed(*values: int) -> int:
    """Combine several numbers to one seed."""
    result = 0
    for value in values:
        result = (result * 1_000_003 + value + 1) % 2**63
    return result


def random_rotation(gaussian: Tensor) -> Tensor:
    """An orthogonal matrix, uniformly distributed if ``gaussian`` (m, m) has independent standard normal entries."""
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal().sign()


def cross_validate(data: Data, config: SyntheticConfig, method: str, seed: int) -> tuple[Tensor, float, float]:
    """Weights and intercept at the penalty with the best predictions of held-out samples, and the certified fraction.

    All folds and penalties form one batch, with sample weight 0 for held-out samples. The intercept is not penalised:
    features and targets are centred on the fitted samples.
    """
    n = len(data.features)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(n, dtype=torch.int64)
    fold[order] = torch.arange(n) % config.folds
    kept = (fold != torch.arange(config.folds)[:, None]).to(torch.float64)  # (folds, n)
    solve, largest, smallest = _method(method, data)
    penalties = largest * torch.logspace(0, math.log10(smallest), config.penalties, dtype=torch.float64)

    X, y, _, _ = _centred(data, kept)
    many = config.penalties
    solution = solve(
        *(value.repeat_interleave(many, 0) for value in (X, y)),
        penalties.repeat(config.folds),
        kept.repeat_interleave(many, 0),
    )
    weights = solution.weights.unflatten(0, (config.folds, many))
    error = (y[..., None] - X @ weights.mT).square()  # (folds, n, penalties)
    best = penalties[((1 - kept[..., None]) * error).sum((0, 1)).argmin()]
    all_kept = torch.ones(1, n, dtype=torch.float64)
    X, y, mean_X, mean_y = _centred(data, all_kept)
    final = solve(X, y, best, all_kept)
    intercept = float(mean_y[0, 0] - mean_X[0, 0] @ final.weights[0])
    certified = torch.cat([solution.certified, final.certified]).double().mean()
    return final.weights[0], intercept, float(certified)


def _centred(data: Data, kept: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (folds, n, m) and targets (folds, n), centred on the kept samples, and their means."""
    weight = kept / kept.sum(1, keepdim=True)
    mean_X, mean_y = (weight @ data.features)[:, None], (weight @ data.targets)[:, None]
    return data.features - mean_X, data.targets - mean_y, mean_X, mean_y


def _method(method: str, data: Data) -> tuple[Callable[..., Solution], float, float]:
    """Solver, largest penalty, and ratio of the smallest to the largest penalty."""

    def lasso(X: Tensor, y: Tensor, penalty: Tensor, weight: Tensor) -> Solution:
        return solve_lasso(X, y, lambda1=penalty, sample_weight=weight, tol=1e-8)

    def ridge(X: Tensor, y: Tensor, penalty: Tensor, weight: Tensor) -> Solution:
        return solve_ridge(X, y, lambda2=penalty, sample_weight=weight, tol=1e-8)

    X, y, _, _ = _centred(data, torch.ones(1, len(data.features), dtype=torch.float64))
    if method == "lasso":
        return lasso, float(lasso_lambda1_max(X, y)), 1e-3
    return ridge, float(X.square().sum() / X.shape[1]), 1e-4


def run(config: SyntheticConfig, progress: Callable[[str], None] = lambda line: None) -> list[Row]:
    """Run all combinations of useful fraction, representation, method and n.

    Ridge regression is solved for disentangled features only: its weights rotate with the features, so that R^2 is the
    same for rotated ones up to rounding.
    """
    rows = []
    for useful in config.useful:
        for n in config.samples:
            ridge = summarise(config, useful, n, "disentangled", "ridge")
            for representation in REPRESENTATIONS:
                rows.append(summarise(config, useful, n, representation, "lasso"))
                rows.append(replace(ridge, representation=representation))
            progress(f"{useful:.0%} useful, n = {n}")
    return rows


def summarise(config: SyntheticConfig, useful: float, n: int, representation: str, method: str) -> Row:
    """Summarise one combination over all seeds."""
    scores, fractions = [], []
    for seed in range(config.seeds):
        data = draw(config, useful, n, representation, seed)
        weights, intercept, certified = cross_validate(data, config, method, seed)
        scores.append(data.r2(weights, intercept))
        fractions.append(certified)
    values = torch.tensor(scores, dtype=torch.float64)
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None
    return Row(useful, n, representation, method, float(values.mean()), error, sum(fractions) / len(fractions))


def table(rows: Sequence[Row]) -> Grid:
    """Means and standard errors, with the published means below them where available."""
    samples = sorted({row.n for row in rows})
    lines: list[list[str]] = []
    rules = []
    for useful in sorted({row.useful for row in rows}):
        rules.append(len(lines))
        for representation in REPRESENTATIONS:
            for method in METHODS:
                found = _series(rows, useful, representation, method)
                if not found:
                    continue
                published = dict(zip(SAMPLES, _published(useful, representation, method), strict=False))
                cells = []
                for n in samples:
                    cell = _mean(found[n]) if n in found else "-"
                    cells.append(f"{cell}\n{published[n]:.3f}        " if n in published else cell)
                lines.append([f"{useful:.0%}", representation, method, *cells])
    return Grid(
        ("useful", "features", "method", *(f"n = {n}" for n in samples)),
        lines,
        title="R^2, mean ± standard error over seeds (second: published, 100 features)",
        align="lll" + "r" * len(samples),
        rules=rules,
    )


def _mean(row: Row) -> str:
    """The mean with its standard error, which is omitted for one seed."""
    return f"{row.r2_mean:.3f}        " if row.r2_se is None else f"{row.r2_mean:.3f} ± {row.r2_se:.3f}"


def _series(rows: Sequence[Row], useful: float, representation: str, method: str) -> dict[int, Row]:
    return {
        row.n: row for row in rows if (row.useful, row.representation, row.method) == (useful, representation, method)
    }


def _published(useful: float, representation: str, method: str) -> tuple[float, ...]:
    # A rotation does not affect ridge regression, so one published row applies to both representations.
    return PUBLISHED.get((useful, "entangled" if method == "ridge" else representation, method), ())


def figure(rows: Sequence[Row]) -> bytes:
    """A PNG image of R^2 against n with error bars, one panel per useful fraction; published means are dotted."""
    fractions = sorted({row.useful for row in rows})
    image = plots.figure(4 * len(fractions) + 1, 3.6)
    panels = image.subplots(1, len(fractions), sharey=True, squeeze=False)[0]
    for panel, useful in zip(panels, fractions, strict=True):
        for representation, colour in zip(REPRESENTATIONS, ("C1", "C0"), strict=True):
            for method, marker in zip(METHODS, ("o", "^"), strict=True):
                found = _series(rows, useful, representation, method)
                panel.errorbar(
                    list(found),
                    [row.r2_mean for row in found.values()],
                    [math.nan if row.r2_se is None else row.r2_se for row in found.values()],
                    label=f"{representation}, {method}",
                    color=colour,
                    marker=marker,
                    ls="-" if method == "lasso" else "--",
                    capsize=3,
                )
                published = _published(useful, representation, method)
                panel.plot(SAMPLES[: len(published)], published, color=colour, marker=marker, ls=":", ms=3, alpha=0.6)
        panel.set(xlabel="training samples", title=f"{useful:.0%} of the features useful", ylim=(-0.25, 1.02))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("R²")
    panels[-1].legend(title="dotted: published, 100 features")
    return plots.png(image)
