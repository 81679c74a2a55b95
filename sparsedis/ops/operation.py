"""What the operations share: room for results, certificates that are demanded, and vmap."""

import torch
from torch import Tensor

from sparsedis.solution import NotCertifiedError, Status


def empty_solution(
    features: Tensor, per_task: Tensor, weights: tuple[int, ...], dual: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised room for what ``solve`` returns, of every operation.

    Args:
        features: (B, n, d).
        per_task: (B,) in the working precision.
        weights, dual: their shapes without B.

    Returns:
        weights, dual, gap, relative_gap, objective, n_iter, status, active.
    """
    batch, _, d = features.shape
    return (
        features.new_empty(batch, *weights, dtype=torch.promote_types(features.dtype, torch.float32)),
        per_task.new_empty(batch, *dual),
        per_task.new_empty(batch),
        per_task.new_empty(batch),
        per_task.new_empty(batch),
        per_task.new_empty(batch, dtype=torch.int64),
        per_task.new_empty(batch, dtype=torch.int64),
        features.new_empty(batch, d, dtype=torch.bool),
    )


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


def fold_batch(op, n_tensors):  # type: ignore[no-untyped-def]
    """vmap of an op over tasks: the mapped dimension becomes part of the batch.

    The first ``n_tensors`` arguments are tensors with the tasks first, all others options.
    """

    def rule(info, in_dims, *args):  # type: ignore[no-untyped-def]
        size = info.batch_size
        folded = []
        for position, (dim, value) in enumerate(zip(in_dims, args, strict=True)):
            if position >= n_tensors:
                folded.append(value)
                continue
            value = value.movedim(dim, 0) if dim is not None else value.expand(size, *value.shape)
            folded.append(value.reshape(-1, *value.shape[2:]))
        result = op(*folded)
        if isinstance(result, Tensor):
            return result.unflatten(0, (size, -1)), 0
        return tuple(value.unflatten(0, (size, -1)) for value in result), (0,) * len(result)

    return rule
