"""An operation: batched convex problems, interchangeable backends that solve them, and the solutions' derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Generic, TypeVar, get_type_hints

import torch
from torch import Tensor

from sparsedis.ops.common.backend import Backend, Outputs, Request, empty_outputs
from sparsedis.ops.common.batches import raise_unless_certified
from sparsedis.ops.common.custom_op import CustomOp, forward_mode
from sparsedis.ops.common.precision import returned_dtype, working_dtype

_SCHEMA_TYPES = {Tensor: "Tensor", int: "SymInt", float: "float", bool: "bool", str: "str"}

Inputs = TypeVar("Inputs", bound=tuple[Any, ...])
Options = TypeVar("Options", bound=tuple[Any, ...])
Saved = TypeVar("Saved", bound=tuple[Any, ...])
Differentials = TypeVar("Differentials", bound=tuple[Any, ...])


class Operation(Generic[Inputs, Options, Saved, Differentials]):
    """The torch operations ``sparsedis::<name>``, ``<name>_adjoint`` and ``<name>_tangent``, connected by autograd.

    torch's operator signatures are flat; the four named tuples give their arguments names. Only the weights are
    differentiable, because dual points need not be unique and a certificate is not a training target. The derivatives
    are first order, and only the inputs and ``saved`` are stored for them.

    Args:
        name: of the operation.
        inputs: the tensors that describe the tasks, with the batch first; the features are the first field.
        options: the solver options, including ``tol``.
        saved: the outputs that the derivatives need, a subset of the fields of :class:`Outputs`.
        differentials: one tensor per differentiable input, under the same name: its gradient or tangent.
        shapes: maps inputs and options to the shapes of weights and dual, without B.
        check_values: raises ValueError for invalid values; shapes and types have been checked before.
        backends: in the order that "auto" tries them.

    Attributes:
        solve: ``solve(*inputs, *options, backend, throw)`` -> the fields of :class:`Outputs`. ``backend`` is a name;
            with ``throw``, a task that is not certified raises NotCertifiedError.
        adjoint: ``adjoint(*inputs, *saved, grad_weights, *options, backend)`` -> the gradients of the differentiable
            inputs.
        tangent: ``tangent(*inputs, *saved, *tangents, *options, backend)`` -> the tangent of the weights.
    """

    def __init__(
        self,
        name: str,
        *,
        inputs: type[Inputs],
        options: type[Options],
        saved: type[Saved],
        differentials: type[Differentials],
        shapes: Callable[[Inputs, Options], tuple[tuple[int, ...], tuple[int, ...]]],
        check_values: Callable[[Inputs, Options], None],
        backends: Sequence[Backend[Inputs, Options, Saved, Differentials]],
    ) -> None:
        self.name = name
        self.backends = list(backends)
        self._inputs, self._options, self._saved, self._differentials = inputs, options, saved, differentials
        self._shapes, self._check_values = shapes, check_values
        tensors, numbers = _fields(inputs), _fields(options)
        tangents = {f"{field}_tangent": Tensor for field in _fields(differentials)}
        self.solve = CustomOp(
            f"sparsedis::{name}",
            self._solve,
            schema=_schema({**tensors, **numbers, "backend": str, "throw": bool}, len(Outputs._fields)),
            fake=self._solve_fake,
        )
        solved = {**tensors, **_fields(saved)}
        self.adjoint = CustomOp(
            f"sparsedis::{name}_adjoint",
            self._adjoint,
            schema=_schema({**solved, "grad_weights": Tensor, **numbers, "backend": str}, len(tangents)),
            fake=self._adjoint_fake,
        )
        self.tangent = CustomOp(
            f"sparsedis::{name}_tangent",
            self._tangent,
            schema=_schema({**solved, **tangents, **numbers, "backend": str}, 1),
            fake=self._tangent_fake,
        )
        self.solve.register_autograd(self._backward, jvp=self._jvp, setup_context=self._save)
        for derivative in (self.adjoint, self.tangent):
            derivative.register_autograd(
                self._no_second_derivative, jvp=self._no_second_derivative, setup_context=_save_no_context
            )

    def backend(self, name: str) -> Backend[Inputs, Options, Saved, Differentials]:
        """The backend of that name; ValueError if it is unknown."""
        for backend in self.backends:
            if backend.name == name:
                return backend
        known = ", ".join(repr(backend.name) for backend in self.backends)
        raise ValueError(f"backend: expected 'auto' or one of {known}, got {name!r}")

    def choose(self, name: str, request: Request) -> str:
        """The name of the backend to run: ``name`` itself, or for "auto" the first backend that can run the request.

        Raises:
            ValueError: the backend is unknown, or cannot run the request; the message gives the reason.
        """
        if name != "auto":
            backend = self.backend(name)
            if reason := backend.available() or backend.supports(request._replace(named=True)):
                raise ValueError(f"backend {name!r} cannot run this: {reason}")
            return name
        reasons = []
        for backend in self.backends:
            reason = backend.available() or backend.supports(request)
            if reason is None:
                return backend.name
            reasons.append(f"{backend.name}: {reason}")
        raise ValueError(f"no backend can run this ({'; '.join(reasons)})")

    def _solve(self, *flat: Any) -> tuple[Tensor, ...]:
        inputs, options, (name, throw) = _named(flat, self._inputs, self._options)
        backend = self.backend(name)
        if not backend.checks_values:
            self._check_values(inputs, options)
        with _without_autocast(inputs.features.device):
            outputs = backend.solve(inputs, options)
        if throw:
            raise_unless_certified(outputs.status, outputs.relative_gap, options.tol)
        return tuple(outputs)

    def _solve_fake(self, *flat: Any) -> tuple[Tensor, ...]:
        inputs, options, _ = _named(flat, self._inputs, self._options)
        per_task = inputs.features.new_empty(inputs.features.shape[0], dtype=working_dtype(inputs.features.device))
        return tuple(empty_outputs(inputs.features, per_task, *self._shapes(inputs, options)))

    def _adjoint(self, *flat: Any) -> tuple[Tensor, ...]:
        inputs, saved, (grad_weights, *rest) = _named(flat, self._inputs, self._saved)
        options, (name,) = _named(rest, self._options)
        with _without_autocast(inputs.features.device):
            return tuple(self.backend(name).adjoint(inputs, options, saved, grad_weights))

    def _adjoint_fake(self, *flat: Any) -> tuple[Tensor, ...]:
        inputs, _ = _named(flat, self._inputs)
        # Contiguous, whatever the strides of the inputs, as the backends return them.
        return tuple(value.new_empty(value.shape) for value in self._differentiable(inputs))

    def _tangent(self, *flat: Any) -> Tensor:
        inputs, saved, tangents, options, (name,) = self._named_with_tangents(flat)
        with _without_autocast(inputs.features.device):
            return self.backend(name).tangent(inputs, options, saved, tangents)

    def _tangent_fake(self, *flat: Any) -> Tensor:
        inputs, _, _, options, _ = self._named_with_tangents(flat)
        weights, _ = self._shapes(inputs, options)
        return inputs.features.new_empty(
            inputs.features.shape[0], *weights, dtype=returned_dtype(inputs.features.dtype)
        )

    def _named_with_tangents(self, flat: Sequence[Any]) -> tuple[Any, ...]:
        return _named(flat, self._inputs, self._saved, self._differentials, self._options)

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        tensors, ctx.options, (ctx.backend, _) = _named(inputs, self._inputs, self._options)
        outputs = Outputs(*output)
        solved = (*tensors, *(getattr(outputs, field) for field in _fields(self._saved)))
        ctx.save_for_backward(*solved)
        if forward_mode():
            ctx.save_for_forward(*solved)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    def _backward(self, ctx: Any, grad_weights: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        gradients: dict[str, Tensor] = {}
        if grad_weights is not None:
            values = self.adjoint(*ctx.saved_tensors, grad_weights, *ctx.options, ctx.backend)
            gradients = dict(zip(_fields(self._differentials), values, strict=True))
        others = len(ctx.options) + 2  # the options, backend and throw have no gradient
        return (*(gradients.get(field) for field in _fields(self._inputs)), *(None for _ in range(others)))

    def _jvp(self, ctx: Any, *flat: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, _ = _named(ctx.saved_tensors, self._inputs)
        tangents, _ = _named(flat, self._inputs)
        pairs = zip(self._differentiable(tangents), self._differentiable(inputs), strict=True)
        filled = (torch.zeros_like(value) if tangent is None else tangent for tangent, value in pairs)
        weights = self.tangent(*ctx.saved_tensors, *filled, *ctx.options, ctx.backend)
        return (weights, *(None for _ in Outputs._fields[1:]))

    def _differentiable(self, inputs: Inputs) -> Any:
        return self._differentials(*(getattr(inputs, field) for field in _fields(self._differentials)))

    def _no_second_derivative(self, ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            f"sparsedis: the solution of {self.name} has a first derivative only; its gradient cannot be "
            "differentiated again (create_graph=True, or a derivative inside a derivative)."
        )


def value_per_task(name: str) -> Callable[[Callable[..., Tensor]], CustomOp]:
    """Decorator that makes a function returning (B,) the operation ``sparsedis::<name>``, without derivatives.

    The function's first argument is the features; its result is in the working precision.
    """

    def wrap(function: Callable[..., Tensor]) -> CustomOp:
        def run(features: Tensor, *others: Any) -> Tensor:
            with _without_autocast(features.device):
                return function(features, *others)

        def fake(features: Tensor, *others: Any) -> Tensor:
            return features.new_empty(features.shape[0], dtype=working_dtype(features.device))

        schema = torch.library.infer_schema(function, mutates_args=())
        return CustomOp(f"sparsedis::{name}", run, schema=schema, fake=fake)

    return wrap


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast on that device type. Only if it is enabled: entering the context costs as much as a launch."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@cache
def _fields(signature: type[tuple[Any, ...]]) -> dict[str, type]:
    """The fields of a named tuple with their types, in order."""
    return get_type_hints(signature)


def _named(flat: Sequence[Any], *signatures: type[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Split flat arguments into one named tuple per signature, followed by the remaining arguments."""
    named = []
    for signature in signatures:
        count = len(_fields(signature))
        named.append(signature(*flat[:count]))
        flat = flat[count:]
    return (*named, flat)


def _schema(arguments: Mapping[str, type], n_outputs: int) -> str:
    """The schema of a torch operation that returns ``n_outputs`` tensors."""
    parameters = ", ".join(f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in arguments.items())
    returned = "Tensor" if n_outputs == 1 else f"({', '.join(['Tensor'] * n_outputs)})"
    return f"({parameters}) -> {returned}"


def _save_no_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """``setup_context`` of an operation whose derivative needs nothing."""
