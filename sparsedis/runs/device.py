"""The device and the CPU threads of a run."""

from __future__ import annotations

import torch


def device_named(name: str) -> torch.device:
    """The device of that name, as PyTorch names it: "cpu", "cuda:1", "mps".

    Raises:
        ValueError: the machine, or this build of PyTorch, has no such device.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch built without CUDA
        raise ValueError(f"device: {name!r} is not available: {str(error).splitlines()[0]}") from error
    return device


def set_threads(count: int | None) -> None:
    """Set the number of CPU threads of the process; None leaves PyTorch's."""
    if count is not None:
        torch.set_num_threads(count)
