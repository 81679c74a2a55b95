"""Checkpoints: safetensors files that contain tensors and one JSON object as metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sparsedis.runs import files

# A single metadata key, since safetensors does not keep the order of several and equal runs must write equal bytes.
_KEY = "sparsedis"


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and a JSON object atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files.write(path, safetensors.torch.save(plain, metadata={_KEY: json.dumps(metadata)}))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the JSON object written by :func:`save`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or not a checkpoint of this package.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: expected a file, found none at {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[_KEY])
            # The file is mapped into memory; without clone() the tensors would keep it mapped.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError, RecursionError, RuntimeError) as error:
        raise ValueError(f"checkpoint: {path} is damaged or not of this package: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"checkpoint: {path} is damaged or not of this package: expected a JSON object")
    return tensors, metadata


def check(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: Path) -> None:
    """ValueError unless ``found`` has the names, shapes and dtypes of ``expected``; the message names ``source``."""
    if mismatched := sorted(expected.keys() ^ found.keys()):
        raise ValueError(f"checkpoint: {source} does not fit its settings: {mismatched[0]!r} on one side only")
    for name, value in expected.items():
        if found[name].shape != value.shape or found[name].dtype != value.dtype:
            raise ValueError(
                f"checkpoint: {source} does not fit its settings: {name!r}: expected {value.dtype} "
                f"{tuple(value.shape)}, got {found[name].dtype} {tuple(found[name].shape)}"
            )


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with ``prefix`` prepended to their names."""
    return {prefix + name: value for name, value in tensors.items()}


def select_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, which is removed from the names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, named "POSITION.KEY" by the position of the parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, values in state.items() for key, value in values.items()}


def fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], source: Path) -> None:
    """The inverse of :func:`optimizer_tensors`; ValueError if a tensor does not fit its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        position, _, key = name.partition(".")
        fits = position.isdecimal() and int(position) < len(parameters)
        if not fits or value.shape not in ((), parameters[int(position)].shape):
            raise ValueError(f"checkpoint: {source} does not fit its settings: optimizer state {name!r}")
        if value.dim():
            # Use the parameter's memory layout, as the original state did, since the layout affects rounding.
            value = torch.empty_like(parameters[int(position)]).copy_(value)
        state.setdefault(int(position), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
