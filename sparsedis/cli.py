"""The command line: sparsedis train | evaluate | synthetic | disentangle | disentangle-sweep | shapes3d | info.

An error of the user is one line on standard error and exit code 2; an interruption is exit code 130.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.disentangle.synthetic import SyntheticConfig
from sparsedis.metalearn.config import TrainConfig

_FAILURE, _INTERRUPTED, _BROKEN_PIPE = 2, 130, 141


@dataclass(frozen=True)
class Train:
    """Train an encoder through the classifiers that tasks fit on its features, and test it."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the run; the default is runs/DATA-HEAD-SEED."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run in the folder, which must have the same settings."""

    def run(self) -> None:
        from sparsedis.metalearn.train import train

        try:
            train(self.config, self._folder(), resume=self.resume)
        except FileExistsError as error:
            raise ValueError(f"{error} (to resume: {self._resume_command()})") from error
        except KeyboardInterrupt:
            if (self._folder() / "config.json").exists():
                print(f"Interrupted. To resume: {self._resume_command()}", flush=True)
            raise

    def _folder(self) -> Path:
        name = self.config.data.partition(":")[0]
        return self.out or Path("runs") / f"{name}-{self.config.head}-{self.config.seed}"

    def _resume_command(self) -> str:
        words = ["sparsedis", "train", *_options(self.config, TrainConfig())]
        return shlex.join([*words, "--out", str(self._folder()), "--resume"])


@dataclass(frozen=True)
class Evaluate:
    """Test the best learner of a run on episodes of classes that it was not trained on."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of the run."""
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME[:PATH]", help_behavior_hint="")] = None
    """Data set; the default is the run's."""
    split: str = "test"
    """Classes to draw from: train, validation or test."""
    way: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Classes per task; the default is the run's."""
    shot: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Support images per class; the default is the run's."""
    query: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Query images per class; the default is the run's."""
    episodes: int = 600
    """Number of tasks."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Of the tasks; the default is the run's."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """File to write the result to."""

    def run(self) -> None:
        from rich.console import Console

        from sparsedis.data import Episodes, load
        from sparsedis.metalearn import checkpoint, report
        from sparsedis.metalearn.evaluate import encode, evaluate
        from sparsedis.metalearn.train import load_run

        _check_file("json", self.json)
        learner, config = load_run(self.run_dir)
        data = load(self.data or config.data)
        channels = data.images.shape[1]
        if channels != learner.encoder.in_channels:
            raise ValueError(f"data: expected images of {learner.encoder.in_channels} channels, got {channels}")
        episodes = Episodes(
            data,
            self.split,
            way=config.way if self.way is None else self.way,
            shot=config.shot if self.shot is None else self.shot,
            query=config.query if self.query is None else self.query,
            seed=config.seed if self.seed is None else self.seed,
            length=self.episodes,
        )
        result = evaluate(learner, encode(learner, data, self.split), episodes)
        if self.json:
            checkpoint.write_json(self.json, asdict(result))
        Console().print(report.table([result], f"{data.name}, {self.split} split, seed {result.seed}"))


@dataclass(frozen=True)
class Synthetic:
    """Lasso and ridge regression on disentangled and rotated features, beside the published means."""

    config: tyro.conf.OmitArgPrefixes[SyntheticConfig]
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """File to write the means to."""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """PNG file to draw the means into."""

    def run(self) -> None:
        from rich.console import Console

        from sparsedis.disentangle import synthetic
        from sparsedis.metalearn import checkpoint

        for name in ("json", "figure"):
            _check_file(name, getattr(self, name))
        rows = synthetic.run(self.config, progress=lambda line: print(line, file=sys.stderr, flush=True))
        if self.json:
            checkpoint.write_json(self.json, [asdict(row) for row in rows])
        if self.figure:
            self.figure.write_bytes(synthetic.figure(rows))
        Console().print(synthetic.table(rows))


@dataclass(frozen=True)
class Disentangle:
    """Train an encoder through sparse regressions on the factors of 3D Shapes; measure how far it disentangles them."""

    config: tyro.conf.OmitArgPrefixes[DisentangleConfig]
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the run; the default is runs/disentangle-INNER-RHO-SEED."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run in the folder, which must have the same settings."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """File to write the result to."""

    def run(self) -> None:
        from sparsedis.disentangle.sweep import record
        from sparsedis.disentangle.train import train
        from sparsedis.metalearn import checkpoint

        _check_file("json", self.json)
        try:
            train(self.config, self._folder(), resume=self.resume)
        except FileExistsError as error:
            raise ValueError(f"{error} (to resume: {self._resume_command()})") from error
        except KeyboardInterrupt:
            if (self._folder() / "config.json").exists():
                print(f"Interrupted. To resume: {self._resume_command()}", flush=True)
            raise
        if self.json:
            checkpoint.write_json(self.json, record(self._folder()))

    def _folder(self) -> Path:
        config = self.config
        return self.out or Path("runs") / f"disentangle-{config.inner}-{config.rho:g}-{config.seed}"

    def _resume_command(self) -> str:
        words = ["sparsedis", "disentangle", *_options(self.config, DisentangleConfig(preset=self.config.preset))]
        words += ["--json", str(self.json)] if self.json else []
        return shlex.join([*words, "--out", str(self._folder()), "--resume"])


@dataclass(frozen=True)
class DisentangleSweep:
    """Many such runs: inner Lasso, inner ridge and ridge with ICA, over a setting and seeds; a table and a figure."""

    config: tyro.conf.OmitArgPrefixes[DisentangleConfig]
    vary: Literal["rho", "noise", "tasks", "eps"] = "rho"
    """Setting that varies."""
    values: tuple[str, ...] = ()
    """What it goes through; the default is a grid of its own."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each, with Lasso and with ridge."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the sweep, which goes on from what is there; the default is runs/sweep-VARY."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """File to write the list of results to."""

    def run(self) -> None:
        from sparsedis.disentangle.sweep import sweep
        from sparsedis.metalearn import checkpoint

        _check_file("json", self.json)
        values: list[str | float] = list(self.values)
        if self.vary != "tasks":
            try:
                values = [float(value) for value in self.values]
            except ValueError as error:
                raise ValueError(f"values: expected numbers, got {' '.join(self.values)!r}") from error
        out = self.out or Path("runs") / f"sweep-{self.vary}"
        records = sweep(self.config, out, vary=self.vary, values=values, seeds=self.seeds)
        if self.json:
            checkpoint.write_json(self.json, records)


@dataclass(frozen=True)
class Shapes3d:
    """Draw the images of 3D Shapes: a contact sheet, or all 480,000 of them to a file of 5.9 GB."""

    sheet: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """PNG file to draw a contact sheet to, a row per factor."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """File to draw all images to, for --data cache:FILE; goes on where an interrupted call ended."""
    data: str = "rendered"
    """Images of the contact sheet: rendered, cache:FILE or h5:FILE."""

    def run(self) -> None:
        from sparsedis.data import shapes3d
        from sparsedis.metalearn import checkpoint

        if self.sheet is None and self.cache is None:
            raise ValueError("shapes3d: expected --sheet FILE, --cache FILE or both")
        _check_file("sheet", self.sheet)
        _check_file("cache", self.cache)
        if self.sheet:
            checkpoint.write(self.sheet, shapes3d.contact_sheet(shapes3d.open_source(self.data)))
        if self.cache:
            shapes3d.write_cache(self.cache)


@dataclass(frozen=True)
class Info:
    """Print versions, devices and backends."""

    def run(self) -> None:
        from sparsedis import info

        print(info.report())


_COMMANDS = Train | Evaluate | Synthetic | Disentangle | DisentangleSweep | Shapes3d | Info


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, ``sys.argv`` by default; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader went away; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (ValueError, OSError) as error:
        return _fail(str(error))
    except ImportError as error:  # of an extra that is not installed; the message says which
        return _fail(str(error))


def _run(argv: list[str]) -> int:
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            command = tyro.cli(_COMMANDS, prog="sparsedis", args=argv)  # type: ignore[arg-type]
    except SystemExit as end:
        if end.code in (0, None):  # --help
            return 0
        return _fail(_summary(complaint.getvalue()))
    command.run()
    return 0


def _options(config: Any, default: Any) -> list[str]:
    """The options that make one configuration of the other."""
    words = []
    for field in fields(config):
        value, name = getattr(config, field.name), field.name.replace("_", "-")
        if value == getattr(default, field.name) and field.name != "preset":
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def _check_file(name: str, path: Path | None) -> None:
    if path and (path.is_dir() or not path.parent.is_dir()):
        raise ValueError(f"{name}: expected a file in an existing folder, got {str(path)!r}")


def _summary(box: str) -> str:
    """What tyro complains of, on one line.

    tyro draws a box: a title, then paragraphs parted by rules, the last of which points to --help. Without
    UTF-8 the rules are hyphens, and there is no frame.
    """
    rows = [line.strip("│╰╯ ") for line in box.splitlines()[1:]]
    paragraphs = re.split(r"^(?:─+|-+)$", "\n".join(rows), flags=re.MULTILINE)
    told = [text for text in map(str.strip, paragraphs) if text and not text.startswith("For full helptext")]
    # Where no single option is to blame, the message comes from TrainConfig and says by itself what is.
    return re.sub(r"^Error parsing __\S+: ", "", "; ".join(told) or "bad command line")


def _fail(message: str) -> int:
    print("sparsedis:", " ".join(message.split()), file=sys.stderr)
    return _FAILURE


if __name__ == "__main__":
    sys.exit(main())
