"""The command line: sparsedis COMMAND, what `sparsedis --help` lists.

An error of the user is one line on standard error and exit code 2; an interruption is exit code 130, and a reader of
the output that goes away ends the command silently with 141. Output goes on in any encoding.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Annotated, Any, cast

from sparsedis.extras import explained
from sparsedis.runs import output

_FAILURE, _INTERRUPTED, _BROKEN_PIPE = 2, 130, 141
# What torch says, in errors of no type of their own, of tensors that the machine cannot hold.
_TOO_LARGE = ("can't allocate memory", "not enough memory", "out of memory", "overflow")

_GUIDE = (
    (
        "sparsedis trains encoders through sparse classifiers that many small tasks fit on their features, each solved "
        "to a certificate. What people do with it, in order:",
        (),
    ),
    (
        "1. See what a data set holds: the pictograms that come with the package, or images of your own, with a folder "
        "per class.",
        ("sparsedis data pictograms", "sparsedis data images:FOLDER"),
    ),
    (
        "2. Train an encoder; some minutes on two CPU cores. It ends with tests, and with report.html, to open in a "
        "browser.",
        ("sparsedis train",),
    ),
    (
        "3. Test what was trained on other tasks; --out leaves a report of that too.",
        ("sparsedis evaluate runs/pictograms-group-lasso-svm-0 --shot 10 --out runs/ten-shot",),
    ),
    (
        "4. Compare classifiers with the same encoder, or weigh accuracy against the number of features used. An hour "
        "and more.",
        ("sparsedis compare", "sparsedis sweep"),
    ),
    (
        "5. Disentangle the factors that images are made of (needs the extra [disentangle]); some minutes.",
        ("sparsedis disentangle",),
    ),
    ("All commands and their options; versions, devices and backends:", ("sparsedis --help", "sparsedis info")),
)
"""What is printed without a command: sentences, each with commands to copy."""


@dataclass(frozen=True)
class Info:
    """Print versions, devices and backends."""

    warm: bool = False
    """Also compile the CUDA kernels for every device, so that the first solve does not."""
    ways: tuple[int, ...] = (5,)
    """With --warm: the numbers of classes to compile for."""

    def run(self) -> None:
        from sparsedis import info

        print(info.report(_columns()))
        if self.warm:
            info.warm(self.ways)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, ``sys.argv`` by default; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        output.tolerate(stream)
    with warnings.catch_warnings():
        warnings.showwarning = _on_one_line(warnings.showwarning)
        return _flushed(_guarded(argv))


def _guarded(argv: list[str]) -> int:
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return _BROKEN_PIPE
    except (ValueError, OSError, OverflowError) as error:
        return _fail(str(error))
    except ImportError as error:
        return _fail(explained(error))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _TOO_LARGE):
            raise
        return _fail(f"too large for the memory of this machine: {(str(error).splitlines() or [''])[0]}")


def _flushed(code: int) -> int:
    """Write out what was printed, here rather than at the end of the process, where Python would complain."""
    if sys.stdout is None:
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not code:
            return _BROKEN_PIPE if isinstance(error, BrokenPipeError) else _fail(f"standard output: {error}")
    return code


def _on_one_line(show: Callable[..., None]) -> Callable[..., None]:
    """A ``warnings.showwarning`` that prints this package's own like errors, and leaves the others to ``show``."""

    def shown(message: Warning | str, *arguments: Any, **options: Any) -> None:
        if str(message).startswith("sparsedis:"):
            print(" ".join(str(message).split()), file=sys.stderr)
        else:
            show(message, *arguments, **options)

    return shown


def _run(argv: list[str]) -> int:
    import tyro

    if not argv:
        print(_guide(_columns() or 100))
        return _FAILURE  # for scripts: nothing was done
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            command: Any = tyro.cli(_commands(argv), prog="sparsedis", args=argv)
    except SystemExit as end:
        if end.code in (0, None):  # --help
            return 0
        return _fail(_summary(complaint.getvalue()))
    try:
        command.run()
    except SystemExit as end:  # rich's answer to a broken pipe
        raise BrokenPipeError from end
    return 0


def _commands(argv: list[str]) -> Any:
    """The commands; the defaults of those that train are those of the preset and head that the command line names."""
    import tyro

    from sparsedis.disentangle.commands import Disentangle, DisentangleSweep, Shapes3d, Synthetic
    from sparsedis.metalearn.commands import Compare, Data, Evaluate, Sweep, Train
    from sparsedis.metalearn.config import HEADS, PRESETS, Head, preset
    from sparsedis.reports import Report

    named, head = _value(argv, "--preset"), _value(argv, "--head")
    known = cast(Head, head) if head in HEADS else None
    settings = preset(named if named in PRESETS else "quick", known)
    training = Annotated[Train, tyro.conf.subcommand("train", default=Train(config=settings))]
    comparing = Annotated[Compare, tyro.conf.subcommand("compare", default=Compare(config=settings))]
    sweeping = Annotated[Sweep, tyro.conf.subcommand("sweep", default=Sweep(config=settings))]
    few_shot = training | Evaluate | comparing | sweeping | Data
    return few_shot | Synthetic | Disentangle | DisentangleSweep | Shapes3d | Report | Info


def _columns() -> int | None:
    """The width of the terminal; None for a file or a pipe that COLUMNS gives no width."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def _guide(columns: int) -> str:
    """The guide for a terminal of that width; commands are whole lines, for copying."""
    lines: list[str] = []
    for text, commands in _GUIDE:
        lines += textwrap.wrap(text, min(columns, 100), break_long_words=False, break_on_hyphens=False)
        lines += [*(f"    {command}" for command in commands), ""]
    return "\n".join(lines).rstrip()


def _value(argv: list[str], option: str) -> str | None:
    """What the command line gives for an option."""
    for i, word in enumerate(argv):
        if word == option:
            return "".join(argv[i + 1 : i + 2])
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


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
