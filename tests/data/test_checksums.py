import hashlib
from pathlib import Path

import pytest

from sparsedis.data import checksums, load
from sparsedis.data.sources import absolute


def test_digests_are_compared_with_sha256sums(tmp_path: Path) -> None:
    (tmp_path / "good.pickle").write_bytes(b"good")
    (tmp_path / "bad.pickle").write_bytes(b"bad")
    (tmp_path / "other.pickle").write_bytes(b"other")
    lines = [f"{hashlib.sha256(content).hexdigest()} *{content.decode()}.pickle" for content in (b"good", b"other")]
    (tmp_path / "SHA256SUMS").write_text("\n".join([*lines, "0" * 64 + "  bad.pickle"]))
    found = checksums.files(f"pickles:{tmp_path}")
    assert [(file.path.name, file.known, file.size) for file in found] == [
        ("bad.pickle", False, 3),
        ("good.pickle", True, 4),
        ("other.pickle", True, 5),
    ]
    (tmp_path / "SHA256SUMS").unlink()
    assert {file.known for file in checksums.files(f"pickles:{tmp_path}")} == {None}


def test_the_published_file_has_the_known_digest(shared: Path) -> None:
    found = checksums.files(f"omniglot:{shared / 'data' / 'omniglot'}")
    assert [file.known for file in found if file.path.suffix == ".zip"] == [True]


def test_data_without_a_path_are_looked_up_in_sparsedis_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"expected 'fc100:PATH' \(or a folder of that name in \$SPARSEDIS_DATA\)"):
        checksums.files("fc100")
    monkeypatch.setenv("SPARSEDIS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="expected a folder with FC100_"):
        checksums.files("fc100")
    assert absolute("fc100") == f"fc100:{tmp_path}/fc100"
    with pytest.raises(FileNotFoundError, match="expected an existing folder"):
        load("fc100")
    assert checksums.files("pictograms") == []
    assert absolute("pictograms") == "pictograms"
