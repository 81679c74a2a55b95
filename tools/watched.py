"""A function in a process of its own that is killed when it does not end: what a loop in a kernel is not deaf to."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Lost:
    """A call without a result: "hang", "crash", or "error", which was raised."""

    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


class Watched:
    """Calls `function` in a process, which is started for the first call and again after one without a result.

    Args:
        function: of a module, as the process imports it. Tensors among the arguments would be put into shared memory.
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
        """The function's result, or :class:`Lost`, "hang" after ``limit`` seconds."""
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
        # A copy of a process that has only imported the package: a new interpreter takes seconds to import torch.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["sparsedis"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._function), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # ready: the imports do not count

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
        except Exception as error:  # whatever it is, it is a finding
            pipe.send(Lost("error", repr(error)))
