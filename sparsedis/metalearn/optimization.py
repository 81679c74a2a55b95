"""The optimiser, the learning rate and the loss of meta-training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsedis.metalearn.config import TrainConfig
from sparsedis.runs import schedule

_STEPS = ((1 / 3, 0.06), (2 / 3, 0.012), (5 / 6, 0.0024))
"""(fraction of the steps, factor from there on): epochs 20, 40 and 50 of 60 (Lee et al., CVPR 2019)."""


def optimizer(config: TrainConfig, learner: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all parameters of the learner."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            learner.parameters(),
            lr=config.learning_rate,
            momentum=0.9,
            weight_decay=config.weight_decay,
            nesterov=True,
        )
    return torch.optim.Adam(learner.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def learning_rate(config: TrainConfig, done: int) -> float:
    """The learning rate of the step that follows ``done`` steps."""
    if config.schedule == "cosine":
        return config.learning_rate * schedule.cosine(done, config.iterations)
    passed = [factor for fraction, factor in _STEPS if done / config.iterations >= fraction]
    return config.learning_rate * (passed[-1] if passed else 1.0)


def loss(config: TrainConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, with label smoothing, of logits (F B, q, k) and labels (B, q), which are repeated F times."""
    flat, right = logits.flatten(0, 1), labels.repeat(len(logits) // len(labels), 1).flatten()
    if not config.label_smoothing:
        return F.cross_entropy(flat, right)
    # PyTorch distributes the smoothing over all k classes, including the true one.
    return F.cross_entropy(flat, right, label_smoothing=config.label_smoothing * config.way / (config.way - 1))
