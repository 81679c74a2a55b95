"""Text output that goes on in any encoding: a run does not end because its output cannot show a character."""

from __future__ import annotations

import codecs
import io
from typing import Any

_HANDLER = "sparsedis"
_SPELT = {"±": b"+/-", "²": b"^2", "…": b"..."}


def tolerate(stream: Any) -> None:
    """Have a text stream spell what its encoding lacks, "+/-" or "\\xe9", where it would raise.

    Bytes of file names that are no text come out as they are. Streams that never raise, and what is no stream of the
    operating system, are left alone.
    """
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors=_HANDLER)


def _spell(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_spelt, error.object[error.start : error.end])), error.end


def _spelt(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name, as Python holds it
        return bytes([ord(character) - 0xDC00])
    return _SPELT.get(character) or character.encode("ascii", "backslashreplace")


codecs.register_error(_HANDLER, _spell)
