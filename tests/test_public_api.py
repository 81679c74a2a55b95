"""The public API is listed in tests/public_api.txt, so that changes are deliberate and recorded in the changelog."""

import difflib
from pathlib import Path

import pytest

LISTED = Path(__file__).with_name("public_api.txt")


def test_public_api_is_as_listed():
    pytest.importorskip("sklearn", reason="sparsedis.sklearn needs scikit-learn")
    from tests import public_api

    listed, found = LISTED.read_text(encoding="utf-8").splitlines(), public_api.lines()
    changed = [line for line in difflib.ndiff(listed, found) if line[0] in "+-"]
    assert not changed, (
        "the public API has changed:\n" + "\n".join(changed) + "\nIf this is intended, add it to CHANGELOG.md and run "
        "python -m tests.public_api > tests/public_api.txt"
    )
