"""What is meta-trained: an encoder and a head."""

from __future__ import annotations

import torch
from torch import nn

from sparsedis.data.episodes import Episode
from sparsedis.metalearn.config import TrainConfig
from sparsedis.models.conv4 import Conv4
from sparsedis.nn import GroupLassoSVM, HeadOutput, Prototypes


class Learner(nn.Module):
    """An encoder and the head that fits a classifier on its features, task by task.

    Args:
        config: the settings.
        in_channels: channels of the images.
    """

    def __init__(self, config: TrainConfig, in_channels: int = 1) -> None:
        super().__init__()
        self.encoder = Conv4(config.width, in_channels)
        self.head: GroupLassoSVM | Prototypes
        if config.head == "group-lasso-svm":
            self.head = GroupLassoSVM(config.lambda1, config.lambda2, config.dual_reg, logit_scale=config.logit_scale)
        else:
            self.head = Prototypes(logit_scale=config.logit_scale)

    @property
    def device(self) -> torch.device:
        return self.head.scale.device

    def forward(self, episodes: Episode, way: int) -> HeadOutput:
        """Logits (B, q, way) of the query images of a batch of episodes, and the features off (B, d)."""
        n = episodes.support.shape[1]
        # One pass, so that support and query share the statistics of the batch normalisation.
        features = self.encoder(torch.cat([episodes.support, episodes.query], 1).to(self.device))
        return self.head(features[:, n:], features[:, :n], episodes.support_labels.to(self.device), way)

    def certified(self) -> float | None:
        """Share of the last forward pass's tasks solved to their certificate; None for a head without one."""
        solution = self.head.last_solution
        return None if solution is None else solution.certified.double().mean().item()
