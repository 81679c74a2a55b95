"""DropBlock (Ghiasi, Lin and Le, NeurIPS 2018): dropout of square regions of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropBlock(nn.Module):
    """In training, zeros squares of block x block at random places, channel by channel, and scales up the rest.

    The fraction of places dropped rises from 0 to ``rate`` in the first ``ramp`` training steps, as MetaOptNet trains.
    Steps are counted by whoever trains, by :meth:`step`: a forward pass changes nothing, so it can be repeated.

    Args:
        rate: fraction of the map to drop at the end, 0 to below 1.
        block: side of the squares; a smaller map has smaller squares.
        ramp: steps until then; 0 drops ``rate`` from the start.
    """

    steps: Tensor

    def __init__(self, rate: float, block: int = 5, ramp: int = 40_000) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate: expected a number from 0 to below 1, got {rate}")
        for name, value, least in (("block", block, 1), ("ramp", ramp, 0)):
            if value < least:
                raise ValueError(f"{name}: expected a number >= {least}, got {value}")
        self.rate, self.block, self.ramp = rate, block, ramp
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def step(self) -> None:
        """A training step is done."""
        self.steps += 1

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W), with squares dropped in training."""
        if not self.training or self.rate == 0:
            return maps
        _, _, height, width = maps.shape
        block = min(self.block, height, width)
        ramp = (self.steps / self.ramp).clamp(max=1) if self.ramp else 1.0
        # Expected share dropped = rate * ramp, up to overlaps: every corner stands for block^2 of height * width
        # places.
        corner = self.rate * ramp * height * width / (block**2 * (height - block + 1) * (width - block + 1))
        corners = torch.rand(
            (*maps.shape[:2], height - block + 1, width - block + 1), device=maps.device, dtype=torch.float32
        )
        padded = nn.functional.pad((corners < corner).to(maps.dtype), (block - 1,) * 4)
        kept = 1 - nn.functional.max_pool2d(padded, block, stride=1)
        return maps * kept * (kept.numel() / kept.sum().clamp_min(1))

    def extra_repr(self) -> str:
        return f"rate={self.rate}, block={self.block}, ramp={self.ramp}"
