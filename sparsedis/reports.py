"""The command that recreates the report of a folder that another command wrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Report:
    """Recreate report.html of a run, an evaluation, a comparison or a sweep from the files in its folder.

    Runs of earlier versions are reported as far as their files allow. Parts that need the data set are omitted if it is
    not found.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The folder."""

    def run(self) -> None:
        from sparsedis.runs.tables import console, say

        write = _writer(self.folder)
        try:
            path = write(self.folder)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"report: the files in {self.folder} are damaged: {error!r}") from error
        say(console(), f"report: {path}", unwrapped=True)


def _writer(out: Path) -> Callable[[Path], Path]:
    """The function that writes the report of a folder.

    Raises:
        FileNotFoundError: the folder holds nothing to report on.
        ValueError: a file in it is damaged.
    """
    from sparsedis.disentangle import report as disentangle
    from sparsedis.metalearn import report as metalearn
    from sparsedis.runs.folder import CONFIG
    from sparsedis.runs.report import read_json, runs_in

    writers = {**metalearn.WRITERS, **disentangle.WRITERS}
    for (name, key), write in writers.items():
        if (out / name).is_file() and key in read_json(out / name):
            return write
    if runs := runs_in(out) if out.is_dir() else []:  # a comparison or a sweep without results so far
        return metalearn.write_comparison if "head" in read_json(runs[0] / CONFIG) else disentangle.write_sweep
    names = ", ".join(dict.fromkeys(name for name, _ in writers))
    kinds = "a run, an evaluation, a comparison or a sweep"
    raise FileNotFoundError(f"report: expected {kinds} in {out}, found none of {names} there")
