"""The protocol that a backend implements, and the types of its requests and outputs."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from sparsedis.ops.common.precision import returned_dtype


class Request(NamedTuple):
    """Shapes and types of a problem; ``named`` is True if the user selected the backend by name."""

    device: torch.device
    dtype: torch.dtype
    n_samples: int
    n_features: int
    n_classes: int
    solver: str
    named: bool = False


class Outputs(NamedTuple):
    """The outputs of ``solve``, for every operation.

    "Working precision" is float64, or float32 on devices without float64. gap, relative_gap and objective are those of
    the returned weights, after rounding to their dtype.
    """

    weights: Tensor  # (B, d, ...), in the features' dtype, float32 for half precision
    dual: Tensor  # (B, n, ...), working precision
    gap: Tensor  # (B,), working precision
    relative_gap: Tensor  # (B,), working precision
    objective: Tensor  # (B,), working precision
    n_iter: Tensor  # (B,) int64
    status: Tensor  # (B,) int64: values of sparsedis.solution.Status
    active: Tensor  # (B, d) bool
    margin: Tensor  # (B,), working precision: distance from the nearest kink, inf if there is none


def empty_outputs(features: Tensor, per_task: Tensor, weights: tuple[int, ...], dual: tuple[int, ...]) -> Outputs:
    """Uninitialised outputs, contiguous.

    Args:
        features: (B, n, d).
        per_task: (B,) in the working precision.
        weights, dual: shapes without B.
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


# The four named tuples that each operation defines in its signature.py.
Inputs_ = TypeVar("Inputs_", bound=tuple[Any, ...], contravariant=True)
Options_ = TypeVar("Options_", bound=tuple[Any, ...], contravariant=True)
Saved_ = TypeVar("Saved_", bound=tuple[Any, ...], contravariant=True)
Differentials_ = TypeVar("Differentials_", bound=tuple[Any, ...])


class Backend(Protocol[Inputs_, Options_, Saved_, Differentials_]):
    """An implementation of one operation. The operation's ``signature`` module documents the arguments.

    Attributes:
        name: the name that users pass: "torch", "cpp", "cuda" or "triton".
        checks_values: whether ``solve`` itself raises ValueError for invalid values, with the messages of the
            operation's ``check_values``. If False, ``check_values`` is called before ``solve``.
    """

    @property
    def name(self) -> str: ...

    @property
    def checks_values(self) -> bool: ...

    def available(self) -> str | None:
        """None if the backend can run on this machine, else the reason why not."""
        ...

    def supports(self, request: Request) -> str | None:
        """None if the backend can solve the request, else the reason why not."""
        ...

    def solve(self, inputs: Inputs_, options: Options_) -> Outputs:
        """Solve all tasks, each with its own certificate.

        Raises:
            ValueError: with ``checks_values``, an invalid value.
        """
        ...

    def adjoint(self, inputs: Inputs_, options: Options_, saved: Saved_, grad_weights: Tensor) -> Differentials_:
        """Gradients of a loss from its gradient in the weights; contiguous, in the dtypes of the inputs."""
        ...

    def tangent(self, inputs: Inputs_, options: Options_, saved: Saved_, tangents: Differentials_) -> Tensor:
        """Tangent of the weights, in their dtype, from the tangents of the inputs (forward mode)."""
        ...
