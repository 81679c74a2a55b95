"""Few-shot data sets by name: the meaning of ``NAME[:PATH]`` and the reader of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sparsedis import paths
from sparsedis.data import feature_table, image_folder, omniglot, pictograms, split_pickles
from sparsedis.data.dataset import FewShotData, splits_from_numbers

_Reader = Callable[[str, int | None, Sequence[str] | None], FewShotData]


@dataclass(frozen=True)
class Source:
    """A data set that is available by name.

    Attributes:
        title: description.
        needs: the files expected at PATH; empty if the data comes with the package.
        read: maps a path, an image size (or None) and the groups left out (or None) to the data.
        counts: numbers of training, validation and test classes, if known.
        resizes: whether it accepts an image size.
        groups: meaning of the groups of classes; empty if there are none.
        sha256: known digests of published files, by file name.
    """

    title: str
    needs: str
    read: _Reader
    counts: tuple[int, int, int] | None = None
    resizes: bool = False
    groups: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)

    def usage(self, name: str) -> str:
        """Notation on the command line."""
        return f"{name}:PATH" if self.needs else name


def load(spec: str, image_size: int | None = None, left_out: Sequence[str] | None = None) -> FewShotData:
    """Read the data set named by ``NAME`` or ``NAME:PATH``.

    Args:
        spec: a name among :data:`SOURCES`. Without PATH, data sets that need one are read from $SPARSEDIS_DATA/NAME.
        image_size: side in pixels to which the images of a folder or of Omniglot are scaled; default: their own
            (Omniglot: 28).
        left_out: groups of classes (Omniglot: alphabets) that form the test split; all other classes form the training
            split, and there is no validation split. If it is empty, the test split is the published one. Default: the
            data set's own split.

    Raises:
        ValueError: an unknown name, a missing or unexpected path, or a damaged file.
        FileNotFoundError: the path does not exist.
    """
    name, path = resolve(spec)
    source = SOURCES[name]
    if image_size is not None and not source.resizes:
        raise ValueError(f"image_size: expected none for {name}, whose images have one size, got {image_size}")
    if left_out is not None and not source.groups:
        raise ValueError(f"left_out: expected none for {name}, whose classes have no groups, got {list(left_out)}")
    return source.read(path, image_size, left_out)


def resolve(spec: str) -> tuple[str, str]:
    """The name in ``NAME[:PATH]`` and the path: PATH or a folder in $SPARSEDIS_DATA; "" if the data needs none.

    Raises:
        ValueError: an unknown name, or a missing or unexpected path.
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
    """The same data set with an absolute path, independent of working directory and environment."""
    name, path = resolve(spec)
    return f"{name}:{paths.expanded(path).absolute()}" if path else name


def _pictograms() -> FewShotData:
    data = pictograms.load()
    return FewShotData(
        name="pictograms",
        images=torch.tensor(data.images),
        labels=torch.tensor(data.labels).long(),
        class_names=tuple(data.class_names),
        splits=splits_from_numbers(torch.tensor(data.split)),
    )


def _pickles(name: str) -> _Reader:
    return lambda path, size, left_out: split_pickles.load(path, name)


SOURCES: dict[str, Source] = {
    "pictograms": Source(
        "Pictograms: icons of one concept by many designers, 28x28", "", lambda path, size, left_out: _pictograms()
    ),
    "omniglot": Source(
        "Omniglot (Lake et al., Science 2015), 28x28 or another size",
        "images_background*.zip, images_evaluation.zip, or the folders that they hold",
        omniglot.load,
        resizes=True,
        groups="alphabets",
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
    "pickles": Source(
        "Any data set in the same pickles",
        "a folder with *train.pickle, *val.pickle and *test.pickle",
        _pickles("pickles"),
    ),
    "images": Source(
        "Any images by class",
        "a folder with CLASS/*.png or {train,val,test}/CLASS/*.png (or .jpg), no class in two splits",
        lambda path, size, left_out: image_folder.load(path, size),
        resizes=True,
    ),
    "features": Source(
        "Any features computed elsewhere",
        "a .npz or .safetensors file with features, labels and splits (groups too, if there are any)",
        lambda path, size, left_out: feature_table.load(path, left_out),
        groups="those of the table",
    ),
}
"""The data sets that :func:`load` accepts, by name."""
