"""What the operations share: calls, room for results, parts of a batch, certificates that are demanded, and vmap."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsedis.solution import NotCertifiedError, Status

# The relative gap at which an iterate is the solution to rounding: on the right support gaps of 1e-15 are usual.
ROUNDING = 1e-13


class Operation:
    """A function as a torch custom operation that eager calls do not have to pay for.

    The dispatcher's Python layers take a third to half a millisecond for a solve and its gradient, a fifth of what a
    small batch's arithmetic takes. Plain tensors outside of compilers, transforms, modes and the profiler therefore go
    straight to the function, and to its derivative by a torch.autograd.Function. Transforms of torch.func and forward
    mode see that Function too: the custom operation has no rules for them. All others see :attr:`custom`.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name, self._function = name, function
        self._has_derivative = False
        self.custom = torch.library.custom_op(name, function, mutates_args=())
        self.register_fake = self.custom.register_fake
        rules = {"forward": self._run, "setup_context": _constant, "jvp": _no_tangent}
        methods = {rule: staticmethod(function) for rule, function in rules.items()}
        self._rules: Any = type(function.__name__, (torch.autograd.Function,), methods)

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            if self._has_derivative and forward_mode():
                raise RuntimeError(_NO_COMPILED_TANGENT.format(name=self._name))
            return self.custom(*inputs)
        if torch._C._are_functorch_transforms_active() or forward_mode():
            return self._rules.apply(*inputs)
        if _intercepted(inputs):
            return self.custom(*inputs)
        if self._has_derivative and torch.is_grad_enabled():
            # Function.apply looks for default arguments and transforms first, of which there are none.
            return super(torch.autograd.Function, self._rules).apply(*inputs)  # type: ignore[misc]
        with torch.no_grad():
            return self._function(*inputs)

    def register_vmap(self, rule: Callable[..., Any]) -> None:
        """As :meth:`torch.library.CustomOpDef.register_vmap`."""
        self.custom.register_vmap(rule)
        self._rules.vmap = staticmethod(rule)

    def register_autograd(
        self, backward: Callable[..., Any], *, jvp: Callable[..., Any], setup_context: Callable[..., None]
    ) -> None:
        """As :meth:`torch.library.CustomOpDef.register_autograd`, with a rule for forward mode.

        An operation without derivatives is a constant in both modes.

        Args:
            backward: from a context and the gradients in the outputs to those in the inputs.
            jvp: from a context and the inputs' tangents, None for those without, to the outputs' tangents.
            setup_context: keeps in the context what both take.
        """
        self.custom.register_autograd(backward, setup_context=setup_context)
        for rule, function in (("setup_context", setup_context), ("backward", backward), ("jvp", jvp)):
            setattr(self._rules, rule, staticmethod(function))
        self._has_derivative = True

    def _run(self, *inputs: Any) -> Any:
        """The operation below autograd and the transforms."""
        return self.custom(*inputs) if _intercepted(inputs) else self._function(*inputs)


_PLAIN = (Tensor, torch.nn.Parameter)
_NO_COMPILED_TANGENT = (
    "{name}: forward mode (torch.func.jvp, jacfwd, dual numbers) does not work inside torch.compile. Use reverse mode "
    "there (backward, torch.autograd.grad), or forward mode without compiling."
)


def operation(name: str) -> Callable[[Callable[..., Any]], Operation]:
    """Decorator: the function as the :class:`Operation` of that name."""
    return lambda function: Operation(name, function)


def forward_mode() -> bool:
    """Whether tensors may carry tangents: inside torch.func.jvp, jacfwd and torch.autograd.forward_ad.dual_level."""
    return torch.autograd.forward_ad._current_level >= 0


def may_be_differentiated(*values: Any) -> bool:
    """Whether a derivative in one of the values can be asked for later; inside a transform of torch.func it can."""
    if forward_mode():
        return True
    if not torch.is_grad_enabled():
        return False
    inside = torch._C._are_functorch_transforms_active()
    return inside or any(isinstance(value, Tensor) and value.requires_grad for value in values)


def _constant(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


def _no_tangent(ctx: Any, *tangents: Any) -> None:
    return None


def _intercepted(inputs: tuple[Any, ...]) -> bool:
    """Whether something wants to see the operation rather than what it does."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch.autograd._profiler_enabled()
        or any(isinstance(value, Tensor) and not is_plain(value) for value in inputs)
    )


def is_plain(value: Tensor) -> bool:
    """Whether the tensor has values in memory: no subclass, no fake, and no wrapper of a transform, alive or dead."""
    return type(value) in _PLAIN and torch._C._has_storage(value)


def empty_solution(
    features: Tensor, per_task: Tensor, weights: tuple[int, ...], dual: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised room for what ``solve`` returns, of every operation.

    Args:
        features: (B, n, d).
        per_task: (B,) in the working precision.
        weights, dual: their shapes without B.

    Returns:
        weights, dual, gap, relative_gap, objective, n_iter, status, active, margin.
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
        per_task.new_full((batch,), torch.inf),
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


def status_as_returned(status: Tensor, relative_gap: Tensor, tol: float) -> Tensor:
    """The status (B,) of a solver, once the gap is that of the weights in the dtype that they are returned in."""
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
