"""Which backend runs an operation: every backend says what it cannot do, and why."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch


class Request(NamedTuple):
    """What is asked of a backend, as far as shapes and types tell; ``named``: the backend is asked for by its name."""

    device: torch.device
    dtype: torch.dtype
    n_samples: int
    n_features: int
    n_classes: int
    solver: str
    named: bool = False


class Backend(Protocol):
    """An implementation of one operation."""

    name: str

    def available(self) -> str | None:
        """None where the backend can run on this machine, else the reason why not."""
        ...

    def supports(self, request: Request) -> str | None:
        """None where the backend can meet the request, else the reason why not."""
        ...


_registered: dict[str, list[Backend]] = {}


def register(operation: str, backend: Backend) -> None:
    """Add a backend; "auto" takes the first registered one that is available and supports the request."""
    _registered.setdefault(operation, []).append(backend)


def operations() -> list[str]:
    """Names of the operations that have backends."""
    return list(_registered)


def backends(operation: str = "group_lasso_svm") -> list[Backend]:
    """The backends of an operation, in the order in which "auto" tries them."""
    return list(_registered[operation])


def named(operation: str, name: str) -> Backend:
    """The backend of that name; ValueError for an unknown one."""
    for backend in _registered[operation]:
        if backend.name == name:
            return backend
    known = ", ".join(repr(backend.name) for backend in _registered[operation])
    raise ValueError(f"backend: expected 'auto' or one of {known}, got {name!r}")


def choose(operation: str, name: str, request: Request) -> Backend:
    """The backend to run: the named one, or for "auto" the first that can.

    Raises:
        ValueError: the named backend is unknown, or cannot meet the request; the message gives its reason.
    """
    if name != "auto":
        backend = named(operation, name)
        if reason := backend.available() or backend.supports(request._replace(named=True)):
            raise ValueError(f"backend {name!r} cannot run this: {reason}")
        return backend
    reasons = []
    for backend in _registered[operation]:
        reason = backend.available() or backend.supports(request)
        if reason is None:
            return backend
        reasons.append(f"{backend.name}: {reason}")
    raise ValueError(f"no backend can run this ({'; '.join(reasons)})")
