"""The results of a run, and those of several runs with the same settings.

To the files of every run (:mod:`sparsedis.runs.folder`) a finished run of few-shot learning adds

patterns.npz   the features that every task of the last test uses, as :func:`sparsedis.metalearn.evaluate.patterns`

The folder of an evaluation has patterns.npz, the results.json of :class:`Tested`, environment.json, seconds.json,
report.html and

reliability.png   accuracy by confidence
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from sparsedis.metalearn.evaluate import Evaluation
from sparsedis.metalearn.omniglot_one_shot import OneShot
from sparsedis.runs import environment, files, folder

PATTERNS, RELIABILITY = "patterns.npz", "reliability.png"
ONE_SHOT = "omniglot-one-shot"

_Z = 1.96


@dataclass(frozen=True)
class Results:
    """The results of a run; the content of results.json.

    Attributes:
        iteration: of the learner with the best validation; the last one where no class is for validation.
        validation: accuracy of that validation, if there was one.
        tests: one evaluation on the test split per number of shots; none where no class is for tests.
    """

    iteration: int
    validation: float | None
    tests: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Tested:
    """What an evaluation tested; the content of results.json in its folder.

    Attributes:
        run: absolute path of the folder of the learner's run.
        protocol: "episodes" or ``ONE_SHOT``.
        name: of the data set.
        data: the data set as the command line names it, with an absolute path; None for that of the run.
        lambda1: the weight of the group Lasso; None for that of the training.
        tests: the one result.
    """

    run: str
    protocol: str
    name: str
    data: str | None
    lambda1: float | None
    tests: tuple[Evaluation | OneShot]


class TestedFolder:
    """The folder that an evaluation leaves, and the time that it takes from here on.

    Raises:
        BlockingIOError, FileExistsError, PermissionError, ValueError: as :func:`sparsedis.runs.folder.check_empty`.
    """

    def __init__(self, out: Path) -> None:
        folder.check_empty(out)
        self.out = out
        self._clock = environment.Clock(out)

    def write(self, tested: Tested, others: Mapping[str, Callable[[], bytes]], device: torch.device) -> None:
        """Make the folder, with the results as its last file.

        Args:
            tested: the results.
            others: what makes the content of other files, by their names.
            device: of the learner.

        Raises:
            BlockingIOError, FileExistsError: another process writes to the folder, or has written to it since.
        """
        with folder.claim_empty(self.out):
            for name, make in others.items():
                files.write(self.out / name, make())
            environment.write(self.out, device)
            self._clock.save()
            files.write_json(self.out / folder.RESULTS, asdict(tested))


def read(out: str | Path) -> Results:
    """The results of the finished run in a folder.

    Raises:
        FileNotFoundError: there is no such run, or it is not finished.
        ValueError: its results are damaged.
    """
    path = Path(out) / folder.RESULTS
    try:
        values = json.loads(path.read_bytes())
        tests = tuple(Evaluation(**test) for test in values["tests"])
        return Results(values["iteration"], values["validation"], tests)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"results: {path} is damaged: {error}") from error


def folder_name(head: str, lambda1: float | None, seed: int, fold: str = "") -> str:
    """Name of the folder of a run in that of a comparison; ``fold`` is the group left out in cross-validation."""
    parts = (head, "" if lambda1 is None else f"{lambda1:g}", str(seed), fold)
    return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Entry:
    """Runs that differ in the seed alone, and in the group left out in cross-validation.

    Attributes:
        head: of the learners.
        lambda1: relative weight of the group Lasso; None for a dense head.
        seeds: one run each.
        validation: mean accuracy of the best validations, where there were any.
        tests: by "5-way 1-shot" and so on.
        folds: the same, of the runs in which a group was left out, by the group; empty without cross-validation.
    """

    head: str
    lambda1: float | None
    seeds: tuple[int, ...]
    validation: float | None
    tests: dict[str, Pooled]
    folds: dict[str, dict[str, Pooled]] = field(default_factory=dict)

    def folder(self, seed: int) -> str:
        """Name of the folder of a run in that of the comparison, the first one of cross-validation."""
        return folder_name(self.head, self.lambda1, seed, next(iter(self.folds), ""))

    @property
    def label(self) -> str:
        """The head, with its lambda1 if it has one."""
        return self.head if self.lambda1 is None else f"{self.head}, lambda1 = {self.lambda1:g}"


@dataclass(frozen=True)
class Pooled:
    """Tests of several runs together; fractions, 0 to 1.

    Attributes:
        accuracy: mean over runs.
        ci95: half the width of the 95% confidence interval of ``accuracy`` from the runs' episodes, which are
            independent; it does not include the variance between trainings. None where a run has a single episode.
        lowest, highest: accuracy of single runs.
        features_used, calibration_error: means over runs.
        certified: mean over runs; None for a head without certificates.
        largest_gap: largest of the runs; None for a head without certificates, and in results of earlier versions.
    """

    accuracy: float
    ci95: float | None
    lowest: float
    highest: float
    features_used: float
    calibration_error: float
    certified: float | None
    largest_gap: float | None = None


def pooled(evaluations: Sequence[Evaluation]) -> Pooled:
    """Pool the evaluations of several runs on the same kind of task."""
    count = len(evaluations)
    accuracies = [one.accuracy for one in evaluations]
    certified = [one.certified for one in evaluations if one.certified is not None]
    gaps = [one.largest_gap for one in evaluations if one.largest_gap is not None]
    intervals = [one.ci95 for one in evaluations if one.ci95 is not None]
    return Pooled(
        accuracy=sum(accuracies) / count,
        ci95=_Z * sum((one / _Z) ** 2 for one in intervals) ** 0.5 / count if len(intervals) == count else None,
        lowest=min(accuracies),
        highest=max(accuracies),
        features_used=sum(one.features_used for one in evaluations) / count,
        calibration_error=sum(one.calibration_error for one in evaluations) / count,
        certified=sum(certified) / count if certified else None,
        largest_gap=max(gaps, default=None),
    )


def best(entries: Sequence[Entry]) -> list[Entry]:
    """Of every head the entry with the best validation, the first of equal ones; without validation all entries.

    A choice by the tests would make them look better than they are.
    """
    if any(entry.validation is None for entry in entries):
        return list(entries)
    chosen: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: -(entry.validation or 0.0)):
        chosen.setdefault(entry.head, entry)
    return [entry for entry in entries if chosen[entry.head] is entry]
