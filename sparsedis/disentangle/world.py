"""The images, factors and tasks of a run, and the regressions fitted to the encoder's features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray
from torch import Tensor

from sparsedis.disentangle import shapes3d
from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.disentangle.factors import Factors
from sparsedis.disentangle.tasks import TaskBatch, TaskDistribution, Tasks
from sparsedis.lasso import lasso_lambda1_max, solve_lasso
from sparsedis.models.factor_encoder import FactorEncoder
from sparsedis.ridge import solve_ridge
from sparsedis.runs import folder
from sparsedis.solution import Solution

_IMAGES_AT_ONCE = 250
_UNIFORM_STREAM, _TRAINING_STREAM = 5, 6  # streams of the seed for the images on which the metrics are computed


class Outcome(NamedTuple):
    """Means over a batch of tasks (loss, fractions of features used and of tasks certified), and the largest gap."""

    loss: Tensor
    used: float
    certified: float
    largest_gap: float = 0.0


def load_run(out: str | Path) -> tuple[FactorEncoder, DisentangleConfig]:
    """The encoder of a run with the best validation so far, on the CPU, and the run's settings.

    Raises:
        FileNotFoundError: the folder holds no run, or the run has not reached its first validation.
        ValueError: the checkpoint is damaged.
    """

    def build(metadata: Mapping[str, Any]) -> tuple[FactorEncoder, DisentangleConfig]:
        config = DisentangleConfig.from_json(metadata.get("config"))
        return FactorEncoder(config.features), config

    return folder.load_best(out, build)


def fit(features: Tensor, targets: Tensor, config: DisentangleConfig) -> Solution:
    """Fit the regressions of tasks with features (B, n, d) and targets (B, n)."""
    if config.inner == "ridge" and config.lambda1:
        return solve_ridge(features, targets, lambda2=config.lambda1, relative=True)
    return solve_lasso(features, targets, lambda1=config.lambda1, relative=True)  # least squares if lambda1 = 0


def outer_loss(features: Tensor, targets: Tensor, config: DisentangleConfig) -> Outcome:
    """Fit the regression of every task and compute its outer loss.

    The loss is half the mean squared error plus the outer penalties, averaged over tasks. The penalties are relative to
    the Lasso's lambda1_max and to the mean squared norm of the features, which are constant in the gradient.

    Args:
        features: (G, n, d), the inner samples first.
        targets: (G, T, n).
        config: the settings.

    Source: Lachapelle et al., ICML 2023, problem (8).
    """
    groups, tasks, n = targets.shape
    x = features[:, None].expand(-1, tasks, -1, -1).reshape(groups * tasks, n, -1)
    y = targets.reshape(groups * tasks, n)
    cut = config.inner_samples if config.split else n
    inner_x, inner_y = x[:, :cut], y[:, :cut]
    outer_x, outer_y = (x[:, cut:], y[:, cut:]) if config.split else (x, y)
    solution = fit(inner_x, inner_y, config)
    w = solution.weights
    error = (outer_x @ w[..., None])[..., 0] - outer_y
    loss = error.square().mean() / 2
    if config.outer_l1:
        scale = lasso_lambda1_max(outer_x, outer_y).to(w.dtype)
        loss = loss + config.outer_l1 * (scale * w.abs().sum(-1)).mean()
    if config.outer_l2:
        scale = outer_x.detach().square().sum(-1).mean(-1)
        loss = loss + config.outer_l2 / 2 * (scale * w.square().sum(-1)).mean()
    used = (w != 0).double().mean().item()
    return Outcome(loss, used, solution.certified.double().mean().item(), solution.relative_gap.max().item())


class World:
    """The images, factors and tasks of a run."""

    def __init__(self, config: DisentangleConfig, source: shapes3d.Shapes3D) -> None:
        self.source, self.config = source, config
        self.factors = Factors(config.factors, config.rho, config.noise, config.seed)
        self.distribution = TaskDistribution(config.tasks, seed=config.seed)
        self.training = self._tasks("train", config.groups, config.group_tasks)
        self.validation = self._tasks("validation", 4, 32)
        self.test = self._tasks("test", 4, 32)
        # Validations use the first fifth.
        self.uniform = self._generator(_UNIFORM_STREAM).integers(shapes3d.COUNT, size=config.measured_images)

    def _tasks(self, split: str, groups: int, tasks: int) -> Tasks:
        config = self.config
        return Tasks(
            self.factors,
            self.distribution,
            split,
            groups=groups,
            tasks=tasks,
            samples=config.inner_samples + config.outer_samples,
            target_noise=config.target_noise,
            seed=config.seed,
        )

    def _generator(self, stream: int) -> Generator:
        return Generator(PCG64(SeedSequence([self.config.seed, stream])))

    def images(self, indices: Tensor, device: torch.device) -> Tensor:
        """Images (N, 3, 64, 64), float32 in [0, 1]."""
        return self.source.images(indices).to(device).float().div_(255)

    def features(self, encoder: FactorEncoder, batch: TaskBatch, device: torch.device) -> Tensor:
        """Features (G, n, d), computed in one pass so that batch normalisation uses the statistics of all samples."""
        groups, n = batch.indices.shape
        return encoder(self.images(batch.indices.flatten(), device)).reshape(groups, n, -1)

    @torch.no_grad()
    def encode(self, encoder: FactorEncoder, indices: Tensor, device: torch.device) -> NDArray[np.float64]:
        """Features (N, d), with the running statistics of batch normalisation."""
        training = encoder.training
        encoder.eval()
        parts = [encoder(self.images(part, device)).cpu() for part in indices.split(_IMAGES_AT_ONCE)]
        encoder.train(training)
        return torch.cat(parts).double().numpy()

    @torch.no_grad()
    def evaluate(self, encoder: FactorEncoder, tasks: Tasks, batches: int, device: torch.device) -> Outcome:
        """Means over the first ``batches`` batches of ``tasks``, and the largest gap."""
        training = encoder.training
        encoder.eval()
        outcomes = []
        for index in range(batches):
            batch = tasks.batch(index)
            features = self.features(encoder, batch, device)
            outcomes.append(outer_loss(features, batch.targets.to(device), self.config))
        encoder.train(training)
        loss = torch.stack([one.loss for one in outcomes]).mean()
        used, certified = (sum(column) / batches for column in list(zip(*outcomes, strict=True))[1:3])
        return Outcome(loss, used, certified, max(one.largest_gap for one in outcomes))

    def training_images(self, count: int) -> Tensor:
        """Indices of images drawn from the training distribution, for FastICA."""
        return self.factors.sample(self._generator(_TRAINING_STREAM), (count,))
