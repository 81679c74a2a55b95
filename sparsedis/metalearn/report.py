"""report.html of a run of few-shot learning, of a comparison and of a sweep, from the files in their folders."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsedis.data import Episodes, FewShotData
from sparsedis.metalearn import figures, tables, tasks
from sparsedis.metalearn.config import HEAD_TITLES, PRESETS, TrainConfig
from sparsedis.metalearn.evaluate import Evaluation
from sparsedis.metalearn.learner import Learner, load_run
from sparsedis.metalearn.results import PATTERNS, Entry, Pooled, best
from sparsedis.runs import command_line, environment, folder
from sparsedis.runs import report as page
from sparsedis.runs.report import Block, Note, Picture, Report, Section, Stripes, Tiles
from sparsedis.runs.tables import duration, percent

COMPARE, SWEEP = "compare", "sweep"
"""Stems of the result files of the two commands."""

NO_TESTS = "No classes are left to test on; sparsedis evaluate tests the learner on other data."
"""Of a run that trains on all classes."""

_CLASSES, _SUPPORT, _QUERIES = 10, 5, 3  # of an example, at most so many are shown
_ROWS, _COLUMNS = 60, 800  # of the features used by class

_WORDS = (
    "N-way K-shot: a task has N classes that the encoder was not trained on, with K images each to learn from. ± is "
    "half of the 95% interval over tasks. Features used: of all that the encoder gives, the fraction that a task's "
    "classifier uses. Certified: the fraction of tasks that are solved as well as asked for."
)
_ECE = "ECE: how far the confidences are from the accuracy, on average."
_USAGE = (
    "A row per class, a column per feature, the most used first: how often the classifiers of the tasks with this "
    "class use the feature, from never (dark) to always (bright). At the right, the mean over all features."
)
_CURVES = "Accuracy, and the fraction of features used, on tasks of the training and of the validation classes."
_EXAMPLES = (
    "The first task of the test, not chosen for its result: the classifier sees the support images with their classes, "
    "and then says of which class the queries are."
)


def write_run(out: Path, data: FewShotData | None = None, encoder: nn.Module | None = None) -> Path:
    """Write the report of a run, finished or not; returns its path.

    Args:
        out: the folder of the run.
        data: its data set; read again by default.
        encoder: a module like the one that was trained, for ``config.encoder`` "custom".

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: its settings or its results are damaged.
    """
    settings = page.read_json(out / folder.CONFIG)
    results = page.read_json(out / folder.RESULTS) if (out / folder.RESULTS).is_file() else None
    lines = folder.read_metrics(out / folder.METRICS)
    tests = [_evaluation(test) for test in results["tests"]] if results is not None else []

    def examples() -> Sequence[Block]:
        return _examples([("", load_run(out, copy.deepcopy(encoder))[0])], settings, data)

    steps, head = settings.get("iterations"), str(settings.get("head"))
    done = max((line["iteration"] for line in lines), default=0)
    command = _command(settings)
    if results is not None:
        chosen = "the last one" if results["validation"] is None else "the best in validation"
        state = f"The run is finished; the learner of step {results['iteration']}, {chosen}, is tested."
        outcome = Section("Result", f"{_WORDS} {_ECE}", [tables.evaluations(tests, "") if tests else Note(NO_TESTS)])
    else:
        state = f"The run is not finished: its log ends at step {done} of {steps}."
        outcome = Section("Result", _WORDS, [page.unfinished(out, command)])
    summary = (
        f"An encoder ({settings.get('encoder', 'conv4')}) was trained to give features of images, so that a small "
        "classifier, fitted to a few images of classes that the encoder has never seen, recognises other images of "
        "these classes. "
        f"The classifier is {HEAD_TITLES.get(head, head)}. {state}"
    )
    report = Report(
        f"Few-shot learning on {_name(settings)}: {head}",
        summary,
        _facts(tests, lines, steps, environment.seconds(out)),
        [
            outcome,
            page.course(out, figures.curves, _CURVES),
            page.section("Examples", _EXAMPLES, examples),
            page.section("Features used by class", _USAGE, lambda: _usage(out / PATTERNS)),
            page.certificates([(_kind(one), one.certified, one.largest_gap) for one in tests], lines),
            page.settings(settings, "sparsedis train", command),
            page.circumstances([out]),
        ],
    )
    return page.write(out, report)


def write_comparison(out: Path) -> Path:
    """Write the report of a comparison of heads, finished or not; returns its path.

    Raises:
        ValueError: its results are damaged, or there is no run in the folder.
    """
    about = "Heads that were trained on the same tasks with the same encoder, each in its best setting by validation."
    return _write_many(out, COMPARE, "Heads compared", about)


def write_sweep(out: Path) -> Path:
    """Write the report of a sweep over weights of the group Lasso, finished or not; returns its path.

    Raises:
        ValueError: its results are damaged, or there is no run in the folder.
    """
    about = (
        "The weight of the group Lasso decides how many features a classifier uses, and what that costs in accuracy."
    )
    return _write_many(out, SWEEP, "Accuracy against the features used", about)


WRITERS: dict[tuple[str, str], Callable[[Path], Path]] = {
    (folder.CONFIG, "head"): write_run,
    (f"{COMPARE}.json", "entries"): write_comparison,
    (f"{SWEEP}.json", "entries"): write_sweep,
}
"""What writes the report of a folder, by a file in it and a name that its JSON object has."""


def _write_many(out: Path, stem: str, title: str, about: str) -> Path:
    runs = page.runs_in(out)
    path = out / f"{stem}.json"
    found = page.read_json(path) if path.is_file() else None
    entries = [_entry(row) for row in found["entries"] if row.get("row", 0) is not None] if found else []
    settings = dict(found["config"]) if found else page.shared_settings(runs)
    sections = []
    if entries:
        sections.append(
            page.section("Result", f"{about} {_WORDS}", lambda: [tables.comparison(entries), *_figures(out, stem)])
        )
        solved = [(f"{one.label}, {kind}", test) for one in entries for kind, test in one.tests.items()]
        sections.append(page.certificates([(name, test.certified, test.largest_gap) for name, test in solved]))
        sections.append(page.section("Examples", _EXAMPLES, lambda: _compared(out, entries)))
    else:
        sections.append(Section("Result", about, [page.unfinished_runs(runs)]))
    sections += [
        page.courses(
            runs, "accuracy", "validation accuracy", "Accuracy on the validation classes, a curve for every run."
        ),
        page.links(runs),
        page.settings(settings, "sparsedis train"),
        page.circumstances(runs),
    ]
    summary = (
        "An encoder was trained to give features of images, and a small classifier, the head, is fitted to a few "
        f"images of classes that the encoder has never seen. {about}"
    )
    facts = [_best(entries, kind) for kind in (entries[0].tests if entries else ())]
    return page.write(out, Report(f"{title}: {_name(settings)}", summary, facts, sections))


def _name(settings: Mapping[str, Any]) -> str:
    return str(settings.get("data", "")).partition(":")[0]


def _command(settings: Mapping[str, Any]) -> str:
    """The command line that trains with these settings; none for those of another version."""
    try:
        config = TrainConfig.from_json(settings)
    except ValueError:
        return ""
    default = PRESETS["quick"]
    head = [] if config.head == default.head else ["--head", config.head]
    words = command_line.words(config, default.with_head(config.head).settled())
    return shlex.join(["sparsedis", "train", *head, *words])


def _evaluation(values: Mapping[str, Any]) -> Evaluation:
    """An evaluation of this version or an earlier one, which had fewer fields."""
    try:
        return Evaluation(**{"calibration_error": None, **values})
    except TypeError as error:
        raise ValueError(f"report: the results are damaged: {error}") from error


def _entry(row: Mapping[str, Any]) -> Entry:
    folds = {fold: _tests(tests) for fold, tests in row.get("folds", {}).items()}
    return Entry(row["head"], row["lambda1"], tuple(row["seeds"]), row["validation"], _tests(row["tests"]), folds)


def _tests(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Pooled]:
    return {kind: Pooled(**test) for kind, test in rows.items()}


def _kind(test: Evaluation) -> str:
    return f"{test.way}-way {test.shot}-shot"


def _facts(
    tests: Sequence[Evaluation], lines: Sequence[Mapping[str, Any]], steps: Any, seconds: float
) -> list[tuple[str, str]]:
    """The numbers at the top: of the tests or, where there are none yet, of the last validation."""
    facts = []
    for one in tests:
        facts.append((f"accuracy, {_kind(one)}", tables.with_interval(one.accuracy, one.ci95, 1)))
        facts.append((f"features used, {_kind(one)}", percent(one.features_used)))
    if not tests:
        facts.append(("steps done", f"{max((line['iteration'] for line in lines), default=0)} of {steps}"))
        validations = [line for line in lines if line["split"] == "validation"]
        facts += [("last validation", percent(line["accuracy"])) for line in validations[-1:]]
    return [*facts, ("time", duration(seconds))] if seconds else facts


def _usage(path: Path) -> Sequence[Block]:
    """The features that classes use, from the file that the run's last test left."""
    if not path.is_file():
        again = shlex.join(["sparsedis", "evaluate", str(path.parent), "--patterns", str(path)])
        return [Note(f"Not available: there is no {PATTERNS}, which a run writes at its end. This measures it:", again)]
    with np.load(path) as found:
        active, classes = torch.from_numpy(found["active"]), torch.from_numpy(found["classes"])
        names = found["class_names"].tolist()
    seen, fractions = figures.usage(active, classes)
    order = fractions.mean(0).argsort(descending=True, stable=True)
    shown = fractions[:_ROWS, order].numpy()
    parts = np.array_split(shown, min(_COLUMNS, shown.shape[1]), axis=1)  # of several features in a column the mean
    stripes = Stripes(
        [names[label] for label in seen[:_ROWS].tolist()],
        np.stack([part.mean(1) for part in parts], 1),
        [percent(float(row.mean())) for row in shown],
        f"{fractions.shape[1]:,} features, in the order of use",
    )
    if len(seen) <= _ROWS:
        return [stripes]
    return [Note(f"The first {_ROWS} of {len(seen)} classes; {PATTERNS} has all of them."), stripes]


def _examples(
    learners: Sequence[tuple[str, Learner]], settings: Mapping[str, Any], data: FewShotData | None, shots: int = 2
) -> Sequence[Block]:
    """The first task of a test with every number of shots, of ``shots`` at most, as each learner answers it."""
    config = TrainConfig.from_json(settings)
    tests = sorted(tasks.of_tests(config, data or tasks.read(config), 1), key=lambda episodes: episodes.shot)
    if not tests:
        return [Note(NO_TESTS)]
    return [_episode(title, learner, episodes) for episodes in tests[-shots:] for title, learner in learners]


@torch.no_grad()
def _episode(title: str, learner: Learner, episodes: Episodes) -> Tiles:
    """The first task, as a learner in evaluation mode answers it."""
    data, batch, way = episodes.data, episodes.batch(0, 1), episodes.way
    support, query = (learner.encode(data.images[where[0]]).float()[None] for where in (batch.support, batch.query))
    output = learner.head(query, support, batch.support_labels.to(learner.device), way)
    answers = output.logits[0].argmax(-1).cpu().reshape(way, -1)
    images = batch.support[0].reshape(way, -1), batch.query[0].reshape(way, -1)
    names = [data.class_names[data.labels[own[0]]] for own in images[0]]
    rows = []
    for label in range(min(way, _CLASSES)):
        seen = [page.tile(data.images[i]) for i in images[0][label, :_SUPPORT].tolist()]
        asked = []
        for i, answer in zip(images[1][label, :_QUERIES].tolist(), answers[label].tolist(), strict=False):
            right = answer == label
            asked.append(page.tile(data.images[i], "" if right else f"taken for {names[answer]}", right))
        rows.append((names[label], (seen, asked)))
    active, number = int(output.active[0].sum()), output.active.shape[-1]
    correct = (answers == torch.arange(way)[:, None]).double().mean().item()
    shown = (
        " Not all images are shown."
        if way > _CLASSES or images[0].shape[1] > _SUPPORT or answers.shape[1] > _QUERIES
        else ""
    )
    return Tiles(
        f"{title + ', ' if title else ''}{way}-way {episodes.shot}-shot",
        f"The classifier uses {active:,} of {number:,} features; {percent(correct)} of the {answers.numel()} queries "
        f"are right.{shown}",
        (f"support: {episodes.shot} of each class to learn from", "queries: ✓ right, ✗ wrong"),
        rows,
    )


def _compared(out: Path, entries: Sequence[Entry]) -> Sequence[Block]:
    """One task, as the best learner of every head answers it: of the first seed."""
    runs = [(entry.label, out / entry.folder(entry.seeds[0])) for entry in best(entries)]
    settings = page.read_json(runs[0][1] / folder.CONFIG)
    return _examples([(label, load_run(run)[0]) for label, run in runs], settings, None, shots=1)


def _figures(out: Path, stem: str) -> list[Block]:
    """The figures that a sweep has left."""
    found: list[Block] = []
    for name, about in (
        (f"{stem}.png", "Accuracy against the fraction of features used."),
        ("features.png", "Which features which classes use, of the sparse learner that is best in validation."),
    ):
        if stem == SWEEP and (out / name).is_file():
            found += [Note(about), Picture((out / name).read_bytes(), about)]
    return found


def _best(entries: Sequence[Entry], kind: str) -> tuple[str, str]:
    """The entry with the highest accuracy on a kind of task."""
    entry = max(entries, key=lambda entry: entry.tests[kind].accuracy)
    test = entry.tests[kind]
    return f"best at {kind}: {entry.label}", tables.with_interval(test.accuracy, test.ci95, 1)
