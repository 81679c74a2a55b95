import io

import pytest

from sparsedis.runs import output


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_an_encoding_lacks_is_spelt(errors: str) -> None:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding="ascii", errors=errors)
    output.tolerate(stream)
    stream.write("90 ± 1, R², caf\xe9, \u4e2d, a\udcc3\udca9")
    stream.flush()
    assert content.getvalue() == b"90 +/- 1, R^2, caf\\xe9, \\u4e2d, a\xc3\xa9"  # the last are a file name's bytes


def test_what_an_encoding_has_is_written_as_it_is() -> None:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding="utf-8")
    output.tolerate(stream)
    stream.write("90 ± 1, \udcff")
    stream.flush()
    assert content.getvalue() == "90 ± 1, ".encode() + b"\xff"


def test_what_never_raises_is_left_alone() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    for one in (stream, io.StringIO(), None):
        output.tolerate(one)
    assert stream.errors == "replace"
