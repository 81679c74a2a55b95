"""Reader of tables of features that were computed elsewhere: .npz or .safetensors files with the arrays

features   (N, d), floating point
labels     (N,), whole numbers from 0 to K-1
splits     (K,), for every class: 0 train, 1 validation, 2 test
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sparsedis.data.dataset import FewShotData, splits_from_numbers

_NAMES = ("features", "labels", "splits")
_DAMAGED = (
    *(OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile),  # by np.load
    safetensors.SafetensorError,
)


def load(path: str | Path) -> FewShotData:
    """Read a table of features; the rows, float32 (N, d), take the place of images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"features: expected an existing file, got {str(path)!r}")
    values = _read(path)
    if missing := [name for name in _NAMES if name not in values]:
        raise ValueError(f"features: expected {', '.join(_NAMES)} in {path}, found no {missing[0]}")
    features, labels, splits = (values[name] for name in _NAMES)
    if features.dim() != 2 or not features.is_floating_point():
        raise ValueError(
            f"features: expected floating-point numbers of shape (N, d), got {features.dtype} "
            f"of shape {tuple(features.shape)} in {path}"
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"features: expected finite numbers, got others in {path}")
    if splits.dim() != 1 or splits.is_floating_point() or not bool(((splits >= 0) & (splits < 3)).all()):
        raise ValueError(f"features: expected splits of one number per class, 0, 1 or 2, in {path}")
    return FewShotData(
        name="features",
        images=features.float(),
        labels=labels if labels.is_floating_point() else labels.long(),
        class_names=tuple(map(str, range(len(splits)))),
        splits=splits_from_numbers(splits),
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in _NAMES if name in archive.files}
    except _DAMAGED as error:
        raise ValueError(f"features: {path} is damaged or not a .npz or .safetensors file: {error}") from error
