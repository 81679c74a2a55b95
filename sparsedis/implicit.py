"""Derivatives of the solutions: what ties the operations' adjoints to autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sparsedis.ops import group_lasso_svm, lasso, logistic, ridge


def _tie(
    operation: Any, kept: int, options: tuple[int, ...], differentiable: tuple[int, ...], needed: tuple[int, ...]
) -> None:
    """Register the derivative of an operation's ``solve``; its ``adjoint`` has none.

    Nothing but the problem and its solution is kept: the adjoint makes the rest again.

    Args:
        operation: module with ``solve`` and ``adjoint``.
        kept: how many of the first inputs describe the problem.
        options: positions of the inputs that ``adjoint`` takes last: the backend's name, and others before it.
        differentiable: positions of the inputs that ``adjoint`` returns gradients of, in its order.
        needed: positions of the outputs that ``adjoint`` takes, between problem and gradient.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:kept], *(output[i] for i in needed))
        ctx.options, ctx.inputs = [inputs[i] for i in options], len(inputs)
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, grad_weights: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        grads: list[Tensor | None] = [None] * ctx.inputs
        if grad_weights is None:
            return tuple(grads)
        values = operation.adjoint(*ctx.saved_tensors, grad_weights, *ctx.options)
        for position, value in zip(differentiable, values, strict=True):
            grads[position] = value
        return tuple(grads)

    operation.solve.register_autograd(backward, setup_context=save)
    operation.adjoint.register_autograd(_no_second_derivative(operation.OPERATION))


def _no_second_derivative(name: str) -> Callable[..., None]:
    def refuse(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            f"sparsedis: the solution of {name} has a first derivative only; its gradient cannot be differentiated "
            "again (create_graph=True, or a gradient inside a gradient)."
        )

    return refuse


_tie(group_lasso_svm, kept=6, options=(8,), differentiable=(0, 2, 3, 4), needed=(1, 7))
_tie(lasso, kept=5, options=(5,), differentiable=(0, 1, 2, 3), needed=(0,))
_tie(ridge, kept=4, options=(4,), differentiable=(0, 1, 2), needed=(0,))
_tie(logistic, kept=5, options=(6, 7), differentiable=(0, 2, 3), needed=(0,))
