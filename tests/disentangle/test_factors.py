import numpy as np
import pytest
import torch
from numpy.random import default_rng

from sparsedis.disentangle import shapes3d
from sparsedis.disentangle.factors import Factors


def test_values_are_standardised_grid_values() -> None:
    """Without noise, they are affine in the published values, with mean 0 and variance 1 over the grid."""
    z = Factors(noise=0.0).values.double().numpy()
    labels = shapes3d.values(torch.arange(shapes3d.COUNT)).numpy()
    expected = (labels - labels.mean(0)) / labels.std(0)
    assert np.abs(z - expected).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_noise_stays_in_its_cell(noise: float) -> None:
    """It is uniform with the width noise * step around the grid value, independently for every image and factor."""
    z = Factors(noise=noise, seed=3).values.double().numpy()
    places = shapes3d.coordinates(torch.arange(shapes3d.COUNT)).double().numpy()
    for j, size in enumerate(shapes3d.SIZES):
        scale = np.sqrt((size**2 - 1) / 12 + noise**2 / 12)  # of a uniform grid value plus uniform noise
        residue = z[:, j] * scale + (size - 1) / 2 - places[:, j]
        assert abs(residue).max() < noise / 2 + 0.01
        assert abs(residue.std() - noise / np.sqrt(12)) < 0.002
        assert abs(np.corrcoef(residue, places[:, j])[0, 1]) < 0.01
    assert not torch.equal(Factors(noise=noise, seed=3).values, Factors(noise=noise, seed=4).values)
    assert torch.equal(Factors(noise=noise, seed=3).values, Factors(noise=noise, seed=3).values)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_probabilities_follow_the_gaussian_density(rho: float) -> None:
    """Up to a constant factor, with the covariance matrix written out."""
    factors = Factors("gaussian", rho, 1.0, 0)
    covariance = np.full((6, 6), rho)
    np.fill_diagonal(covariance, 1.0)
    i = default_rng(0).integers(shapes3d.COUNT, size=300)
    z = factors.values.double().numpy()[i]
    exponent = -0.5 * np.einsum("ni,ij,nj->n", z, np.linalg.inv(covariance), z)
    ratio = np.log(factors.probability[i]) - exponent
    assert np.abs(ratio - ratio[0]).max() < 1e-4
    assert factors.probability.sum() == pytest.approx(1)


@pytest.mark.slow
def test_correlations_grow_with_rho() -> None:
    seen = [Factors("gaussian", rho).correlation()[~np.eye(6, dtype=bool)] for rho in (0.0, 0.5, 0.9)]
    assert np.abs(seen[0]).max() < 0.01
    assert 0.2 < seen[1].min() <= seen[1].max() < 0.5  # the grid truncates the tails, which reduces the correlation
    assert 0.75 < seen[2].min() <= seen[2].max() < 0.9


@pytest.mark.slow
def test_samples_follow_the_probabilities() -> None:
    factors = Factors("gaussian", 0.9, 1.0, 0)
    drawn = factors.sample(default_rng(1), (400, 500))
    assert drawn.shape == (400, 500)
    assert drawn.dtype == torch.int64
    for j, size in enumerate(shapes3d.SIZES):
        places = shapes3d.coordinates(torch.arange(shapes3d.COUNT))[:, j].numpy()
        expected = np.bincount(places, factors.probability, size) * drawn.numel()
        seen = np.bincount(shapes3d.coordinates(drawn.flatten())[:, j].numpy(), minlength=size)
        assert ((seen - expected) ** 2 / expected).sum() < 50, shapes3d.FACTORS[j]  # chi-square of at most 14 degrees
    z = factors.values[drawn.flatten()].double().numpy()
    assert np.abs(np.corrcoef(z, rowvar=False) - factors.correlation()).max() < 0.01


def test_uniform_factors_have_equal_probabilities() -> None:
    factors = Factors("uniform")
    assert np.ptp(factors.probability) == 0
    drawn = factors.sample(default_rng(0), (100_000,))
    assert abs(float((drawn < shapes3d.COUNT // 3).double().mean()) - 1 / 3) < 0.006
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < shapes3d.COUNT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("laplace",), "factors: expected one of gaussian, uniform, got 'laplace'"),
        (("gaussian", 1.0), r"rho: expected a number from 0 to below 1, got 1\.0"),
        (("gaussian", float("nan")), "rho: expected a number from 0 to below 1, got nan"),
        (("uniform", 0.5), r"rho: expected 0 for uniform factors, got 0\.5"),
        (("gaussian", 0.0, 1.5), r"noise: expected a number from 0 to 1, got 1\.5"),
    ],
)
def test_invalid_arguments_are_rejected(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Factors(*arguments)  # type: ignore[arg-type]
