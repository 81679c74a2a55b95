"""Running statistics of batch normalisation over several encoder passes, in any number of processes.

Every pass normalises by the statistics of its own images, in whichever process it runs, so that the losses and
gradients of a step do not depend on the number of processes. PyTorch updates the running statistics, which evaluation
uses, after every pass, so that they would depend on it. Here they are updated once per step with the mean of the
passes' statistics, which does not depend on their order:

    running <- (1 - momentum) running + momentum * mean over all passes of all processes (statistic of the pass)

For a single pass this equals PyTorch's own update, which is then used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """The running statistics of a module's batch normalisation layers.

    Args:
        module: contains the layers.
    """

    def __init__(self, module: nn.Module) -> None:
        # A tuple of modules rather than a module, so that nothing is registered twice.
        self._layers = tuple(m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats)
        self._sums: list[Tensor] | None = None
        self._passes = 0

    @contextmanager
    def step(self, several: bool, mean: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Context of a training step (forward and backward); updates the running statistics once on exit.

        Args:
            several: whether the step has more than one pass in all processes together.
            mean: averages a tensor over all processes, with the result in each of them.
        """
        if not several or not self._layers:
            yield
            return
        before = [_values(layer) for layer in self._layers]
        counts = [int(layer.num_batches_tracked or 0) for layer in self._layers]
        momenta = [layer.momentum for layer in self._layers]
        for layer in self._layers:
            layer.momentum = 1.0  # so that after a pass the layer holds the statistics of that pass
        self._sums, self._passes = [torch.zeros_like(values) for values in before], 0
        try:
            yield
        finally:
            sums, self._sums = self._sums, None
            for layer, momentum in zip(self._layers, momenta, strict=True):
                layer.momentum = momentum
        pooled = mean(torch.cat(sums) / self._passes).split([len(values) for values in before])
        for layer, count, old, new in zip(self._layers, counts, before, pooled, strict=True):
            _update(layer, count + 1, old, new)

    def add(self) -> None:
        """Call after every forward pass, except its recomputation in the backward pass."""
        if self._sums is not None:
            self._passes += 1
            for total, layer in zip(self._sums, self._layers, strict=True):
                total += _values(layer)


@torch.no_grad()
def _values(layer: _BatchNorm) -> Tensor:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return torch.cat([layer.running_mean, layer.running_var])


@torch.no_grad()
def _update(layer: _BatchNorm, count: int, old: Tensor, new: Tensor) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    momentum = 1 / count if layer.momentum is None else layer.momentum
    mean, variance = ((1 - momentum) * old + momentum * new).chunk(2)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    layer.num_batches_tracked.fill_(count)
