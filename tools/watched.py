"""Calls in a process of their own, which is killed at a time limit: a loop in a kernel cannot be interrupted."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Lost:
    """A call without a result: "hang", "crash" or "error" (an exception)."""

    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


class Watched:
    """Calls `function` in a process, which is started at the first call and again after a call without a result.

    Args:
        function: of a module that the process can import. Tensors in the arguments would be put into shared memory.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, *arguments: Any, limit: float) -> Any:
        """The function's result, or :class:`Lost`: "hang" after ``limit`` seconds."""
        if self._process is None:
            self._start()
        self._pipe.send(arguments)
        try:
            if self._pipe.poll(limit):
                return self._pipe.recv()
            lost = Lost("hang", f"no end within {limit:g} s")
        except EOFError:
            lost = Lost("crash", "the process died")
        self._stop()
        return lost

    def _start(self) -> None:
        # A fork of a process that has only imported the package: a new interpreter takes seconds to import torch.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["sparsedis"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._function), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # wait until ready: imports do not count towards the limit

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: Connection, function: Callable[..., Any]) -> None:
    pipe.send("ready")
    while True:
        try:
            arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(function(*arguments))
        except Exception as error:  # any exception is a finding
            pipe.send(Lost("error", repr(error)))
