"""Files that are whole or absent, and tensors in them: safetensors with one JSON text as metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

# One key only: safetensors does not keep the order of several, and equal runs write equal bytes.
_KEY = "sparsedis"


def write(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``; whenever the machine stops, the old or the new file is there, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name, too, has to reach the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """:func:`write` of JSON text."""
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def save(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors, and a JSON object that says what they are, in one piece."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write(path, safetensors.torch.save(plain, metadata={_KEY: json.dumps(about)}))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the JSON object that :func:`save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, or a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: expected a file, found none at {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            # The file is mapped into memory; clone() keeps nothing of it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError, RecursionError, RuntimeError) as error:
        raise ValueError(f"checkpoint: {path} is damaged or not of this package: {error}") from error
    if not isinstance(about, dict):
        raise ValueError(f"checkpoint: {path} is damaged or not of this package: expected a JSON object")
    return tensors, about


def check(expected: Mapping[str, Tensor], came: Mapping[str, Tensor], source: Path) -> None:
    """ValueError unless the names, shapes and types of the tensors that came are the expected ones."""
    if odd := sorted(expected.keys() ^ came.keys()):
        raise ValueError(f"checkpoint: {source} does not fit its settings: {odd[0]!r} on one side only")
    for name, value in expected.items():
        if came[name].shape != value.shape or came[name].dtype != value.dtype:
            raise ValueError(
                f"checkpoint: {source} does not fit its settings: {name!r}: expected {value.dtype} "
                f"{tuple(value.shape)}, got {came[name].dtype} {tuple(came[name].shape)}"
            )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser, named "POSITION.KEY"."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, values in state.items() for key, value in values.items()}


def fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], source: Path) -> None:
    """The inverse of :func:`optimizer_tensors`; ValueError where a tensor fits no parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        position, _, key = name.partition(".")
        fits = position.isdecimal() and int(position) < len(parameters)
        if not fits or value.shape not in ((), parameters[int(position)].shape):
            raise ValueError(f"checkpoint: {source} does not fit its settings: optimizer state {name!r}")
        if value.dim():
            # In the memory layout of the parameter, as the original was: a step must round as it would have.
            value = torch.empty_like(parameters[int(position)]).copy_(value)
        state.setdefault(int(position), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
