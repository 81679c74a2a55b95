"""The disentanglement commands, as dataclasses that the command line instantiates and runs."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from sparsedis.disentangle.config import DisentangleConfig, Inner
from sparsedis.disentangle.synthetic import SyntheticConfig
from sparsedis.runs import command_line, jobs


@dataclass(frozen=True)
class Synthetic:
    """Lasso and ridge regression on disentangled and rotated features, compared with the published means."""

    config: tyro.conf.OmitArgPrefixes[SyntheticConfig]
    json: command_line.OptionalFile = None
    """File to write the means to."""
    figure: command_line.OptionalFile = None
    """PNG file to draw the means into."""

    def run(self) -> None:
        from sparsedis.disentangle import synthetic
        from sparsedis.runs import files
        from sparsedis.runs.tables import console

        for name in ("json", "figure"):
            command_line.check_file(name, getattr(self, name))
        rows = synthetic.run(self.config, progress=lambda line: print(line, file=sys.stderr, flush=True))
        try:
            if self.json:
                files.write_json(self.json, [asdict(row) for row in rows])
            if self.figure:
                files.write(self.figure, synthetic.figure(rows))
        finally:  # print the result even if a file cannot be written
            console().print(synthetic.table(rows))


@dataclass(frozen=True)
class Disentangle:
    """Train an encoder through sparse regressions on the factors of 3D Shapes, and measure its disentanglement."""

    config: tyro.conf.OmitArgPrefixes[DisentangleConfig]
    out: command_line.OptionalFolder = None
    """Folder of the run; the default is runs/disentangle-INNER-RHO-SEED."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Resume the run in the folder, which must have the same settings."""
    json: command_line.OptionalFile = None
    """File to write the result to."""

    def run(self) -> None:
        from sparsedis.disentangle.results import record
        from sparsedis.disentangle.train import train
        from sparsedis.runs import files

        command_line.check_file("json", self.json)
        with command_line.resumable(self._folder(), self._resume_command()):
            train(self.config, self._folder(), resume=self.resume)
        other: Inner = "ridge" if self.config.inner == "lasso" else "lasso"
        words = command_line.option_words(
            replace(self.config, inner=other), DisentangleConfig(preset=self.config.preset)
        )
        again = shlex.join(["sparsedis", "disentangle", "--preset", self.config.preset, *words])
        command_line.print_next([(f"train with an inner {other} regression, for comparison", again)])
        if self.json:
            files.write_json(self.json, record(self._folder()))

    def _folder(self) -> Path:
        config = self.config
        return self.out or Path("runs") / f"disentangle-{config.inner}-{config.rho:g}-{config.seed}"

    def _resume_command(self) -> str:
        preset = self.config.preset
        words = ["sparsedis", "disentangle", "--preset", preset]
        words += command_line.option_words(self.config, DisentangleConfig(preset=preset))
        words += ["--json", str(self.json)] if self.json else []
        return shlex.join([*words, "--out", str(self._folder()), "--resume"])


@dataclass(frozen=True)
class DisentangleSweep:
    """Runs with inner Lasso, inner ridge, and ridge with ICA, over a setting and seeds; a table and a figure."""

    config: tyro.conf.OmitArgPrefixes[DisentangleConfig]
    vary: Literal["rho", "noise", "tasks", "lambda1"] = "rho"
    """Setting to vary."""
    values: tuple[str, ...] = ()
    """Values of the setting; the default is a grid that depends on it."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, with one run each for Lasso and for ridge."""
    out: command_line.OptionalFolder = None
    """Folder of the sweep, which is resumed if it exists; the default is runs/sweep-VARY."""
    workers: tyro.conf.OmitArgPrefixes[jobs.Workers] = jobs.HERE
    json: command_line.OptionalFile = None
    """File to write the list of results to."""

    def run(self) -> None:
        from sparsedis.disentangle import report
        from sparsedis.disentangle.sweep import sweep
        from sparsedis.runs import files
        from sparsedis.runs.report import write_on_exit
        from sparsedis.runs.tables import console

        command_line.check_file("json", self.json)
        values: list[str | float] = list(self.values)
        if self.vary != "tasks":
            try:
                values = [float(value) for value in self.values]
            except ValueError as error:
                raise ValueError(f"values: expected numbers, got {' '.join(self.values)!r}") from error
        out = self.out or Path("runs") / f"sweep-{self.vary}"
        shown = console()
        with command_line.repeatable(), write_on_exit(out, lambda: report.write_sweep(out), shown):
            records = sweep(
                self.config,
                out,
                vary=self.vary,
                values=values,
                seeds=self.seeds,
                workers=self.workers,
                console=shown,
            )
        if self.json:
            files.write_json(self.json, records)


@dataclass(frozen=True)
class Shapes3d:
    """Render the images of 3D Shapes: a contact sheet, or all 480,000 of them to a file of 5.9 GB."""

    sheet: command_line.OptionalFile = None
    """PNG file for a contact sheet, with one row per factor."""
    cache: command_line.OptionalFile = None
    """File for all rendered images, for --data cache:FILE; continues an interrupted call."""
    data: str = "rendered"
    """Images of the contact sheet: rendered, cache:FILE or h5:FILE."""

    def run(self) -> None:
        from sparsedis.disentangle import shapes3d
        from sparsedis.runs import files

        if self.sheet is None and self.cache is None:
            raise ValueError("shapes3d: expected --sheet FILE, --cache FILE or both")
        command_line.check_file("sheet", self.sheet)
        command_line.check_file("cache", self.cache)
        if self.sheet:
            files.write(self.sheet, shapes3d.contact_sheet(shapes3d.open_source(self.data)))
        if self.cache:
            with command_line.repeatable():
                shapes3d.write_cache(self.cache)
