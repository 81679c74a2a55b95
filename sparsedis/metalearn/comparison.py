"""Comparisons of several runs: of heads, and of weights of the group Lasso.

A comparison has a folder that contains one folder per run. Finished runs are not repeated, and interrupted runs are
resumed from their last checkpoint. :mod:`sparsedis.runs.jobs` executes the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from sparsedis.data.sources import absolute
from sparsedis.metalearn import results, tables, tasks
from sparsedis.metalearn.config import HEADS, Head, TrainConfig
from sparsedis.metalearn.results import Entry, Pooled, Results, pooled
from sparsedis.metalearn.train import train
from sparsedis.runs import files, jobs
from sparsedis.runs.config import check_distinct, check_seeds
from sparsedis.runs.jobs import Workers
from sparsedis.runs.process import Job
from sparsedis.runs.tables import console as standard_output


def variants(config: TrainConfig, heads: Sequence[Head], grid: Sequence[float]) -> list[TrainConfig]:
    """The settings with every head; with a sparse head once per weight in ``grid``, or with its own if that is empty.

    Raises:
        ValueError: no heads, an unknown head, or a repeated head or weight.
    """
    if not heads or len(set(heads)) < len(heads) or not set(heads) <= set(get_args(Head)):
        raise ValueError(
            f"heads: expected different ones of {', '.join(get_args(Head))}, got {', '.join(heads) or 'none'}"
        )
    if grid:
        check_distinct("lambda1_grid", grid)
    found = []
    for head in heads:
        own = config.with_head(head)
        sparse = HEADS[head].lambda1 is not None
        found += [replace(own, lambda1=value) for value in grid] if sparse and grid else [own]
    return found


def run_all(
    configs: Sequence[TrainConfig],
    seeds: Sequence[int],
    out: Path,
    workers: Workers = jobs.HERE,
    console: Console | None = None,
    folds: Sequence[str] = (),
) -> tuple[list[tuple[Entry, list[Path]]], dict[str, str]]:
    """Train the runs that are not finished.

    Args:
        configs: one per variant.
        seeds: every variant is run once per seed, or with ``folds`` once per seed and fold.
        out: folder of the comparison.
        workers: where the runs are executed.
        console: for output; default: standard output.
        folds: groups of classes, each of which is left out of training and tested on in turn.

    Returns:
        The entries of the variants without failed runs, each with the folders of its runs; and the reasons of failed
        runs, by name.

    Raises:
        ValueError: no seed or a repeated one; no class to test on; and as in :func:`sparsedis.runs.jobs.run`.
    """
    check_seeds(seeds)
    if configs[0].left_out == () and not folds and not tasks.read(configs[0]).splits["test"]:
        raise ValueError("left_out: expected a group to test on, or compare's --cross-validate, got none")
    variants: list[tuple[TrainConfig, list[Job]]] = []
    for config in configs:
        same = replace(config, data=absolute(config.data)).settled()
        own = [
            (replace(same, seed=seed, left_out=(fold,) if fold else same.left_out), fold)
            for seed in seeds
            for fold in folds or ("",)
        ]
        variants.append((config, [Job(train, one, out / name(one, fold)) for one, fold in own]))
    failures = jobs.run([job for _, runs in variants for job in runs], workers, console or standard_output())
    done = []
    for config, runs in variants:
        if not any(job.name in failures for job in runs):
            folders = [job.out for job in runs]
            done.append((_entry(config, tuple(seeds), tuple(folds), [results.read(one) for one in folders]), folders))
    return done, failures


def folds(config: TrainConfig) -> list[str]:
    """The groups of the classes that may be trained on, each of which is left out once.

    Raises:
        ValueError: the data set has no groups, or only one to train on.
    """
    data = tasks.read(replace(config, left_out=()))
    groups = list(dict.fromkeys(data.groups[label] for label in data.splits["train"])) if data.groups else []
    if len(groups) < 2:
        raise ValueError(f"cross_validate: expected two groups or more to train on, got {', '.join(groups) or 'none'}")
    return groups


def name(config: TrainConfig, fold: str = "") -> str:
    """Folder name of a run in a comparison."""
    return results.folder_name(config.head, _lambda1(config), config.seed, fold)


def write(out: Path, stem: str, entries: Sequence[Entry], shown: Sequence[Entry], about: Mapping[str, Any]) -> str:
    """Write STEM.json with all entries, and STEM.md with the shown ones; returns the latter's text."""
    text = tables.comparison(shown).markdown()
    chosen = [shown.index(entry) if entry in shown else None for entry in entries]
    rows = [{**asdict(entry), "row": row} for entry, row in zip(entries, chosen, strict=True)]
    files.write_json(out / f"{stem}.json", {**about, "entries": rows})
    files.write(out / f"{stem}.md", text.encode())
    return text


def _entry(config: TrainConfig, seeds: tuple[int, ...], folds: tuple[str, ...], finished: Sequence[Results]) -> Entry:
    validations = [one.validation for one in finished if one.validation is not None]
    return Entry(
        head=config.head,
        lambda1=_lambda1(config),
        seeds=seeds,
        validation=sum(validations) / len(finished) if validations else None,
        tests=_pooled(finished),
        folds={fold: _pooled(finished[i :: len(folds)]) for i, fold in enumerate(folds)},
    )


def _pooled(finished: Sequence[Results]) -> dict[str, Pooled]:
    kinds = zip(*(one.tests for one in finished), strict=True)
    return {f"{tests[0].way}-way {tests[0].shot}-shot": pooled(tests) for tests in kinds}


def _lambda1(config: TrainConfig) -> float | None:
    """The weight of the group Lasso; None for a dense head."""
    return None if HEADS[config.head].lambda1 is None else config.hyperparameters.lambda1
