"""Location of the cache folder, temporary entries, and removal."""

import os
import pwd
import time
from pathlib import Path

import pytest

from sparsedis import cache, paths


def test_environment_variables_set_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEDIS_CACHE", str(tmp_path / "chosen"))
    assert cache.folder() == tmp_path / "chosen"
    monkeypatch.delenv("SPARSEDIS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "sparsedis"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "sparsedis"


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry in passwd, as in many containers."""

    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)


def test_without_a_home_folder_the_error_names_sparsedis_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    homeless(monkeypatch)
    monkeypatch.delenv("SPARSEDIS_CACHE")
    with pytest.raises(FileNotFoundError, match=r"cache: expected a path below an existing home .*; set SPARSEDIS"):
        cache.folder()
    monkeypatch.setenv("SPARSEDIS_CACHE", "~no-such-user/x")
    with pytest.raises(FileNotFoundError, match=r"cache: .*, got '~no-such-user/x'; set SPARSEDIS_CACHE"):
        cache.folder()


def test_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.expanded("~/x") == tmp_path / "x"
    assert paths.expanded("x/~y") == Path("x/~y")
    homeless(monkeypatch)
    with pytest.raises(FileNotFoundError, match="expected a path below an existing home folder, got '~/x'"):
        paths.expanded("~/x")


def test_partial_entries_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    parts = [cache.part(tmp_path, suffix) for suffix in ("", ".so", "", "")]
    assert len(set(parts)) == 4
    assert not list(tmp_path.iterdir())
    old = time.time() - 25 * 3600
    for folder in (parts[0], parts[2]):
        folder.mkdir()
        (folder / "images").touch()
        os.utime(folder / "images", (old, old))
        os.utime(folder, (old, old))
    os.utime(parts[2] / "images")  # still written to
    parts[1].touch()
    os.utime(parts[1], (old, old))
    parts[3].mkdir()
    (tmp_path / "entry").touch()
    os.utime(tmp_path / "entry", (old, old))
    cache.part(tmp_path)
    assert set(tmp_path.iterdir()) == {parts[2], parts[3], tmp_path / "entry"}


def test_remove_ignores_missing_entries_and_does_not_follow_links(tmp_path: Path) -> None:
    cache.remove(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    cache.remove(tmp_path / "link")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
