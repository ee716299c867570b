"""The widgets: what a page and the kernel share, and the files that draw it.

Each is one ES module, joined from the scripts it names, and one style sheet for all; nothing is fetched from
anywhere. What must outlive a reload of the page is a trait; pictures are sent on request, so that they never
weigh in a saved notebook.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import anywidget
from traitlets import Dict, List, Unicode

_STATIC = Path(__file__).with_name("static")

# The scripts that all widgets use.
_SHARED_SCRIPTS = ("dom", "kernel", "images", "view", "lightbox")

# In this order: a later rule wins over an earlier one that is as specific.
_STYLES = (
    *("base", "controls", "layout", "images", "lightbox"),
    *("form", "cards", "compare", "history", "panel", "grid", "vote"),
)


@functools.cache
def script_source(names: tuple[str, ...]) -> str:
    """An ES module: the files in this order; each may use what stands before it."""
    return _joined(f"{name}.js" for name in names)


@functools.cache
def style_source() -> str:
    """The style sheet of all widgets."""
    return _joined(f"{name}.css" for name in _STYLES)


def _joined(files: Iterable[str]) -> str:
    return "\n".join((_STATIC / file).read_text("utf-8") for file in files)


class FrontendWidget(anywidget.AnyWidget):
    """A widget with a controller behind it in the kernel.

    Attributes
    ----------
    facts : dict
        What the page must know from the start, such as the `id` of its lasting outputs.
    """

    scripts: ClassVar[tuple[str, ...]] = ()

    _esm = Unicode().tag(sync=True)
    _css = Unicode().tag(sync=True)
    facts = Dict().tag(sync=True)

    def __init__(self, **values: Any) -> None:
        scripts = script_source((*_SHARED_SCRIPTS, *self.scripts))
        super().__init__(_esm=scripts, _css=style_source(), **values)


class PanelWidget(FrontendWidget):
    """The panel's.

    Attributes
    ----------
    facts : dict
        Also the models and what may be asked of them, whether this is the sandbox, what keeps it from work.
    form : dict
        What is filled in; written by the page.
    checked : dict
        What is wrong with the form, and the form as a cell and as Python.
    cards : list of dict
        The runs of this kernel, newest first, without their pictures.
    progress : str
        One line for all that goes on together.
    money : dict
        Budgets, and what is left of them.
    """

    scripts = ("references", "purchase", "form", "cards", "compare", "history", "panel")

    form = Dict().tag(sync=True)
    checked = Dict().tag(sync=True)
    cards: List[Any] = List().tag(sync=True)
    progress = Unicode().tag(sync=True)
    money = Dict().tag(sync=True)


class GridWidget(FrontendWidget):
    """A grid's: its axes, the values on them, and a stack of pictures for each cell."""

    scripts = ("grid",)

    grid = Dict().tag(sync=True)


class VoteWidget(FrontendWidget):
    """A ballot's: the pair that is asked for, without names, and the results once they are asked for."""

    scripts = ("vote",)

    pair = Dict().tag(sync=True)
    results = Dict().tag(sync=True)
