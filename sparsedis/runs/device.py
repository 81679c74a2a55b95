"""The device and the CPU threads of a run."""

from __future__ import annotations

import warnings

import torch


def device_named(name: str) -> torch.device:
    """The device of that name, as PyTorch names it: "cpu", "cuda:1", "mps".

    Raises:
        ValueError: the machine or this build of PyTorch lacks the device, or it cannot hold values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation warnings of old device names; the error suffices
            device = torch.device(name)
        if device.type == "cpu" and device.index:
            raise RuntimeError("a machine has one device cpu")  # torch accepts any index
        torch.ones(1, device=device).item()  # fails on the meta device, whose tensors have no values
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:  # for devices not in this build
        raise ValueError(f"device: {name!r} is not available: {(str(error).splitlines() or [''])[0]}") from error
    return device


def set_threads(count: int | None) -> None:
    """Set the number of CPU threads of the process; None keeps PyTorch's default."""
    if count is not None:
        torch.set_num_threads(count)
