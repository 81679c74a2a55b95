"""Evaluation of a learner on episodes: accuracy, calibration, features used."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparsedis.data.dataset import FewShotData
from sparsedis.data.episodes import Episodes
from sparsedis.metalearn.distributed import Processes
from sparsedis.metalearn.learner import Learner

_IMAGES_AT_ONCE = 256
_EPISODES_AT_ONCE = 50
_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """Means over episodes. All but the counts and the seed are fractions, 0 to 1.

    Attributes:
        split: of the data set.
        way, shot, query, episodes, seed: parameters of the episodes.
        accuracy: fraction of the query images classified correctly.
        ci95: half-width of the 95% confidence interval of ``accuracy`` (normal approximation over episodes); None for a
            single episode.
        features_used: fraction of the features that an episode's classifier uses.
        certified: fraction of the episodes with certified solves; None for a head without certificates.
        calibration_error: expected calibration error with 15 bins of equal width (Guo et al., ICML 2017): the mean over
            query images of the distance between accuracy and confidence of their bin.
        largest_gap: largest relative duality gap of the solves; None for a head without certificates and in results of
            earlier versions.
    """

    split: str
    way: int
    shot: int
    query: int
    episodes: int
    seed: int
    accuracy: float
    ci95: float | None
    features_used: float
    certified: float | None
    calibration_error: float
    largest_gap: float | None = None


@dataclass(frozen=True, eq=False)
class Details:
    """The results of individual episodes, which :class:`Evaluation` averages.

    Attributes:
        accuracy: (E,).
        active: (E, d), bool, the features that each episode's classifier uses.
        classes: (E, way), the classes of each episode, as indices into the data's class names.
        bins: (15, 3), per confidence bin: number of query images, number of correct ones, sum of confidences.
    """

    accuracy: Tensor
    active: Tensor
    classes: Tensor
    bins: Tensor


@dataclass(frozen=True, eq=False)
class Features:
    """Features of some images of a data set, indexed like the images.

    Attributes:
        table: (M, d), one row per encoded image.
        rows: (N,), row of every image of the data set; -1 for images that were not encoded.
    """

    table: Tensor
    rows: Tensor

    def __getitem__(self, images: Tensor) -> Tensor:
        """Features (..., d) of images (...)."""
        return self.table[self.rows[images].to(self.table.device)]


@torch.no_grad()
def encode(learner: Learner, data: FewShotData, split: str, processes: Processes | None = None) -> Features:
    """Features of the images of a split, each encoded once.

    Batch normalisation uses its running statistics, so that an image's features do not depend on its episode. With
    several processes, each encodes a part of the images.
    """
    processes = processes or Processes(learner.device)
    training = learner.encoder.training
    learner.encoder.eval()
    wanted = torch.isin(data.labels, torch.tensor(data.splits[split])).nonzero()[:, 0]
    rows = torch.full((len(data.images),), -1)
    rows[wanted] = torch.arange(len(wanted))
    table = torch.zeros(len(wanted), 0, device=learner.device)
    for i, images in enumerate(wanted.split(_IMAGES_AT_ONCE)):
        if i and i % processes.size != processes.rank:
            continue
        part = learner.encode(data.images[images]).float()
        if not i:  # every process encodes the first part, to learn the number of features
            table = torch.zeros(len(wanted), part.shape[1], device=learner.device)
        if i % processes.size == processes.rank:
            table[rows[images]] = part
    learner.encoder.train(training)
    return Features(processes.sum(table), rows)


def evaluate(
    learner: Learner, features: Features, episodes: Episodes, processes: Processes | None = None
) -> Evaluation:
    """Fit and test the head on every episode.

    Args:
        learner: provides the head.
        features: from :func:`encode`, for the data and split of ``episodes``.
        episodes: the evaluation tasks.
        processes: each handles a part of the episodes and gets the full result.
    """
    return examine(learner, features, episodes, processes)[0]


@torch.no_grad()
def examine(
    learner: Learner, features: Features, episodes: Episodes, processes: Processes | None = None
) -> tuple[Evaluation, Details]:
    """As :func:`evaluate`, with the results of individual episodes."""
    processes = processes or Processes(learner.device)
    count, way = len(episodes), episodes.way
    accuracy, certified, gaps = (torch.zeros(count, dtype=torch.float64) for _ in range(3))
    active = torch.zeros(count, features.table.shape[1], dtype=torch.uint8)
    classes = torch.zeros(count, way, dtype=torch.int64)
    bins = torch.zeros(_BINS, 3, dtype=torch.float64)
    known = True
    for i, start in enumerate(range(0, count, _EPISODES_AT_ONCE)):
        if i % processes.size != processes.rank:
            continue
        place = slice(start, min(start + _EPISODES_AT_ONCE, count))
        batch = episodes.batch(place.start, place.stop)
        labels = batch.support_labels.to(learner.device)
        output = learner.head(features[batch.query], features[batch.support], labels, way)
        confidence = output.logits.double().cpu().softmax(-1).amax(-1)
        right = output.logits.argmax(-1).cpu() == batch.query_labels
        accuracy[place] = right.double().mean(-1)
        active[place] = output.active.byte().cpu()
        classes[place] = episodes.data.labels[batch.support].unflatten(1, (way, episodes.shot))[:, :, 0]
        where = (confidence * _BINS).long().clamp(max=_BINS - 1).flatten()
        for column, values in enumerate((torch.ones_like(confidence), right.double(), confidence)):
            bins[:, column].index_add_(0, where, values.flatten())
        solution = learner.head.last_solution
        known = known and solution is not None
        if solution is not None:
            certified[place] = solution.certified.double().cpu()
            gaps[place] = solution.relative_gap.cpu()
    if processes.size > 1:
        accuracy, certified, gaps, active, classes, bins = (
            processes.sum(value.to(learner.device)).cpu()
            for value in (accuracy, certified, gaps, active, classes, bins)
        )
        known = bool(processes.mean(torch.tensor(float(known), device=learner.device)) == 1)
    evaluation = Evaluation(
        split=episodes.split,
        way=way,
        shot=episodes.shot,
        query=episodes.query,
        episodes=count,
        seed=episodes.seed,
        accuracy=accuracy.mean().item(),
        ci95=1.96 * accuracy.std(correction=0).item() / count**0.5 if count > 1 else None,
        features_used=active.double().mean(-1).mean().item(),
        certified=certified.mean().item() if known else None,
        calibration_error=((bins[:, 1] - bins[:, 2]).abs().sum() / bins[:, 0].sum()).item(),
        largest_gap=gaps.max().item() if known else None,
    )
    return evaluation, Details(accuracy, active.bool(), classes, bins)


def patterns(details: Details, class_names: Sequence[str]) -> bytes:
    """A .npz file of the features that every task uses: active (E, d), classes (E, way), accuracy (E,), class_names."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        active=details.active.numpy(),
        classes=details.classes.numpy(),
        accuracy=details.accuracy.numpy(),
        class_names=np.array(class_names),
    )
    return content.getvalue()
