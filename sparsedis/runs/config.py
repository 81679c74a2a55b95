"""Base class of a run's settings: validation with messages that name the setting, and conversion to and from JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

S = TypeVar("S", bound="RunConfig")

# Upper limits for all runs. Every library accepts these seeds, and OpenMP aborts if it cannot start its threads.
UPPER_LIMITS = {"seed": 2**32 - 1, "threads": 1024}


class RunConfig:
    """Base class of the frozen dataclasses of settings: numbers, strings, booleans, None and tuples of these.

    The checks raise ValueError; the message names the setting, what was expected and what was given.

    Attributes:
        iterations: number of steps of the outer optimiser.
        log_every: number of steps between lines of metrics.jsonl.
        validate_every: number of steps between validations.
        save_every: number of steps between checkpoints.
    """

    # Read by the outer loop. Annotations without defaults, so that subclasses order and document their own fields.
    iterations: int
    log_every: int
    validate_every: int
    save_every: int

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values: tuples become lists."""
        values = asdict(self)  # type: ignore[call-overload]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls: type[S], settings: Any) -> S:
        """The inverse of :meth:`as_json`; ValueError if a setting is missing, unknown or invalid.

        A setting with default None may be missing, since earlier versions lacked some of them.
        """
        known = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
        needed = {name for name, default in known.items() if default is not None}
        if not isinstance(settings, Mapping) or not needed <= set(settings) <= set(known):
            raise ValueError(f"settings: expected exactly {', '.join(known)}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})

    def difference(self, other: RunConfig) -> str | None:
        """The name of the first setting that differs; None if all are equal."""
        names = (field.name for field in fields(self))  # type: ignore[arg-type]
        return next((name for name in names if getattr(self, name) != getattr(other, name)), None)

    def _check_texts(self, names: Iterable[str]) -> None:
        for name in names:
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}: expected a string, got {getattr(self, name)!r}")

    def _check_flags(self, names: Iterable[str]) -> None:
        for name in names:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected true or false, got {getattr(self, name)!r}")

    def _check_choices(self, choices: Mapping[str, Sequence[str]]) -> None:
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")

    def _check_integers(self, least: Mapping[str, int]) -> None:
        """Check that integers are >= these values and <= :data:`UPPER_LIMITS`; a default of None is valid."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name in least and not (value is None and field.default is None):
                check_integer(field.name, value, least[field.name], UPPER_LIMITS.get(field.name))

    def _check_numbers(self, names: Iterable[str], *, zero: bool) -> None:
        """Check that numbers are finite and > 0, or >= 0 with ``zero``; a default of None is valid."""
        defaults = {field.name: field.default for field in fields(self)}  # type: ignore[arg-type]
        for name in names:
            value = getattr(self, name)
            if value is None and defaults[name] is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and not zero):
                raise ValueError(f"{name}: expected a finite number {'>= 0' if zero else '> 0'}, got {value!r}")


def check_distinct(name: str, values: Sequence[object]) -> None:
    """ValueError unless there are values and they are distinct; a run counted twice would understate the spread."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name}: expected different ones, got {', '.join(map(str, values)) or 'none'}")


def check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """ValueError unless ``value`` is an integer >= ``least`` and, if given, <= ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number >= {least}, got {value!r}")
    if most is not None and value > most:
        raise ValueError(f"{name}: expected a whole number <= {most}, got {value!r}")


def check_seeds(values: Sequence[int]) -> None:
    """ValueError unless these are one or more distinct valid seeds."""
    check_distinct("seeds", values)
    for value in values:
        check_integer("seeds", value, 0, UPPER_LIMITS["seed"])
