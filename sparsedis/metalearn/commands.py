"""The few-shot learning commands, as dataclasses that the command line instantiates and runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sparsedis.metalearn.config import HEADS, Head, Preset, TrainConfig, preset
from sparsedis.runs import command_line, jobs

if TYPE_CHECKING:
    from sparsedis.data import Episodes
    from sparsedis.data.omniglot_one_shot import Run
    from sparsedis.metalearn.evaluate import Evaluation
    from sparsedis.metalearn.learner import Learner
    from sparsedis.metalearn.omniglot_one_shot import OneShot
    from sparsedis.runs.tables import Grid

Settings = tyro.conf.OmitArgPrefixes[TrainConfig]


@dataclass(frozen=True)
class Train:
    """Train an encoder through the classifiers that are fitted to its features, and test it.

    Several processes share a step's tasks: torchrun --nproc-per-node N -m sparsedis train ... --micro-batch M
    """

    config: Settings = field(default_factory=TrainConfig)
    preset: Preset = "quick"
    """Initial settings, which options override. metaoptnet: Lee et al., CVPR 2019, for miniImageNet."""
    out: command_line.OptionalFolder = None
    """Folder of the run; the default is runs/DATA-HEAD-SEED."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Resume the run in the folder, which must have the same settings."""
    profile: Annotated[int | None, tyro.conf.arg(metavar="STEPS", help_behavior_hint="")] = None
    """Instead of training, time this number of steps and print the time of each part."""

    def run(self) -> None:
        if self.profile is not None:
            self._profile(self.profile)
            return
        from sparsedis.metalearn.train import train

        with command_line.resumable(self._folder(), self._resume_command()):
            train(self.config, self._folder(), resume=self.resume)
        command_line.print_next(self._next())

    def _profile(self, steps: int) -> None:
        from sparsedis.metalearn import tables
        from sparsedis.metalearn.profile import profile
        from sparsedis.runs.tables import console

        if steps < 1:
            raise ValueError(f"profile: expected a whole number >= 1, got {steps}")
        console().print(tables.profile(profile(self.config, steps), self.config))

    def _folder(self) -> Path:
        name = self.config.data.partition(":")[0]
        return self.out or Path("runs") / f"{name}-{self.config.head}-{self.config.seed}"

    def _next(self) -> list[tuple[str, str]]:
        """Suggested next steps, with their commands."""
        settings = command_line.option_words(self.config.with_head(preset("quick").head), preset("quick"))
        test = ["sparsedis", "evaluate", str(self._folder())]
        compare = ["sparsedis", "compare", *settings]
        if self.config.left_out == ():  # all classes of this data may have been trained on
            return [
                ("test it on other data", f"{shlex.join(test)} --data NAME:PATH"),
                ("see how well that is done, group by group", shlex.join([*compare, "--cross-validate"])),
            ]
        return [
            ("test it on more tasks", shlex.join([*test, "--episodes", "2000"])),
            ("train other heads alike, and compare them", shlex.join(compare)),
        ]

    def _resume_command(self) -> str:
        words = ["sparsedis", "train", *([] if self.preset == "quick" else ["--preset", self.preset])]
        head = self.config.head
        words += [] if head == preset(self.preset).head else ["--head", head]
        words += command_line.option_words(self.config, preset(self.preset, head))
        return shlex.join([*words, "--out", str(self._folder()), "--resume"])


@dataclass(frozen=True)
class Evaluate:
    """Test the best learner of a run on episodes from classes that it was not trained on."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of the run."""
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME[:PATH]", help_behavior_hint="")] = None
    """Data set; the default is the run's. For the protocol omniglot-one-shot: all_runs.zip, or its folder."""
    protocol: Literal["episodes", "omniglot-one-shot"] = "episodes"
    """Random episodes, or the 20 published runs of within-alphabet one-shot classification."""
    split: str = "test"
    """Classes to draw from: train, validation or test."""
    way: command_line.OptionalInt = None
    """Classes per task; the default is the run's."""
    shot: command_line.OptionalInt = None
    """Support images per class; the default is the run's."""
    query: command_line.OptionalInt = None
    """Query images per class; the default is the run's."""
    episodes: int = 600
    """Number of tasks."""
    seed: command_line.OptionalInt = None
    """Seed of the tasks; the default is the run's."""
    lambda1: command_line.OptionalFloat = None
    """Weight of the group Lasso, as a multiple of each task's own scale; the default is the run's."""
    out: command_line.OptionalFolder = None
    """New folder for the result and its report.html; by default none is written."""
    json: command_line.OptionalFile = None
    """File to write the result to."""
    reliability: command_line.OptionalFile = None
    """PNG file for the reliability diagram."""
    patterns: command_line.OptionalFile = None
    """.npz file for the features that every task uses: active (E, d), classes (E, way), class_names, accuracy (E,)."""

    def run(self) -> None:
        from sparsedis.metalearn import report
        from sparsedis.metalearn.learner import load_run, with_lambda1
        from sparsedis.metalearn.results import ONE_SHOT, PATTERNS, RELIABILITY, Tested, TestedFolder
        from sparsedis.runs import files
        from sparsedis.runs.report import write_on_exit
        from sparsedis.runs.tables import console

        out, shown = self.out, console()
        left = TestedFolder(out) if out else None
        for name in ("json", "reliability", "patterns"):
            command_line.check_file(name, getattr(self, name))
        if self.patterns and self.patterns.suffix != ".npz":
            raise ValueError(f"patterns: expected a name that ends in .npz, got {str(self.patterns)!r}")
        learner, config = load_run(self.run_dir)
        if self.lambda1 is not None:
            config = with_lambda1(learner, config, self.lambda1)
        test = self._one_shot(learner) if self.protocol == ONE_SHOT else self._episodes(learner, config)
        make = (
            write_on_exit(out, lambda: report.write_evaluation(out, learner, test.tested_tasks), shown)
            if out
            else nullcontext()
        )
        with make:
            try:
                if left:
                    run = str(self.run_dir.absolute())
                    tested = Tested(run, self.protocol, test.name, test.data, self.lambda1, (test.result,))
                    left.write(tested, test.others, learner.device)
                if self.json:
                    lambda1 = {} if self.lambda1 is None else {"lambda1": self.lambda1}
                    files.write_json(self.json, asdict(test.result) | lambda1)
                for path, name in ((self.reliability, RELIABILITY), (self.patterns, PATTERNS)):
                    if path:
                        files.write(path, test.others[name]())
            finally:  # print the result even if a file cannot be written
                shown.print(test.table)

    def _episodes(self, learner: Learner, config: TrainConfig) -> _Test:
        from sparsedis.data.sources import absolute
        from sparsedis.metalearn import figures, tables, tasks
        from sparsedis.metalearn.evaluate import encode, examine, patterns
        from sparsedis.metalearn.results import PATTERNS, RELIABILITY

        data = tasks.read(config, self.data)
        if data.images.shape[1] != learner.shape[0]:
            kind = "images of {} channels" if len(learner.shape) == 3 else "rows of {} features"
            raise ValueError(f"data: expected {kind.format(learner.shape[0])}, got {data.images.shape[1]}")
        episodes = tasks.episodes(
            config,
            data,
            self.split,
            shot=config.shot if self.shot is None else self.shot,
            query=config.evaluation_query if self.query is None else self.query,
            length=self.episodes,
            **{name: value for name, value in (("way", self.way), ("seed", self.seed)) if value is not None},
        )
        result, details = examine(learner, encode(learner, data, self.split), episodes)
        title = f"{data.name}, {self.split} split, seed {result.seed}{tables.other_weight(self.lambda1)}"
        return _Test(
            data.name,
            None if self.data is None else absolute(self.data),
            episodes,
            result,
            tables.evaluations([result], title),
            {
                PATTERNS: lambda: patterns(details, data.class_names),
                RELIABILITY: lambda: figures.reliability(details.bins),
            },
        )

    def _one_shot(self, learner: Learner) -> _Test:
        from sparsedis import paths
        from sparsedis.data import omniglot_one_shot
        from sparsedis.metalearn import tables
        from sparsedis.metalearn.omniglot_one_shot import one_shot

        if self.data is None:
            raise ValueError("data: expected the path of all_runs.zip, or of its folder, for omniglot-one-shot")
        for name in ("reliability", "patterns"):
            if getattr(self, name):
                raise ValueError(f"{name}: expected none for omniglot-one-shot")
        if len(learner.shape) != 3 or learner.shape[0] != 1 or learner.shape[1] != learner.shape[2]:
            raise ValueError(f"omniglot-one-shot: expected a learner of square grey images, got one of {learner.shape}")
        path = paths.expanded(self.data).absolute()
        runs = omniglot_one_shot.load(path, learner.shape[1])
        result = one_shot(learner, runs)
        return _Test("Omniglot's one-shot runs", str(path), runs, result, tables.one_shot(result, self.lambda1))


@dataclass(frozen=True)
class _Test:
    """A test by :class:`Evaluate`: its tasks, its result, and functions that produce the content of other files."""

    name: str
    data: str | None
    tested_tasks: Episodes | Sequence[Run]
    result: Evaluation | OneShot
    table: Grid
    others: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Compare:
    """Train learners that differ only in the head, over several seeds, and print one table of their tests.

    The head and the seed of the settings are replaced; hyperparameters of the head apply to the head of the settings
    only. Runs in the folder that are finished are not repeated. For sparse heads several weights of the group Lasso may
    be given; the table shows the one that is best in validation.
    """

    config: Settings = field(default_factory=TrainConfig)
    heads: tuple[Head, ...] = ("group-lasso-svm", "svm", "ridge", "prototypes", "group-lasso-logistic")
    """Heads to train."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, with one run each."""
    lambda1_grid: tuple[float, ...] = ()
    """Relative weights of the group Lasso to try; the default is the settings' lambda1."""
    cross_validate: tyro.conf.FlagCreatePairsOff[bool] = False
    """Train once per group of classes, such as an alphabet of Omniglot, which is left out and tested on."""
    preset: Preset = "quick"
    """Initial settings, which options override."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/compare")
    """Folder of the runs, of compare.md and of compare.json."""
    workers: tyro.conf.OmitArgPrefixes[jobs.Workers] = jobs.HERE

    def run(self) -> None:
        from sparsedis.metalearn import comparison, report, results, tables
        from sparsedis.runs.report import write_on_exit
        from sparsedis.runs.tables import console

        shown = console()
        configs = comparison.variants(self.config, self.heads, self.lambda1_grid)
        folds = comparison.folds(self.config) if self.cross_validate else ()
        with command_line.repeatable(), write_on_exit(self.out, lambda: report.write_comparison(self.out), shown):
            done, failures = comparison.run_all(configs, self.seeds, self.out, self.workers, shown, folds)
            if entries := [entry for entry, _ in done]:
                chosen = results.best(entries)
                common = _common_settings(self.config, self.workers)
                comparison.write(self.out, report.COMPARE, entries, chosen, common)
        if entries:
            shown.print(tables.comparison(chosen))
        jobs.check(failures)


@dataclass(frozen=True)
class Sweep:
    """Train learners over weights of the group Lasso: accuracy against the fraction of features used.

    Dense heads are trained for comparison. The folder gets sweep.json, sweep.md, sweep.png, and features.png with the
    features that classes use, for the learner that is best in validation. Finished runs are not repeated.
    """

    config: Settings = field(default_factory=TrainConfig)
    lambda1_grid: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    """Relative weights of the group Lasso."""
    baselines: tuple[Head, ...] = ("svm", "ridge", "prototypes")
    """Dense heads to train for comparison."""
    seeds: tuple[int, ...] = (0,)
    """Seeds, with one run each."""
    preset: Preset = "quick"
    """Initial settings, which options override."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/sweep")
    """Folder of the runs and of the results."""
    workers: tyro.conf.OmitArgPrefixes[jobs.Workers] = jobs.HERE

    def run(self) -> None:
        from sparsedis.metalearn import comparison, figures, report, results, tables
        from sparsedis.runs import files
        from sparsedis.runs.config import check_distinct
        from sparsedis.runs.report import write_on_exit
        from sparsedis.runs.tables import console

        if HEADS[self.config.head].lambda1 is None:
            raise ValueError(f"head: expected one with a group Lasso, got {self.config.head}")
        check_distinct("lambda1_grid", self.lambda1_grid)
        configs = comparison.variants(self.config, (self.config.head, *self.baselines), self.lambda1_grid)
        shown = console()
        with command_line.repeatable(), write_on_exit(self.out, lambda: report.write_sweep(self.out), shown):
            done, failures = comparison.run_all(configs, self.seeds, self.out, self.workers, shown)
            if entries := [entry for entry, _ in done]:
                files.write(self.out / "sweep.png", figures.sweep(entries))
                if sparse := [entry for entry in entries if entry.head == self.config.head]:
                    chosen = results.best(sparse)[0]
                    folder = next(folders[0] for entry, folders in done if entry is chosen)
                    files.write(self.out / "features.png", _feature_usage(folder))
                common = _common_settings(self.config, self.workers)
                comparison.write(self.out, report.SWEEP, entries, entries, common)
        if entries:
            shown.print(tables.comparison(entries))
        jobs.check(failures)


@dataclass(frozen=True)
class Data:
    """Show what a data set requires, where it is searched for, whether its files are the known ones, and its contents.

    SHA-256 digests are compared with the known ones, and with those of a file SHA256SUMS next to the files, if any.
    """

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="NAME[:PATH]", help_behavior_hint="")] = (
        None
    )
    """Data set; all are listed by default. Without PATH it is searched for in $SPARSEDIS_DATA/NAME."""
    image_size: command_line.OptionalInt = None
    """Side to which images of a folder, or Omniglot's, are scaled; the default is their own, for Omniglot 28."""

    def run(self) -> None:
        from sparsedis.data import checksums, load
        from sparsedis.metalearn import tables
        from sparsedis.runs.tables import console

        shown = console()
        if self.name is None:
            shown.print(tables.sources())
            return
        tables.print_source(shown, self.name)
        files = checksums.files(self.name)
        if files:
            shown.print(tables.files(files))
        if wrong := [file.path.name for file in files if file.known is False]:
            raise ValueError(f"data: expected other digests (SHA-256), got those above for {', '.join(wrong)}")
        data = load(self.name, self.image_size)
        shown.print(tables.counts(data))


def _common_settings(config: TrainConfig, workers: jobs.Workers) -> dict[str, Any]:
    settings = {**config.as_json(), "threads": config.threads or workers.threads}
    return {"config": {name: value for name, value in settings.items() if name not in ("head", "seed", "lambda1")}}


def _feature_usage(folder: Path) -> bytes:
    from sparsedis.metalearn import figures, tasks
    from sparsedis.metalearn.evaluate import encode, examine
    from sparsedis.metalearn.learner import load_run

    learner, config = load_run(folder)
    data = tasks.read(config)
    episodes = max(tasks.of_tests(config, data), key=lambda episodes: episodes.shot)
    _, details = examine(learner, encode(learner, data, "test"), episodes)
    classes, fractions = figures.usage(details.active, details.classes)
    return figures.heat_map(fractions, [data.class_names[i] for i in classes.tolist()])
