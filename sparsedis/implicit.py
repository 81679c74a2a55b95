"""Derivatives of the solutions: what ties the operations' adjoints to autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsedis.ops import group_lasso_svm, lasso, logistic, ridge
from sparsedis.ops.operation import forward_mode


def _tie(
    operation: Any, kept: int, options: tuple[int, ...], differentiable: tuple[int, ...], needed: tuple[int, ...]
) -> None:
    """Register the derivatives of an operation's ``solve``; its ``adjoint`` and ``tangent`` have none.

    Nothing but the problem and its solution is kept: adjoint and tangent make the rest again.

    Args:
        operation: module with ``solve``, ``adjoint`` and ``tangent``.
        kept: how many of the first inputs describe the problem.
        options: positions of the inputs that ``adjoint`` takes last: the backend's name, and others before it.
        differentiable: positions of the inputs that ``adjoint`` returns gradients of, and ``tangent`` takes tangents
            of, in their order.
        needed: positions of the outputs that both take, between problem and gradient or tangents.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        solved = (*inputs[:kept], *(output[i] for i in needed))
        ctx.save_for_backward(*solved)
        if forward_mode():
            ctx.save_for_forward(*solved)
        ctx.options, ctx.sizes = [inputs[i] for i in options], (len(inputs), len(output))
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, grad_weights: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        grads: list[Tensor | None] = [None] * ctx.sizes[0]
        if grad_weights is None:
            return tuple(grads)
        values = operation.adjoint(*ctx.saved_tensors, grad_weights, *ctx.options)
        for position, value in zip(differentiable, values, strict=True):
            grads[position] = value
        return tuple(grads)

    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        solved = ctx.saved_tensors
        given = ((tangents[i], solved[i]) for i in differentiable)
        moved = [torch.zeros_like(value) if tangent is None else tangent for tangent, value in given]
        weights = operation.tangent(*solved, *moved, *ctx.options)
        return (weights, *(None for _ in range(ctx.sizes[1] - 1)))

    operation.solve.register_autograd(backward, jvp=jvp, setup_context=save)
    refuse = _no_second_derivative(operation.OPERATION)
    for derivative in (operation.adjoint, operation.tangent):
        derivative.register_autograd(refuse, jvp=refuse, setup_context=_nothing_kept)


def _nothing_kept(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """For a derivative that needs nothing."""


def _no_second_derivative(name: str) -> Callable[..., None]:
    def refuse(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            f"sparsedis: the solution of {name} has a first derivative only; its gradient cannot be differentiated "
            "again (create_graph=True, or a derivative inside a derivative)."
        )

    return refuse


_tie(group_lasso_svm, kept=6, options=(8,), differentiable=(0, 2, 3, 4), needed=(1, 7))
_tie(lasso, kept=5, options=(5,), differentiable=(0, 1, 2, 3), needed=(0, 1))
_tie(ridge, kept=4, options=(4,), differentiable=(0, 1, 2), needed=(0,))
_tie(logistic, kept=5, options=(6, 7), differentiable=(0, 2, 3), needed=(0, 1))
