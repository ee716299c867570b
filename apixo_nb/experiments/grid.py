"""Runs as a grid in the notebook: rows and columns of what they differ in, each cell a stack to flip through.

It is lasting output: plain HTML with inline styles and small pictures, which needs no script, no kernel and
no trust. The same layout makes a contact sheet and a report of separate files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apixo_nb.analysis.pivot import Cell, Layout, Row, Section, Slide, lay_out, marks, totals, why_none
from apixo_nb.core.formatting import render
from apixo_nb.core.records import Image, Run, checked_runs
from apixo_nb.errors import ApixoError
from apixo_nb.export.page import section_values
from apixo_nb.session.session import current
from apixo_nb.storage.originals import Images
from apixo_nb.storage.thumbnails import Thumbnail
from apixo_nb.text import printable

THUMBNAIL_PX = 176  # about 6 kB of WebP
PICTURES = 120  # of a grid in a notebook: about a megabyte
CELLS = 400
_COLUMNS = 60
_PANES = 24  # of one cell
_FOLDED = 60  # characters of an axis's value; the whole is one click away


class Pick(NamedTuple):
    """The picture that won a cell, and its run."""

    run: Run
    image: Image


class Grid:
    """Runs as a grid; see `grid`. Show it in a cell, or call `.report(folder)`, `.sheet(file)`, `.winners()`.

    Attributes
    ----------
    layout : pivot.Layout
        Axes, sections, rows and cells.
    images : Images
        Where the pictures are.
    """

    def __init__(self, layout: Layout, images: Images) -> None:
        self.layout = layout
        self.images = images
        self._html = ""

    def __repr__(self) -> str:
        return f"<Grid of {self.layout.title}: {', '.join(totals(self.layout.runs))}>"

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes, in the order of the keys of `winners`."""
        return self.layout.axes

    def winners(self) -> dict[tuple[str, ...], Pick]:
        """Each cell's winner: its starred picture, or else its best rated one.

        The keys are the values of the cell along `axes`; cells without a winner are left out.
        """
        found = {cell.key: cell.winner for cell in self.layout.cells}
        return {key: Pick(slide.run, slide.image) for key, slide in found.items() if slide and slide.image}

    def report(self, path: str | os.PathLike[str], *, originals: bool = True) -> Path:
        """Write a page with separate picture files, and return its path; see `site.write_site`."""
        from apixo_nb.export.site import write_site

        return write_site(self.layout, path, self.images, originals=originals)

    def sheet(self, path: str | os.PathLike[str], *, px: int = 256) -> Path:
        """Write a contact sheet, and return its path; see `contact_sheet.write_sheet`."""
        from apixo_nb.export.contact_sheet import write_sheet

        return write_sheet(self.layout, path, self.images, px=px)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        del include, exclude  # both forms are small
        self._html = self._html or grid_html(self.layout, self.images)
        return {"text/html": self._html, "text/plain": grid_text(self.layout)}


def grid(runs: Any, x: str | None = None, y: str | None = None, *, images: Images | None = None) -> Grid:
    """Lay runs out as a grid: one cell for each pair of values, with all takes of it.

    Parameters
    ----------
    runs : iterable of Run, or anything with ``.runs``
        Ratings and stars are taken from the ledger as it is now.
    x, y : str, optional
        What is across and down: a variable, a parameter such as "aspect_ratio", or a fact such as "model".
        Default: what the runs differ in. What else they differ in parts the grid into sections.
    images : Images, optional
        Where the pictures are; default: the notebook's. With it, the runs are taken as they are given.

    Raises
    ------
    InvalidRequestError
        These are no runs, or they have no such axis.
    """
    chosen = checked_runs(runs)
    if images is None:
        session = current()
        images = session.images
        with contextlib.suppress(ApixoError):  # without a ledger, what was given is what is known
            now = {run.run_id: run for run in session.ledger.some([run.run_id for run in chosen])}
            chosen = [now.get(run.run_id, run) for run in chosen]
    return Grid(lay_out(chosen, x, y), images)


def contact_sheet(
    runs: Any, path: str | os.PathLike[str], x: str | None = None, y: str | None = None, *, px: int = 256
) -> Path:
    """Write a contact sheet of runs (PNG, WebP or JPEG, by the name's end), and return its path.

    Parameters
    ----------
    runs, x, y
        As for `grid`.
    px : int
        The side of a cell in pixels, from 48 to 2048.
    """
    return grid(runs, x, y).sheet(path, px=px)


# --- as HTML ----------------------------------------------------------------------------------------


def grid_html(layout: Layout, images: Images) -> str:
    """The grid as HTML for a notebook; bounded, and says what it leaves out."""
    sections = bounded(layout)
    stacks = {id(cell): cell.slides() for section in sections for cell in _cells(section)}
    shown = _first(list(stacks.values()))
    pictures = [(slide.run, slide.image) for slide in shown.values() if slide.image]
    thumbnails = dict(zip(shown, images.thumbnails(pictures, THUMBNAIL_PX), strict=True))
    runs = layout.runs
    on_disk = sum(len(run.files) for run in runs)
    left_cells = len(layout.cells) - len(stacks)

    def show(cell: Cell) -> dict[str, Any]:
        return _cell(cell, stacks[id(cell)], thumbnails)

    return render(
        "grid.html",
        title=layout.title,
        facts=totals(runs),
        sandbox=bool(runs) and all(run.sandbox for run in runs),
        across=printable(layout.x, 40),
        down=printable(layout.y, 40),
        px=THUMBNAIL_PX,
        sections=[section_values(section, _FOLDED, show) for section in sections],
        left=_left(left_cells, on_disk - len(shown)),
    )


def _left(cells: int, pictures: int) -> str:
    parts = [f"{cells} more cells" if cells else "", f"{pictures} more pictures" if pictures else ""]
    return " and ".join(part for part in parts if part)


def bounded(layout: Layout) -> list[Section]:
    """As many rows as a notebook can take."""
    kept: list[Section] = []
    room = CELLS
    for label, columns, rows in layout.sections:
        wide = min(len(columns), _COLUMNS if layout.y else room)
        high = min(len(rows), room // max(wide, 1))
        if not high:
            break
        cut = tuple(Row(row.label, row.cells[:wide]) for row in rows[:high])
        kept.append(Section(label, columns[:wide], cut))
        room -= wide * high
    return kept


def _cells(section: Section) -> Iterator[Cell]:
    return (cell for row in section.rows for cell in row.cells if cell)


def _first(stacks: Sequence[Sequence[Slide]]) -> dict[int, Slide]:
    """The slides whose pictures are shown: first the top of each stack, then the next ones."""
    deepest = max(map(len, stacks), default=0)
    order = (stack[depth] for depth in range(min(deepest, _PANES)) for stack in stacks if depth < len(stack))
    here = [slide for slide in order if slide.image and slide.image.file]
    return {id(slide): slide for slide in here[:PICTURES]}


def _cell(cell: Cell, slides: Sequence[Slide], thumbnails: Mapping[int, Thumbnail]) -> dict[str, Any]:
    winner = cell.winner
    panes: list[dict[str, Any]] = []
    hidden = 0
    for slide in slides:
        is_here = bool(slide.image and slide.image.file)
        if len(panes) == _PANES or (is_here and id(slide) not in thumbnails):
            hidden += 1
            continue
        pane = _pane(cell, slide, thumbnails.get(id(slide)))
        pane["winner"] = winner is not None and slide == winner
        same = [old for old in panes if pane["why"] and old["why"] == pane["why"]]
        if same:
            same[0]["times"] += 1
        else:
            panes.append(pane)
    return {"caption": cell.caption, "label": cell.label, "panes": panes, "hidden": hidden}


def _pane(cell: Cell, slide: Slide, thumbnail: Thumbnail | None) -> dict[str, Any]:
    return {
        "thumbnail": thumbnail,
        "alt": f"{cell.label or 'Picture'}: {printable(slide.run.prompt, 160)}",
        "title": printable(slide.run.prompt, 300),
        "why": why_none(slide) if thumbnail is None else thumbnail.problem,
        "times": 1,
        "marks": marks(slide),
    }


# --- as text ----------------------------------------------------------------------------------------

_TEXT_ROWS, _TEXT_COLUMNS, _TEXT_WIDTH = 40, 8, 24


def grid_text(layout: Layout) -> str:
    """The grid as a small table of text."""
    runs = layout.runs
    lines = [" · ".join([layout.title, *totals(runs)])]
    for section in layout.sections:
        lines += [section.label] if section.label else []
        lines += _listed(section) if not layout.y else _tabled(section)
    if len(lines) > _TEXT_ROWS:
        lines = [*lines[:_TEXT_ROWS], f"… {len(lines) - _TEXT_ROWS} more lines"]
    return "\n".join(lines)


def _listed(section: Section) -> list[str]:
    cells = section.rows[0].cells if section.rows else ()
    return [
        f"{printable(label, _TEXT_WIDTH) or '(none)'}: {cell.caption}"
        for label, cell in zip(section.columns, cells, strict=True)
        if cell
    ]


def _tabled(section: Section) -> list[str]:
    wide = section.columns[:_TEXT_COLUMNS]
    more = ["…"] if len(section.columns) > len(wide) else []
    table = [["", *(printable(column, _TEXT_WIDTH) or "(none)" for column in wide), *more]]
    for row in section.rows[:_TEXT_ROWS]:
        cells = [_brief(cell) for cell in row.cells[: len(wide)]]
        table.append([printable(row.label, _TEXT_WIDTH) or "(none)", *cells, *more])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]


def _brief(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    here, winner = sum(len(run.files) for run in cell.runs), cell.winner
    text = f"{here} picture{'' if here == 1 else 's'}" if here else printable(cell.runs[0].state, 12)
    return f"{text} {marks(winner)}" if winner else text
