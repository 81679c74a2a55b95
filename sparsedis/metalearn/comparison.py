"""Comparisons of many runs: of heads, and of weights of the group Lasso.

A comparison has one folder, with a folder for every run in it. Finished runs are not repeated, and an interrupted run
is resumed from its last checkpoint. Where the runs are executed is for :mod:`sparsedis.runs.jobs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from sparsedis.data.sources import absolute
from sparsedis.metalearn import results, tables
from sparsedis.metalearn.config import HEADS, Head, TrainConfig
from sparsedis.metalearn.results import Entry, Results, pooled
from sparsedis.metalearn.train import train
from sparsedis.runs import files, jobs
from sparsedis.runs.config import check_seeds, different
from sparsedis.runs.jobs import Workers
from sparsedis.runs.process import Job
from sparsedis.runs.tables import console as standard_output


def variants(config: TrainConfig, heads: Sequence[Head], grid: Sequence[float]) -> list[TrainConfig]:
    """The settings with every head; with a sparse head once per weight in ``grid``, or with their own if that is empty.

    Raises:
        ValueError: no heads, an unknown one, or one given twice; a weight given twice.
    """
    if not heads or len(set(heads)) < len(heads) or not set(heads) <= set(get_args(Head)):
        raise ValueError(
            f"heads: expected different ones of {', '.join(get_args(Head))}, got {', '.join(heads) or 'none'}"
        )
    if grid:
        different("lambda1_grid", grid)
    found = []
    for head in heads:
        own = config if head == config.head else config.with_head(head)
        sparse = HEADS[head].lambda1 is not None
        found += [replace(own, lambda1=value) for value in grid] if sparse and grid else [own]
    return found


def run_all(
    configs: Sequence[TrainConfig],
    seeds: Sequence[int],
    out: Path,
    workers: Workers = jobs.HERE,
    console: Console | None = None,
) -> tuple[list[tuple[Entry, list[Path]]], dict[str, str]]:
    """Train what is not trained yet.

    Returns:
        An entry per variant, with the folders of its runs, but for variants of which a run has failed; and the reasons
        by the names of the runs that have.

    Raises:
        ValueError: no seed or one twice; and as :func:`sparsedis.runs.jobs.run`.
    """
    check_seeds(seeds)
    variants: list[tuple[TrainConfig, list[Job]]] = []
    for config in configs:
        own = [replace(config, seed=seed, data=absolute(config.data)).settled() for seed in seeds]
        variants.append((config, [Job(train, one, out / name(one)) for one in own]))
    failures = jobs.run([job for _, runs in variants for job in runs], workers, console or standard_output())
    done = []
    for config, runs in variants:
        if not any(job.name in failures for job in runs):
            folders = [job.out for job in runs]
            done.append((_entry(config, tuple(seeds), [results.read(one) for one in folders]), folders))
    return done, failures


def name(config: TrainConfig) -> str:
    """Name of the folder of a run in a comparison."""
    return results.folder_name(config.head, _lambda1(config), config.seed)


def write(out: Path, stem: str, entries: Sequence[Entry], shown: Sequence[Entry], about: Mapping[str, Any]) -> str:
    """Write STEM.json, with all entries, and STEM.md, with those that are shown; returns the latter."""
    text = tables.comparison(shown).markdown()
    chosen = [shown.index(entry) if entry in shown else None for entry in entries]
    rows = [{**asdict(entry), "row": row} for entry, row in zip(entries, chosen, strict=True)]
    files.write_json(out / f"{stem}.json", {**about, "entries": rows})
    files.write(out / f"{stem}.md", text.encode())
    return text


def _entry(config: TrainConfig, seeds: tuple[int, ...], finished: Sequence[Results]) -> Entry:
    kinds = zip(*(one.tests for one in finished), strict=True)
    return Entry(
        head=config.head,
        lambda1=_lambda1(config),
        seeds=seeds,
        validation=sum(one.validation for one in finished) / len(finished),
        tests={f"{tests[0].way}-way {tests[0].shot}-shot": pooled(tests) for tests in kinds},
    )


def _lambda1(config: TrainConfig) -> float | None:
    """The weight of the group Lasso; None for a dense head."""
    return None if HEADS[config.head].lambda1 is None else config.hyperparameters.lambda1
