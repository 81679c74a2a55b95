"""How well a learner does on episodes it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedis.data.dataset import FewShotData
from sparsedis.data.episodes import Episodes
from sparsedis.metalearn.learner import Learner

_IMAGES_AT_ONCE = 256
_EPISODES_AT_ONCE = 50


@dataclass(frozen=True)
class Evaluation:
    """Means over episodes. All but the counts are fractions, 0 to 1.

    Attributes:
        split: of the data set.
        way, shot, query, episodes, seed: of the episodes.
        accuracy: share of the query images classified rightly.
        ci95: half the width of the 95% confidence interval of ``accuracy`` (normal approximation over
            episodes).
        features_used: share of the features that an episode's classifier uses.
        certified: share of the episodes solved to their certificate; None for a head that has none.
    """

    split: str
    way: int
    shot: int
    query: int
    episodes: int
    seed: int
    accuracy: float
    ci95: float
    features_used: float
    certified: float | None


@torch.no_grad()
def encode(learner: Learner, data: FewShotData, split: str) -> Tensor:
    """Features (N, d) of the images of a split, each encoded once; the rows of other images are 0.

    Batch normalisation uses its running statistics, so an image's features do not depend on the episode it is
    in.
    """
    training = learner.encoder.training
    learner.encoder.eval()
    _, _, height, width = data.images.shape
    features = torch.zeros(len(data.images), learner.encoder.features(height, width), device=learner.device)
    wanted = torch.isin(data.labels, torch.tensor(data.splits[split])).nonzero()[:, 0]
    for rows in wanted.split(_IMAGES_AT_ONCE):
        features[rows] = learner.encoder(data.images[rows].to(learner.device) / 255)
    learner.encoder.train(training)
    return features


@torch.no_grad()
def evaluate(learner: Learner, features: Tensor, episodes: Episodes) -> Evaluation:
    """Fit and test the head on every episode.

    Args:
        learner: its head is used.
        features: (N, d), from :func:`encode` for the data and split of ``episodes``.
        episodes: what to evaluate on.
    """
    accuracy, used, certified = [], [], []
    for start in range(0, len(episodes), _EPISODES_AT_ONCE):
        stop = min(start + _EPISODES_AT_ONCE, len(episodes))
        batch = episodes.batch(start, stop)
        labels = batch.support_labels.to(learner.device)
        output = learner.head(features[batch.query], features[batch.support], labels, episodes.way)
        right = output.logits.argmax(-1).cpu() == batch.query_labels
        accuracy.append(right.double().mean(-1))
        used.append((~output.sparsity).double().mean(-1).cpu())
        certified.append((stop - start, learner.certified()))
    scores = torch.cat(accuracy)
    shares = [count * share for count, share in certified if share is not None]
    return Evaluation(
        split=episodes.split,
        way=episodes.way,
        shot=episodes.shot,
        query=episodes.query,
        episodes=len(episodes),
        seed=episodes.seed,
        accuracy=scores.mean().item(),
        ci95=1.96 * scores.std(correction=0).item() / len(scores) ** 0.5,
        features_used=torch.cat(used).mean().item(),
        certified=sum(shares) / len(episodes) if shares else None,
    )
