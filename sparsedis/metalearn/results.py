"""The results of a run, and of several runs with the same settings.

In addition to the files of every run (:mod:`sparsedis.runs.folder`), a finished few-shot run writes

patterns.npz   the features that every task of the last test uses, from :func:`sparsedis.metalearn.evaluate.patterns`

The folder of an evaluation contains patterns.npz, results.json (:class:`Tested`), environment.json, seconds.json,
report.html and

reliability.png   accuracy against confidence
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
        iteration: of the learner with the best validation; without validation classes, the last one.
        validation: accuracy of that validation, or None.
        tests: one evaluation on the test split per number of shots; empty without test classes.
    """

    iteration: int
    validation: float | None
    tests: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Tested:
    """Description and result of an evaluation; the content of results.json in its folder.

    Attributes:
        run: absolute path of the folder of the learner's run.
        protocol: "episodes" or ``ONE_SHOT``.
        name: of the data set.
        data: the data set as named on the command line, with an absolute path; None for that of the run.
        lambda1: weight of the group Lasso; None for that of training.
        tests: the single result.
    """

    run: str
    protocol: str
    name: str
    data: str | None
    lambda1: float | None
    tests: tuple[Evaluation | OneShot]


class TestedFolder:
    """The folder written by an evaluation; measures the time from its creation on.

    Raises:
        BlockingIOError, FileExistsError, PermissionError, ValueError: as in :func:`sparsedis.runs.folder.check_empty`.
    """

    def __init__(self, out: Path) -> None:
        folder.check_empty(out)
        self.out = out
        self._clock = environment.Clock(out)

    def write(self, tested: Tested, others: Mapping[str, Callable[[], bytes]], device: torch.device) -> None:
        """Create the folder; results.json is written last.

        Args:
            tested: the results.
            others: functions that return the content of other files, by file name.
            device: of the learner.

        Raises:
            BlockingIOError, FileExistsError: another process is writing, or has written, to the folder.
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
        FileNotFoundError: the folder holds no finished run.
        ValueError: the results are damaged.
    """
    path = Path(out) / folder.RESULTS
    try:
        values = json.loads(path.read_bytes())
        tests = tuple(Evaluation(**test) for test in values["tests"])
        return Results(values["iteration"], values["validation"], tests)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"results: {path} is damaged: {error}") from error


def folder_name(head: str, lambda1: float | None, seed: int, fold: str = "") -> str:
    """Folder name of a run in a comparison; ``fold`` is the group left out in cross-validation."""
    parts = (head, "" if lambda1 is None else f"{lambda1:g}", str(seed), fold)
    return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Entry:
    """Runs that differ only in the seed, and in the group left out in cross-validation.

    Attributes:
        head: of the learners.
        lambda1: relative weight of the group Lasso; None for a dense head.
        seeds: with one run each.
        validation: mean accuracy of the best validations, or None.
        tests: by kind of task, such as "5-way 1-shot".
        folds: the tests of the runs that left out a group, by the group; empty without cross-validation.
    """

    head: str
    lambda1: float | None
    seeds: tuple[int, ...]
    validation: float | None
    tests: dict[str, Pooled]
    folds: dict[str, dict[str, Pooled]] = field(default_factory=dict)

    def folder(self, seed: int) -> str:
        """Folder name of a run of that seed in the comparison; in cross-validation that of the first fold."""
        return folder_name(self.head, self.lambda1, seed, next(iter(self.folds), ""))

    @property
    def label(self) -> str:
        """The head, with its lambda1 if it has one."""
        return self.head if self.lambda1 is None else f"{self.head}, lambda1 = {self.lambda1:g}"


@dataclass(frozen=True)
class Pooled:
    """Pooled tests of several runs; fractions, 0 to 1.

    Attributes:
        accuracy: mean over runs.
        ci95: half-width of the 95% confidence interval of ``accuracy`` over the runs' independent episodes; it excludes
            the variance between trainings. None if a run has a single episode.
        lowest, highest: accuracies of individual runs.
        features_used, calibration_error: means over runs.
        certified: mean over runs; None for a head without certificates.
        largest_gap: maximum over runs; None for a head without certificates and in results of earlier versions.
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
    """For every head the entry with the best validation (the first of equal ones); all entries without validation.

    Selecting by the tests would bias their results upwards.
    """
    if any(entry.validation is None for entry in entries):
        return list(entries)
    chosen: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: -(entry.validation or 0.0)):
        chosen.setdefault(entry.head, entry)
    return [entry for entry in entries if chosen[entry.head] is entry]
