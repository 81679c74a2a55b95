"""Many runs, and tables of how they ended: the heads beside each other, and a sweep over the weight of the group Lasso.

A grid lives in one folder, every run in a folder of its own below. What is done is not done again, and what was
interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from sparsedis.data.sources import absolute
from sparsedis.metalearn.config import HEADS, Head, TrainConfig
from sparsedis.metalearn.evaluate import Evaluation
from sparsedis.metalearn.train import Results, results_of, train
from sparsedis.runs import files, folder
from sparsedis.runs.config import different

_Z = 1.96


@dataclass(frozen=True)
class Entry:
    """One setting, over its seeds.

    Attributes:
        head: of the learners.
        lambda1: relative weight of the group Lasso; None for a dense head.
        seeds: one run each.
        validation: mean accuracy of the best validations.
        tests: by "5-way 1-shot" and so on.
    """

    head: str
    lambda1: float | None
    seeds: tuple[int, ...]
    validation: float
    tests: dict[str, Pooled]

    @property
    def label(self) -> str:
        return self.head if self.lambda1 is None else f"{self.head}, lambda1 = {self.lambda1:g}"


@dataclass(frozen=True)
class Pooled:
    """Tests of several runs together; fractions, 0 to 1.

    Attributes:
        accuracy: mean over runs.
        ci95: half the width of its 95% interval by the runs' episodes, which are independent; the spread of the runs'
            training is not in it.
        lowest, highest: accuracy of single runs.
        features_used, calibration_error: means over runs.
        certified: mean over runs; None for a head without certificates.
    """

    accuracy: float
    ci95: float
    lowest: float
    highest: float
    features_used: float
    calibration_error: float
    certified: float | None


def pooled(evaluations: Sequence[Evaluation]) -> Pooled:
    """Evaluations of one kind, of several runs."""
    count = len(evaluations)
    accuracies = [one.accuracy for one in evaluations]
    certified = [one.certified for one in evaluations if one.certified is not None]
    return Pooled(
        accuracy=sum(accuracies) / count,
        ci95=_Z * sum((one.ci95 / _Z) ** 2 for one in evaluations) ** 0.5 / count,
        lowest=min(accuracies),
        highest=max(accuracies),
        features_used=sum(one.features_used for one in evaluations) / count,
        calibration_error=sum(one.calibration_error for one in evaluations) / count,
        certified=sum(certified) / count if certified else None,
    )


def settings(config: TrainConfig, heads: Sequence[Head], eps: Sequence[float]) -> list[TrainConfig]:
    """One per dense head, and one per sparse head and weight of the group Lasso (none given: the settings' own).

    Raises:
        ValueError: an unknown head, one that is named twice, or none; a weight that is given twice.
    """
    if not heads or len(set(heads)) < len(heads) or not set(heads) <= set(get_args(Head)):
        raise ValueError(
            f"heads: expected different ones of {', '.join(get_args(Head))}, got {', '.join(heads) or 'none'}"
        )
    if eps:
        different("eps", eps)
    found = []
    for head in heads:
        own = config if head == config.head else config.with_head(head)
        sparse = HEADS[head].lambda1 is not None
        found += [replace(own, lambda1=value) for value in eps] if sparse and eps else [own]
    return found


def run_all(
    configs: Sequence[TrainConfig], seeds: Sequence[int], out: Path, console: Console | None = None
) -> list[tuple[Entry, list[Path]]]:
    """Train what is not trained yet; every setting's entry, and the folders of its runs.

    Raises:
        ValueError: no seed or one twice; a run in the folder has other settings.
    """
    different("seeds", seeds)
    console = console or Console()
    done = []
    for config in configs:
        results, folders = [], []
        for seed in seeds:
            one = replace(config, seed=seed, data=absolute(config.data)).settled()
            folders.append(out / name(one))
            folder.complete(train, one, folders[-1], console)
            results.append(results_of(folders[-1]))
        done.append((_entry(config, tuple(seeds), results), folders))
    return done


def name(config: TrainConfig) -> str:
    """Of a run's folder in a grid."""
    lambda1 = config.hyperparameters.lambda1 if HEADS[config.head].lambda1 is not None else None
    return f"{config.head}-{config.seed}" if lambda1 is None else f"{config.head}-{lambda1:g}-{config.seed}"


def best(entries: Sequence[Entry]) -> list[Entry]:
    """Of every head the entry that did best in validation; among equals the first."""
    chosen: dict[str, Entry] = {}
    for entry in entries:
        if entry.head not in chosen or entry.validation > chosen[entry.head].validation:
            chosen[entry.head] = entry
    return list(chosen.values())


def markdown(entries: Sequence[Entry]) -> str:
    """A table in Markdown, one row per entry."""
    kinds = list(entries[0].tests)
    lines = [
        "| head | " + " | ".join(f"{kind} | features used" for kind in kinds) + " | certified |",
        "|---|" + "---|---|" * len(kinds) + "---|",
    ]
    for entry in entries:
        cells = [entry.label]
        for kind in kinds:
            test = entry.tests[kind]
            cells += [f"{100 * test.accuracy:.2f} ± {100 * test.ci95:.2f}", f"{100 * test.features_used:.1f}%"]
        certified = [test.certified for test in entry.tests.values()]
        cells.append("-" if certified[0] is None else f"{100 * min(c for c in certified if c is not None):.1f}%")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(out: Path, stem: str, entries: Sequence[Entry], shown: Sequence[Entry], about: Mapping[str, Any]) -> str:
    """Write STEM.json, with all entries, and STEM.md, with those that are shown; returns the latter."""
    text = markdown(shown)
    chosen = [shown.index(entry) if entry in shown else None for entry in entries]
    rows = [{**asdict(entry), "row": row} for entry, row in zip(entries, chosen, strict=True)]
    files.write_json(out / f"{stem}.json", {**about, "entries": rows})
    files.write(out / f"{stem}.md", text.encode())
    return text


def _entry(config: TrainConfig, seeds: tuple[int, ...], results: Sequence[Results]) -> Entry:
    kinds = zip(*(one.tests for one in results), strict=True)
    return Entry(
        head=config.head,
        lambda1=config.hyperparameters.lambda1 if HEADS[config.head].lambda1 is not None else None,
        seeds=seeds,
        validation=sum(one.validation for one in results) / len(results),
        tests={f"{tests[0].way}-way {tests[0].shot}-shot": pooled(tests) for tests in kinds},
    )
