"""Triton's interpreter for tests without a GPU, patched to run several times faster."""

from __future__ import annotations

import dataclasses
import functools
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
    """Leave out what takes most of the interpreter's time and has no effect here.

    The interpreter patches triton.language again at every call of a device function, including sums and maxima. It
    repeats every int32 addition and product in int64 to detect an overflow, as compiled kernels do for debugging only.
    And it finds the NumPy type of each result in a new table of all types.
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
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    of_scalars = functools.cache(interpreter._get_np_dtype)
    pointer = interpreter._get_np_dtype(language.pointer_type(language.float32))
    interpreter._get_np_dtype = lambda kind: pointer if kind.scalar.is_ptr() else of_scalars(kind.scalar)
