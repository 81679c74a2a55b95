"""Pickles of plain data are read unchanged; malicious ones are refused without running any of their code."""

import builtins
import copyreg
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedis.data import safe_pickle


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_are_read_unchanged(tmp_path: Path, protocol: int) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    value = {
        "data": array,
        "labels": [1, np.int64(-2), 2**70],
        "turned": np.asfortranarray(array[0].astype(np.float32)),
        "foreign": {"big": array.astype(">i4"), "text": np.array(["a", "bcd"]), "empty": np.zeros((0, 3), bool)},
        "bytes": [b"\xff\x00\n", b"", bytearray(b"xyz") if protocol == 5 else b"xyz"],
        "rest": (1, "ü", 2.5, None, True, False, ()),
    }
    loaded = safe_pickle.load(written(tmp_path / "x", pickle.dumps(value, protocol)))
    value["bytes"][2] = b"xyz"
    np.testing.assert_equal(loaded, value)
    assert loaded["foreign"]["big"].dtype == np.dtype(">i4")
    assert all(type(x) is bytes for x in loaded["bytes"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_object_arrays_become_lists(tmp_path: Path, protocol: int) -> None:
    """One-dimensional ones that contain only plain data, including arrays."""
    array = np.empty(4, object)
    array[:] = [b"\xff", np.arange(3, dtype=np.uint8)[:, None], {"a": np.ones(2)}, None]
    for value in (array, {"data": array, "again": [array]}):
        loaded = safe_pickle.load(written(tmp_path / "x", pickle.dumps(value, protocol)))
        inner = loaded if value is array else loaded["data"]
        assert type(inner) is list
        np.testing.assert_equal(inner, list(array))
        assert inner is loaded or loaded["again"][0] is inner
    assert safe_pickle.load(written(tmp_path / "x", pickle.dumps(np.empty(0, object), protocol))) == []


def test_shared_and_cyclic_containers_are_read(tmp_path: Path) -> None:
    shared, cycle = [np.arange(3)], []
    cycle.append(cycle)
    loaded = safe_pickle.load(written(tmp_path / "x", pickle.dumps({"a": shared, "b": shared, "c": cycle})))
    assert loaded["a"] is loaded["b"]
    assert loaded["c"][0] is loaded["c"]


def test_pickles_written_by_python_2_are_read(tmp_path: Path) -> None:
    """dict(data=np.arange(4, dtype='u1').reshape(2, 2), labels=['\xff', 3]) as written by cPickle, protocol 2."""
    raw = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
        b"\x87Rq\x05(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x04\x00\x01\x02\x03tbU\x06labelsq\x08]q\t(U\x01\xffK\x03eu."
    )
    loaded = safe_pickle.load(written(tmp_path / "x", raw))
    np.testing.assert_equal(loaded, {"data": np.arange(4, dtype=np.uint8).reshape(2, 2), "labels": ["\xff", 3]})


class Reduced:
    """Is pickled as a function call."""

    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[object, ...]:
        return self.parts


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
BYTE_TYPE = b"cnumpy\ndtype\n" + text("u1") + b"\x85R"
OBJECT_TYPE = b"cnumpy\ndtype\n" + text("O8") + b"\x85R"

MALICIOUS: dict[str, Callable[[str], bytes]] = {
    "os.system": lambda mark: pickle.dumps(Reduced(os.system, (f"touch {mark}",))),
    "os.system, protocol 0": lambda mark: pickle.dumps(Reduced(os.system, (f"touch {mark}",)), 0),
    "builtins.eval": lambda mark: pickle.dumps(Reduced(builtins.eval, (f"open({mark!r}, 'w')",))),
    "nested": lambda mark: pickle.dumps(
        {"data": np.ones(3), "labels": [1, (2, Reduced(os.system, (f"touch {mark}",)))]}
    ),
    "in an array of objects": lambda mark: pickle.dumps(np.array([Reduced(os.system, (f"touch {mark}",))], object)),
    "an array of objects of two dimensions": lambda _: pickle.dumps(np.array([[1, "a"]], object)),
    "an array of objects of no dimension": lambda _: pickle.dumps(np.array(None, object)),
    "objects from bytes": lambda _: opcodes(RECONSTRUCT, b")R(K\x01K\x01\x85", OBJECT_TYPE, b"\x89U\x08xxxxxxxxtb"),
    "one object from bytes": lambda _: opcodes(b"cnumpy.core.multiarray\nscalar\n", OBJECT_TYPE, b"U\x08xxxxxxxx\x86R"),
    "more objects than there are": lambda _: opcodes(RECONSTRUCT, b")R(K\x01K\x02\x85", OBJECT_TYPE, b"\x89]K\x01atb"),
    "a second pickle": lambda _: pickle.dumps([1]) + pickle.dumps([2]),
    "a structured array": lambda _: pickle.dumps(np.zeros(3, [("a", "i4")])),
    "an array of dates": lambda _: pickle.dumps(np.zeros(3, "M8[s]")),
    "numpy's own loader": lambda mark: pickle.dumps(Reduced(np.load, (mark, None, True))),
    "copyreg": lambda _: pickle.dumps(Reduced(copyreg._reconstructor, (dict, object, None))),
    "copyreg, a new constructor": lambda _: pickle.dumps(Reduced(copyreg.add_extension, ("os", "system", 7))),
    "an extension": lambda _: opcodes(b"\x82\x07"),
    "getattr": lambda _: opcodes(b"cbuiltins\ngetattr\n"),
    "a dotted name": lambda _: opcodes(text("numpy"), text("core.os.system"), b"\x93"),
    "a name with no module": lambda _: opcodes(b"c\nsystem\n"),
    "a class": lambda _: opcodes(b"(i__builtin__\nlist\n"),
    "a class, called": lambda _: opcodes(b"(cos\nsystem\no"),
    "a new object": lambda _: opcodes(b"cnumpy\nndarray\n)\x81"),
    "ndarray called": lambda _: opcodes(b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R"),
    "a persistent reference": lambda _: opcodes(text("x"), b"Q"),
    "attributes of a permitted name": lambda _: opcodes(RECONSTRUCT, b"}", text("__code__"), b"Nsb"),
    "attributes of a class": lambda _: opcodes(b"cnumpy\nndarray\nN}", text("__init__"), b"Ns\x86b"),
    "attributes of a dict": lambda _: opcodes(b"}}", text("a"), b"K\x01sb"),
    "a set": lambda _: pickle.dumps({1, 2}),
    "a name as data": lambda _: opcodes(RECONSTRUCT),
    "an array without content": lambda _: opcodes(RECONSTRUCT, b")R"),
    "an array without a type": lambda _: opcodes(RECONSTRUCT, b")R(K\x01K\x01\x85N\x89", b"U\x01x", b"tb"),
    "more shape than bytes": lambda _: opcodes(
        RECONSTRUCT, b")R(K\x01J\xff\xff\xff\x7f\x85", BYTE_TYPE, b"\x89U\x01xtb"
    ),
    "a negative shape": lambda _: opcodes(RECONSTRUCT, b")R(K\x01J\xff\xff\xff\xff\x85", BYTE_TYPE, b"\x89U\x01xtb"),
    "a type that is no text": lambda _: opcodes(b"cnumpy\ndtype\nK\x01\x85R"),
    "an array in a tuple": lambda _: pickle.dumps((np.ones(3),), 2),
    "a tuple as key": lambda _: pickle.dumps({(1, 2): 3}),
    "2^62 bytes announced": lambda _: opcodes(b"\x8e" + struct.pack("<Q", 2**62)),
    "2^40 bytes announced": lambda _: opcodes(b"\x8e" + struct.pack("<Q", 2**40)),
    "a 2^40-byte array announced": lambda _: opcodes(b"\x96" + struct.pack("<Q", 2**40)),
    "a 2^40-letter text announced": lambda _: opcodes(b"\x8d" + struct.pack("<Q", 2**40)),
    "a frame of 2^40": lambda _: opcodes(b"\x95" + struct.pack("<Q", 2**40)),
    "a number of 2^31 bytes": lambda _: opcodes(b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "a buffer that is elsewhere": lambda _: b"\x80\x05\x97.",
    "an unknown opcode": lambda _: opcodes(b"\xff"),
    "an unknown protocol": lambda _: b"\x80\x63.",
    "an empty stack": lambda _: b".",
    "nothing": lambda _: b"",
    "no end": lambda _: pickle.dumps([1, 2, 3])[:-1],
    "appending to a number": lambda _: opcodes(b"K\x01K\x02a"),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_pickles_are_refused(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    before = dict(copyreg._inverted_registry)  # type: ignore[attr-defined]
    path = written(tmp_path / "hostile.pkl", MALICIOUS[name](str(mark)))
    with pytest.raises(ValueError, match=r"pickle: .*hostile\.pkl is damaged or not plain data: ."):
        safe_pickle.load(path)
    assert not mark.exists()
    assert copyreg._inverted_registry == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["objects from bytes", "one object from bytes"])
def test_object_arrays_are_not_made_from_bytes(tmp_path: Path, name: str) -> None:
    """They are refused before NumPy does so."""
    with pytest.raises(ValueError, match="got an array of objects"):
        safe_pickle.load(written(tmp_path / "x", MALICIOUS[name]("")))


def test_the_standard_library_would_run_the_malicious_pickles(tmp_path: Path) -> None:
    """Checks that the payloads of these tests work."""
    for name in ("os.system", "builtins.eval", "nested", "in an array of objects"):
        mark = tmp_path / name
        pickle.loads(MALICIOUS[name](f"'{mark}'" if "eval" not in name else str(mark)))
        assert mark.exists(), name


def test_a_large_memo_index_allocates_no_memory(tmp_path: Path) -> None:
    """Python's C implementation would allocate a table of 2^32 entries for it."""
    path = written(tmp_path / "x", opcodes(b"K\x07r\xfe\xff\xff\xff0j\xfe\xff\xff\xff"))
    assert safe_pickle.load(path) == 7


@pytest.mark.slow
def test_deeply_nested_data_are_read(tmp_path: Path) -> None:
    deep = written(tmp_path / "x", opcodes(b")", b"\x85" * 200_000, b"0K\x01"))
    assert safe_pickle.load(deep) == 1
    value = safe_pickle.load(written(tmp_path / "y", opcodes(b"]", b"]" * 100_000, b"a" * 100_000)))
    assert len(value) == 1


def test_setting_state_on_a_name_does_not_affect_other_files(tmp_path: Path) -> None:
    for payload in ("attributes of a permitted name", "attributes of a class"):
        with pytest.raises(ValueError, match="a state for _Name"):
            safe_pickle.load(written(tmp_path / "x", MALICIOUS[payload]("")))
    test_plain_data_are_read_unchanged(tmp_path, 2)


@pytest.mark.slow
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read_as_plain_data(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = written(tmp_path_factory.getbasetemp() / "any.pkl", content)
    try:
        value = safe_pickle.load(path)
    except ValueError:
        return
    assert isinstance(value, int | float | str | bytes | list | tuple | dict | None)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps({"data": np.arange(6, dtype=np.uint8), "labels": [1, 2]})
    for length in range(len(content)):
        with pytest.raises(ValueError, match="damaged"):
            safe_pickle.load(written(tmp_path / "x", content[:length]))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        safe_pickle.load(tmp_path / "nothing")
