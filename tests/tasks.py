"""Random tasks that resemble few-shot features."""

import torch
from torch import Tensor


def random_task(
    seed: int,
    way: int = 3,
    shots: int | tuple[int, ...] = 4,
    d: int = 30,
    batch: int = 1,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Clustered features (B, n, d), and labels (B, n)."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor((shots,) * way if isinstance(shots, int) else shots)
    labels = torch.arange(way).repeat_interleave(counts)
    centres = torch.randn(batch, way, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(batch, len(labels), d, generator=generator, dtype=torch.float64)
    return (centres[:, labels] + noise).to(dtype), labels.expand(batch, -1).contiguous()
