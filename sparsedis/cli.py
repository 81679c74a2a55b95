"""The command line: sparsedis COMMAND, as listed by `sparsedis --help`.

User errors are reported in one line on standard error, with exit code 2. The exit code is 130 after an interruption,
and 141, without a message, if the reader of the output closes the pipe. Characters that the output's encoding lacks are
spelt out.
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
# Messages of torch errors, which have no type of their own, for tensors that do not fit in memory.
_TOO_LARGE = ("can't allocate memory", "not enough memory", "out of memory", "overflow")

_GUIDE = (
    (
        "sparsedis trains encoders through sparse classifiers that are fitted to the features of many small tasks, "
        "each solved to a certificate. A typical workflow:",
        (),
    ),
    (
        "1. Inspect a data set: the pictograms that come with the package, or your own images, in one folder per "
        "class.",
        ("sparsedis data pictograms", "sparsedis data images:FOLDER"),
    ),
    (
        "2. Train an encoder (some minutes on two CPU cores). It ends with tests and a report.html to open in a "
        "browser.",
        ("sparsedis train",),
    ),
    (
        "3. Test the trained encoder on other tasks; --out also writes a report.",
        ("sparsedis evaluate runs/pictograms-group-lasso-svm-0 --shot 10 --out runs/ten-shot",),
    ),
    (
        "4. Compare classifiers with the same encoder, or trade accuracy against the number of features used (an hour "
        "or more).",
        ("sparsedis compare", "sparsedis sweep"),
    ),
    (
        "5. Disentangle the factors of variation of images (needs the extra [disentangle]; some minutes).",
        ("sparsedis disentangle",),
    ),
    ("All commands and their options; versions, devices and backends:", ("sparsedis --help", "sparsedis info")),
)
"""Printed if no command is given: sentences, each with commands to copy."""


@dataclass(frozen=True)
class Info:
    """Print versions, devices and backends."""

    warm: bool = False
    """Also compile the CUDA kernels for every device now, rather than in the first solve."""
    ways: tuple[int, ...] = (5,)
    """With --warm: the numbers of classes to compile for."""

    def run(self) -> None:
        from sparsedis import info

        print(info.report(_terminal_width()))
        if self.warm:
            info.warm(self.ways)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, ``sys.argv`` by default; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        output.replace_unencodable(stream)
    with warnings.catch_warnings():
        warnings.showwarning = _on_one_line(warnings.showwarning)
        return _flush_output(_exit_code(argv))


def _exit_code(argv: list[str]) -> int:
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


def _flush_output(code: int) -> int:
    """Flush standard output here and not at exit, where Python would print an error if the pipe is closed."""
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
    """A ``warnings.showwarning`` that prints the package's warnings on one line and passes others to ``show``."""

    def shown(message: Warning | str, *arguments: Any, **options: Any) -> None:
        if str(message).startswith("sparsedis:"):
            print(" ".join(str(message).split()), file=sys.stderr)
        else:
            show(message, *arguments, **options)

    return shown


def _run(argv: list[str]) -> int:
    import tyro

    if not argv:
        print(_guide(_terminal_width() or 100))
        return _FAILURE  # tell scripts that nothing was done
    captured = io.StringIO()
    try:
        with redirect_stderr(captured):
            command: Any = tyro.cli(_commands(argv), prog="sparsedis", args=argv)
    except SystemExit as end:
        if end.code in (0, None):  # --help
            return 0
        return _fail(_summary(captured.getvalue()))
    try:
        command.run()
    except SystemExit as end:  # rich exits on a broken pipe
        raise BrokenPipeError from end
    return 0


def _commands(argv: list[str]) -> Any:
    """The commands; those that train have the defaults of the preset and head given on the command line."""
    import tyro

    from sparsedis.disentangle.commands import Disentangle, DisentangleSweep, Shapes3d, Synthetic
    from sparsedis.metalearn.commands import Compare, Data, Evaluate, Sweep, Train
    from sparsedis.metalearn.config import HEADS, PRESETS, Head, preset
    from sparsedis.reports import Report

    preset_name, head_name = _option_value(argv, "--preset"), _option_value(argv, "--head")
    known_head = cast(Head, head_name) if head_name in HEADS else None
    settings = preset(preset_name if preset_name in PRESETS else "quick", known_head)
    training = Annotated[Train, tyro.conf.subcommand("train", default=Train(config=settings))]
    comparing = Annotated[Compare, tyro.conf.subcommand("compare", default=Compare(config=settings))]
    sweeping = Annotated[Sweep, tyro.conf.subcommand("sweep", default=Sweep(config=settings))]
    few_shot = training | Evaluate | comparing | sweeping | Data
    return few_shot | Synthetic | Disentangle | DisentangleSweep | Shapes3d | Report | Info


def _terminal_width() -> int | None:
    """Width of the terminal; None for a file or a pipe, unless COLUMNS is set."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def _guide(columns: int) -> str:
    """The guide wrapped to a terminal width; commands are not wrapped, so that they can be copied."""
    lines: list[str] = []
    for text, commands in _GUIDE:
        lines += textwrap.wrap(text, min(columns, 100), break_long_words=False, break_on_hyphens=False)
        lines += [*(f"    {command}" for command in commands), ""]
    return "\n".join(lines).rstrip()


def _option_value(argv: list[str], option: str) -> str | None:
    """The value of an option on the command line; None if it is not given."""
    for i, word in enumerate(argv):
        if word == option:
            return "".join(argv[i + 1 : i + 2])
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _summary(box: str) -> str:
    """tyro's error message on one line.

    tyro prints a box with a title and paragraphs separated by rules; the last paragraph refers to --help. Without UTF-8
    the rules are hyphens and there is no frame.
    """
    rows = [line.strip("│╰╯ ") for line in box.splitlines()[1:]]
    paragraphs = re.split(r"^(?:─+|-+)$", "\n".join(rows), flags=re.MULTILINE)
    messages = [text for text in map(str.strip, paragraphs) if text and not text.startswith("For full helptext")]
    # If no single option is at fault, the message comes from TrainConfig and names the setting itself.
    return re.sub(r"^Error parsing __\S+: ", "", "; ".join(messages) or "bad command line")


def _fail(message: str) -> int:
    print("sparsedis:", " ".join(message.split()), file=sys.stderr)
    return _FAILURE


if __name__ == "__main__":
    sys.exit(main())
