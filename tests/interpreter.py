"""Triton's interpreter for tests without a GPU, patched to run several times faster."""

from __future__ import annotations

import os
import sys


def turn_on() -> None:
    """Let Triton interpret kernels unless there is a GPU; has to be called before Triton is imported."""
    import torch

    if torch.cuda.is_available() or "TRITON_INTERPRET" in os.environ:
        return
    assert "triton" not in sys.modules, "Triton was imported before its interpreter was enabled"
    os.environ["TRITON_INTERPRET"] = "1"


def speed_up() -> None:
    """Patch triton.language once per launch.

    The interpreter patches it again at every call of a device function, including sums and maxima, which has no effect
    within a launch but takes most of the time.
    """
    try:
        from triton import language
        from triton.runtime import interpreter
    except ImportError:
        return
    patch, nothing = interpreter._patch_lang, interpreter._LangPatchScope
    patched: set[str] = set()

    def patch_once(fn):  # type: ignore[no-untyped-def]
        seen = {value.__name__ for value in fn.__globals__.values() if value is language or value is language.core}
        if seen <= patched:
            return nothing()
        patched.update(seen)
        scope = patch(fn)
        restore = scope.restore

        def restored() -> None:
            patched.clear()
            restore()

        scope.restore = restored
        return scope

    interpreter._patch_lang = patch_once
