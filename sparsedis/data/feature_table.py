"""Reader of precomputed feature tables: .npz or .safetensors files with the arrays

features   (N, d), floating point; converted to float32
labels     (N,), integers from 0 to K-1
splits     (K,), per class (not per sample): 0 training, 1 validation, 2 test
groups     (K,), optional, the group of every class, integers
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from sparsedis import paths
from sparsedis.data import arrays
from sparsedis.data.dataset import FewShotData, leave_out, splits_from_numbers

_NAMES = ("features", "labels", "splits")
_GROUPS = "groups"


def load(path: str | Path, left_out: Sequence[str] | None = None) -> FewShotData:
    """Read a table of features, whose rows, float32 (N, d), take the place of images.

    Args:
        path: of the file.
        left_out: groups, as decimal strings. If given, their classes (if empty, the table's test classes) form the test
            split, all other classes except the table's test classes the training split; there is no validation split.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or has other content; numbers outside the range of float32; unknown groups in
            ``left_out``.
    """
    path = paths.expanded(path)
    if not path.is_file():
        raise FileNotFoundError(f"features: expected an existing file, got {str(path)!r}")
    values = _read(path)
    if missing := [name for name in _NAMES if name not in values]:
        raise ValueError(f"features: expected {', '.join(_NAMES)} in {path}, found no {missing[0]}")
    features = _rows(values["features"], path)
    labels, splits = (_whole(name, values[name], path) for name in ("labels", "splits"))
    if len(labels) != len(features):
        raise ValueError(f"features: expected a label for each of {len(features)} rows, got {len(labels)} in {path}")
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"features: expected labels from 0 on, got {int(labels.min())} in {path}")
    classes = int(labels.max()) + 1 if len(labels) else 0
    if len(splits) != classes:
        each = "one for every sample? " if len(splits) == len(labels) else ""
        raise ValueError(
            f"features: expected splits of shape ({classes},), one for every class of the labels, "
            f"got shape ({len(splits)},) in {path} ({each}no class can be in several splits)"
        )
    if not bool(((splits >= 0) & (splits < 3)).all()):
        raise ValueError(f"features: expected splits of 0, 1 or 2, got others in {path}")
    groups = _groups(values, classes, path)
    named = splits_from_numbers(splits)
    if left_out is not None:
        if groups is None:
            raise ValueError(f"left_out: expected none, as {path} has no groups, got {list(left_out)}")
        named = leave_out(groups, left_out, named["test"])
    return FewShotData(
        name="features",
        images=features,
        labels=labels,
        class_names=tuple(map(str, range(classes))),
        splits=named,
        groups=groups,
    )


def _groups(values: dict[str, Tensor], classes: int, path: Path) -> tuple[str, ...] | None:
    if _GROUPS not in values:
        return None
    groups = _whole(_GROUPS, values[_GROUPS], path)
    if len(groups) != classes:
        raise ValueError(f"features: expected groups of shape ({classes},), got shape ({len(groups)},) in {path}")
    return tuple(map(str, groups.tolist()))


def _rows(features: Tensor, path: Path) -> Tensor:
    if features.dim() != 2 or not features.is_floating_point():
        raise ValueError(
            f"features: expected floating-point numbers of shape (N, d), got {features.dtype} "
            f"of shape {tuple(features.shape)} in {path}"
        )
    rows = features.float()
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"features: expected finite numbers in the range of float32, got others in {path}")
    if features.dtype == torch.float64 and bool(((rows == 0).all(1) & (features != 0).any(1)).any()):
        raise ValueError(f"features: expected rows that do not underflow to 0 in float32, got one in {path}")
    return rows


def _whole(name: str, values: Tensor, path: Path) -> Tensor:
    if values.dim() != 1 or values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(
            f"features: expected {name} of whole numbers in one dimension, got {values.dtype} "
            f"of shape {tuple(values.shape)} in {path}"
        )
    return values.long()


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix.lower() != ".safetensors":
        found = arrays.load(path, "features", (*_NAMES, _GROUPS))
        # torch supports neither the other byte order nor text.
        native = {name: values.astype(values.dtype.newbyteorder("=")) for name, values in found.items()}
        try:
            return {name: torch.from_numpy(values) for name, values in native.items()}
        except TypeError as error:
            raise ValueError(f"features: expected arrays of numbers in {path}: {error}") from error
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # no complete list of exceptions is documented for damaged headers
        raise ValueError(f"features: {path} is damaged or not a .safetensors file: {error}") from error
