"""The tile sizes of the kernels, which determine the tasks that the backend supports. Does not import Triton."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sparsedis.ops.common import triton_device

# Tile sizes (samples, classes) in ascending order, with (features per iteration, warps) for float32 and for float64:
# combinations that compile without register spills on every target. Each is compiled for every kernel, hence the small
# number. They also limit the order of the Newton matrix.
TILES = {
    (32, 8): ((64, 4), (32, 8)),
    (128, 8): ((32, 8), (32, 8)),
    (256, 8): ((32, 8), (16, 8)),
    (32, 32): ((32, 8), (16, 8)),
    (64, 32): ((16, 8), (16, 8)),
    (32, 64): ((32, 8), (16, 8)),
}
# Warps of kernels that process the classes of a few samples at a time.
ROW_WARPS = 4


class Tile(NamedTuple):
    """Powers of two that hold a task: samples N, classes K, features per iteration BLOCK; and the number of warps."""

    N: int
    K: int
    BLOCK: int
    warps: int

    @property
    def fused(self) -> bool:
        """Whether a program can hold a task during many first-order steps."""
        return self.N <= 128 and self.K <= 16

    @property
    def rows(self) -> int:
        """Samples per iteration in kernels that process the classes of many samples."""
        return min(self.N, 512 // self.K)

    @property
    def short_block(self) -> int:
        """Features per iteration in kernels that hold more values per feature."""
        return self.BLOCK if self.N == 32 else 16


def tile_for(n: int, k: int, dtype: torch.dtype = torch.float64) -> Tile | None:
    """The smallest tile for n samples and k classes, computing in ``dtype``; None if there is none."""
    for (N, K), (single, double) in TILES.items():
        # AMD's matrix units use 16 columns, NVIDIA's 8. AMD's registers do not hold the largest tiles.
        if n <= N and k <= K and not (triton_device.AMD and N * max(K, 16) > 2048):
            return Tile(N, max(K, 16) if triton_device.AMD else K, *(single if dtype == torch.float32 else double))
    return None


def checked_tile(n: int, k: int, dtype: torch.dtype) -> Tile:
    """The tile of a task; ValueError if there is none."""
    tile = tile_for(n, k, dtype)
    if tile is None:
        raise ValueError(f"no tile holds {n} samples and {k} classes")
    return tile
