"""DropBlock (Ghiasi, Lin and Le, NeurIPS 2018): dropout of square regions of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropBlock(nn.Module):
    """In training, sets random squares of block x block to zero, independently per channel, and rescales the rest.

    The dropped fraction increases from 0 to ``rate`` during the first ``ramp`` training steps, as in MetaOptNet. The
    training loop counts the steps by calling :meth:`step`; a forward pass changes no state and can be repeated.

    Args:
        rate: final fraction of the map to drop, in [0, 1).
        block: side of the squares in pixels; reduced to the side of smaller maps.
        ramp: number of steps of the increase; with 0 the fraction is ``rate`` from the start.

    Raises:
        ValueError: an argument is out of range.
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
        """Count one training step."""
        self.steps += 1

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W), with squares dropped in training mode."""
        if not self.training or self.rate == 0:
            return maps
        _, _, height, width = maps.shape
        block = min(self.block, height, width)
        ramp = (self.steps / self.ramp).clamp(max=1) if self.ramp else 1.0
        # The expected dropped fraction is rate * ramp, up to overlaps: a corner drops block^2 of height * width pixels.
        corner = self.rate * ramp * height * width / (block**2 * (height - block + 1) * (width - block + 1))
        corners = torch.rand(
            (*maps.shape[:2], height - block + 1, width - block + 1), device=maps.device, dtype=torch.float32
        )
        padded = nn.functional.pad((corners < corner).to(maps.dtype), (block - 1,) * 4)
        kept = 1 - nn.functional.max_pool2d(padded, block, stride=1)
        return maps * kept * (kept.numel() / kept.sum().clamp_min(1))

    def extra_repr(self) -> str:
        return f"rate={self.rate}, block={self.block}, ramp={self.ramp}"
