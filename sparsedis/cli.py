"""The command line: sparsedis COMMAND, what `sparsedis --help` lists.

An error of the user is one line on standard error and exit code 2; an interruption is exit code 130.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Annotated, Any

from sparsedis.extras import explained

_FAILURE, _INTERRUPTED, _BROKEN_PIPE = 2, 130, 141


@dataclass(frozen=True)
class Info:
    """Print versions, devices and backends."""

    warm: bool = False
    """Also compile the CUDA kernels for every device, so that the first solve does not."""
    ways: tuple[int, ...] = (5,)
    """With --warm: the numbers of classes to compile for."""

    def run(self) -> None:
        from sparsedis import info

        print(info.report())
        if self.warm:
            info.warm(self.ways)


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
    except ImportError as error:
        return _fail(explained(error))


def _run(argv: list[str]) -> int:
    import tyro

    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            command: Any = tyro.cli(_commands(argv), prog="sparsedis", args=argv)
    except SystemExit as end:
        if end.code in (0, None):  # --help
            return 0
        return _fail(_summary(complaint.getvalue()))
    command.run()
    return 0


def _commands(argv: list[str]) -> Any:
    """The commands; the defaults of train are those of the preset that the command line names."""
    import tyro

    from sparsedis.disentangle.commands import Disentangle, DisentangleSweep, Shapes3d, Synthetic
    from sparsedis.metalearn.commands import Compare, Data, Evaluate, Sweep, Train
    from sparsedis.metalearn.config import PRESETS

    settings = PRESETS.get(_preset(argv), PRESETS["quick"])
    training = Annotated[Train, tyro.conf.subcommand("train", default=Train(config=settings))]
    few_shot = training | Evaluate | Compare | Sweep | Data
    return few_shot | Synthetic | Disentangle | DisentangleSweep | Shapes3d | Info


def _preset(argv: list[str]) -> str:
    for i, word in enumerate(argv):
        if word == "--preset":
            return "".join(argv[i + 1 : i + 2])
        if word.startswith("--preset="):
            return word.partition("=")[2]
    return "quick"


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
