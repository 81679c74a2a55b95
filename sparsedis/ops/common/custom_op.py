"""torch custom operations that eager calls do not have to pay for, with rules for vmap and both modes of autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CustomOp:
    """A function as a torch custom operation, called past the dispatcher where nothing wants to see it.

    The dispatcher's Python layers cost a third to half a millisecond for a solve and its gradient, a fifth of the
    arithmetic of a small batch. Plain tensors outside of compilers, transforms, modes and the profiler therefore go
    straight to the function, and to its derivative by a torch.autograd.Function. Transforms of torch.func and forward
    mode see that Function too: the custom operation has no rules for them. All others see :attr:`custom`.

    Args:
        name: with its namespace.
        function: takes and returns plain tensors and numbers; its leading arguments are tensors with the batch first.
        schema: of the operation, as :func:`torch.library.infer_schema` gives it.
        fake: the function on tensors without values.
    """

    def __init__(self, name: str, function: Callable[..., Any], *, schema: str, fake: Callable[..., Any]) -> None:
        self._name, self._function = name, function
        self._has_derivative = False
        self.custom = torch.library.custom_op(name, function, mutates_args=(), schema=schema)
        self.custom.register_fake(fake)
        vmap = _fold_batch(self, schema.partition("->")[0].count("Tensor "))
        self.custom.register_vmap(vmap)
        rules = {"setup_context": _constant, "jvp": _no_tangent, "vmap": vmap}
        # Inside a transform the inputs of forward may again be such that the dispatcher has to see them.
        self._transformed: Any = _function_class(name, forward=self._dispatch, **rules)
        self._eager: Any = _function_class(name, forward=function, **rules)

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            if self._has_derivative and forward_mode():
                raise RuntimeError(_NO_COMPILED_TANGENT.format(name=self._name))
            return self.custom(*inputs)
        if torch._C._are_functorch_transforms_active() or forward_mode():
            return self._transformed.apply(*inputs)
        if _intercepted(inputs):
            return self.custom(*inputs)
        if self._has_derivative and torch.is_grad_enabled():
            # Function.apply looks for default arguments and transforms first, of which there are none.
            return super(torch.autograd.Function, self._eager).apply(*inputs)  # type: ignore[misc]
        with torch.no_grad():
            return self._function(*inputs)

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
        for function in (self._transformed, self._eager):
            function.setup_context = staticmethod(setup_context)
            function.backward = staticmethod(backward)
            function.jvp = staticmethod(jvp)
        self._has_derivative = True

    def _dispatch(self, *inputs: Any) -> Any:
        """The operation below autograd and the transforms."""
        return self.custom(*inputs) if _intercepted(inputs) else self._function(*inputs)


_PLAIN = (Tensor, torch.nn.Parameter)
_NO_COMPILED_TANGENT = (
    "{name}: forward mode (torch.func.jvp, jacfwd, dual numbers) does not work inside torch.compile. Use reverse mode "
    "there (backward, torch.autograd.grad), or forward mode without compiling."
)


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


def is_plain(value: Tensor) -> bool:
    """Whether the tensor has values in memory: no subclass, no fake, and no wrapper of a transform, alive or dead."""
    return type(value) in _PLAIN and torch._C._has_storage(value)


def _function_class(name: str, **rules: Callable[..., Any]) -> Any:
    methods = {rule: staticmethod(function) for rule, function in rules.items()}
    return type(name.partition("::")[2], (torch.autograd.Function,), methods)


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
        or torch._C._autograd._profiler_enabled()
        or any(isinstance(value, Tensor) and not is_plain(value) for value in inputs)
    )


def _fold_batch(op: CustomOp, n_tensors: int) -> Callable[..., Any]:
    """The vmap rule of an operation on batches: the mapped dimension becomes part of the batch.

    Args:
        n_tensors: how many of the first arguments are tensors with the batch first; the others are not mapped.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        size = info.batch_size
        folded = list(inputs)
        for i in range(n_tensors):
            value, dim = inputs[i], in_dims[i]
            value = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
            folded[i] = value.reshape(-1, *value.shape[2:])
        result = op(*folded)
        if isinstance(result, Tensor):
            return result.unflatten(0, (size, -1)), 0
        return tuple(value.unflatten(0, (size, -1)) for value in result), (0,) * len(result)

    return rule
