"""Sweeps: runs that differ in one setting, the inner regression and the seed, and a summary of their results.

The folder of a sweep contains one folder per run. Finished runs are skipped, and interrupted ones are resumed. After
every run sweep.json, sweep.md and sweep.png are rewritten. :mod:`sparsedis.runs.jobs` executes the runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from sparsedis.disentangle import figures, shapes3d, tables
from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.disentangle.results import record
from sparsedis.disentangle.train import train
from sparsedis.runs import files, jobs
from sparsedis.runs.config import check_distinct, check_seeds
from sparsedis.runs.jobs import Workers
from sparsedis.runs.process import Job
from sparsedis.runs.tables import console as standard_output

Vary = Literal["rho", "noise", "tasks", "lambda1"]

VALUES: dict[str, tuple[float | str, ...]] = {
    "rho": (0.0, 0.5, 0.9),
    "noise": (0.0, 0.5, 1.0),
    "tasks": ("bernoulli", "fixed-2", "blocks-2", "finite-2", "gaussian"),
    "lambda1": (0.01, 0.03, 0.1, 0.3),
}
"""Default values of each setting."""

JSON, TABLE, FIGURE = "sweep.json", "sweep.md", "sweep.png"


def sweep(
    base: DisentangleConfig,
    out: str | Path,
    *,
    vary: str = "rho",
    values: Sequence[float | str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    inners: Sequence[str] = ("lasso", "ridge"),
    workers: Workers = jobs.HERE,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Run or continue a sweep.

    Args:
        base: the settings of all runs.
        out: folder of the sweep.
        vary: name of the varied setting.
        values: its values; default: :data:`VALUES`.
        seeds: seeds, with one run each.
        inners: inner regressions, with one run each.
        workers: where the runs are executed; default: in this process, one after another.
        console: for output; default: standard output.

    Returns:
        One record per finished run, as returned by :func:`sparsedis.disentangle.results.record`.

    Raises:
        ValueError: an unknown setting; no seed, or a repeated seed or value; as in :func:`sparsedis.runs.jobs.run`; and
            after all runs have ended, if some have failed.
    """
    if vary not in VALUES:
        raise ValueError(f"vary: expected one of {', '.join(VALUES)}, got {vary!r}")
    values = values or VALUES[vary]
    for name, given in (("values", values), ("inners", inners)):
        check_distinct(name, given)
    check_seeds(seeds)
    out, console = Path(out), console or standard_output()
    base = replace(base, data=shapes3d.absolute(base.data))  # as in config.json
    configs = [
        replace(base, **{vary: value, "seed": seed, "inner": inner})  # type: ignore[arg-type]
        for seed in seeds  # outermost, so that an unfinished sweep covers every setting
        for value in values
        for inner in inners
    ]
    records: list[dict[str, Any]] = []

    def update(finished: Sequence[Job]) -> None:
        records[:] = [record(job.out) for job in finished]
        groups = summary(records, vary)
        files.write_json(out / JSON, {"vary": vary, "runs": records, "summary": groups})
        files.write(out / TABLE, tables.sweep_table(groups, vary).encode())
        files.write(out / FIGURE, figures.sweep(groups, vary))

    runs = [Job(train, one, out / f"{vary}-{getattr(one, vary)}-{one.inner}-{one.seed}") for one in configs]
    failures = jobs.run(runs, workers, console, update)
    if records:
        console.print(tables.sweep_grid(summary(records, vary), vary))
    jobs.check(failures)
    return records


def summary(records: Sequence[dict[str, Any]], vary: str) -> list[dict[str, Any]]:
    """Means and standard deviations over seeds, by value and method: inner lasso, inner ridge, ridge and ICA.

    Numbers are in ascending order, names in the order of the records. With one seed the deviation is None. "seeds" is
    the number of runs that have the metric; if FastICA was fitted in none of them, the means are also None.
    """
    groups = []
    methods: list[tuple[str, str, Callable[[dict[str, Any]], tuple[float | None, float | None]]]] = [
        ("inner lasso", "lasso", lambda x: (x["mcc"], x["r"])),
        ("inner ridge", "ridge", lambda x: (x["mcc"], x["r"])),
        ("inner ridge + ICA", "ridge", lambda x: (x["mcc_ica"], x["r_ica"])),
    ]
    values = dict.fromkeys(one[vary] for one in records)
    for value in values if any(isinstance(value, str) for value in values) else sorted(values):
        for name, inner, scores in methods:
            chosen = [scores(one) for one in records if one[vary] == value and one["inner"] == inner]
            if chosen:
                group: dict[str, Any] = {"value": value, "method": name}
                for key, column in zip(("mcc", "r"), zip(*chosen, strict=True), strict=True):
                    known = [score for score in column if score is not None]
                    group["seeds"] = len(known)
                    group[f"{key}_mean"] = statistics.fmean(known) if known else None
                    group[f"{key}_sd"] = statistics.stdev(known) if len(known) > 1 else None
                groups.append(group)
    return groups
