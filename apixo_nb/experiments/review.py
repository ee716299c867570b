"""A person's choice among the pictures: rating, star, note and tags, in the ledger and beside the picture."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from .errors import InvalidRequestError
from .labels import make_labels
from .run import BEST, Run
from .search import refusal, whole
from .session import Session
from .text import printable


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
    session.images.rewrite_facts(chosen, index)
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
