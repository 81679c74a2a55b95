"""report.html of a few-shot run, an evaluation, a comparison or a sweep, from the files in its folder."""

from __future__ import annotations

import copy
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsedis.data import Episodes, FewShotData, omniglot_one_shot
from sparsedis.data.omniglot_one_shot import Run
from sparsedis.metalearn import figures, tables, tasks
from sparsedis.metalearn.config import HEAD_TITLES, TrainConfig, preset
from sparsedis.metalearn.evaluate import Evaluation
from sparsedis.metalearn.learner import Learner, load_run, with_lambda1
from sparsedis.metalearn.omniglot_one_shot import OneShot
from sparsedis.metalearn.results import ONE_SHOT, PATTERNS, RELIABILITY, Entry, Pooled, Tested, best
from sparsedis.runs import command_line, folder
from sparsedis.runs import report as page
from sparsedis.runs.report import Block, Links, Note, Picture, Report, Section, Stripes, Tiles
from sparsedis.runs.tables import percent

COMPARE, SWEEP = "compare", "sweep"
"""Stems of the result files of the two commands."""

NO_TESTS = "No classes are left to test on; sparsedis evaluate tests the learner on other data."
"""Shown for a run that trains on all classes."""

_CLASSES, _SUPPORT, _QUERIES = 10, 5, 3  # maximum numbers shown in an example
_ROWS, _COLUMNS = 60, 800  # maximum numbers of classes and of columns in the figure of features used by class

_WORDS = (
    "N-way K-shot: a task has N classes, with K images each to learn from. ± is half of the 95% confidence interval "
    "over tasks. Features used: the fraction of the encoder's features that a task's classifier uses. Certified: the "
    "fraction of tasks that are solved to the requested tolerance."
)
_ONE_SHOT = (
    "A run is a task: the characters of an alphabet, with one image each to learn from, and images by another drawer "
    "to classify. Error: the fraction of these that are classified incorrectly."
)
_ECE = "ECE, expected calibration error: the mean absolute difference between confidence and accuracy."
_USAGE = (
    "A row per class and a column per feature, the most used first: how often the classifiers of tasks with this class "
    "use the feature, from never (dark) to always (bright). On the right, the mean over all features."
)
_CURVES = "Accuracy and the fraction of features used, on tasks from the training and the validation classes."
_CONFIDENCE = (
    "Accuracy against confidence: a bar that ends on the diagonal at 0.8 means that 80% of the answers given with a "
    "confidence of 80% are correct. Below, the distribution of the confidence."
)
_EXAMPLES = (
    "The first task of the test, not selected for its result: the classifier is fitted to the support images and their "
    "classes, and then predicts the classes of the query images."
)


def write_run(out: Path, data: FewShotData | None = None, encoder: nn.Module | None = None) -> Path:
    """Write the report of a run, finished or not; returns its path.

    Args:
        out: the folder of the run.
        data: the data set; default: read again.
        encoder: a module of the trained architecture, for ``config.encoder`` "custom".

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: settings or results are damaged.
    """
    settings = page.read_json(out / folder.CONFIG)
    results = page.read_json(out / folder.RESULTS) if (out / folder.RESULTS).is_file() else None
    lines = folder.read_metrics(out / folder.METRICS)
    tests = [_evaluation(test) for test in results["tests"]] if results is not None else []

    def examples() -> Sequence[Block]:
        return _examples([("", load_run(out, copy.deepcopy(encoder))[0])], settings, data)

    steps, head = settings.get("iterations"), str(settings.get("head"))
    evaluate = shlex.join(["sparsedis", "evaluate", str(out)])
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
        [*(_facts(tests) or _first_facts(done, steps, lines)), *page.time_taken(out)],
        [
            outcome,
            page.training_curve(out, figures.curves, _CURVES),
            page.section("Examples", _EXAMPLES, examples),
            page.section("Features used by class", _USAGE, lambda: _usage(out / PATTERNS, evaluate)),
            page.certificates([(_kind(one), one.certified, one.largest_gap) for one in tests], lines),
            page.settings(settings, "sparsedis train", command),
            page.environment_section([out]),
        ],
    )
    return page.write(out, report)


def write_evaluation(
    out: Path, learner: Learner | None = None, tested_tasks: Episodes | Sequence[Run] | None = None
) -> Path:
    """Write the report of an evaluation; returns its path.

    Args:
        out: the folder of the evaluation.
        learner: the tested learner; default: loaded again.
        tested_tasks: the tasks that it was tested on; default: drawn again.

    Raises:
        FileNotFoundError: the folder holds no evaluation.
        ValueError: the results are damaged.
    """
    values = page.read_json(out / folder.RESULTS)
    [result] = values["tests"]
    test = page.from_record(OneShot, result) if values["protocol"] == ONE_SHOT else _evaluation(result)
    tested = page.from_record(Tested, {**values, "tests": (test,)})

    def examples() -> Sequence[Block]:
        return [_first_task(learner, tested_tasks) if learner and tested_tasks else _first_task(*_recreated(tested))]

    settings = {name: getattr(tested, name) for name in ("protocol", "data", "lambda1")}
    if isinstance(test, OneShot):
        about, table, kind = _ONE_SHOT, tables.one_shot(test, tested.lambda1), "runs"
        facts = [("error", percent(test.error, 2)), ("features used", percent(test.features_used))]
    else:
        about, table, kind = f"{_WORDS} {_ECE}", tables.evaluations([test], ""), _kind(test)
        facts = _facts([test])
        settings |= {name: getattr(test, name) for name in ("split", "way", "shot", "query", "episodes", "seed")}
    settings = {name: value for name, value in settings.items() if value is not None}
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = shlex.join(["sparsedis", "evaluate", tested.run, *options])
    sections = [
        Section("Result", about, [table, *_link_to_run(out, Path(tested.run))]),
        page.section("Examples", _EXAMPLES, examples),
    ]
    if isinstance(test, Evaluation):
        sections += [
            page.section("Features used by class", _USAGE, lambda: _usage(out / PATTERNS, command)),
            page.section("Confidence", _CONFIDENCE, lambda: _confidence(out / RELIABILITY)),
        ]
    sections += [
        page.certificates([(kind, test.certified, test.largest_gap)]),
        page.settings({"run": tested.run, **settings}, "sparsedis evaluate", command),
        page.environment_section([out]),
    ]
    summary = (
        "An encoder was trained to give features of images, so that a small classifier, fitted to a few images of "
        f"every class, recognises other images of these classes. Here the learner of {tested.run} is tested on "
        f"{tested.name}."
    )
    title = f"{Path(tested.run).name}, tested on {tested.name}"
    return page.write(out, Report(title, summary, [*facts, *page.time_taken(out)], sections))


def write_comparison(out: Path) -> Path:
    """Write the report of a comparison of heads, finished or not; returns its path.

    Raises:
        ValueError: the results are damaged, or the folder holds no run.
    """
    about = "Heads that were trained on the same tasks with the same encoder, each in its best setting by validation."
    return _write_many(out, COMPARE, "Heads compared", about)


def write_sweep(out: Path) -> Path:
    """Write the report of a sweep over weights of the group Lasso, finished or not; returns its path.

    Raises:
        ValueError: the results are damaged, or the folder holds no run.
    """
    about = (
        "The weight of the group Lasso decides how many features a classifier uses, and what that costs in accuracy."
    )
    return _write_many(out, SWEEP, "Accuracy against the features used", about)


WRITERS: dict[tuple[str, str], Callable[[Path], Path]] = {
    (folder.CONFIG, "head"): write_run,
    (folder.RESULTS, "protocol"): write_evaluation,
    (f"{COMPARE}.json", "entries"): write_comparison,
    (f"{SWEEP}.json", "entries"): write_sweep,
}
"""Functions that write the report of a folder, by a file in it and a key of that file's JSON object."""


def _write_many(out: Path, stem: str, title: str, about: str) -> Path:
    runs = page.runs_in(out)
    path = out / f"{stem}.json"
    record = page.read_json(path) if path.is_file() else None
    entries = [_entry(row) for row in record["entries"] if row.get("row", 0) is not None] if record else []
    settings = dict(record["config"]) if record else page.shared_settings(runs)
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
        page.training_curves(
            runs, "accuracy", "validation accuracy", "Accuracy on the validation classes, a curve for every run."
        ),
        page.links(runs),
        page.settings(settings, "sparsedis train"),
        page.environment_section(runs),
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
    """The command line that trains with these settings; empty for settings of another version."""
    try:
        config = TrainConfig.from_json(settings)
    except ValueError:
        return ""
    head = [] if config.head == preset("quick").head else ["--head", config.head]
    words = command_line.option_words(config, preset("quick", config.head).settled())
    return shlex.join(["sparsedis", "train", *head, *words])


def _evaluation(values: Mapping[str, Any]) -> Evaluation:
    return page.from_record(Evaluation, values, calibration_error=None)


def _entry(row: Mapping[str, Any]) -> Entry:
    folds = {fold: _tests(tests) for fold, tests in row.get("folds", {}).items()}
    return Entry(row["head"], row["lambda1"], tuple(row["seeds"]), row["validation"], _tests(row["tests"]), folds)


def _tests(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Pooled]:
    return {kind: Pooled(**test) for kind, test in rows.items()}


def _kind(test: Evaluation) -> str:
    return f"{test.way}-way {test.shot}-shot"


def _facts(tests: Sequence[Evaluation]) -> list[tuple[str, str]]:
    """The key numbers at the top of the report."""
    facts = []
    for one in tests:
        facts.append((f"accuracy, {_kind(one)}", tables.with_interval(one.accuracy, one.ci95, 1)))
        facts.append((f"features used, {_kind(one)}", percent(one.features_used)))
    return facts


def _first_facts(done: int, steps: Any, lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The key numbers of a run without tests."""
    validations = [line for line in lines if line["split"] == "validation"]
    last = [("last validation", percent(line["accuracy"])) for line in validations[-1:]]
    return [("steps done", f"{done} of {steps}"), *last]


def _usage(path: Path, command: str) -> Sequence[Block]:
    """The features that classes use, from the last test's file; ``command`` repeats the test."""
    if not path.is_file():
        again = f"{command} --patterns {shlex.quote(str(path))}"
        return [Note(f"Not available: there is no {PATTERNS}, which the tests write. This command measures it:", again)]
    with np.load(path) as found:
        active, classes = torch.from_numpy(found["active"]), torch.from_numpy(found["classes"])
        names = found["class_names"].tolist()
    seen, fractions = figures.usage(active, classes)
    order = fractions.mean(0).argsort(descending=True, stable=True)
    shown = fractions[:_ROWS, order].numpy()
    parts = np.array_split(shown, min(_COLUMNS, shown.shape[1]), axis=1)  # a column shows the mean of its features
    stripes = Stripes(
        [names[label] for label in seen[:_ROWS].tolist()],
        np.stack([part.mean(1) for part in parts], 1),
        [percent(float(row.mean())) for row in shown],
        f"{fractions.shape[1]:,} features, in the order of use",
    )
    if len(seen) <= _ROWS:
        return [stripes]
    return [Note(f"The first {_ROWS} of {len(seen)} classes; {PATTERNS} has all of them."), stripes]


def _confidence(path: Path) -> Sequence[Block]:
    """The reliability diagram written by a test."""
    if not path.is_file():
        return [Note(f"Not available: there is no {path.name}.")]
    return [Picture(path.read_bytes(), _CONFIDENCE)]


def _recreated(tested: Tested) -> tuple[Learner, Episodes | Sequence[Run]]:
    """The learner and the tasks of an evaluation, recreated."""
    learner, config = load_run(tested.run)
    if tested.lambda1 is not None:
        config = with_lambda1(learner, config, tested.lambda1)
    [test] = tested.tests
    if isinstance(test, OneShot):
        return learner, omniglot_one_shot.load(str(tested.data), learner.shape[1])
    data = tasks.read(config, tested.data)
    return learner, tasks.episodes(
        config, data, test.split, test.shot, test.query, test.episodes, way=test.way, seed=test.seed
    )


def _link_to_run(out: Path, run: Path) -> Sequence[Block]:
    """A link from the report in a folder to the report of a run, if there is one."""
    if not (run / page.REPORT).is_file():
        return []
    try:
        path = os.path.relpath(run / page.REPORT, out)
    except ValueError:  # on another Windows drive
        return []
    return [Links([(f"Report of the run {run.name}", Path(path).as_posix())])]


def _first_task(learner: Learner, tested_tasks: Episodes | Sequence[Run]) -> Tiles:
    """The first task of an evaluation."""
    if isinstance(tested_tasks, Episodes):
        return _episode("", learner, tested_tasks)
    run, way = tested_tasks[0], len(tested_tasks[0].training)
    names = [f"character {i + 1}" for i in range(way)]
    return _task(f"{run.name}, {way}-way 1-shot", learner, names, run.training, run.test, run.labels)


def _examples(
    learners: Sequence[tuple[str, Learner]], settings: Mapping[str, Any], data: FewShotData | None, shots: int = 2
) -> Sequence[Block]:
    """The first task of the tests, at most ``shots`` of them with the most shots, solved by each learner."""
    config = TrainConfig.from_json(settings)
    tests = sorted(tasks.of_tests(config, data or tasks.read(config), 1), key=lambda episodes: episodes.shot)
    if not tests:
        return [Note(NO_TESTS)]
    return [_episode(title, learner, episodes) for episodes in tests[-shots:] for title, learner in learners]


def _episode(title: str, learner: Learner, episodes: Episodes) -> Tiles:
    """The first task of the episodes, solved by a learner in evaluation mode."""
    data, batch = episodes.data, episodes.batch(0, 1)
    classes = data.labels[batch.support[0, :: episodes.shot]].tolist()
    return _task(
        f"{title + ', ' if title else ''}{episodes.way}-way {episodes.shot}-shot",
        learner,
        [data.class_names[label] for label in classes],
        data.images[batch.support[0]],
        data.images[batch.query[0]],
        batch.query_labels[0],
    )


@torch.no_grad()
def _task(title: str, learner: Learner, names: Sequence[str], support: Tensor, query: Tensor, labels: Tensor) -> Tiles:
    """A task solved by a learner in evaluation mode.

    Args:
        title: shown above the task.
        learner: the learner.
        names: of the classes.
        support: (way * shot, ...), ordered by class.
        query: (q, ...).
        labels: (q,), classes of the queries.
    """
    way, shot = len(names), len(support) // len(names)
    given = torch.arange(way, device=learner.device).repeat_interleave(shot)[None]
    features = [learner.encode(images).float()[None] for images in (query, support)]
    output = learner.head(*features, given, way)
    answers = output.logits[0].argmax(-1).cpu()
    right, rows, shown = answers == labels, [], 0
    for label, name in enumerate(names[:_CLASSES]):
        seen = [page.tile(image) for image in support[label * shot : (label + 1) * shot][:_SUPPORT]]
        asked = [
            page.tile(query[i], "" if right[i] else f"taken for {names[answers[i]]}", bool(right[i]))
            for i in (labels == label).nonzero()[:_QUERIES, 0].tolist()
        ]
        rows.append((name, (seen, asked)))
        shown += len(seen) + len(asked)
    active, number = int(output.active[0].sum()), output.active.shape[-1]
    return Tiles(
        title,
        f"The classifier uses {active:,} of {number:,} features; {percent(right.double().mean().item())} of the "
        f"{len(query)} queries are right.{' Not all images are shown.' if shown < len(support) + len(query) else ''}",
        (f"support: {shot} of each class to learn from", "queries: ✓ right, ✗ wrong"),
        rows,
    )


def _compared(out: Path, entries: Sequence[Entry]) -> Sequence[Block]:
    """One task, solved by every head's best learner, of the first seed."""
    runs = [(entry.label, out / entry.folder(entry.seeds[0])) for entry in best(entries)]
    settings = page.read_json(runs[0][1] / folder.CONFIG)
    return _examples([(label, load_run(run)[0]) for label, run in runs], settings, None, shots=1)


def _figures(out: Path, stem: str) -> list[Block]:
    """The figures written by a sweep."""
    found: list[Block] = []
    for name, about in (
        (f"{stem}.png", "Accuracy against the fraction of features used."),
        ("features.png", "Which features which classes use, of the sparse learner that is best in validation."),
    ):
        if stem == SWEEP and (out / name).is_file():
            found += [Note(about), Picture((out / name).read_bytes(), about)]
    return found


def _best(entries: Sequence[Entry], kind: str) -> tuple[str, str]:
    """The entry with the highest accuracy on a kind of task, as a fact."""
    entry = max(entries, key=lambda entry: entry.tests[kind].accuracy)
    test = entry.tests[kind]
    return f"best at {kind}: {entry.label}", tables.with_interval(test.accuracy, test.ci95, 1)
