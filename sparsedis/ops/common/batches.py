"""Slicing of batches that exceed the memory budget, and the status of the tasks of a batch."""

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
        function: called with one slice of every tensor; returns tensors with the batch dimension first.
        tensors: (B, ...) each.
        task_bytes: scratch memory per task, in bytes.
        memory: budget of scratch memory per slice, in bytes. A slice has at least one task.
    """
    step = max(1, memory // task_bytes)
    slices = [function(*(value[i : i + step] for value in tensors)) for i in range(0, len(tensors[0]), step)]
    return tuple(torch.cat(column) for column in zip(*slices, strict=True))


def status_as_returned(
    status: Tensor, solver_gap: Tensor, returned_gap: Tensor, tol: float, attainable: Tensor | float = 0.0
) -> Tensor:
    """Status (B,) of tasks, given the relative gap of the weights after rounding to the returned dtype.

    PRECISION means that rounding keeps the gap above ``tol``. Either the solver's own weights are certified, but not
    the rounded ones; or ``attainable`` exceeds ``tol``, and the solver stalled or reached ``attainable``. A task that
    max_iter ended before that remains MAX_ITER. The compiled kernels apply the same rule (csrc/common/status.hpp).

    Args:
        status: how the solver ended, (B,).
        solver_gap: relative gap of the solver's weights before rounding, (B,).
        returned_gap: relative gap of the weights after rounding, (B,).
        tol: the relative gap to reach.
        attainable: bound on the relative gap that rounding of the arithmetic may leave, (B,).
    """
    rounded = (status == Status.CERTIFIED) | (solver_gap <= tol)
    limit = torch.as_tensor(attainable, dtype=solver_gap.dtype, device=solver_gap.device)
    rounded |= (limit > tol) & ((status == Status.STALLED) | (solver_gap <= limit))
    status = torch.where(rounded, int(Status.PRECISION), status)
    return torch.where(returned_gap <= tol, int(Status.CERTIFIED), status)


def raise_unless_certified(status: Tensor, relative_gap: Tensor, tol: float) -> None:
    """NotCertifiedError, listing the tasks, unless all are certified."""
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
