"""Few-shot episodes, each a function only of seed, split and index."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.random import PCG64, SeedSequence
from torch import Tensor
from torch.utils.data import Dataset

from sparsedis.data.dataset import SPLITS, FewShotData


class Episode(NamedTuple):
    """A few-shot task, or a batch of them with a leading dimension B.

    Attributes:
        support: images (n, C, H, W) float32 in [0, 1], rows (n, d) of a table of features, or indices (n,) of images;
            n = way * shot, ordered by class.
        support_labels: int64 (n,), 0 to way-1.
        query: as ``support``, with q = way * query in place of n.
        query_labels: int64 (q,).
    """

    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor


class Episodes(Dataset[Episode]):
    """Random-access sequence of episodes over the classes of one split.

    Episode i has its own generator, PCG64 seeded with SeedSequence([seed, index of the split, i]), of which only the
    raw 64-bit output is used. NumPy guarantees this stream, so that an episode is the same on every machine, in every
    process and in any order. A choice of m out of n consists of the first m entries of the argsort of n random numbers.

    Args:
        data: the data set.
        split: "train", "validation" or "test".
        way: classes per episode.
        shot: support images per class.
        query: query images per class.
        seed: >= 0.
        length: number of episodes; ``episodes[i]`` accepts i from 0 to length-1.
        within_group: draw the classes of an episode from one group of the data set (for Omniglot, within an alphabet).
            All groups with at least ``way`` classes in the split are equally likely; smaller groups are excluded.

    Raises:
        ValueError: a number out of range; fewer classes than ``way`` in the split (with ``within_group``: in its
            largest group), or fewer images than ``shot + query`` in one of its classes; no groups.
    """

    def __init__(
        self,
        data: FewShotData,
        split: str,
        *,
        way: int = 5,
        shot: int = 5,
        query: int = 10,
        seed: int = 0,
        length: int = 600,
        within_group: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        for name, value, least in (
            ("way", way, 2),
            ("shot", shot, 1),
            ("query", query, 1),
            ("seed", seed, 0),
            ("length", length, 1),
        ):
            if value < least:
                raise ValueError(f"{name}: expected a number >= {least}, got {value}")
        classes = data.splits[split]
        if len(classes) < way:
            raise ValueError(f"way: {way} classes per episode, but the {split} split of {data.name} has {len(classes)}")
        self._pools = _groups(data, split, way) if within_group else [np.arange(len(classes))]
        self._members = [(data.labels == label).nonzero()[:, 0].numpy() for label in classes]
        for label, members in zip(classes, self._members, strict=True):
            if len(members) < shot + query:
                raise ValueError(
                    f"shot + query: {shot} + {query} images per class, but class {data.class_names[label]!r} "
                    f"of {data.name} has {len(members)}"
                )
        self.data = data
        self.split = split
        self.way, self.shot, self.query = way, shot, query
        self.seed = seed
        self._length = length

    def __len__(self) -> int:
        return self._length

    def indices(self, index: int) -> Episode:
        """Episode ``index``, with indices into ``data.images`` in place of images."""
        if not 0 <= index < self._length:  # IndexError also ends a for loop over the episodes
            raise IndexError(f"episode: expected an index from 0 to {self._length - 1}, got {index}")
        bits = PCG64(SeedSequence([self.seed, SPLITS.index(self.split), index]))
        pool = self._pools[_choose(bits, len(self._pools), 1)[0] if len(self._pools) > 1 else 0]
        classes = [self._members[i] for i in pool[_choose(bits, len(pool), self.way)]]
        images = [members[_choose(bits, len(members), self.shot + self.query)] for members in classes]
        chosen = torch.from_numpy(np.stack(images))
        labels = torch.arange(self.way)[:, None].expand_as(chosen)
        return Episode(
            chosen[:, : self.shot].reshape(-1),
            labels[:, : self.shot].reshape(-1),
            chosen[:, self.shot :].reshape(-1),
            labels[:, self.shot :].reshape(-1),
        )

    def __getitem__(self, index: int) -> Episode:
        return self.images(self.indices(index))

    def batch(self, start: int, stop: int) -> Episode:
        """Episodes ``start`` to ``stop - 1`` from :meth:`indices`, stacked."""
        return Episode(*map(torch.stack, zip(*(self.indices(i) for i in range(start, stop)), strict=True)))

    def images(self, indices: Episode) -> Episode:
        """The episode, or batch of episodes, with images in place of indices."""
        raw = self.raw(indices)
        return raw._replace(support=scaled(raw.support), query=scaled(raw.query))

    def raw(self, indices: Episode) -> Episode:
        """As :meth:`images`, with the images as stored: uint8, or rows of a table of features."""
        pixels = self.data.images
        return indices._replace(support=pixels[indices.support], query=pixels[indices.query])


def scaled(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; other tensors unchanged."""
    return images / 255 if images.dtype == torch.uint8 else images


def _groups(data: FewShotData, split: str, way: int) -> list[np.ndarray]:
    """For every group with at least ``way`` classes in the split, the positions of these classes in the split."""
    if data.groups is None:
        raise ValueError(f"episodes: expected a data set whose classes have groups, got {data.name}")
    groups = np.array([data.groups[label] for label in data.splits[split]])
    places = [(groups == group).nonzero()[0] for group in dict.fromkeys(groups.tolist())]
    largest = max(map(len, places), default=0)
    if largest < way:
        raise ValueError(
            f"way: {way} classes of one group per episode, but the largest group in the {split} split of {data.name} "
            f"has {largest}"
        )
    return [place for place in places if len(place) >= way]


def _choose(bits: PCG64, population: int, count: int) -> np.ndarray:
    return np.argsort(bits.random_raw(population), kind="stable")[:count]
