"""What the settings of all runs have in common: checks that name the setting, and their form as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

S = TypeVar("S", bound="Settings")


class Settings:
    """Base of frozen dataclasses that determine a run: numbers, strings, booleans, None and tuples of these.

    The checks raise ValueError, whose message names the setting, what was expected and what came.
    """

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON has them; :meth:`from_json` reads them."""
        values = asdict(self)  # type: ignore[call-overload]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls: type[S], settings: Any) -> S:
        """The inverse of :meth:`as_json`; ValueError where something is missing, unknown or bad."""
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        if not isinstance(settings, Mapping) or set(settings) != set(known):
            raise ValueError(f"settings: expected exactly {', '.join(known)}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})

    def difference(self, other: Settings) -> str | None:
        """Name of the first setting in which the two differ."""
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

    def _check_whole(self, least: Mapping[str, int]) -> None:
        """Whole numbers from these on; None passes where it is the setting's default."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name in least and not (value is None and field.default is None):
                whole(field.name, value, least[field.name])

    def _check_numbers(self, names: Iterable[str], *, zero: bool) -> None:
        """Finite numbers above 0, or from 0 on; None passes where it is the setting's default."""
        defaults = {field.name: field.default for field in fields(self)}  # type: ignore[arg-type]
        for name in names:
            value = getattr(self, name)
            if value is None and defaults[name] is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and not zero):
                raise ValueError(f"{name}: expected a finite number {'>= 0' if zero else '> 0'}, got {value!r}")


def different(name: str, values: Sequence[object]) -> None:
    """ValueError unless there are values, and each is there once: one counted twice would narrow a spread."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name}: expected different ones, got {', '.join(map(str, values)) or 'none'}")


def whole(name: str, value: object, least: int) -> None:
    """ValueError unless the value is a whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number >= {least}, got {value!r}")
