"""Batches too large for memory, and the status of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsedis.solution import NotCertifiedError, Status


def apply_in_slices(
    function: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...], task_bytes: int, memory: int
) -> tuple[Tensor, ...]:
    """Apply ``function`` to slices of the batch and concatenate.

    Args:
        function: called with a slice of every tensor; returns tensors whose first dimension is the batch.
        tensors: (B, ...) each.
        task_bytes: scratch memory that one task needs, in bytes.
        memory: scratch memory that one slice may use, in bytes; a task that needs more is a slice by itself.
    """
    step = max(1, memory // task_bytes)
    slices = [function(*(value[i : i + step] for value in tensors)) for i in range(0, len(tensors[0]), step)]
    return tuple(torch.cat(column) for column in zip(*slices, strict=True))


def status_of_rounded(status: Tensor, relative_gap: Tensor, tol: float) -> Tensor:
    """The status (B,) after rounding: PRECISION for a certified task whose rounded weights have a gap above ``tol``."""
    lost = (status == Status.CERTIFIED) & ~(relative_gap <= tol)
    return torch.where(lost, int(Status.PRECISION), status)


def raise_unless_certified(status: Tensor, relative_gap: Tensor, tol: float) -> None:
    """NotCertifiedError, naming the tasks, unless all are certified."""
    failed = (status != Status.CERTIFIED).nonzero()[:, 0].tolist()
    if not failed:
        return
    shown = "; ".join(
        f"task {i}: relative gap {relative_gap[i].item():.1e}, {Status(int(status[i])).name}" for i in failed[:8]
    )
    more = f"; and {len(failed) - 8} more" if len(failed) > 8 else ""
    advice = Status(int(status[failed[0]])).message
    raise NotCertifiedError(
        f"{len(failed)} of {len(status)} tasks are not certified at tol={tol:g} ({shown}{more}). {advice}"
    )
