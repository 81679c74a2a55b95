"""Derivatives of the solution: what ties the operation's adjoint to autograd."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparsedis.ops import group_lasso_svm


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # Nothing but the problem and its solution: the adjoint makes the rest again.
    ctx.save_for_backward(*inputs[:6], output[1], output[7])
    ctx.backend = inputs[8]


def _backward(ctx: Any, grad_weights: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, dual, active = ctx.saved_tensors
    grads = group_lasso_svm.adjoint(*inputs, dual, active, grad_weights, ctx.backend)
    features, lambda1, lambda2, dual_reg = grads
    return (features, None, lambda1, lambda2, dual_reg, None, *[None] * 6)


def _no_second_derivative(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(
        "sparsedis: the solution of a group-Lasso SVM has a first derivative only; its gradient cannot be "
        "differentiated again (create_graph=True, or a gradient inside a gradient)."
    )


group_lasso_svm.solve.register_autograd(_backward, setup_context=_save)
group_lasso_svm.adjoint.register_autograd(_no_second_derivative)
