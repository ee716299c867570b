"""Pictures to choose from, with clicks: blind votes, and a live grid."""

from __future__ import annotations

import functools
import json
import os
import random
import secrets
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from apixo_nb.analysis import pivot, preferences
from apixo_nb.analysis.pivot import Cell, Layout, Section, lay_out, why_none
from apixo_nb.analysis.preferences import Picture
from apixo_nb.core.files import checked_target, new_file
from apixo_nb.core.formatting import sentence_html
from apixo_nb.core.process import has_widgets
from apixo_nb.core.records import OUTCOMES, Run, Vote, checked_runs, utc_now
from apixo_nb.display.cards import vote_results_html
from apixo_nb.errors import InvalidRequestError
from apixo_nb.experiments.review import Grid, bounded
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.session.session import Session, current
from apixo_nb.storage.originals import Images
from apixo_nb.text import printable

from .cards import history_row, picture
from .controller import Controller, full_prompt, review_picture, send_pictures

if TYPE_CHECKING:
    import pandas as pd


_NO_WIDGETS = (
    "Votes are cast by clicking: open the notebook in JupyterLab, Notebook 7 or Voila, and run this cell."
)
_PROMPT_SHOWN = 120
_COLUMNS = {
    "value": "str",
    **dict.fromkeys(("votes", "wins", "losses", "ties"), "int64"),
    **dict.fromkeys(("win_rate", "low", "high"), "Float64"),
}


class Ballot:
    """A ballot over the pictures of some runs. As the value of a cell it asks for votes.

    Attributes
    ----------
    by : str
        The axis whose values stand for election.
    name : str
        Which ballot it is; the votes of one name belong together.
    """

    def __init__(self, session: Session, runs: Iterable[Run], by: str, name: str) -> None:
        self.by, self.name = by, name
        self.pictures = preferences.candidates(runs)
        self._session = session
        self._controller: VoteController | None = None

    def __repr__(self) -> str:
        return f"<Ballot {self.name!r} by {self.by}: {len(self.votes())} votes, {len(self)} pairs left>"

    def __len__(self) -> int:
        """How many pairs are still to be voted on."""
        return len(self.pairs())

    def __bool__(self) -> bool:
        return True

    def _ipython_display_(self) -> None:
        if not has_widgets(get_ipython()):
            display({"text/html": sentence_html(_NO_WIDGETS), "text/plain": _NO_WIDGETS}, raw=True)
            return
        self._controller = self._controller or VoteController(self)
        self._controller._ipython_display_()

    @property
    def ledger(self) -> Ledger:
        """Where its votes are kept."""
        return self._session.ledger

    def pairs(self) -> list[tuple[Picture, Picture]]:
        """The pairs that are still to be asked for, newly drawn; see `analysis.preferences.pairs`."""
        dice = random.Random(secrets.randbits(64))  # noqa: S311 - a lot, no secret
        return preferences.pairs(self.pictures, self.by, self.votes(), dice)

    def votes(self) -> list[Vote]:
        """The votes of this ballot, oldest first; those of pictures that are not in it are left out."""
        known = {picture.key for picture in self.pictures}
        cast = self.ledger.votes(self.name)
        return [vote for vote in cast if vote.left in known and vote.right in known]

    def rows(self) -> list[dict[str, Any]]:
        """What came of it, as `analysis.preferences.results` has it."""
        return preferences.results(self.pictures, self.by, self.votes())

    def results(self) -> pd.DataFrame:
        """One row a value of the axis (the index), best first.

        ``votes``, ``wins``, ``losses``, ``ties`` are numbers; ``win_rate`` counts a tie as half a win,
        and ``low`` and ``high`` bound it with 95 % confidence; all three are missing without a vote.
        """
        from apixo_nb.analysis.frame import typed

        rows = self.rows()
        values = {column: [row[column] for row in rows] for column in _COLUMNS}
        return typed(values, _COLUMNS).set_index("value").rename_axis(self.by)

    def preferences(self, path: str | os.PathLike[str]) -> Path:
        """Write the votes that were no ties as JSON Lines, one a line; see `analysis.preferences`.

        Raises
        ------
        ApixoError
            The file cannot be written.
        """
        target = checked_target(path, "jsonl")
        found = preferences.preferences(self.pictures, self.votes())
        lines = [json.dumps(each, ensure_ascii=False) for each in found]
        with new_file(target, "preferences") as file:
            file.write("".join(f"{line}\n" for line in lines).encode("utf-8"))
        return target


class VoteController(Controller):
    """Asks for the votes of a ballot."""

    def __init__(self, ballot: Ballot) -> None:
        from .frontend import VoteWidget

        self._ballot = ballot
        self._open = ballot.pairs()
        self._turn = 0
        handlers = {
            "hello": self._hello,
            "pictures": self._with_session(functools.partial(send_pictures, self._send)),
            "vote": self._vote,
            "undo": self._undo,
            "count": self._count,
        }
        super().__init__(VoteWidget(), _NO_WIDGETS, handlers)
        self._show_pair()

    def _show_pair(self) -> None:
        self._turn += 1
        done = len(self._ballot.votes())
        pair: dict[str, Any] = {"done": done, "left": len(self._open), "turn": self._turn, "pictures": None}
        if self._open:
            sides = self._open[0]
            # Neither names nor alternative texts: the page is not to know what it shows.
            pair["pictures"] = [_blind(side) for side in sides]
            same = sides[0].run.prompt == sides[1].run.prompt
            pair["prompt"] = sides[0].run.prompt[:_PROMPT_SHOWN] if same else ""
        self._set_traits(pair=pair, facts={"id": self._id})

    def _hello(self, _request: dict[str, Any]) -> dict[str, Any]:
        self._resend_traits("facts", "pair", "results")
        return {}

    def _vote(self, request: dict[str, Any]) -> dict[str, Any]:
        """Which side is better. `turn` names the pair: a key that is pressed twice votes once."""
        outcome = request.get("outcome")
        if outcome not in OUTCOMES:
            allowed = ", ".join(OUTCOMES)
            raise InvalidRequestError("That is no vote", field="outcome", value=outcome, allowed=allowed)
        with self._lock:
            if request.get("turn") != self._turn or not self._open:
                return {}
            left, right = self._open[0]
            keys = (*left.key, *right.key)
            vote = Vote(secrets.token_hex(16), utc_now(), self._ballot.name, *keys, outcome=str(outcome))
            self._ballot.ledger.record_vote(vote)
            del self._open[0]
            self._show_pair()
        return {}

    def _undo(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Take the last vote back; its pair is the next one."""
        with self._lock:
            votes = self._ballot.votes()
            if not votes:
                return {}
            self._ballot.ledger.remove_vote(votes[-1].vote_id)
            known = {picture.key: picture for picture in self._ballot.pictures}
            self._open.insert(0, (known[votes[-1].left], known[votes[-1].right]))
            self._show_pair()
        return {}

    def _count(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Show what came of it, and leave it in the notebook."""
        by, rows = self._ballot.by, self._ballot.rows()
        self._set_traits(results={"by": by, "rows": rows})
        text = "\n".join(f"{row['value']}: {row['wins']} of {row['votes']}" for row in rows)
        self._display_lasting(
            {"text/html": vote_results_html(self._ballot.name, by, rows), "text/plain": text}
        )
        return {}


def _blind(side: Picture) -> dict[str, Any]:
    image = side.image
    size = {"width": image.width or 1, "height": image.height or 1}
    return {"run_id": side.run.run_id, "index": image.index, "file": image.file, "alt": "", **size}


def vote(runs: Any, by: str | None = None, *, name: str | None = None) -> Ballot:
    """Ask for blind votes between the pictures of runs: arrow keys choose, names are hidden.

    Parameters
    ----------
    runs : list of Run, a sweep, or anything with ``.runs``
    by : str, optional
        What stands for election: a variable of the template, or a parameter such as ``aspect_ratio``;
        default: the first in which the runs differ.
    name : str, optional
        Which ballot the votes belong to; default: one for this axis. The same name goes on where it was left.

    Raises
    ------
    InvalidRequestError
        These are no runs, they differ in nothing, or there are not two pictures to compare.
    """
    chosen = checked_runs(runs)
    differing = pivot.axis_names(chosen)
    if by is not None:
        pivot.check_axis(chosen, by)
    elif not differing:
        raise InvalidRequestError("These runs differ in nothing that could be voted on", field="by")
    axis = by or differing[0]
    if len({pivot.axis_value(picture.run, axis) for picture in preferences.candidates(chosen)}) < 2:
        raise InvalidRequestError(
            f"There are no two pictures that differ in {axis!r:.60}", field="by", value=axis
        )
    return Ballot(current(), chosen, axis, name or f"by {axis}")


# --- a live grid ------------------------------------------------------------------------------------

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
