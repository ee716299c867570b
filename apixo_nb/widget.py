"""The widget under the panel: what the page and the kernel share, and the files that draw it.

One ES module, joined from the files below, and one style sheet; nothing is fetched from anywhere. What must
outlive a reload of the page is a trait; pictures are sent on request, so that they never weigh in a saved
notebook.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import anywidget
from traitlets import Dict, List, Unicode

_STATIC = Path(__file__).with_name("static") / "panel"

#: In this order they are one module; each may use what stands before it.
_PARTS = (
    "dom",
    "link",
    "pictures",
    "lightbox",
    "form",
    "cards",
    "compare",
    "history",
    "panel",
)


@functools.cache
def module_text() -> str:
    """The ES module that draws the panel."""
    return "\n".join((_STATIC / f"{part}.js").read_text("utf-8") for part in _PARTS)


@functools.cache
def style_text() -> str:
    """Its style sheet."""
    return (_STATIC / "panel.css").read_text("utf-8")


class PanelWidget(anywidget.AnyWidget):
    """What page and kernel share.

    Attributes
    ----------
    facts : dict
        The models and what may be asked of them; whether this is the sandbox; what keeps it from working.
    form : dict
        What is filled in; written by the page, and by the kernel when a run is sent to the form.
    checked : dict
        What is wrong with the form, and the form as a cell and as Python.
    cards : list of dict
        The runs of this kernel, newest first, without their pictures.
    money : dict
        Budgets, and what is left of them.
    """

    _esm = Unicode().tag(sync=True)
    _css = Unicode().tag(sync=True)
    facts = Dict().tag(sync=True)
    form = Dict().tag(sync=True)
    checked = Dict().tag(sync=True)
    cards: List[Any] = List().tag(sync=True)
    money = Dict().tag(sync=True)

    def __init__(self, **values: Any) -> None:
        super().__init__(_esm=module_text(), _css=style_text(), **values)
