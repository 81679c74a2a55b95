"""Few-shot data sets: images with classes, split by class, and how to name one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class FewShotData:
    """Images of many classes, and which classes are for training, validation and test.

    Attributes:
        name: what the data set is called.
        images: uint8 (N, C, H, W), where (N, H, W) is taken as one channel; or float32 (N, d), a table of features that
            takes the place of images. May be mapped into memory.
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


@dataclass(frozen=True)
class Source:
    """A name of the command line, and what it stands for.

    Attributes:
        title: what it is.
        needs: what is expected at PATH; empty where the data comes with the package.
        read: from a path and a size of images (or None) to the data.
        counts: classes in training, validation and test, where they are known.
        resizes: whether it takes a size.
        sha256: of published files, by name, where they are known.
    """

    title: str
    needs: str
    read: Callable[[str, int | None], FewShotData]
    counts: tuple[int, int, int] | None = None
    resizes: bool = False
    sha256: Mapping[str, str] = field(default_factory=dict)

    def usage(self, name: str) -> str:
        """How it is named on the command line."""
        return f"{name}:PATH" if self.needs else name


def load(spec: str, image_size: int | None = None) -> FewShotData:
    """The data set that a name, or ``NAME:PATH``, stands for.

    Args:
        spec: a name among :data:`SOURCES`. Without PATH, those that need one are looked for in $SPARSEDIS_DATA/NAME.
        image_size: side to which images of a folder are scaled.

    Raises:
        ValueError: an unknown name, a path that is missing or not taken, or a broken file.
        FileNotFoundError: the path does not exist.
    """
    name, path = place(spec)
    source = SOURCES[name]
    if image_size is not None and not source.resizes:
        raise ValueError(f"image_size: expected none for {name}, whose images have one size, got {image_size}")
    return source.read(path, image_size)


def place(spec: str) -> tuple[str, str]:
    """The name in ``NAME[:PATH]``, and the path where the data is looked for: given, or in $SPARSEDIS_DATA.

    Raises:
        ValueError: an unknown name, or a path that is missing or not taken.
    """
    name, _, path = spec.partition(":")
    if name not in SOURCES:
        usage = ", ".join(source.usage(name) for name, source in SOURCES.items())
        raise ValueError(f"data: expected one of {usage}, got {spec!r}")
    source = SOURCES[name]
    if source.needs and not path and (folder := os.environ.get("SPARSEDIS_DATA")):
        path = str(Path(folder) / name)
    if bool(source.needs) != bool(path):
        hint = " (or a folder of that name in $SPARSEDIS_DATA)" if source.needs else ""
        raise ValueError(f"data: expected {source.usage(name)!r}{hint}, got {spec!r}")
    return name, path


def absolute(spec: str) -> str:
    """The same data set, named so that neither the working directory nor the environment matters."""
    name, path = place(spec)
    return f"{name}:{Path(path).expanduser().absolute()}" if path else name


def _pictograms(_: str, __: int | None) -> FewShotData:
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


def _omniglot(path: str, _: int | None) -> FewShotData:
    from sparsedis.data import omniglot

    return omniglot.load(path)


def _images(path: str, size: int | None) -> FewShotData:
    from sparsedis.data import image_folder

    return image_folder.load(path, size)


def _features(path: str, _: int | None) -> FewShotData:
    from sparsedis.data import feature_table

    return feature_table.load(path)


def _pickles(name: str) -> Callable[[str, int | None], FewShotData]:
    def read(path: str, _: int | None) -> FewShotData:
        from sparsedis.data import class_splits

        return class_splits.load(path, name)

    return read


_PICKLES = "a folder with *train.pickle, *val.pickle and *test.pickle"

SOURCES: dict[str, Source] = {
    "pictograms": Source("Pictograms: icons of one concept by many designers, 28x28", "", _pictograms),
    "omniglot": Source(
        "Omniglot (Lake et al., Science 2015), 28x28",
        "images_background*.zip, images_evaluation.zip, or the folders that they hold",
        _omniglot,
        sha256={
            "images_background_small1.zip": "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
        },
    ),
    "miniimagenet": Source(
        "miniImageNet (Vinyals et al., NeurIPS 2016; split of Ravi and Larochelle, ICLR 2017), 84x84",
        "a folder with miniImageNet_category_split_{train_phase_train,val,test}.pickle",
        _pickles("miniimagenet"),
        (64, 16, 20),
    ),
    "tieredimagenet": Source(
        "tieredImageNet (Ren et al., ICLR 2018), 84x84",
        "a folder with {train,val,test}_images_png.pkl (or _images.npz) and {train,val,test}_labels.pkl",
        _pickles("tieredimagenet"),
        (351, 97, 160),
    ),
    "cifar-fs": Source(
        "CIFAR-FS (Bertinetto et al., ICLR 2019), 32x32",
        "a folder with CIFAR_FS_{train,val,test}.pickle",
        _pickles("cifar-fs"),
        (64, 16, 20),
    ),
    "fc100": Source(
        "FC100 (Oreshkin et al., NeurIPS 2018), 32x32",
        "a folder with FC100_{train,val,test}.pickle",
        _pickles("fc100"),
        (60, 20, 20),
    ),
    "pickles": Source("Any data set in the same pickles", _PICKLES, _pickles("pickles")),
    "images": Source(
        "Any images by class",
        "a folder with CLASS/*.png or {train,val,test}/CLASS/*.png (or .jpg)",
        _images,
        resizes=True,
    ),
    "features": Source(
        "Any features computed elsewhere", "a .npz or .safetensors file with features, labels and splits", _features
    ),
}
"""Every name that :func:`load` takes."""
