"""How the site is built: pip install -e '.[docs]' && sphinx-build -W -b html docs site"""

import re
import sys
from pathlib import Path

import sparsedis

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

project = "sparsedis"
author = "The sparsedis authors"
copyright = f"2026, {author}"
version = release = sparsedis.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "command_help",
    "repository_links",
]

html_theme = "furo"
html_title = f"sparsedis {version}"
html_show_sphinx = False
# Highlighting is for code that says what it is; formulas and layouts in indented blocks are text.
highlight_language = "text"
# Napoleon looks every attribute up as a cross-reference, and several classes have a lambda1.
suppress_warnings = ["ref.python"]
default_role = "code"  # docstrings have single backticks where the command line prints them

myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # a module's forward has its own; torch's docstrings are not ours to render
autodoc_type_aliases = {
    "ArrayLike": "ArrayLike",  # else unions of a line each
    "Array": "Array",
    "OptionalInt": "int | None",  # without what the command line is told of them
    "OptionalFloat": "float | None",
    "Grouping": "Literal['within-alphabet'] | None",
    "Groups": "tuple[str, ...] | None",
    "Align": "Literal['ink'] | None",
}
autodoc_typehints_format = "short"
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

sphinx_gallery_conf = {
    "examples_dirs": str(HERE.parent / "examples"),  # GALLERY_HEADER.txt goes ahead of README.md, the code host's page
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "backreferences_dir": None,
    "download_all_examples": False,
    "image_srcset": ["2x"],
    "plot_gallery": "True",
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}


def _skip(app, what, name, member, skip, options):
    """Fields of named tuples, which their class documents, and which Python documents as aliases of a number."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def _untyped(app, what, name, obj, options, lines):
    """An attribute's docstring has no type: Napoleon takes what stands before a colon for one, here nothing."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = ":" + lines[0]


def _named(app, what, name, obj, options, signature, returned):
    """Sphinx prints an alias within a union as the object that stands for it."""
    return signature and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature), returned


def setup(app):
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _named)
    app.connect("autodoc-process-docstring", _untyped, priority=400)  # ahead of Napoleon
