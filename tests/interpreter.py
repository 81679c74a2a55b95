"""Triton's interpreter for the tests: on where there is no GPU, and several times faster than as it comes."""

from __future__ import annotations

import os
import sys


def turn_on() -> None:
    """Interpret Triton's kernels from here on, unless there is a GPU; before anything imports Triton."""
    import torch

    if torch.cuda.is_available() or "TRITON_INTERPRET" in os.environ:
        return
    assert "triton" not in sys.modules, "Triton was imported before its interpreter was asked for"
    os.environ["TRITON_INTERPRET"] = "1"


def speed_up() -> None:
    """Patch the language once a launch.

    The interpreter patches triton.language anew at every call of a device function, sums and maxima included. Within a
    launch it is patched already; doing it again changes nothing and takes most of the time.
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
