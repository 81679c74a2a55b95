"""jaxopt: BlockCoordinateDescent on the dual, compiled, all tasks by vmap."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gates import Bound, Outcome, relative_gap
from benchmarks.peers import Prepared, reason_not_importable
from benchmarks.tasks import Case, Tasks
from sparsedis.info import installed_version

_CHUNK, _MOST = 25, 1000  # sweeps: step of the search, and largest number
_SEARCH_SECONDS = 20.0


class Jaxopt:
    """See :class:`benchmarks.peers.Peer`. Runs exactly as many sweeps as a gap of 1e-3 takes."""

    name = "jaxopt"
    gap: float | None = 1e-3
    gradient: Bound | None = None

    def available(self) -> str | None:
        return reason_not_importable("jaxopt")

    def supports(self, case: Case, device: torch.device) -> str | None:
        return None if device.type == "cpu" else "measured on the CPU only"

    def describe(self) -> str:
        versions = ", ".join(f"{name} {installed_version(name)}" for name in ("jaxopt", "jax"))
        return f"{versions}, BlockCoordinateDescent, float32, jit, vmap"

    def prepare(self, tasks: Tasks) -> Prepared:
        return prepare_sweeps(tasks, _sweeps(tasks, _arguments(tasks), 1e-3))


def _sweeps(tasks: Tasks, arguments: tuple[np.ndarray, ...], gap: float) -> int:
    """The sweeps until every task reaches the gap, or until the time limit.

    L is the only state of a sweep, so that continuing from the last L equals running more sweeps at once.
    """
    more = _compiled(_CHUNK)[0]
    L = _start(arguments)
    start = time.perf_counter()
    sweeps = 0
    while sweeps < _MOST:
        sweeps += _CHUNK
        outcome = _read(_wait(more(*arguments, L)))
        assert outcome.dual is not None
        worst = relative_gap(tasks, outcome.weights, outcome.dual).max().item()
        if worst <= 0.98 * gap or time.perf_counter() - start > _SEARCH_SECONDS:
            break
        L = outcome.dual.numpy()
    return sweeps


def prepare_sweeps(tasks: Tasks, sweeps: int) -> Prepared:
    """A fixed number of sweeps."""
    arguments, (forward, both) = _arguments(tasks), _compiled(sweeps)
    start, c = _start(arguments), tasks.cotangent.numpy()
    return Prepared(
        lambda: _wait(forward(*arguments, start)),
        lambda: _wait(both(*arguments, start, c)),
        len(tasks),
        _read,
        note=f"{sweeps} sweeps",
    )


def _arguments(tasks: Tasks) -> tuple[np.ndarray, ...]:
    Y = torch.nn.functional.one_hot(tasks.labels, tasks.n_classes).float()
    return tuple(tensor.numpy() for tensor in (tasks.features, Y, tasks.lambda1, tasks.lambda2))


def _start(arguments: tuple[np.ndarray, ...]) -> np.ndarray:
    """L = 1/k, (B, n, k)."""
    return np.full_like(arguments[1], 1 / arguments[1].shape[2])


def _compiled(sweeps: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(X, Y, lambda1, lambda2, start) -> (W, L); with c also, (W, L, gradients in X, lambda1, lambda2)."""
    import jax
    import jax.numpy as jnp
    from jaxopt import BlockCoordinateDescent, projection
    from jaxopt._src.base import LinearOperator
    from jaxopt._src.objective import CompositeLinearFunction

    def norms(V: Any) -> Any:
        return jnp.sqrt(jnp.maximum((V**2).sum(-1), 1e-30))

    class Dual(CompositeLinearFunction):
        """jaxopt.objective's dual of the multiclass SVM, with the group Lasso: linop is X^T, predictions X^T L."""

        def subfun(self, predictions: Any, lambda1: Any, lambda2: Any, data: Any) -> Any:
            _, XY, _ = data
            return (jnp.maximum(norms(XY - predictions) - lambda1, 0) ** 2).sum() / (2 * lambda2)

        def make_linop(self, lambda1: Any, lambda2: Any, data: Any) -> Any:
            return LinearOperator(data[0].T)

        def columnwise_lipschitz_const(self, lambda1: Any, lambda2: Any, data: Any) -> Any:
            return (data[0] ** 2).sum(1) / lambda2

        def b(self, lambda1: Any, lambda2: Any, data: Any) -> Any:
            return data[2]

    def block_prox(row: Any, hyperparams: Any, scaling: float = 1.0) -> Any:
        return projection.projection_simplex(row)

    solver = BlockCoordinateDescent(fun=Dual(), block_prox=block_prox, maxiter=sweeps, tol=0.0)

    def one(X: Any, Y: Any, lambda1: Any, lambda2: Any, start: Any) -> tuple[Any, Any]:
        L = solver.run(start, None, lambda1, lambda2, (X, X.T @ Y, Y)).params
        V = X.T @ (Y - L)
        return jnp.maximum(1 - lambda1 / norms(V), 0)[:, None] * V / lambda2, L

    def both(X: Any, Y: Any, lambda1: Any, lambda2: Any, start: Any, c: Any) -> tuple[Any, ...]:
        def loss(X: Any, lambda1: Any, lambda2: Any) -> Any:
            W, L = one(X, Y, lambda1, lambda2, start)
            return (W * c).sum(), (W, L)

        grads, (W, L) = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(X, lambda1, lambda2)
        return W, L, *grads

    return jax.jit(jax.vmap(one)), jax.jit(jax.vmap(both))


def _wait(result: Any) -> Any:
    import jax

    return jax.block_until_ready(result)


def _read(result: Any) -> Outcome:
    return Outcome(*(torch.from_numpy(np.array(value)) for value in result))
