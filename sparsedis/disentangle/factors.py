"""Distributions over the factors of 3D Shapes: the probability of each image, and the factor values for the targets."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray
from torch import Tensor

from sparsedis.disentangle import shapes3d

UNIFORM = "uniform"
GAUSSIAN = "gaussian"
KINDS = (GAUSSIAN, UNIFORM)

_NOISE_STREAM = 3  # stream of the seed; 0 to 2 belong to the splits


class Factors:
    """The 480,000 images with standardised factor values, and the probability of each image.

    Uniform noise fills the gaps of the grid: every image has fixed values within ``noise`` / 2 steps of its grid
    values, which are then standardised over all images. "gaussian" draws image i with a probability proportional to
    exp(-z_i^T S^-1 z_i / 2), where S has diagonal 1 and off-diagonal ``rho``. This is exactly the Gaussian restricted
    to the grid, whose correlations are smaller than ``rho`` (see :meth:`correlation`). "uniform" draws all images with
    equal probability.

    Source: Lachapelle et al., ICML 2023, section 5.1 (their "harder" distribution).

    Args:
        kind: "gaussian" or "uniform".
        rho: correlation of any two factors of the Gaussian, from 0 to below 1; 0 for "uniform".
        noise: width of the noise in steps of the grid, 0 to 1.
        seed: seed of the noise.

    Attributes:
        values: factor values z, (480000, 6), float32.
        probability: of every image, (480000,), float64.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, kind: str = GAUSSIAN, rho: float = 0.0, noise: float = 1.0, seed: int = 0) -> None:
        self.check(kind, rho, noise)
        self.kind, self.rho, self.noise, self.seed = kind, float(rho), float(noise), seed
        z = shapes3d.coordinates(torch.arange(shapes3d.COUNT)).double().numpy()  # regular grid with step 1
        if noise:
            z += noise * (Generator(PCG64(SeedSequence([seed, _NOISE_STREAM]))).random(z.shape) - 0.5)
        z = (z - z.mean(0)) / z.std(0)
        self.values = torch.from_numpy(z.astype(np.float32))
        if kind == UNIFORM:
            density = np.ones(len(z))
        else:
            # S^-1 = (1 - c 1 1^T) / (1 - rho), by Sherman-Morrison
            shrink = rho / (1 + (z.shape[1] - 1) * rho)
            density = np.exp(-((z**2).sum(1) - shrink * z.sum(1) ** 2) / (2 * (1 - rho)))
        self.probability: NDArray[np.float64] = density / density.sum()
        self._cumulative = np.cumsum(self.probability)
        self._cumulative /= self._cumulative[-1]

    @staticmethod
    def check(kind: str, rho: float, noise: float) -> None:
        """ValueError unless the arguments define a distribution."""
        if kind not in KINDS:
            raise ValueError(f"factors: expected one of {', '.join(KINDS)}, got {kind!r}")
        if not 0 <= rho < 1:
            raise ValueError(f"rho: expected a number from 0 to below 1, got {rho}")
        if kind == UNIFORM and rho != 0:
            raise ValueError(f"rho: expected 0 for uniform factors, got {rho}")
        if not 0 <= noise <= 1:
            raise ValueError(f"noise: expected a number from 0 to 1, got {noise}")

    def sample(self, generator: Generator, shape: tuple[int, ...]) -> Tensor:
        """Image indices of the given shape, int64, drawn independently with replacement."""
        return torch.from_numpy(np.searchsorted(self._cumulative, generator.random(shape), side="right"))

    def correlation(self) -> NDArray[np.float64]:
        """Correlations of the factors under :attr:`probability`, (6, 6)."""
        z = self.values.double().numpy()
        centred = z - self.probability @ z
        covariance = centred.T @ (centred * self.probability[:, None])
        scale = np.sqrt(np.diag(covariance))
        return np.asarray(covariance / np.outer(scale, scale))
