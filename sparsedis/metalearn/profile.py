"""Timing of the parts of a training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from sparsedis.metalearn import optimization, tasks
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.distributed import processes
from sparsedis.metalearn.learner import Learner
from sparsedis.runs.device import set_threads

_WARM_UP = 3


@dataclass
class Profile:
    """Times of the parts of every step, in milliseconds.

    Attributes:
        parts: in the order of a step: "episodes", "encoder forward", "head forward" (the solves), "head backward",
            "encoder backward", "optimiser".
    """

    parts: dict[str, list[float]] = field(default_factory=dict)

    def medians(self) -> dict[str, float]:
        """The median time of every part, in milliseconds."""
        return {name: statistics.median(values) for name, values in self.parts.items()}

    def fraction(self, *names: str) -> float:
        """Sum of the medians of some parts, relative to that of all parts."""
        medians = self.medians()
        return sum(medians[name] for name in names) / sum(medians.values())


def profile(config: TrainConfig, steps: int = 20) -> Profile:
    """Time some training steps, after a few warm-up steps. Writes no files.

    The step is that of :func:`sparsedis.metalearn.train.train`, with the backward pass split at the features into the
    head's part and the encoder's.

    Raises:
        ValueError: as in :func:`sparsedis.metalearn.train.train`.
    """
    set_threads(config.threads)
    data = tasks.read(config)
    episodes = tasks.of_training(config, data, config.batch * (steps + _WARM_UP))
    device = processes(config).device
    measured = Profile()

    @contextmanager
    def part(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        measured.parts.setdefault(name, []).append(1000 * (time.perf_counter() - start))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        learner = Learner(config, data.images.shape[1:]).to(device).train()
        optimizer = optimization.optimizer(config, learner)
        for step in range(steps + _WARM_UP):
            if step == _WARM_UP:
                measured.parts.clear()
            first = step * config.batch
            with part("episodes"):
                batch = episodes.raw(episodes.batch(first, first + config.batch))
            with part("encoder forward"):
                features = learner.features(torch.cat([batch.support, batch.query], 1), first)
                leaf = features.detach().requires_grad_()
            n = batch.support.shape[1]
            with part("head forward"):
                output = learner.classify(leaf[:, n:], leaf[:, :n], batch.support_labels, config.way)
                loss = optimization.loss(config, output.logits, batch.query_labels.to(device))
            optimizer.zero_grad()
            with part("head backward"):
                loss.backward()
            with part("encoder backward"):
                if features.requires_grad:
                    features.backward(leaf.grad)
            with part("optimiser"):
                optimizer.step()
    return measured
