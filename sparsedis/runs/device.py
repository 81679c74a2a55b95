"""The device and the CPU threads of a run."""

from __future__ import annotations

import warnings

import torch


def device_named(name: str) -> torch.device:
    """The device of that name, as PyTorch names it: "cpu", "cuda:1", "mps".

    Raises:
        ValueError: the machine, or this build of PyTorch, has no such device, or nothing can be computed on it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are no devices any more: an error says enough
            device = torch.device(name)
        if device.type == "cpu" and device.index:
            raise RuntimeError("a machine has one device cpu")  # torch takes any number for it
        torch.ones(1, device=device).item()  # a tensor of the device meta is made, but has no values
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:  # of devices that are not built in
        raise ValueError(f"device: {name!r} is not available: {(str(error).splitlines() or [''])[0]}") from error
    return device


def set_threads(count: int | None) -> None:
    """Set the number of CPU threads of the process; None leaves PyTorch's."""
    if count is not None:
        torch.set_num_threads(count)
