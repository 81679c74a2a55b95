"""What the operations share: calls, room for results, parts of a batch, certificates that are demanded, and vmap."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsedis.solution import NotCertifiedError, Status


class Operation:
    """A function as a torch custom operation that eager calls do not have to pay for.

    The dispatcher's Python layers take a third to half a millisecond for a solve and its gradient, a fifth of what a
    small batch's arithmetic takes. Plain tensors outside of compilers, transforms, modes and the profiler therefore go
    straight to the function, and to its derivative by a torch.autograd.Function; all others see :attr:`custom`.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._function = function
        self._differentiable: type[torch.autograd.Function] | None = None
        self.custom = torch.library.custom_op(name, function, mutates_args=())
        self.register_fake, self.register_vmap = self.custom.register_fake, self.custom.register_vmap

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling() or _intercepted(inputs):
            return self.custom(*inputs)
        if torch.is_grad_enabled() and self._differentiable:
            return self._differentiable.apply(*inputs)
        with torch.no_grad():
            return self._function(*inputs)

    def register_autograd(
        self, backward: Callable[..., Any], *, setup_context: Callable[..., None] | None = None
    ) -> None:
        """As :meth:`torch.library.CustomOpDef.register_autograd`."""
        self.custom.register_autograd(backward, setup_context=setup_context)
        function = self._function

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = function(*inputs)
            if setup_context:
                setup_context(ctx, inputs, output)
            return output

        methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        self._differentiable = type(function.__name__, (torch.autograd.Function,), methods)


def operation(name: str) -> Callable[[Callable[..., Any]], Operation]:
    """Decorator: the function as the :class:`Operation` of that name."""
    return lambda function: Operation(name, function)


def _intercepted(inputs: tuple[Any, ...]) -> bool:
    """Whether something wants to see the operation rather than what it does."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch.autograd._profiler_enabled()
        or any(isinstance(value, Tensor) and type(value) not in (Tensor, torch.nn.Parameter) for value in inputs)
    )


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


def in_parts(
    run: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...], task_bytes: int, memory: int
) -> tuple[Tensor, ...]:
    """What ``run`` makes of all tasks, who are given to it a slice at a time.

    Args:
        run: called with a slice of every tensor; returns tensors with the tasks first.
        tensors: with the tasks first.
        task_bytes: scratch memory that a task takes.
        memory: that tasks run together may take; one that needs more is run by itself.
    """
    step = max(1, memory // task_bytes)
    parts = [run(*(value[start : start + step] for value in tensors)) for start in range(0, len(tensors[0]), step)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


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
