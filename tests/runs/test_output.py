import io

import pytest

from sparsedis.runs import output


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_characters_outside_the_encoding_are_replaced(errors: str) -> None:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding="ascii", errors=errors)
    output.replace_unencodable(stream)
    stream.write("90 ± 1, R², caf\xe9, \u4e2d, a\udcc3\udca9")
    stream.flush()
    assert content.getvalue() == b"90 +/- 1, R^2, caf\\xe9, \\u4e2d, a\xc3\xa9"  # the last two are bytes of a file name


def test_characters_of_the_encoding_are_unchanged() -> None:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding="utf-8")
    output.replace_unencodable(stream)
    stream.write("90 ± 1, \udcff")
    stream.flush()
    assert content.getvalue() == "90 ± 1, ".encode() + b"\xff"


def test_streams_that_never_raise_are_unchanged() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    for one in (stream, io.StringIO(), None):
        output.replace_unencodable(one)
    assert stream.errors == "replace"
