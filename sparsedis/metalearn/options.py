"""What the commands share: settings back to words of a command line, how to resume, files to write to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any


def words(config: Any, default: Any) -> list[str]:
    """The options that make one configuration, a dataclass, of the other."""
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
    """Says, of a run in the folder that has ended early or was there before, by which command it goes on.

    Raises:
        ValueError: for FileExistsError, with the command.
    """
    try:
        yield
    except FileExistsError as error:
        raise ValueError(f"{error} (to resume: {command})") from error
    except KeyboardInterrupt:
        if (out / "config.json").exists():
            print(f"Interrupted. To resume: {command}", flush=True)
        raise


@contextmanager
def continued() -> Iterator[None]:
    """Says, of a command that skips what is done and has ended early, how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted. To go on: the same command again", flush=True)
        raise


def check_file(name: str, path: Path | None) -> None:
    """ValueError unless a file can be written there."""
    if path and (path.is_dir() or not path.parent.is_dir()):
        raise ValueError(f"{name}: expected a file in an existing folder, got {str(path)!r}")
