"""The contenders, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import torch

from benchmarks.gates import Bound, Outcome
from benchmarks.tasks import Case, Tasks


@dataclass(frozen=True)
class Prepared:
    """A peer ready to run one batch, with compilation and setup done.

    Attributes:
        forward: one solve; the result stays in the peer's own arrays.
        forward_backward: one solve and its gradients.
        count: the number of the batch's tasks that a call solves; fewer if all would take minutes.
        read: converts the callables' result into an :class:`Outcome`; not timed.
        note: shown in the report (steps taken, iterations).
        details: other values of a result (iterations, active features, share certified), by name.
    """

    forward: Callable[[], object]
    forward_backward: Callable[[], object]
    count: int
    read: Callable[[object], Outcome] = lambda outcome: outcome  # type: ignore[assignment, return-value]
    note: str = ""
    details: Callable[[object], dict[str, object]] = lambda outcome: {}


class Peer(Protocol):
    """Something that solves the tasks.

    Attributes:
        name: in tables.
        gap: the relative gap required for a figure; None: it promises none, and the gap reached is printed.
        gradient: the allowed errors of dloss/dX against the exact one; None likewise.
    """

    name: str
    gap: float | None
    gradient: Bound | None

    def available(self) -> str | None:
        """None if it can run on this machine, else the reason why not."""
        ...

    def supports(self, case: Case, device: torch.device) -> str | None:
        """None if it can run the case, else the reason why not."""
        ...

    def describe(self) -> str:
        """Version and settings."""
        ...

    def prepare(self, tasks: Tasks) -> Prepared:
        """Everything done once: compile, set up the problem, find the number of sweeps."""
        ...


def reason_not_importable(module: str) -> str | None:
    """None if a peer's module can be imported, else the reason why not."""
    try:
        import_module(module)
    except Exception as error:  # an old package may raise anything on a new interpreter
        kind = "not installed" if isinstance(error, ModuleNotFoundError) else f"failed: {type(error).__name__}"
        return f"{kind}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def peers(case: Case) -> list[Peer]:
    """The contenders of a case: its peers, then every backend of this package with each of the case's solvers."""
    from benchmarks.peers.cvxpylayers import CvxpyLayers
    from benchmarks.peers.jaxopt import Jaxopt
    from benchmarks.peers.moreau import Moreau
    from benchmarks.peers.ours import ours
    from benchmarks.peers.published import Published, PublishedByHand
    from benchmarks.peers.qpth import Qpth

    every: tuple[type[Peer], ...] = (Published, PublishedByHand, Moreau, Jaxopt, Qpth, CvxpyLayers)
    named = {peer.name: peer for peer in every}
    return [*(named[name]() for name in case.peers), *ours(case.solvers)]
