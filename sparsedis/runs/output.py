"""Text output in any encoding: unsupported characters are replaced and never end a run."""

from __future__ import annotations

import codecs
import io
from typing import Any

_HANDLER = "sparsedis"
_REPLACEMENTS = {"±": b"+/-", "²": b"^2", "…": b"..."}


def replace_unencodable(stream: Any) -> None:
    """Make a text stream replace characters that its encoding lacks, by "+/-" or "\\xe9", rather than raise.

    Undecodable bytes of file names are written unchanged. Streams that never raise, and objects that are not streams of
    the operating system, are not modified.
    """
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors=_HANDLER)


def _replace(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_replacement, error.object[error.start : error.end])), error.end


def _replacement(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":  # an undecodable byte of a file name, as a surrogate
        return bytes([ord(character) - 0xDC00])
    return _REPLACEMENTS.get(character) or character.encode("ascii", "backslashreplace")


codecs.register_error(_HANDLER, _replace)
