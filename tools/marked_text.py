"""Generated text in a Markdown file, between the lines <!-- MARK --> and <!-- /MARK -->."""

from __future__ import annotations

from pathlib import Path


def replace_between_marks(file: Path, mark: str, text: str) -> None:
    """Replace the text between the two lines.

    Raises:
        ValueError: the file lacks the lines.
    """
    start, stop = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, begin, rest = file.read_text(encoding="utf-8").partition(start)
    _, end, after = rest.partition(stop)
    if not begin or not end:
        raise ValueError(f"{file}: expected the lines {start} and {stop}")
    file.write_text(f"{before}{start}\n{text}\n{stop}{after}", encoding="utf-8")
