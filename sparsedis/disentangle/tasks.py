"""Regression tasks on factors: targets y = <w, z> + noise, and distributions of the coefficients w."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray
from torch import Tensor

from sparsedis.data import SPLITS
from sparsedis.disentangle.factors import Factors

_FINITE_STREAM = 4  # stream of the seed for the fixed coefficients of "finite-K"

STRUCTURES = ("bernoulli", "fixed-K", "blocks-K", "finite-K", "laplace", "gaussian")


class TaskDistribution:
    """A distribution of coefficients (m,), named by its structure.

    - "bernoulli": Gaussian on a support that contains every factor with probability 1/2, given that it is not empty.
      All 2^m - 1 supports have equal probability.
    - "fixed-K": Gaussian on a support of K factors, all with equal probability.
    - "blocks-K": Gaussian on one of the m/K disjoint blocks of K neighbouring factors. Support variability fails.
    - "finite-K": one of m K fixed Gaussian vectors, K on each of the m cyclic intervals of K factors, drawn from the
      seed. These are finitely many tasks, the fewest that span every support.
    - "laplace", "gaussian": dense, with independent entries.

    Args:
        structure: one of these, with a number in place of K, such as "blocks-2".
        factors: m.
        seed: seed of "finite-K".

    Raises:
        ValueError: an unknown structure, or an invalid K.
    """

    def __init__(self, structure: str, factors: int = 6, seed: int = 0) -> None:
        name, _, number = structure.partition("-")
        takes = f"{name}-K" in STRUCTURES
        if not (takes and number.isdecimal()) and not (structure in STRUCTURES and not takes):
            raise ValueError(f"tasks: expected one of {', '.join(STRUCTURES)}, got {structure!r}")
        size = int(number) if takes else factors
        if not 1 <= size <= factors:
            raise ValueError(f"tasks: expected from 1 to {factors} factors in a support, got {structure!r}")
        if name == "blocks" and factors % size:
            raise ValueError(f"tasks: expected blocks that divide {factors} factors, got {structure!r}")
        self.structure, self.factors, self.seed = structure, factors, seed
        self._name, self._size = name, size
        if name == "finite":
            generator = Generator(PCG64(SeedSequence([seed, _FINITE_STREAM])))
            self._fixed = generator.standard_normal((factors * size, factors)) * np.repeat(self.supports(), size, 0)

    def supports(self) -> NDArray[np.bool_]:
        """The supports with positive probability, each once, (S, m)."""
        m, size = self.factors, self._size
        if self._name == "bernoulli":
            chosen = [c for k in range(1, m + 1) for c in itertools.combinations(range(m), k)]
        elif self._name == "fixed":
            chosen = list(itertools.combinations(range(m), size))
        elif self._name == "blocks":
            chosen = [tuple(range(start, start + size)) for start in range(0, m, size)]
        elif self._name == "finite":
            chosen = [tuple((start + i) % m for i in range(size)) for start in range(m)]
        else:
            chosen = [tuple(range(m))]
        result = np.zeros((len(chosen), m), bool)
        for row, support in zip(result, chosen, strict=True):
            row[list(support)] = True
        return result

    def fixed(self) -> NDArray[np.float64] | None:
        """The coefficients of all tasks if they are finitely many, (T, m); otherwise None."""
        return self._fixed.copy() if self._name == "finite" else None

    def sample(self, generator: Generator, count: int) -> NDArray[np.float64]:
        """Draw coefficients (count, m)."""
        m = self.factors
        support: NDArray[Any]
        if self._name == "finite":
            return np.asarray(self._fixed[generator.integers(len(self._fixed), size=count)])
        if self._name == "laplace":
            return generator.laplace(size=(count, m))
        if self._name == "bernoulli":
            bits = generator.integers(1, 2**m, size=count)
            support = (bits[:, None] >> np.arange(m)) & 1
        elif self._name == "fixed":
            support = generator.random((count, m)).argsort(-1) < self._size
        elif self._name == "blocks":
            block = generator.integers(m // self._size, size=count)
            support = np.arange(m) // self._size == block[:, None]
        else:
            support = np.ones((count, m))
        return np.asarray(generator.standard_normal((count, m)) * support)


class TaskBatch(NamedTuple):
    """G groups of T tasks; the tasks of a group share the same images.

    Attributes:
        indices: image indices, (G, n), int64.
        targets: (G, T, n), float32.
        coefficients: true coefficients, (G, T, m), float32.
    """

    indices: Tensor
    targets: Tensor
    coefficients: Tensor


class Tasks:
    """Batches of tasks of one split, each a function only of seed, split and index.

    The three splits have the same distributions but different tasks. Target noise is Gaussian, with standard deviation
    ``target_noise`` times the root mean square of the task's own noise-free targets.

    Args:
        factors: images and their factors.
        distribution: of the coefficients.
        split: "train", "validation" or "test".
        groups: number G of image sets per batch.
        tasks: number T of tasks per image set; with 1 every task has its own images.
        samples: number n of images per task.
        target_noise: >= 0.
        seed: >= 0.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        factors: Factors,
        distribution: TaskDistribution,
        split: str,
        *,
        groups: int = 8,
        tasks: int = 1,
        samples: int = 50,
        target_noise: float = 0.1,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        for name, value in (("groups", groups), ("tasks", tasks), ("samples", samples)):
            if value < 1:
                raise ValueError(f"{name}: expected a number >= 1, got {value}")
        if not 0 <= target_noise < math.inf:
            raise ValueError(f"target_noise: expected a finite number >= 0, got {target_noise}")
        if distribution.factors != factors.values.shape[1]:
            raise ValueError(
                f"distribution: expected one over {factors.values.shape[1]} factors, got {distribution.factors}"
            )
        self.factors, self.distribution, self.split, self.seed = factors, distribution, split, seed
        self.groups, self.tasks, self.samples, self.target_noise = groups, tasks, samples, target_noise

    def batch(self, index: int) -> TaskBatch:
        """Batch number ``index`` >= 0."""
        generator = Generator(PCG64(SeedSequence([self.seed, SPLITS.index(self.split), index])))
        indices = self.factors.sample(generator, (self.groups, self.samples))
        coefficients = self.distribution.sample(generator, self.groups * self.tasks)
        w = torch.from_numpy(coefficients).float().reshape(self.groups, self.tasks, -1)
        clean = w @ self.factors.values[indices].mT
        noise = torch.from_numpy(generator.standard_normal(clean.shape)).float()
        scale = self.target_noise * clean.square().mean(-1, keepdim=True).sqrt()
        return TaskBatch(indices, clean + scale * noise, w)
