"""Few-shot data sets: images with classes, split by class, and how to name one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class FewShotData:
    """Images of many classes, and which classes are for training, validation and test.

    Attributes:
        name: what the data set is called.
        images: uint8 (N, C, H, W); (N, H, W) is taken as one channel.
        labels: int64 (N,), the class of every image, an index into ``class_names``.
        class_names: one name per class.
        splits: for every name in :data:`SPLITS` its classes; no class is in two of them.

    Raises:
        ValueError: the parts do not fit together; the message names what was expected and what came.
    """

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if self.images.dim() == 3:
            object.__setattr__(self, "images", self.images[:, None])
        if self.images.dim() != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                f"images: expected uint8 of shape (N, C, H, W) or (N, H, W), "
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


def load(spec: str) -> FewShotData:
    """The data set that a name, or ``NAME:PATH``, stands for.

    Args:
        spec: ``pictograms`` (comes with the package) or ``omniglot:PATH`` (PATH as in
            :func:`sparsedis.data.omniglot.load`).

    Raises:
        ValueError: an unknown name, a path that is missing or not taken, or a broken file.
        FileNotFoundError: the path does not exist.
    """
    name, _, path = spec.partition(":")
    if name not in _LOADERS:
        raise ValueError(f"data: expected one of {', '.join(_USAGE.values())}, got {spec!r}")
    takes_path = _USAGE[name] != name
    if takes_path != bool(path):
        raise ValueError(f"data: expected {_USAGE[name]!r}, got {spec!r}")
    return _LOADERS[name](path)


def absolute(spec: str) -> str:
    """The same data set, named so that the working directory does not matter."""
    name, colon, path = spec.partition(":")
    return name + colon + (str(Path(path).expanduser().absolute()) if path else "")


def _pictograms(_: str) -> FewShotData:
    from sparsedis.data import pictograms

    data = pictograms.load()
    split = torch.tensor(data.split)
    return FewShotData(
        name="pictograms",
        images=torch.tensor(data.images),
        labels=torch.tensor(data.labels).long(),
        class_names=tuple(data.class_names),
        splits={name: tuple((split == i).nonzero()[:, 0].tolist()) for i, name in enumerate(SPLITS)},
    )


def _omniglot(path: str) -> FewShotData:
    from sparsedis.data import omniglot

    return omniglot.load(path)


_LOADERS: dict[str, Callable[[str], FewShotData]] = {"pictograms": _pictograms, "omniglot": _omniglot}
_USAGE = {"pictograms": "pictograms", "omniglot": "omniglot:PATH"}
