"""A person's review of pictures: rating, star, note and tags, in the ledger and in the sidecar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final

from apixo_nb.core.checks import refusal, whole
from apixo_nb.core.formatting import HtmlResult
from apixo_nb.core.records import BEST, Image, Run
from apixo_nb.core.request import make_labels
from apixo_nb.display.cards import best_first
from apixo_nb.display.comparison import MOST_COMPARED, compared
from apixo_nb.errors import InvalidRequestError
from apixo_nb.session.history import History
from apixo_nb.session.session import Session, current
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


class Keep(Enum):
    """What is not to be changed."""

    KEEP = "keep"

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final = Keep.KEEP


def choose(
    session: Session,
    run_id: str,
    index: int,
    *,
    rating: int | Keep | None = KEEP,
    starred: bool | Keep = KEEP,
    note: str | Keep = KEEP,
    tags: Iterable[str] | Keep = KEEP,
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
    choice = {field: value for field, value in given.items() if value is not KEEP}
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
    rating: int | Keep | None = KEEP,
    starred: bool | Keep = KEEP,
    note: str | Keep = KEEP,
    tags: Iterable[str] | Keep = KEEP,
) -> Run:
    """Say something of a picture of a run (or of the run of that id), and return the run as it is now.

    What is not given stays as it is; see `choose` for what may be given, and for the errors.
    """
    run_id = run.run_id if isinstance(run, Run) else run
    return choose(current(), run_id, index, rating=rating, starred=starred, note=note, tags=tags)
