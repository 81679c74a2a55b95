"""The cache of decoded images: entries are complete or absent, for all users and processes."""

import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsedis import cache, cli
from sparsedis.data import FewShotData, image_cache, image_folder
from sparsedis.data.image_cache import Classes, Images

ROOT = os.name == "posix" and os.geteuid() == 0


def decode(images: Images) -> Classes:
    """Two classes of two images."""
    classes = Classes()
    for split, level in (("train", 10), ("validation", 0), ("test", 20)):
        names = [split] if level else []
        classes.add(split, names, [0, 0] if level else [])
        for i in range(2 if level else 0):
            images.add(np.full((1, 2, 3), level + i, np.uint8), lambda expected, got: f"{expected} {got}")
    return classes


def load(source: Path, decode: Callable[[Images], Classes] = decode) -> FewShotData:
    return image_cache.load("x", "reader", [source], {}, decode)


def never(_: Images) -> Classes:
    pytest.fail("decoded again")


def entries() -> list[Path]:
    return sorted(cache.folder().iterdir())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(b"x")
    return tmp_path / "source"


def test_images_are_decoded_once(source: Path) -> None:
    for data in (load(source), load(source, never)):
        assert data.images[:, 0, 0, 0].tolist() == [10, 11, 20, 21]
        assert data.images.shape == (4, 1, 2, 3)
        assert data.labels.tolist() == [0, 0, 1, 1]
        assert data.class_names == ("train", "test")
        assert data.splits == {"train": (0,), "validation": (), "test": (1,)}


def test_changed_files_and_versions_are_decoded_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of earlier versions of a file or of the readers are not used."""
    load(source)
    os.utime(source, ns=(0, 0))
    load(source)
    monkeypatch.setattr(image_cache, "_VERSION", image_cache._VERSION + 1)
    load(source)
    assert len(entries()) == 3


def test_changed_data_of_the_same_size_and_time_are_decoded_again(source: Path) -> None:
    """For example, files restored from an archive."""
    load(source)
    before = source.stat()
    source.write_bytes(b"y")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    load(source)
    assert len(entries()) == 2


def test_images_of_different_shapes_are_rejected(source: Path) -> None:
    def bad(images: Images) -> Classes:
        decode(images)
        images.add(np.zeros((1, 3, 2), np.uint8), lambda expected, got: f"expected {expected}, got {got}")
        pytest.fail("accepted")

    with pytest.raises(ValueError, match=r"expected \(1, 2, 3\), got \(1, 3, 2\)"):
        load(source, bad)
    assert not entries()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_an_interruption_leaves_no_files(source: Path, error: type[BaseException]) -> None:
    def interrupted(images: Images) -> Classes:
        decode(images)
        raise error("of the reader, not of the cache")

    with pytest.raises(error, match=r"^of the reader"):
        load(source, interrupted)
    assert not entries()


@pytest.mark.parametrize(
    ("mask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0o002, 0o775, 0o664)]
)
def test_entries_have_the_mode_of_ordinary_files(source: Path, mask: int, folder: int, file: int) -> None:
    """So that the users of a shared cache can read each other's entries."""
    before = os.umask(mask)
    try:
        load(source)
    finally:
        os.umask(before)
    (entry,) = entries()
    assert stat.S_IMODE(entry.stat().st_mode) == folder
    assert {stat.S_IMODE(inside.stat().st_mode) for inside in entry.iterdir()} == {file}


DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"shape": [4, 1, 2, 3], "lab',
    "no text": b"\xff\xfe\x00",
    "another object": b"{}",
    "a list": b"[]",
    "nested deeply": b"[" * 100_000,
    "another shape": b'{"shape": [4, 1, 2, 2]}',
    "a shape of text": b'{"shape": ["4", 1, 2, 3]}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_descriptions_are_replaced(source: Path, name: str) -> None:
    load(source)
    (entry,) = entries()
    (entry / "about.json").write_bytes(DAMAGED[name])
    assert load(source).images[:, 0, 0, 0].tolist() == [10, 11, 20, 21]
    assert entries() == [entry]
    load(source, never)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [0, 0, 1]},
        {"labels": [0, 0, 1, 9]},
        {"labels": "0011"},
        {"labels": [0.5, 0, 1, 1]},
        {"class_names": [1, 2]},
        {"class_names": None},
        {"splits": {"train": [0]}},
        {"splits": {"train": [0], "validation": [0], "test": [1]}},
        {"shape": [2, 2, 2, 3]},
        {"shape": None},
    ],
    ids=str,
)
def test_inconsistent_descriptions_are_replaced(source: Path, change: dict[str, object]) -> None:
    load(source)
    (entry,) = entries()
    about = json.loads((entry / "about.json").read_text())
    (entry / "about.json").write_text(json.dumps({**about, **change}))
    assert load(source).labels.tolist() == [0, 0, 1, 1]
    load(source, never)


@pytest.mark.parametrize("size", [0, 1, 23, 25])
def test_images_of_another_size_are_replaced(source: Path, size: int) -> None:
    load(source)
    (entry,) = entries()
    (pixels,) = (file for file in entry.iterdir() if file.name != "about.json")
    pixels.write_bytes(bytes(size))
    assert load(source).images[:, 0, 0, 0].tolist() == [10, 11, 20, 21]
    load(source, never)


@pytest.mark.parametrize("kind", ["file", "empty folder", "folder", "broken link"])
def test_anything_else_in_place_of_an_entry_is_replaced(source: Path, kind: str) -> None:
    load(source)
    (entry,) = entries()
    cache.remove(entry)
    if kind == "file":
        entry.write_bytes(b"x")
    elif kind == "broken link":
        entry.symlink_to(source.with_name("nothing"))
    else:
        entry.mkdir()
        if kind == "folder":
            (entry / "x").touch()
    load(source)
    load(source, never)
    assert entries() == [entry]


def test_inconsistent_results_of_a_reader_are_rejected(source: Path) -> None:
    """A reader's bug is an error and does not cause an entry that is replaced every time."""

    def bad(images: Images) -> Classes:
        classes = decode(images)
        classes.labels.pop()
        return classes

    with pytest.raises(ValueError, match=r"labels: expected int64 of shape \(4,\)"):
        load(source, bad)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_reported(source: Path) -> None:
    """Writing to a memory-mapped file would end in SIGBUS instead."""
    with (
        open("/dev/full", "wb", buffering=0) as file,
        pytest.raises(
            OSError, match=r"cache: .*here cannot be written \(No space left .*\); free some space there, or"
        ),
    ):
        decode(Images(file, Path("here")))


def test_a_file_size_limit_is_reported(tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line with exit code 2, and without leaving files."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (100, 100), (i, 0, 0)).save(tmp_path / "data" / "a" / f"{i}.png")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert cli.main(["data", f"images:{tmp_path / 'data'}"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error_output = capsys.readouterr().err
    assert error_output.count("\n") == 1
    assert (
        f"cache: {own_cache} cannot be written (File too large); set SPARSEDIS_CACHE to another folder" in error_output
    )
    assert not list(own_cache.iterdir())


def test_an_unwritable_cache_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "data" / "a" / "0.png")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("SPARSEDIS_CACHE", str(place))
        assert cli.main(["data", f"images:{tmp_path / 'data'}"]) == 2
        error_output = capsys.readouterr().err
        assert error_output.count("\n") == 1
        assert f"cache: {place} cannot be written" in error_output
        assert "SPARSEDIS_CACHE to another folder" in error_output
    monkeypatch.setenv("SPARSEDIS_CACHE", "~no-such-user/x")
    assert cli.main(["data", f"images:{tmp_path / 'data'}"]) == 2
    assert "got '~no-such-user/x'; set SPARSEDIS_CACHE" in capsys.readouterr().err


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_a_read_only_cache_can_be_read(source: Path) -> None:
    """As if it belonged to another user."""
    load(source)
    cache.folder().chmod(0o500)
    try:
        load(source, never)
        os.utime(source, ns=(0, 0))
        with pytest.raises(OSError, match="cannot be written"):
            load(source)
    finally:
        cache.folder().chmod(0o700)


def test_an_entry_created_meanwhile_by_another_process_is_used(source: Path) -> None:
    def slower(images: Images) -> Classes:
        classes = decode(images)
        load(source)
        return classes

    assert load(source, slower).images[:, 0, 0, 0].tolist() == [10, 11, 20, 21]
    assert len(entries()) == 1


AT_ONCE = """
import sys, threading
from sparsedis.data import image_folder
failures, sums = [], set()
barrier = threading.Barrier(4)
def read():
    try:
        for folder in sys.argv[1:]:
            barrier.wait()
            sums.add((folder, int(image_folder.load(folder).images.long().sum())))
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=read) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failures, failures
print(sorted(sums))
"""


@pytest.mark.slow
def test_concurrent_processes_and_threads_create_the_same_entries(tmp_path: Path) -> None:
    """Two processes with four threads each create or replace the same entries and read the same images."""
    generator = np.random.default_rng(0)
    expected = []
    for name in "abcd":
        (tmp_path / name / "class").mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / "class" / f"{i}.png")
        before = set(entries()) if name != "a" else set()
        expected.append((str(tmp_path / name), int(image_folder.load(tmp_path / name).images.long().sum())))
        (entry,) = set(entries()) - before
        if name in "bd":
            (entry / "about.json").write_text("{}")
        else:
            cache.remove(entry)
    command = [sys.executable, "-c", AT_ONCE, *(folder for folder, _ in expected)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for run in runs:
        out, error_output = run.communicate()
        assert run.returncode == 0, error_output
        assert out == f"{expected}\n"
    assert len(entries()) == 4
    assert not [entry for entry in entries() if entry.name.startswith(".")]


def test_writing_to_the_images_does_not_change_the_cache(source: Path) -> None:
    load(source).images[:] = 0
    assert load(source, never).images[:, 0, 0, 0].tolist() == [10, 11, 20, 21]
