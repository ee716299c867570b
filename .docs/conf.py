"""How the reference is built: `make docs`. Its tables are made from the package itself."""

# ruff: noqa: INP001 - Sphinx's file, no module

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from sphinx.errors import SphinxError

import apixo_nb
from apixo_nb import cli
from apixo_nb.analysis import frame
from apixo_nb.core.settings import Apixo
from apixo_nb.experiments import cell_options
from apixo_nb.notebook.commands import COMMANDS
from apixo_nb.sandbox import KINDS, MARKERS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "apixo_nb"
author = "apixo_nb contributors"
project_copyright = author
version = release = apixo_nb.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["constraints.txt"]
smartquotes = False  # they would make one dash of the two of an option
default_role = "py:obj"  # names in docstrings stand in single backticks, and are links where there is a page
nitpicky = False  # most of those names are of modules that have no page
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 80
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
html_theme = "furo"
html_title = f"apixo_nb {version}"
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # it would be fetched, which a page from the disk may not

os.environ["COLUMNS"] = "88"  # how wide argparse makes its help

_WORDS = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701 - it makes reStructuredText, of our own words


def setup(app: Sphinx) -> None:
    """Fill the pages' templates before they are read; look at what was made."""
    app.connect("source-read", _fill)
    app.connect("autodoc-process-signature", _no_signature_of_errors)
    app.connect("build-finished", _check_offline)


def _fill(_app: Sphinx, _name: str, source: list[str]) -> None:
    source[0] = _WORDS.from_string(source[0]).render(
        cell_help=cell_options.parser().format_help(),
        line_commands=COMMANDS.values(),
        command_groups=cli.command_groups(),
        command_help=_helps(),
        in_terminal=cli.in_terminal,
        settings=[(name, trait.help) for name, trait in sorted(Apixo().traits(config=True).items())],
        run_columns=frame.COLUMNS,
        picture_columns=frame.IMAGE_COLUMNS,
        markers=MARKERS,
        kinds=KINDS,
        indented=lambda text: "\n".join(f"   {line}".rstrip() for line in str(text).splitlines()),
    )


def _no_signature_of_errors(_app: Sphinx, what: str, *_facts: Any) -> tuple[str, str] | None:
    """Nobody makes an error by hand, and the facts of one are told with `ApixoError`."""
    return ("", "") if what == "exception" else None


def _helps() -> dict[str, str]:
    return {name: made.format_help() for name, made in cli.command_parsers(cli.whole_parser()).items()}


_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref="(?:https?:)?//"""
    r"""|(?:url\(|@import)\s*["']?(?:https?:)?//"""
)


def _check_offline(app: Sphinx, problem: Any) -> None:
    """The site opens from the disk: no page or style may fetch anything from elsewhere."""
    if problem is not None:
        return
    for path in sorted(Path(app.outdir).rglob("*")):
        if path.suffix in (".html", ".css") and (found := _FETCHED.search(path.read_text(encoding="utf-8"))):
            raise SphinxError(f"{path.name} would fetch from elsewhere: {found[0]}")
