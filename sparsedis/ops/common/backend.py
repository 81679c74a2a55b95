"""The protocol of a backend, and what backends are asked and give back."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from sparsedis.ops.common.precision import returned_dtype


class Request(NamedTuple):
    """The shapes and types of a problem to solve; ``named``: the backend was asked for by its name."""

    device: torch.device
    dtype: torch.dtype
    n_samples: int
    n_features: int
    n_classes: int
    solver: str
    named: bool = False


class Outputs(NamedTuple):
    """What ``solve`` returns, of every operation. "Working precision": float64, or float32 on devices without it.

    gap, relative_gap and objective are those of the weights as returned, rounded to their dtype.
    """

    weights: Tensor  # (B, d, ...), in the features' dtype, float32 for half precision
    dual: Tensor  # (B, n, ...), working precision
    gap: Tensor  # (B,), working precision
    relative_gap: Tensor  # (B,), working precision
    objective: Tensor  # (B,), working precision
    n_iter: Tensor  # (B,) int64
    status: Tensor  # (B,) int64: values of sparsedis.solution.Status
    active: Tensor  # (B, d) bool
    margin: Tensor  # (B,), working precision: distance from a kink, inf where there is none


def empty_outputs(features: Tensor, per_task: Tensor, weights: tuple[int, ...], dual: tuple[int, ...]) -> Outputs:
    """Uninitialised outputs, contiguous.

    Args:
        features: (B, n, d).
        per_task: (B,) in the working precision.
        weights, dual: their shapes without B.
    """
    batch, _, d = features.shape
    return Outputs(
        weights=features.new_empty(batch, *weights, dtype=returned_dtype(features.dtype)),
        dual=per_task.new_empty(batch, *dual),
        gap=per_task.new_empty(batch),
        relative_gap=per_task.new_empty(batch),
        objective=per_task.new_empty(batch),
        n_iter=per_task.new_empty(batch, dtype=torch.int64),
        status=per_task.new_empty(batch, dtype=torch.int64),
        active=features.new_empty(batch, d, dtype=torch.bool),
        margin=per_task.new_empty(batch),
    )


# The four named tuples of an operation's signature.py.
Inputs_ = TypeVar("Inputs_", bound=tuple[Any, ...], contravariant=True)
Options_ = TypeVar("Options_", bound=tuple[Any, ...], contravariant=True)
Saved_ = TypeVar("Saved_", bound=tuple[Any, ...], contravariant=True)
Differentials_ = TypeVar("Differentials_", bound=tuple[Any, ...])


class Backend(Protocol[Inputs_, Options_, Saved_, Differentials_]):
    """An implementation of one operation. What its arguments hold is stated in the operation's ``signature`` module.

    Attributes:
        name: what users call it: "torch", "cpp", "triton".
        checks_values: whether ``solve`` refuses bad values itself, with the messages of the operation's
            ``check_values``; for the others that function runs first.
    """

    @property
    def name(self) -> str: ...

    @property
    def checks_values(self) -> bool: ...

    def available(self) -> str | None:
        """None where the backend can run on this machine, else the reason why not."""
        ...

    def supports(self, request: Request) -> str | None:
        """None where the backend can meet the request, else the reason why not."""
        ...

    def solve(self, inputs: Inputs_, options: Options_) -> Outputs:
        """Solve all tasks, each to its own certificate.

        Raises:
            ValueError: with ``checks_values``, a bad value.
        """
        ...

    def adjoint(self, inputs: Inputs_, options: Options_, saved: Saved_, grad_weights: Tensor) -> Differentials_:
        """Gradients of a loss, from its gradient in the weights; each in the dtype of its input, contiguous."""
        ...

    def tangent(self, inputs: Inputs_, options: Options_, saved: Saved_, tangents: Differentials_) -> Tensor:
        """Tangent of the weights, in their dtype, from the tangents of the inputs: what forward mode asks for."""
        ...
