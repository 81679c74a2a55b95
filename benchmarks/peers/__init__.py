"""What runs side by side, behind one interface."""

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
    """A peer ready to run one batch: what is compiled or set up once has been.

    Attributes:
        forward: one solve; what it returns is not copied out of the peer's own arrays.
        forward_backward: one solve and its gradients.
        count: how many of the batch's tasks a call solves; fewer where all would take minutes.
        read: turns what the callables return into an :class:`Outcome`; not timed.
        note: what the report says of this run (steps taken, iterations).
        details: what else a result tells (iterations, active features, share certified), by name.
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
        gap: the relative gap it has to reach to get a figure; None: it promises none, and its own is printed.
        gradient: the errors of dloss/dX allowed against the exact one, likewise.
    """

    name: str
    gap: float | None
    gradient: Bound | None

    def available(self) -> str | None:
        """None where it can run on this machine, else the reason why not."""
        ...

    def supports(self, case: Case, device: torch.device) -> str | None:
        """None where it can run the case, else the reason why not."""
        ...

    def describe(self) -> str:
        """Version and settings."""
        ...

    def prepare(self, tasks: Tasks) -> Prepared:
        """Whatever is done once: compile, build the problem, find the number of sweeps."""
        ...


def reason_not_importable(module: str) -> str | None:
    """None where a peer's module can be imported, else the reason why not."""
    try:
        import_module(module)
    except Exception as error:  # whatever an old package does on a new interpreter
        kind = "not installed" if isinstance(error, ModuleNotFoundError) else f"failed: {type(error).__name__}"
        return f"{kind}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def peers(case: Case) -> list[Peer]:
    """The contenders of a case: the peers it names, then every backend of this package with every solver it names."""
    from benchmarks.peers.cvxpylayers import CvxpyLayers
    from benchmarks.peers.jaxopt import Jaxopt
    from benchmarks.peers.moreau import Moreau
    from benchmarks.peers.ours import ours
    from benchmarks.peers.published import Published, PublishedByHand
    from benchmarks.peers.qpth import Qpth

    every: tuple[type[Peer], ...] = (Published, PublishedByHand, Moreau, Jaxopt, Qpth, CvxpyLayers)
    named = {peer.name: peer for peer in every}
    return [*(named[name]() for name in case.peers), *ours(case.solvers)]
