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


def status_as_returned(
    status: Tensor, own: Tensor, returned: Tensor, tol: float, attainable: Tensor | float = 0.0
) -> Tensor:
    """The status (B,) of tasks whose weights, as returned, have the relative gap ``returned``.

    PRECISION is rounding that keeps the gap above ``tol``: of the weights, where the solver's own are certified; or of
    the arithmetic, where a bound on the gap that it may leave is above ``tol``, and the solver stalled or came as far.
    One that max_iter cut off before did not get to rounding. The kernels' rule is in csrc/common/status.hpp.

    Args:
        status, own: how the solver ended, and its own relative gap, (B,).
        attainable: a relative gap that rounding may keep any solver from going below, (B,).
    """
    rounded = (status == Status.CERTIFIED) | (own <= tol)
    limit = torch.as_tensor(attainable, dtype=own.dtype, device=own.device)
    rounded |= (limit > tol) & ((status == Status.STALLED) | (own <= limit))
    status = torch.where(rounded, int(Status.PRECISION), status)
    return torch.where(returned <= tol, int(Status.CERTIFIED), status)


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
