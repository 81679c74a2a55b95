"""report.html of a disentanglement run and of a sweep, from the files in their folders."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sparsedis.disentangle import figures, shapes3d, tables
from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.disentangle.results import CORRELATIONS, Results
from sparsedis.disentangle.world import World, fit, load_run
from sparsedis.runs import command_line, folder
from sparsedis.runs import report as page
from sparsedis.runs.report import Block, Note, Picture, Report, Section, Tiles
from sparsedis.runs.tables import percent

SWEEP = "sweep.json"
"""The results file of a sweep."""

_TASKS, _IMAGES = 3, 8  # largest numbers shown in the examples

_ABOUT = (
    "Images of one room differ in six factors (three hues, scale, shape, orientation), which the encoder never sees. "
    "The target of every task is a weighted sum of a few factors, to which a regression on the encoder's features is "
    "fitted. If the regression is sparse (Lasso), the features recover the factors."
)
_WORDS = (
    "MCC: the mean absolute correlation of the factors with their assigned features; 1 means that each feature is a "
    "factor. R: the same for the best linear combination of all features. DCI: disentanglement (a feature depends on "
    "one factor), completeness (a factor is in one feature), informativeness. FastICA: the features are unmixed "
    "afterwards."
)
_CURVES = "The loss of the tasks, MCC and R on images with factors drawn uniformly, and the fraction of features used."
_HEAT_MAP = (
    "Correlations of the factors (rows) with the features (columns), by absolute value; one bright cell a row is best."
)
_EXAMPLES = (
    "The first tasks of the test, not selected for their result: below each image its target, and in brackets the "
    "prediction of the task's regression."
)


def write_run(out: Path, world: World | None = None) -> Path:
    """Write the report of a run, finished or not; returns its path.

    Args:
        out: the folder of the run.
        world: of the run; default: created again.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: settings or results are damaged.
    """
    settings = page.read_json(out / folder.CONFIG)
    lines = folder.read_metrics(out / folder.METRICS)
    results = None
    if (out / folder.RESULTS).is_file():
        results = page.from_record(Results, page.read_json(out / folder.RESULTS), ica_missing=None)
    done = max((line["iteration"] for line in lines), default=0)
    command = _command(settings)
    if results:
        state = (
            f"The run is finished; what is measured is the encoder of step {results.iteration}, the best in validation."
        )
        outcome = Section("Result", _WORDS, [tables.table(results, "")])
        facts = [
            ("MCC", f"{results.mcc:.3f}"),
            ("R", f"{results.r:.3f}"),
            ("features used", percent(results.features_used)),
        ]
    else:
        state = f"The run is not finished: its log ends at step {done} of {settings.get('iterations')}."
        outcome = Section("Result", _WORDS, [page.unfinished(out, command)])
        facts = [("steps done", f"{done} of {settings.get('iterations')}")]
    report = Report(
        f"Disentanglement with an inner {settings.get('inner')} regression",
        f"{_ABOUT} {state}",
        [*facts, *page.time_taken(out)],
        [
            outcome,
            page.training_curve(out, figures.curves, _CURVES),
            page.section("Features and factors", _HEAT_MAP, lambda: _heat_map(out)),
            page.section("Examples", _EXAMPLES, lambda: _examples(out, world)),
            page.certificates([("test", results.certified, results.largest_gap)] if results else [], lines),
            page.settings(settings, "sparsedis disentangle", command),
            page.environment_section([out]),
        ],
    )
    return page.write(out, report)


def write_sweep(out: Path) -> Path:
    """Write the report of a sweep, finished or not; returns its path.

    Raises:
        ValueError: the results are damaged, or the folder holds no run.
    """
    runs = page.runs_in(out)
    shared = page.shared_settings(runs)
    title, about = "Disentanglement, several settings", ""
    result, facts = Section("Result", _WORDS, [page.unfinished_runs(runs)]), []
    if (out / SWEEP).is_file():
        found = page.read_json(out / SWEEP)
        vary, groups = str(found["vary"]), found["summary"]
        title, about = f"Disentanglement, by {vary}", f"Here {vary} varies. "
        result = page.section("Result", _WORDS, lambda: _swept(groups, vary))
        facts = [("finished runs", str(len(found["runs"])))]
        if measured := [group for group in groups if group["mcc_mean"] is not None]:
            best = max(measured, key=lambda group: group["mcc_mean"])
            facts.insert(0, (f"best MCC: {best['method']}, {vary} {best['value']}", f"{best['mcc_mean']:.3f}"))
    about_curves = "MCC on images with factors drawn uniformly, a curve for every run."
    report = Report(
        title,
        f"{_ABOUT} {about}The regression is a Lasso or ridge; for ridge also with the features unmixed afterwards.",
        facts,
        [
            result,
            page.training_curves(runs, "mcc", "validation MCC", about_curves),
            page.certificates([(run.name, *_certified(run)) for run in runs if (run / folder.RESULTS).is_file()]),
            page.links(runs),
            page.settings(shared, "sparsedis disentangle"),
            page.environment_section(runs),
        ],
    )
    return page.write(out, report)


WRITERS: dict[tuple[str, str], Callable[[Path], Path]] = {
    (folder.CONFIG, "inner"): write_run,
    (SWEEP, "summary"): write_sweep,
}
"""Functions that write the report of a folder, by a file in it and a key of that file's JSON object."""


def _command(settings: Mapping[str, Any]) -> str:
    """The command line that trains with these settings; empty for settings of another version."""
    try:
        config = DisentangleConfig.from_json(settings)
    except ValueError:
        return ""
    words = command_line.option_words(config, DisentangleConfig(preset=config.preset))
    return shlex.join(["sparsedis", "disentangle", "--preset", config.preset, *words])


def _swept(groups: Sequence[Mapping[str, Any]], vary: str) -> Sequence[Block]:
    about = "MCC and R by the setting that varies, with one standard deviation over seeds."
    return [tables.sweep_grid(groups, vary), Picture(figures.sweep(groups, vary), about)]


def _heat_map(out: Path) -> Sequence[Block]:
    path = out / CORRELATIONS
    if not path.is_file():
        return [Note("Not available: the features are measured at the end of the run.")]
    return [Picture(path.read_bytes(), _HEAT_MAP)]


def _certified(run: Path) -> tuple[float | None, float | None]:
    """The certified fraction of a finished run's test tasks, and their largest gap."""
    results = page.read_json(run / folder.RESULTS)
    return results.get("certified"), results.get("largest_gap")


@torch.no_grad()
def _examples(out: Path, world: World | None) -> Sequence[Block]:
    """The first tasks of the test, with the images on which the outer loss is measured."""
    encoder, config = load_run(out)
    world = world or World(config, shapes3d.open_source(config.data))
    batch = world.test.batch(0)
    indices, targets = batch.indices[:1], batch.targets[0, :_TASKS]
    features = world.features(encoder, batch._replace(indices=indices), torch.device("cpu"))[0].expand(
        len(targets), -1, -1
    )
    cut = config.inner_samples if config.split else features.shape[1]
    solution = fit(features[:, :cut], targets[:, :cut], config)
    answers = (features @ solution.weights[..., None])[..., 0]
    images = world.source.images(indices[0, -_IMAGES:])
    rows = []
    for target, answer, active, weights in zip(
        targets[:, -_IMAGES:], answers[:, -_IMAGES:], solution.active, batch.coefficients[0], strict=False
    ):
        used = [name.replace("_", " ") for name, weight in zip(shapes3d.FACTORS, weights, strict=True) if weight]
        name = f"a sum of {', '.join(used)}; {int(active.sum())} of {len(active)} features used"
        tiles = [
            page.tile(image, f"{a:.2f} ({b:.2f})".replace("-", "\N{MINUS SIGN}"))
            for image, a, b in zip(images, target, answer, strict=True)
        ]
        rows.append((name, (tiles,)))
    return [Tiles("Tasks of the test", f"The last {len(images)} of the task's images.", ("target (prediction)",), rows)]
