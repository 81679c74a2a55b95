"""The tiles that tasks are put into, and so what the backend can take: known without Triton."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sparsedis.ops.common import triton_device

# The tiles (samples, classes) that a task can be put into, small ones first, with the features read at a time and the
# warps of a program, in float32 and in float64: what compiles without spilling registers on every target. Every one is
# compiled for every kernel, so few; the limits of the backend follow from them, also that of the Newton matrix's order.
TILES = {
    (32, 8): ((64, 4), (32, 8)),
    (128, 8): ((32, 8), (32, 8)),
    (256, 8): ((32, 8), (16, 8)),
    (32, 32): ((32, 8), (16, 8)),
    (64, 32): ((16, 8), (16, 8)),
    (32, 64): ((32, 8), (16, 8)),
}
# Warps of what works on the classes of some samples at a time.
ROW_WARPS = 4


class Tile(NamedTuple):
    """Powers of two that hold a task: samples, classes, features read at a time; and the warps of a program."""

    N: int
    K: int
    BLOCK: int
    warps: int

    @property
    def fused(self) -> bool:
        """Whether a program can hold a task through many first-order steps."""
        return self.N <= 128 and self.K <= 16

    @property
    def rows(self) -> int:
        """Samples taken at a time where the classes of many samples are worked on."""
        return min(self.N, 512 // self.K)

    @property
    def short_block(self) -> int:
        """Features read at a time by kernels that hold more for each."""
        return self.BLOCK if self.N == 32 else 16


def tile_for(n: int, k: int, dtype: torch.dtype = torch.float64) -> Tile | None:
    """The smallest tile that holds n samples and k classes, to be computed in ``dtype``; None where there is none."""
    for (N, K), (single, double) in TILES.items():
        # AMD's matrix units take 16 columns, NVIDIA's 8; its registers do not hold the largest tiles.
        if n <= N and k <= K and not (triton_device.AMD and N * max(K, 16) > 2048):
            return Tile(N, max(K, 16) if triton_device.AMD else K, *(single if dtype == torch.float32 else double))
    return None


def checked_tile(n: int, k: int, dtype: torch.dtype) -> Tile:
    """The tile of tasks that the backend supports."""
    tile = tile_for(n, k, dtype)
    if tile is None:
        raise ValueError(f"no tile holds {n} samples and {k} classes")
    return tile
