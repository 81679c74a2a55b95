"""The public API as lines of text. After an intended change, which CHANGELOG.md has to mention, run

python -m tests.public_api > tests/public_api.txt
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
from collections.abc import Iterator

# The package itself, and the modules that training scripts and experiments build on.
MODULES = ("sparsedis", "sparsedis.nn", "sparsedis.sklearn", "sparsedis.data", "sparsedis.models")


def lines() -> list[str]:
    """`module.name` with parameters and defaults, and for a class also its fields and methods."""
    found: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        for public in module.__all__:
            value = getattr(module, public)
            found += _described(f"{name}.{public}", value)
    return found


def _described(name: str, value: object) -> Iterator[str]:
    if inspect.ismodule(value):
        yield f"{name}: module"
    elif isinstance(value, type) and issubclass(value, enum.Enum):
        yield f"{name}: {', '.join(value.__members__)}"
    elif isinstance(value, type) and issubclass(value, BaseException):
        yield f"{name}: error, a {value.__bases__[0].__name__}"
    elif isinstance(value, type):
        yield name + _parameters(value)
        if dataclasses.is_dataclass(value):
            yield f"{name}: fields {', '.join(field.name for field in dataclasses.fields(value))}"
        for member, function in inspect.getmembers(value):
            if not member.startswith(("_", "set_")) and member in _own(value):
                yield f"{name}.{member}" + (_parameters(function) if callable(function) else "")
    elif callable(value):
        yield name + _parameters(value)
    else:
        yield name


def _own(value: type) -> set[str]:
    """Members that the package defines, without those inherited from torch or scikit-learn."""
    return {member for base in value.__mro__ if base.__module__.startswith("sparsedis") for member in vars(base)}


def _parameters(value: object) -> str:
    try:
        parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    shown = []
    for parameter in parameters:
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        only = " (keyword)" if parameter.kind is parameter.KEYWORD_ONLY else ""
        shown.append(f"{star}{parameter.name}{default}{only}")
    return f"({', '.join(shown)})"


if __name__ == "__main__":
    print("\n".join(lines()))
