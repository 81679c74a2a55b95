"""torch custom operations without dispatch overhead in eager mode, with rules for vmap and both modes of autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CustomOp:
    """A function as a torch custom operation that bypasses the dispatcher where nothing intercepts it.

    The dispatcher's Python layers cost 0.3 to 0.5 ms per solve and gradient, a fifth of the arithmetic of a small
    batch. For plain tensors, outside compilers, transforms, modes and the profiler, the function is therefore called
    directly, or through a torch.autograd.Function if a gradient may be requested. Transforms of torch.func and forward
    mode also use an autograd.Function, because custom operations have no rules for them. All other calls go through
    :attr:`custom`.

    Args:
        name: with its namespace.
        function: takes and returns plain tensors and numbers. Its leading arguments are tensors with the batch first.
        schema: of the operation, as returned by :func:`torch.library.infer_schema`.
        fake: the function for tensors without values.
    """

    def __init__(self, name: str, function: Callable[..., Any], *, schema: str, fake: Callable[..., Any]) -> None:
        self._name, self._function = name, function
        self._has_derivative = False
        self.custom = torch.library.custom_op(name, function, mutates_args=(), schema=schema)
        self.custom.register_fake(fake)
        vmap = _fold_batch(self, schema.partition("->")[0].count("Tensor "))
        self.custom.register_vmap(vmap)
        rules = {"setup_context": _constant, "jvp": _no_tangent, "vmap": vmap}
        # Below a transform the inputs may still be subclasses or under a mode that the dispatcher must see.
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
            # Skips Function.apply, which searches for default arguments and transforms; there are none here.
            return super(torch.autograd.Function, self._eager).apply(*inputs)  # type: ignore[misc]
        with torch.no_grad():
            return self._function(*inputs)

    def register_autograd(
        self, backward: Callable[..., Any], *, jvp: Callable[..., Any], setup_context: Callable[..., None]
    ) -> None:
        """As :meth:`torch.library.CustomOpDef.register_autograd`, with an additional rule for forward mode.

        Without this call the operation is a constant in both modes.

        Args:
            backward: maps a context and the gradients of the outputs to the gradients of the inputs.
            jvp: maps a context and the tangents of the inputs (None if constant) to the tangents of the outputs.
            setup_context: stores in the context what both rules need.
        """
        self.custom.register_autograd(backward, setup_context=setup_context)
        for function in (self._transformed, self._eager):
            function.setup_context = staticmethod(setup_context)
            function.backward = staticmethod(backward)
            function.jvp = staticmethod(jvp)
        self._has_derivative = True

    def _dispatch(self, *inputs: Any) -> Any:
        """Call the operation below autograd and the transforms."""
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
    """Whether a derivative with respect to one of the values may be requested; True inside torch.func transforms."""
    if forward_mode():
        return True
    if not torch.is_grad_enabled():
        return False
    inside = torch._C._are_functorch_transforms_active()
    return inside or any(isinstance(value, Tensor) and value.requires_grad for value in values)


def is_plain(value: Tensor) -> bool:
    """Whether the tensor has values in memory: no subclass, no fake tensor and no wrapper of a torch.func transform."""
    return type(value) in _PLAIN and torch._C._has_storage(value)


def _function_class(name: str, **rules: Callable[..., Any]) -> Any:
    methods = {rule: staticmethod(function) for rule, function in rules.items()}
    return type(name.partition("::")[2], (torch.autograd.Function,), methods)


def _constant(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


def _no_tangent(ctx: Any, *tangents: Any) -> None:
    return None


def _intercepted(inputs: tuple[Any, ...]) -> bool:
    """Whether a mode, tracer, profiler or tensor subclass must see the operation, so that the dispatcher is needed."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
        or any(isinstance(value, Tensor) and not is_plain(value) for value in inputs)
    )


def _fold_batch(op: CustomOp, n_tensors: int) -> Callable[..., Any]:
    """The vmap rule of an operation on batches: the mapped dimension is folded into the batch dimension.

    Args:
        n_tensors: number of leading arguments that are tensors with the batch first; the others are not mapped.
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
