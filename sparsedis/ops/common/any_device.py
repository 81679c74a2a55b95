"""The part that all torch backends share: they run wherever torch does."""

from __future__ import annotations

from sparsedis.ops.common.backend import Request


class AnyDevice:
    """A backend in torch's operations, on any device that torch runs on, in its working precision."""

    name = "torch"
    checks_values = False

    def available(self) -> str | None:
        return None

    def supports(self, request: Request) -> str | None:
        return None
