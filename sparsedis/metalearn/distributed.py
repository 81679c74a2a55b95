"""Data-parallel training in several processes, and mixed precision, with Hugging Face accelerate.

``torchrun`` and ``accelerate launch`` start the processes and set their number in the environment. Each process handles
an equal, consecutive part of the episodes of a step.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from sparsedis.extras import need
from sparsedis.metalearn.config import TrainConfig
from sparsedis.runs.device import device_named


class Processes:
    """The processes of a run. This base class is a single process, without communication.

    Attributes:
        rank: index of this process, from 0.
        size: number of processes.
        device: device of this process's learner.
    """

    rank, size = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def main(self) -> bool:
        """Whether this process writes files and output."""
        return self.rank == 0

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The module to call and the optimiser to step, in place of the given ones."""
        return module, optimizer

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the mean loss over all processes."""
        loss.backward()

    def clip(self, module: nn.Module, norm: float) -> None:
        """Clip the gradient over all parameters to this norm."""
        nn.utils.clip_grad_norm_(module.parameters(), norm)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes, available in each of them."""
        return value

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the processes, available in each of them."""
        return value

    def barrier(self) -> None:
        """Wait until all processes have called this."""

    def state(self) -> dict[str, Any]:
        """State that the next step depends on besides learner and optimiser."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""


class _Accelerated(Processes):
    def __init__(self, accelerator: Any) -> None:
        super().__init__(accelerator.device)
        self._accelerator = accelerator
        self.rank, self.size = accelerator.process_index, accelerator.num_processes

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        return self._accelerator.prepare(module, optimizer)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def clip(self, module: nn.Module, norm: float) -> None:
        self._accelerator.clip_grad_norm_(module.parameters(), norm)  # removes the loss scale first

    def mean(self, value: Tensor) -> Tensor:
        return self._accelerator.reduce(value, "mean")

    def sum(self, value: Tensor) -> Tensor:
        return self._accelerator.reduce(value, "sum")

    def barrier(self) -> None:
        self._accelerator.wait_for_everyone()

    def state(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler
        return {} if scaler is None else {"scaler": scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])


def processes(config: TrainConfig) -> Processes:
    """The processes described by the environment, with the device and precision of the settings.

    Raises:
        ValueError: the device is not available or not accelerate's; the number of processes does not divide the batch,
            or an encoder pass would have to be split.
        ImportError: accelerate is required but not installed.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        _check_batch(config, size)
    elif config.precision == "no":
        return Processes(device_named(config.device))
    accelerate = need("accelerate", "processes, precision")
    # The running statistics are equal in all processes, so no broadcast is needed.
    ddp = accelerate.DistributedDataParallelKwargs(broadcast_buffers=False)
    try:
        accelerator = accelerate.Accelerator(
            cpu=config.device == "cpu",
            mixed_precision=config.precision,
            kwargs_handlers=[ddp],
            step_scheduler_with_optimizer=False,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"accelerate: {error}") from error
    # Only after accelerate has selected this process's device: the check allocates memory on the current device.
    wanted, own = device_named(config.device), accelerator.device
    if wanted.type != own.type or wanted.index not in (None, own.index):
        raise ValueError(f"device: expected {own}, on which accelerate runs here, got {config.device!r}")
    return _Accelerated(accelerator)


def _check_batch(config: TrainConfig, size: int) -> None:
    if config.batch % size:
        raise ValueError(f"batch: expected a multiple of the {size} processes, got {config.batch}")
    part = config.batch // size
    if config.micro_batch is None or part % config.micro_batch:
        raise ValueError(
            f"micro_batch: expected a divisor of {part}, the tasks of each of {size} processes, so that batch "
            f"normalisation gives the same for any number of them; got {config.micro_batch}"
        )
