import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from numpy.random import default_rng

from sparsedis.disentangle.factors import Factors
from sparsedis.disentangle.tasks import TaskDistribution, Tasks


@pytest.fixture(scope="module")
def factors() -> Factors:
    return Factors("gaussian", 0.9, 1.0, 0)


def patterns(structure: str, count: int = 20_000) -> Counter[tuple[bool, ...]]:
    return Counter(map(tuple, (TaskDistribution(structure).sample(default_rng(0), count) != 0).tolist()))


def test_bernoulli_supports_are_uniform() -> None:
    """All 63 non-empty supports have equal probability, so a factor is in 32/63 of them."""
    seen = patterns("bernoulli")
    assert len(seen) == 63
    assert sum((n - 20_000 / 63) ** 2 / (20_000 / 63) for n in seen.values()) < 120  # chi-square, 62 degrees


def test_fixed_supports_have_a_fixed_size() -> None:
    seen = patterns("fixed-2")
    expected = {tuple(i in pair for i in range(6)) for pair in itertools.combinations(range(6), 2)}
    assert seen.keys() == expected
    assert min(seen.values()) > 0.8 * 20_000 / 15


def test_block_supports_are_blocks() -> None:
    seen = patterns("blocks-3")
    assert seen.keys() == {(True,) * 3 + (False,) * 3, (False,) * 3 + (True,) * 3}
    assert min(seen.values()) > 9000


def test_finite_tasks_are_fixed() -> None:
    tasks = TaskDistribution("finite-2", seed=1)
    drawn = np.unique(tasks.sample(default_rng(0), 1000), axis=0)
    assert drawn.shape == (12, 6)
    assert np.array_equal(np.unique(tasks.fixed(), axis=0), drawn)
    assert {tuple(np.flatnonzero(w)) for w in drawn} == {(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5)}
    assert not np.array_equal(tasks.fixed(), TaskDistribution("finite-2", seed=2).fixed())


@pytest.mark.parametrize(("structure", "kurtosis"), [("gaussian", 3.0), ("laplace", 6.0)])
def test_dense_coefficients_have_the_right_kurtosis(structure: str, kurtosis: float) -> None:
    drawn = TaskDistribution(structure).sample(default_rng(0), 100_000)
    assert (drawn != 0).all()
    assert (drawn**4).mean() / (drawn**2).mean() ** 2 == pytest.approx(kurtosis, rel=0.05)


@pytest.mark.parametrize("structure", ["bernoulli", "fixed-4", "blocks-2", "finite-3", "laplace"])
def test_supports_lists_the_supports_that_occur(structure: str) -> None:
    listed = [tuple(row) for row in TaskDistribution(structure).supports().tolist()]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(patterns(structure))


@pytest.mark.parametrize(
    "structure", ["", "bernoulli-2", "fixed", "fixed-0", "fixed-7", "blocks-4", "finite-x", "cauchy"]
)
def test_invalid_structures_are_rejected(structure: str) -> None:
    with pytest.raises(ValueError, match="tasks: expected"):
        TaskDistribution(structure)


@pytest.mark.parametrize("structure", ["bernoulli", "blocks-2", "finite-2"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_split_has_the_structure(factors: Factors, structure: str, split: str) -> None:
    distribution = TaskDistribution(structure)
    batch = Tasks(factors, distribution, split, groups=40, tasks=5).batch(3)
    seen = {tuple(row) for row in (batch.coefficients.flatten(0, 1) != 0).tolist()}
    assert seen <= {tuple(row) for row in distribution.supports().tolist()}
    share = (batch.coefficients != 0).double().mean()
    assert share == pytest.approx(distribution.supports().mean(), abs=0.05)


def test_targets_are_linear_with_noise(factors: Factors) -> None:
    """y - <w, z> is independent noise of a tenth of the signal's standard deviation."""
    tasks = Tasks(factors, TaskDistribution("bernoulli"), "train", groups=30, tasks=8, samples=50)
    batch = tasks.batch(0)
    assert batch.indices.shape == (30, 50)
    assert batch.targets.shape == (30, 8, 50)
    clean = torch.einsum("gtm,gnm->gtn", batch.coefficients, factors.values[batch.indices])
    noise = batch.targets - clean
    ratio = noise.square().mean(-1).sqrt() / clean.square().mean(-1).sqrt()
    assert ratio.mean() == pytest.approx(0.1, rel=0.02)
    assert ratio.std() == pytest.approx(0.1 / np.sqrt(100), rel=0.3)
    quiet = Tasks(factors, TaskDistribution("bernoulli"), "train", groups=30, tasks=8, samples=50, target_noise=0.0)
    assert torch.allclose(quiet.batch(0).targets, clean, atol=1e-5)


def test_batches_depend_on_seed_split_and_index_only(factors: Factors) -> None:
    def batch(index: int, split: str = "train", seed: int = 0) -> torch.Tensor:
        return Tasks(factors, TaskDistribution("bernoulli"), split, seed=seed).batch(index).targets

    first = batch(5)
    assert torch.equal(batch(5), first)
    for other in (batch(6), batch(5, "test"), batch(5, "validation"), batch(5, seed=1)):
        assert not torch.equal(other, first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "exam"}, "split: expected one of train, validation, test, got 'exam'"),
        ({"groups": 0}, "groups: expected a number >= 1, got 0"),
        ({"samples": 0}, "samples: expected a number >= 1, got 0"),
        ({"target_noise": -1.0}, r"target_noise: expected a finite number >= 0, got -1\.0"),
        ({"distribution": TaskDistribution("gaussian", 5)}, "distribution: expected one over 6 factors, got 5"),
    ],
)
def test_invalid_arguments_are_rejected(factors: Factors, changes: dict[str, object], message: str) -> None:
    arguments = {"factors": factors, "distribution": TaskDistribution("gaussian"), "split": "train", **changes}
    with pytest.raises(ValueError, match=message):
        Tasks(**arguments)  # type: ignore[arg-type]
