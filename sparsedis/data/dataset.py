"""A few-shot data set: images, their classes, and a split of the classes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class FewShotData:
    """Images of many classes, with the classes split into training, validation and test.

    Attributes:
        name: of the data set.
        images: uint8 (N, C, H, W), or (N, H, W), which gets a channel dimension; or float32 (N, d), a table of features
            in place of images. May be memory-mapped.
        labels: int64 (N,), the class of every image, an index into ``class_names``.
        class_names: one name per class.
        groups: the group of every class (Omniglot: its alphabet); None if the data set has no groups.
        splits: the classes of every split in :data:`SPLITS`, which are disjoint.

    Raises:
        ValueError: the fields are inconsistent.
    """

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[int, ...]]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.images.dim() == 3:
            object.__setattr__(self, "images", self.images[:, None])
        table = self.images.dim() == 2 and self.images.dtype == torch.float32
        if not table and (self.images.dim() != 4 or self.images.dtype != torch.uint8):
            raise ValueError(
                f"images: expected uint8 of shape (N, C, H, W) or (N, H, W), or float32 of shape (N, d), "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels: expected int64 of shape ({len(self.images)},), "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )
        n_classes = len(self.class_names)
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < n_classes:
            raise ValueError(
                f"labels: expected values from 0 to {n_classes - 1}, "
                f"got {int(self.labels.min())} to {int(self.labels.max())}"
            )
        if tuple(self.splits) != SPLITS:
            raise ValueError(f"splits: expected {', '.join(SPLITS)}, got {', '.join(self.splits)}")
        classes = [label for split in SPLITS for label in self.splits[split]]
        if len(set(classes)) != len(classes):
            raise ValueError("splits: expected every class at most once, got one twice")
        if not set(classes) <= set(range(n_classes)):
            raise ValueError(f"splits: expected classes from 0 to {n_classes - 1}, got others")
        if self.groups is not None and len(self.groups) != n_classes:
            raise ValueError(f"groups: expected one for each of {n_classes} classes, got {len(self.groups)}")

    def counts(self) -> dict[str, tuple[int, int]]:
        """Numbers of classes and images of every split."""
        per_class = self.labels.bincount(minlength=len(self.class_names))
        return {split: (len(self.splits[split]), int(per_class[list(self.splits[split])].sum())) for split in SPLITS}


def leave_out(groups: Sequence[str], left_out: Sequence[str], test: Collection[int]) -> dict[str, tuple[int, ...]]:
    """The split for cross-validation over groups, without validation classes so that the test selects nothing.

    Args:
        groups: of every class.
        left_out: groups whose classes form the test split; if empty, ``test`` does.
        test: classes that are never trained on.

    Raises:
        ValueError: an unknown or repeated group; no class left to train on.
    """
    known = list(dict.fromkeys(groups))
    if len(set(left_out)) < len(left_out) or not set(left_out) <= set(known):
        raise ValueError(f"left_out: expected different ones of {', '.join(known)}, got {', '.join(left_out)}")
    tested = tuple(i for i, group in enumerate(groups) if group in left_out) if left_out else tuple(sorted(test))
    train = tuple(i for i in range(len(groups)) if i not in test and i not in tested)
    if not train:
        raise ValueError(f"left_out: expected groups to train on besides {', '.join(left_out) or 'the test classes'}")
    return {"train": train, "validation": (), "test": tested}


def check_disjoint(reader: str, path: Path, classes: Mapping[str, Iterable[str]], advice: str) -> None:
    """ValueError if a class is in several splits, since a learner would be tested on what it was trained on.

    Args:
        reader: prefix of the message.
        path: of the data, for the message.
        classes: class names by split.
        advice: remedy, for the message.

    Raises:
        ValueError: a name is in two splits; the message names both.
    """
    split_of: dict[str, str] = {}
    for split, names in classes.items():
        for name in dict.fromkeys(names):
            if name in split_of:
                where = f"{split_of[name]} and {split} of {path}"
                raise ValueError(f"{reader}: expected every class in one split, got {name!r} in {where}; {advice}")
            split_of[name] = split


def repeated(data: FewShotData) -> dict[str, int]:
    """For every split, the number of images (rows of a table) with an identical copy in another class."""
    classes_of: dict[bytes, set[int]] = {}
    digests = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in data.images]
    labels = data.labels.tolist()
    for digest, label in zip(digests, labels, strict=True):
        classes_of.setdefault(digest, set()).add(label)
    found = dict.fromkeys(SPLITS, 0)
    split_of = {label: split for split in SPLITS for label in data.splits[split]}
    for digest, label in zip(digests, labels, strict=True):
        if len(classes_of[digest]) > 1 and label in split_of:
            found[split_of[label]] += 1
    return found


def splits_from_numbers(numbers: Tensor) -> dict[str, tuple[int, ...]]:
    """The splits from one number per class, (K,): 0 training, 1 validation, 2 test."""
    return {split: tuple((numbers == i).nonzero()[:, 0].tolist()) for i, split in enumerate(SPLITS)}


def in_hash_order(class_names: Iterable[str]) -> list[str]:
    """The names sorted by their SHA-256 digest, a fixed pseudo-random order."""
    return sorted(class_names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())


def split_by_hash(class_names: Iterable[str]) -> dict[str, list[str]]:
    """The names by split, sorted: 60% training, 15% validation and 25% test, in the order of :func:`in_hash_order`."""
    order = in_hash_order(class_names)
    cuts = (0, len(order) * 3 // 5, len(order) * 3 // 4, len(order))
    return {split: sorted(order[a:b]) for split, (a, b) in zip(SPLITS, pairwise(cuts), strict=True)}
