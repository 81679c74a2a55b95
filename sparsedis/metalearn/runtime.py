"""Where a run runs: one process by itself, or several, or with mixed precision, by Hugging Face accelerate.

Several processes are started by ``torchrun`` or ``accelerate launch``, which say so in the environment. They share a
step's episodes out in equal, consecutive parts.
"""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from torch import Tensor, nn

from sparsedis.metalearn.config import TrainConfig
from sparsedis.runs.device import device_named


class Runtime:
    """One process: everything is done here, and nothing has to be agreed upon.

    Attributes:
        rank, size: number of this process, and how many there are.
        device: where its learner is.
    """

    rank, size = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The module to call and the optimiser to step in their place."""
        return module, optimizer

    def backward(self, loss: Tensor) -> None:
        """Gradients of the mean over all processes of their losses."""
        loss.backward()

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes, in each of them."""
        return value

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the processes, in each of them."""
        return value

    def share(self, value: Any) -> Any:
        """The main process's value, in each of them; anything that JSON can hold."""
        return value

    def wait(self) -> None:
        """Until all processes are here."""

    def state(self) -> dict[str, Any]:
        """What the next step depends on besides learner and optimiser."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""


class _Accelerated(Runtime):
    def __init__(self, accelerator: Any) -> None:
        super().__init__(accelerator.device)
        self._accelerator = accelerator
        self.rank, self.size = accelerator.process_index, accelerator.num_processes

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        return self._accelerator.prepare(module, optimizer)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def mean(self, value: Tensor) -> Tensor:
        return self._accelerator.reduce(value, "mean")

    def sum(self, value: Tensor) -> Tensor:
        return self._accelerator.reduce(value, "sum")

    def share(self, value: Any) -> Any:
        from accelerate.utils import broadcast_object_list

        held = [json.dumps(value)]
        broadcast_object_list(held)
        return json.loads(held[0])

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def state(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler
        return {} if scaler is None else {"scaler": scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])


def runtime(config: TrainConfig) -> Runtime:
    """For the settings and the environment.

    Raises:
        ValueError: the device is not available; accelerate is needed and not installed; or the processes do not divide
            the batch, or a pass of the encoder would have to be divided.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        _check_shares(config, size)
    elif config.precision == "no":
        return Runtime(device_named(config.device))
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise ValueError(
            "several processes and mixed precision need accelerate; pip install 'sparsedis[fewshot]'"
        ) from error
    # The running statistics are the same everywhere; nothing is to be sent.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    try:
        accelerator = Accelerator(
            cpu=config.device == "cpu",
            mixed_precision=config.precision,
            kwargs_handlers=[ddp],
            step_scheduler_with_optimizer=False,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"accelerate: {error}") from error
    return _Accelerated(accelerator)


def _check_shares(config: TrainConfig, size: int) -> None:
    if config.batch % size:
        raise ValueError(f"batch: expected a multiple of the {size} processes, got {config.batch}")
    share = config.batch // size
    if config.micro_batch is None or share % config.micro_batch:
        raise ValueError(
            f"micro_batch: expected a divisor of {share}, the tasks of each of {size} processes, so that batch "
            f"normalisation gives the same for any number of them; got {config.micro_batch}"
        )
