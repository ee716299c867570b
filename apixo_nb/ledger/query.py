"""The filters of a table, in the words people use for them, as a `search.Query` without an end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias

from .search import Query, refusal

#: Since when: a moment, a day, either as ISO text, or how long ago.
Since: TypeAlias = datetime | date | timedelta | str

_ALLOWED = 'a datetime, a date, "2026-11-25", "2026-11-25 14:30" or a timedelta (the last ...)'


def query_of(
    *,
    name: str | None = None,
    tag: str | Iterable[str] | None = None,
    since: Since | None = None,
    state: str | Iterable[str] | None = None,
    text: str | None = None,
) -> Query:
    """All runs that fit, oldest first, real ones and those of the sandbox; None asks for nothing.

    Parameters
    ----------
    name : str
        Exactly this name.
    tag : str, or list of str
        All of these, each of the run or of one of its pictures.
    since : datetime, date, str or timedelta
        Made then or later. Without a time zone it is the time of this machine; a day begins at its midnight,
        and a timedelta is counted back from now.
    state : str, or list of str
        One of these.
    text : str
        Words that must all occur; see `search.Query`.

    Raises
    ------
    InvalidRequestError
        A value that makes no sense.
    """
    return Query(
        name="" if name is None else name,
        tags=_listed(tag),
        since=None if since is None else moment(since),
        states=_listed(state),
        text="" if text is None else text,
        descending=False,
        limit=None,
    )


def moment(since: object) -> datetime:
    """The time that `since` means, in UTC; raises InvalidRequestError for what is no time."""
    try:
        if isinstance(since, str):
            since = datetime.fromisoformat(since.strip())
        if isinstance(since, timedelta):
            since = datetime.now(UTC) - since
        if isinstance(since, date) and not isinstance(since, datetime):
            since = datetime(since.year, since.month, since.day)  # noqa: DTZ001 - made local in the next line
        if isinstance(since, datetime):
            # Put together anew, as a Timestamp of pandas refuses to be in the time of this machine.
            return datetime.combine(since.date(), since.timetz()).astimezone(UTC)
    except (OverflowError, ValueError, OSError):  # no time at all, or one at the ends of the calendar
        pass
    raise refusal("since", since, _ALLOWED)


def _listed(words: str | Iterable[str] | None) -> tuple[str, ...]:
    """One word or several; what is no list is left to `Query`, which refuses it."""
    if words is None:
        return ()
    return (words,) if isinstance(words, str) else words  # type: ignore[return-value]
