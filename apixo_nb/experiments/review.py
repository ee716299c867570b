"""Pictures side by side: grids, comparisons, and what a person says of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

from apixo_nb.analysis.pivot import Cell, Layout, Row, Section, Slide, lay_out, marks, totals, why_none
from apixo_nb.core.checks import refusal, whole
from apixo_nb.core.formatting import HtmlResult, render
from apixo_nb.core.records import BEST, Image, Run, checked_runs
from apixo_nb.core.request import make_labels
from apixo_nb.display.cards import MOST_COMPARED, best_first, compared
from apixo_nb.errors import ApixoError, InvalidRequestError
from apixo_nb.export.pages import section_values
from apixo_nb.session.history import History
from apixo_nb.session.session import Session, current
from apixo_nb.storage.originals import Images, Thumbnail
from apixo_nb.text import printable


def compare(history: History, which: Iterable[object]) -> HtmlResult:
    """2 to 4 runs side by side.

    Parameters
    ----------
    history : History
        The session that knows them.
    which : iterable
        Runs, ids of runs, or rows of a table (each with a ``run_id``); a row of the table of pictures stands
        for that picture alone.

    Raises
    ------
    InvalidRequestError
        There are fewer or more, or one of them is no run of the ledger.
    """
    found = [_resolved(history, one) for one in which]
    if not 2 <= len(found) <= MOST_COMPARED:
        text = f"{len(found)} run{'s' * (len(found) != 1)} cannot be compared"
        raise InvalidRequestError(text, field="runs", value=len(found), allowed=f"2 to {MOST_COMPARED}")
    return compared(found, history.images)


def _resolved(history: History, one: object) -> tuple[Run, Sequence[Image]]:
    if isinstance(one, Run):
        run = history.ledger.get(one.run_id) or one  # it may have been rated since
        return run, best_first(run.images)
    if isinstance(one, str):
        run = history.run(one)
        return run, best_first(run.images)
    row = _row(one)
    if not isinstance(row.get("run_id"), str):
        text = f"This is no run: {printable(repr(one), 80)}"
        raise InvalidRequestError(text, field="runs", value=one, allowed="runs, ids of runs, rows of a table")
    run = history.run(row["run_id"])
    if "index" in row and "sha256" in row:
        return run, [image for image in run.images if image.index == row["index"]]
    return run, best_first(run.images)


def _row(one: object) -> Mapping[str, Any]:
    """A row of a table as a dict: of ``iloc``, ``iterrows``, ``itertuples`` or ``to_dict``."""
    if isinstance(one, Mapping):
        return one
    made = getattr(one, "_asdict", None) or getattr(one, "to_dict", None)
    found = made() if made is not None and not isinstance(one, type) else {}
    return found if isinstance(found, Mapping) else {}


class Unchanged(Enum):
    """What is not to be changed."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED


def choose(
    session: Session,
    run_id: str,
    index: int,
    *,
    rating: int | Unchanged | None = UNCHANGED,
    starred: bool | Unchanged = UNCHANGED,
    note: str | Unchanged = UNCHANGED,
    tags: Iterable[str] | Unchanged = UNCHANGED,
) -> Run:
    """Say something of a picture; what is not given stays as it is.

    The ledger has it when this returns, and the facts beside the picture if they can be written, so that
    `%apixo doctor --rebuild` brings it back. The original is never touched.

    Parameters
    ----------
    index : int
        From 0.
    rating : int or None
        From 1 to 5; None takes it away. The run's own rating becomes that of its best picture.

    Raises
    ------
    InvalidRequestError
        A value that is not allowed, or no such run or picture. Nothing was changed.
    LedgerError
        The ledger cannot be written. Nothing was changed.
    """
    choice = _checked(rating=rating, starred=starred, note=note, tags=tags)
    run = session.run(run_id)
    known = [image.index for image in run.images]
    if isinstance(index, bool) or index not in known:
        raise _no_picture(run, index, known)
    if not choice:
        return run
    if not session.ledger.choose(run_id, int(index), **choice):
        raise _no_picture(run, index, [])
    chosen = session.run(run_id)
    session.images.rewrite_sidecar(chosen, index)
    return chosen


def _checked(**given: Any) -> dict[str, Any]:
    """What is to be changed, in the words of the ledger."""
    choice = {field: value for field, value in given.items() if value is not UNCHANGED}
    if choice.get("rating") is not None:
        choice["rating"] = whole(choice["rating"], "rating", 1, BEST)
    if not isinstance(choice.get("starred", False), bool):
        raise refusal("starred", choice["starred"], "True or False")
    labels = make_labels("", choice.get("tags", ()), choice.get("note", ""))
    texts = {"note": labels.note, "tags": labels.tags}
    return choice | {field: value for field, value in texts.items() if field in choice}


def _no_picture(run: Run, index: object, known: list[int]) -> InvalidRequestError:
    allowed = ", ".join(map(str, known)) if known else "none yet, as no picture of it has come"
    text = f"Run {printable(run.run_id, 80)} has no picture {printable(repr(index), 20)}"
    return InvalidRequestError(text, field="index", value=index, allowed=allowed)


def rate(
    run: Run | str,
    index: int = 0,
    *,
    rating: int | Unchanged | None = UNCHANGED,
    starred: bool | Unchanged = UNCHANGED,
    note: str | Unchanged = UNCHANGED,
    tags: Iterable[str] | Unchanged = UNCHANGED,
) -> Run:
    """Say something of a picture of a run (or of the run of that id), and return the run as it is now.

    What is not given stays as it is; see `choose` for what may be given, and for the errors.
    """
    run_id = run.run_id if isinstance(run, Run) else run
    return choose(current(), run_id, index, rating=rating, starred=starred, note=note, tags=tags)


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
        from apixo_nb.export.pages import write_site

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
