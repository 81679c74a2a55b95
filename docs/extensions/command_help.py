"""The directive ``command-help``: a section for every command, with what its --help prints."""

import io
import os
import re
from contextlib import redirect_stdout
from unittest.mock import patch

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from sparsedis import cli

_COLUMNS = "84"


def help_text(*command: str) -> str:
    """What ``sparsedis COMMAND --help`` prints."""
    printed = io.StringIO()
    with redirect_stdout(printed), patch.dict(os.environ, COLUMNS=_COLUMNS, NO_COLOR="1"):
        code = cli.main([*command, "--help"])
    if code:
        raise RuntimeError(f"sparsedis {' '.join(command)} --help: exit code {code}")
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def commands() -> list[str]:
    """The names of all commands, in the order of ``sparsedis --help``."""
    found = re.search(r"\{([a-z0-9,\s-]+)\}", help_text())
    if found is None:
        raise RuntimeError("sparsedis --help: expected {train,...}, the list of commands")
    return "".join(found[1].split()).split(",")


class CommandHelp(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [self._section(name) for name in commands()]

    def _section(self, name: str) -> nodes.section:
        section = nodes.section(ids=[f"sparsedis-{name}"], names=[f"sparsedis {name}"])
        text = help_text(name)
        section += [nodes.title(text=f"sparsedis {name}"), nodes.literal_block(text, text, language="text")]
        return section


def setup(app):
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
