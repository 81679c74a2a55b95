"""Shared code of the commands: option types, conversion of settings to options, resume hints."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from sparsedis.runs import folder, tables


def shown_default(default: str) -> str:
    """How the help shows a default; None is omitted because the docstring describes it."""
    return "" if default == "None" else f"(default: {default})"


# Options that may be None; the metavar shows what to pass.
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=shown_default)]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint=shown_default)]
OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint=shown_default)]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint=shown_default)]


def option_words(config: Any, default: Any) -> list[str]:
    """The options that turn the dataclass ``default`` into ``config``."""
    result = []
    for field in fields(config):
        value, name = getattr(config, field.name), field.name.replace("_", "-")
        if value == getattr(default, field.name):
            continue
        if isinstance(value, bool):
            result.append(f"--{name}" if value else f"--no-{name}")
        else:
            result += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return result


@contextmanager
def resumable(out: Path, command: str) -> Iterator[None]:
    """Print the resume command if the run in the folder is interrupted, or add it to the error if it exists already.

    Raises:
        ValueError: for FileExistsError, with the command.
    """
    try:
        yield
    except FileExistsError as error:
        if not (out / folder.CONFIG).exists():  # the folder of an evaluation, which cannot be resumed
            raise
        raise ValueError(f"{error} (to resume: {command})") from error
    except KeyboardInterrupt:
        if (out / folder.CONFIG).exists():
            print(f"Interrupted. To resume: {command}", flush=True)
        raise


@contextmanager
def repeatable() -> Iterator[None]:
    """Print, if a command that skips finished work is interrupted, that it is resumed by repeating it."""
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted. To resume: run the same command again", flush=True)
        raise


def check_file(name: str, path: Path | None) -> None:
    """ValueError or PermissionError unless a file can be written at ``path``; ``name`` is the option's name."""
    if path and (path.is_dir() or not path.parent.is_dir()):
        raise ValueError(f"{name}: expected a file in an existing folder, got {str(path)!r}")
    if path and not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{name}: expected a file that can be written, got {str(path)!r}")


def print_next(steps: Sequence[tuple[str, str]]) -> None:
    """Print suggested next steps with their commands; of several processes only the first one prints."""
    if os.environ.get("RANK", "0") != "0":
        return
    shown = tables.console()
    for what, command in steps:
        tables.say(shown, f"next: {what}")
        tables.say(shown, f"    {command}", unwrapped=True)
