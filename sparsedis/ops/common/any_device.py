"""Base class of the torch backends: they support every device and problem size."""

from __future__ import annotations

from sparsedis.ops.common.backend import Request


class AnyDevice:
    """A backend written in torch operations, for any device, computing in the device's working precision."""

    name = "torch"
    checks_values = False

    def available(self) -> str | None:
        return None

    def supports(self, request: Request) -> str | None:
        return None
