"""A grid that can be worked with: flip through a cell, see a picture at full size, pick the winner.

It stands in for the lasting grid where somebody can click; that one is left beside it, with the winners that
were picked, for when the kernel is gone.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

from IPython.core.getipython import get_ipython

from apixo_nb.analysis.pivot import Cell, Layout, Section, lay_out, why_none
from apixo_nb.core.environment import has_widgets
from apixo_nb.experiments.grid import Grid, bounded
from apixo_nb.storage.originals import Images
from apixo_nb.text import printable

from .cards import history_row, picture
from .controller import Controller
from .handlers import full_prompt, review_picture, send_pictures

_FALLBACK = "A grid of pictures"
_PICTURES = 48  # of one cell


class GridController(Controller):
    """A grid with a page that can be clicked."""

    def __init__(self, grid: Grid, images: Images) -> None:
        from .frontend import GridWidget

        self._layout = grid.layout
        self._images = images
        handlers = {
            "hello": self._hello,
            "pictures": self._with_session(functools.partial(send_pictures, self._send)),
            "prompt": self._with_session(full_prompt),
            "review": self._review,
        }
        super().__init__(GridWidget(), _FALLBACK, handlers)
        self._draw()

    def _draw(self) -> None:
        sections = [_section(section) for section in bounded(self._layout)]
        axes = {"x": self._layout.x, "y": self._layout.y}
        self._set_traits(
            facts={"id": self._id}, grid={**axes, "title": self._layout.title, "sections": sections}
        )

    def _display_again(self) -> None:
        self._display_lasting(self._lasting(), display_id=self._id)

    def _lasting(self) -> dict[str, str]:
        return Grid(self._layout, self._images)._repr_mimebundle_()

    def _hello(self, _request: dict[str, Any]) -> dict[str, Any]:
        self._draw()
        self._resend_traits("facts", "grid")
        return {}

    def _review(self, request: dict[str, Any]) -> dict[str, Any]:
        """Rate, star or label a picture. The page shows it already; the notebook follows."""
        run = review_picture(self._current_session(), request)
        runs = [run if known.run_id == run.run_id else known for known in self._layout.runs]
        self._layout = lay_out(runs, self._layout.x or None, self._layout.y or None)
        self._run_in_background(self._update_lasting, self._layout)
        return {"row": history_row(run)}

    def _update_lasting(self, layout: Layout) -> None:
        if layout is self._layout:  # else another star came meanwhile, and its turn comes
            self._display_lasting(self._lasting(), display_id=self._id, update=True)


def _section(section: Section) -> dict[str, Any]:
    return {
        "label": section.label,
        "columns": [printable(column) for column in section.columns],
        "rows": [
            {"label": printable(row.label), "cells": [_cell(cell) if cell else None for cell in row.cells]}
            for row in section.rows
        ],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    slides = cell.slides()
    here = [slide for slide in slides if slide.image and slide.image.file]
    why = dict.fromkeys(why_none(slide) for slide in slides if not (slide.image and slide.image.file))
    return {
        "label": cell.label,
        "caption": cell.caption,
        "pictures": [
            picture(slide.run, slide.image, alive=False) for slide in here[:_PICTURES] if slide.image
        ],
        "why": list(why),
    }


def show_grid(grid: Grid) -> None:
    """Show a grid as the value of a cell; NotImplementedError where nobody can click, and it shows itself."""
    if not has_widgets(get_ipython()):
        raise NotImplementedError
    if grid not in _controllers:
        _controllers[grid] = GridController(grid, grid.images)
    _controllers[grid]._ipython_display_()


# A grid that is shown again is the same widget: the kernel keeps widgets for as long as it lives.
_controllers: weakref.WeakKeyDictionary[Grid, GridController] = weakref.WeakKeyDictionary()
