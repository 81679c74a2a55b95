"""Safe reading of pickle files, without executing code named by a file.

A pickle is a program. Its opcodes are interpreted by the standard library's interpreter in Python, restricted to
opcodes that create numbers, text, bytes, lists, tuples and dicts. A file may name only the functions that NumPy uses to
pickle arrays and scalars, and these names are bound to functions of this module instead of NumPy's: an array is created
from raw bytes, its type from its short code, and a one-dimensional object array becomes a list. Everything else is
rejected before any call.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn

import numpy as np

_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP",
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT",
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8",
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8",
    "TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS",
    "GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD",
)
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iuf][1248]|c8|c16|S\d{1,6}|U\d{1,6}|O[48]?)")
_KEYS = (str, bytes, int, float, type(None))


class _Name:
    """The value of a permitted name: a callable without other attributes."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(name)


class _Type:
    """A NumPy dtype as built by its pickle: from a code, then from a state with the byte order."""

    __slots__ = ("code",)

    def __init__(self, code: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise _refused(f"the array type {code!r}")
        self.code = code

    def build(self, state: Any) -> None:
        # (version, byte order, subtype, names, fields, item size, alignment, flags)
        order = state[1] if isinstance(state, tuple) and len(state) >= 5 else None
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise _refused("an array type with fields")
        self.code = ("" if order == "|" else order) + self.code.lstrip("<>|=")

    def array(self, raw: Any, shape: Any, fortran: Any) -> np.ndarray:
        # Python 2 wrote the bytes as text, which is decoded as latin1.
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(raw, bytes | bytearray) or self.is_object():
            raise _refused("an array of objects")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
            raise _refused(f"the array shape {shape!r:.80}")
        dtype = np.dtype(self.code)
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise _refused(f"an array of shape {shape} and {dtype} with {len(raw)} bytes")
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")

    def is_object(self) -> bool:
        return "O" in self.code


class _Array:
    """An array between its REDUCE opcode, which creates it empty, and its BUILD opcode, which fills it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | list[Any] | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise _refused("an array state of another form")
        shape, dtype, fortran, raw = state[-4:]
        if not isinstance(dtype, _Type):
            raise _refused("an array without a type")
        if not dtype.is_object():
            self.value = dtype.array(raw, shape, fortran)
        elif isinstance(raw, list) and shape == (len(raw),):
            self.value = raw
        else:
            raise _refused(f"an array of objects of shape {shape!r:.80}")


def _type(code: Any, *_: Any) -> _Type:
    return _Type(code)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _Type):
        raise _refused("a scalar without a type")
    return dtype.array(raw, (), False)[()]


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Type):
        raise _refused("an array without a type")
    return dtype.array(raw, shape, order == "F")


def _encode(text: Any, encoding: Any = "latin1") -> bytes:  # used by Python 3 for bytes in protocols 0 to 2
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _refused(f"the encoding {encoding!r:.40}")
    return text.encode("latin1")


def _bytes(*arguments: Any) -> bytes:  # used for b"" in protocols 0 to 2
    if arguments:
        raise _refused("a call of bytes")
    return b""


def _refuse_call(*_: Any) -> NoReturn:
    raise _refused("a call of numpy.ndarray")


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    ("numpy", "dtype"): _type,
    ("numpy", "ndarray"): _refuse_call,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _bytes,
    ("builtins", "bytes"): _bytes,
}


def _refused(what: str) -> ValueError:
    return ValueError(f"expected numbers, text, bytes, lists, dicts and NumPy arrays of numbers, got {what}")


# The type stubs of pickle omit the members that a custom interpreter needs.
_Interpreter: Any = pickle._Unpickler


class _Bounded:
    """A file that rejects reads beyond its size, whatever lengths its pickle declares."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.remaining = file, os.fstat(file.fileno()).st_size

    def read(self, count: int) -> bytes:
        if count > self.remaining:
            raise EOFError(f"{count} bytes announced, {self.remaining} left")
        self.remaining -= count
        return self._file.read(count)

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[:] = content
        return len(content)

    def readline(self) -> bytes:
        line = self._file.readline(1 << 16)
        self.remaining -= len(line)
        return line


class _Reader(_Interpreter):  # type: ignore[misc]
    """The Python interpreter with our opcode table. Its memo is a dict, so that a large index allocates nothing."""

    dispatch: ClassVar[dict[int, Any]] = {
        getattr(pickle, name)[0]: _Interpreter.dispatch[getattr(pickle, name)[0]] for name in " ".join(_OPCODES).split()
    }

    def find_class(self, module: str, name: str) -> _Name:
        if (module, name) not in _NAMES:
            raise _refused(f"the name {module}.{name}"[:200])
        return _Name(_NAMES[module, name])

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _refused("a persistent reference")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not _Name or type(arguments) is not tuple:
            raise _refused(f"a call of {type(function).__name__}")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) not in (_Array, _Type):
            raise _refused(f"a state for {type(self.stack[-1]).__name__}")
        self.stack[-1].build(state)

    def load_bytearray8(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(count))

    # Keys are restricted because hashing deeply nested tuples would overflow the C stack.
    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise _refused(f"items for {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):
                raise _refused(f"a key of type {type(key).__name__}")
            target[key] = value

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise _refused(f"items for {type(target).__name__}")
        target.extend(values)

    dispatch |= {
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
    }


def load(path: str | Path) -> Any:
    """The content of a pickle: numbers, text, bytes, None, lists, tuples, dicts and NumPy arrays of numbers or text.

    Pickles of Python 2 are read with strings as latin1. One-dimensional object arrays are returned as lists; other
    object arrays are rejected.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file contains or names anything else, or is damaged.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            content = _Bounded(file)
            value = _resolved(_Reader(content, encoding="latin1").load())
            if content.remaining:  # for example a second pickle, which would be ignored silently
                raise ValueError(f"expected one object, got {content.remaining} bytes after its end")
            return value
        except MemoryError as error:
            raise ValueError(f"pickle: {path}: more than the memory holds") from error
        # Arbitrary opcodes can make the interpreter raise anything; an unknown opcode raises KeyError.
        except Exception as error:
            what = f"the opcode {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise ValueError(f"pickle: {path} is damaged or not plain data: {what}") from error


def _resolved(value: Any) -> Any:
    """The same containers, with :class:`_Array` builders replaced by their arrays or lists."""
    if isinstance(value, _Array):
        value = _array(value)
    seen: set[int] = set()
    pending = [value]
    while pending:  # no recursion, as the file determines the depth
        item = pending.pop()
        if id(item) in seen:
            continue
        if type(item) in (_Name, _Type):
            raise _refused("a name without its arguments")
        if not isinstance(item, list | tuple | dict):
            continue
        seen.add(id(item))
        entries = item.items() if isinstance(item, dict) else enumerate(item)
        for key, entry in list(entries):
            if isinstance(entry, _Array):
                if isinstance(item, tuple):
                    raise _refused("an array in a tuple")
                entry = _array(entry)
                item[key] = entry
            pending.append(entry)
    return value


def _array(builder: _Array) -> np.ndarray | list[Any]:
    if builder.value is None:
        raise _refused("an array without content")
    return builder.value
