"""The learner: encoder and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import SeedSequence
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparsedis.data.augmentation import augmentation
from sparsedis.data.episodes import Episode, scaled
from sparsedis.metalearn.batch_norm import RunningStatistics
from sparsedis.metalearn.config import TrainConfig
from sparsedis.models.aligned import align
from sparsedis.models.drop_block import DropBlock
from sparsedis.models.encoders import build
from sparsedis.nn import GroupLassoLogistic, GroupLassoSVM, HeadOutput, Prototypes, Ridge, SparseHead
from sparsedis.runs import folder


class Learner(nn.Module):
    """An encoder, and a head that fits a classifier to its features for every task.

    Args:
        config: the settings.
        shape: shape of one input: (C, H, W), or (d,) for a table of features.
        encoder: a module from ``(N, *shape)`` to features (N, d), for ``config.encoder`` "custom".

    Raises:
        ValueError: the encoder does not fit the shape; "custom" without a module, or a module without "custom" or with
            ``final_width``.
    """

    def __init__(
        self, config: TrainConfig, shape: Sequence[int] = (1, 28, 28), encoder: nn.Module | None = None
    ) -> None:
        super().__init__()
        if (config.encoder == "custom") != (encoder is not None):
            raise ValueError(f"encoder: expected a module if and only if it is 'custom', got {config.encoder!r}")
        if encoder is not None and config.final_width is not None:
            raise ValueError(f"final_width: expected none for an encoder of your own, got {config.final_width}")
        self.shape = tuple(shape)
        self.encoder = build(config.encoder, shape, config.width, config.last_channels) if encoder is None else encoder
        self.head = _head(config)
        if config.augment != "none" and len(shape) != 3:
            raise ValueError(f"augment: expected none for inputs of shape {self.shape}, got {config.augment!r}")
        self.augment = augmentation(config.augment, (shape[-2], shape[-1])) if len(shape) == 3 else nn.Identity()
        if config.align and len(shape) != 3:
            raise ValueError(f"align: expected none for inputs of shape {self.shape}, got {config.align!r}")
        self.aligned = config.align is not None
        self.micro_batch, self.seed, self.shots = config.micro_batch, config.seed, config.training_shots
        self.statistics = RunningStatistics(self.encoder)

    @property
    def device(self) -> torch.device:
        return self.head.scale.device

    def forward(self, episodes: Episode, way: int, first: int | None = None) -> HeadOutput:
        """Logits (B, q, way) of the query images of a batch of episodes, and the features used (B, d).

        In training the head is fitted once for each of the F ``training_shots`` of the settings, to that many images of
        every class, and the results are concatenated: (F B, q, way) and (F B, d). The last fit uses all images.

        Args:
            episodes: as returned by :meth:`sparsedis.data.Episodes.images` or ``raw``, stacked.
            way: number of classes.
            first: number of the first episode. In training, the random state of an encoder pass is seeded by the number
                of its first episode, so that the result does not depend on the number of processes.
        """
        n = episodes.support.shape[1]
        # A single pass, so that support and query sets share the batch statistics.
        features = self.features(torch.cat([episodes.support, episodes.query], 1), first)
        return self.classify(features[:, n:], features[:, :n], episodes.support_labels, way)

    def classify(self, query: Tensor, support: Tensor, support_labels: Tensor, way: int) -> HeadOutput:
        """As :meth:`forward`, for features (B, q, d) and (B, n, d) with labels (B, n), ordered by class."""
        labels, fits = support_labels.to(self.device), len(self.shots) if self.training else 1
        if fits == 1:
            return self.head(query, support, labels, way)
        # One batch for all fits, in which images not used by a fit have weight 0.
        tasks, n = labels.shape
        place = torch.arange(n, device=self.device) % (n // way)
        member = torch.stack([place < shot for shot in self.shots]).to(support.dtype)
        weight = member.repeat_interleave(tasks, 0)
        return self.head(
            query.repeat(fits, 1, 1), support.repeat(fits, 1, 1), labels.repeat(fits, 1), way, sample_weight=weight
        )

    def features(self, images: Tensor, first: int | None = None) -> Tensor:
        """Features (B, m, d) of the images (B, m, ...) of B episodes, ``micro_batch`` episodes at a time.

        If there are several passes, their activations are recomputed in the backward pass (gradient checkpointing), so
        that memory is needed for one pass and for all features.
        """
        passes = images.split(self.micro_batch or len(images))
        features = []
        for i, part in enumerate(passes):
            number = None if first is None else first + i * (self.micro_batch or 0)
            if len(passes) > 1 and torch.is_grad_enabled():
                # If a number is given, _encode seeds the random state itself.
                repeat = first is None
                features.append(checkpoint(self._encode, part, number, use_reentrant=False, preserve_rng_state=repeat))
            else:
                features.append(self._encode(part, number))
            self.statistics.add()
        return features[0] if len(features) == 1 else torch.cat(features)

    def encode(self, images: Tensor) -> Tensor:
        """Features (N, d) of images ``(N, *shape)``, uint8 or in [0, 1], without augmentation."""
        return self._aligned_features(scaled(images.to(self.device)))

    def step(self) -> None:
        """Advance the schedules of the encoder; call after every optimiser step."""
        for module in self.encoder.modules():
            if isinstance(module, DropBlock):
                module.step()

    def certified(self) -> float | None:
        """Fraction of certified tasks in the last forward pass; None without certificates."""
        solution = self.head.last_solution
        return None if solution is None else solution.certified.double().mean().item()

    def _encode(self, images: Tensor, number: int | None) -> Tensor:
        if self.training and number is not None:
            torch.manual_seed(int(SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0]))
        given = scaled(images.to(self.device))
        seen = self.augment(given) if self.training else given
        return self._aligned_features(seen.flatten(0, 1)).unflatten(0, images.shape[:2])

    def _aligned_features(self, images: Tensor) -> Tensor:
        return self.encoder(align(images) if self.aligned else images)


def load_run(out: str | Path, encoder: nn.Module | None = None) -> tuple[Learner, TrainConfig]:
    """The learner of a run with the best validation so far, on the CPU, and the run's settings.

    Args:
        out: folder of the run.
        encoder: a module of the trained architecture, for ``config.encoder`` "custom"; its parameters are overwritten.

    Raises:
        FileNotFoundError: the folder holds no run, or the run has not reached its first validation.
        ValueError: the checkpoint is damaged.
    """

    def build(metadata: Mapping[str, Any]) -> tuple[Learner, TrainConfig]:
        config = TrainConfig.from_json(metadata.get("config"))
        shape = tuple(metadata["shape"])
        if len(shape) not in (1, 3) or not all(type(n) is int and 0 < n < 1 << 16 for n in shape):
            raise ValueError(f"shape {shape}")
        return Learner(config, shape, encoder), config

    return folder.load_best(out, build)


def with_lambda1(learner: Learner, config: TrainConfig, lambda1: float) -> TrainConfig:
    """Change the weight of the group Lasso of the learner's head; returns the new settings.

    Raises:
        ValueError: the head has no such weight or learns it; a negative weight.
    """
    if "lambda1" in config.learn:
        raise ValueError(f"lambda1: expected none for a head that learns it, got {lambda1}")
    changed = replace(config, lambda1=lambda1)
    trained = learner.head.state_dict()
    learner.head = _head(changed).to(learner.device)
    learner.head.load_state_dict(trained)
    return changed


def _head(config: TrainConfig) -> SparseHead | Prototypes:
    values = config.hyperparameters
    lambda1, lambda2, dual_reg = (value or 0.0 for value in values[:3])
    scale = values.logit_scale
    if config.head in ("group-lasso-svm", "svm"):
        return GroupLassoSVM(lambda1, lambda2, dual_reg, learn=config.learn, logit_scale=scale)
    if config.head == "group-lasso-logistic":
        return GroupLassoLogistic(lambda1, lambda2, learn=config.learn, logit_scale=scale)
    if config.head == "ridge":
        return Ridge(lambda2, learn=config.learn, logit_scale=scale)
    return Prototypes(logit_scale=scale)
