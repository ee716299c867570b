"""The filters of a table, in the words people use for them, and the `Query` that they make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias

from apixo_nb.core import checks
from apixo_nb.core.checks import refusal, whole
from apixo_nb.core.records import BEST, Run
from apixo_nb.text import storable

_LARGEST = 2**31 - 1

#: What runs can be sorted by; the names are those of the table's columns.
SORTS = (
    "created_at",
    "prompt",
    "state",
    "aspect_ratio",
    "num_images",
    "costTime",
    "cost_usd",
    "rating",
    "name",
)


@dataclass(frozen=True, slots=True)
class Query:
    """Which runs, in which order, and which page of them. What is not given asks for nothing.

    Attributes
    ----------
    text : str
        Words that must all occur, each anywhere, also within a word, in any case: in prompt, template, name,
        note, tags, run id, task id, fail code or message, or in notes and tags of the pictures.
    states, tags : tuple of str
        One of these states; all of these tags, exactly, each of the run or of a picture.
    name : str
        Exactly this name.
    rating_min : int, optional
        The best picture has this rating (1 to 5) or a higher one.
    starred : bool
        A picture has a star.
    since, until : datetime, optional
        Made at `since` or later, and before `until`; with a time zone.
    cost_min_usd, cost_max_usd : float, optional
        US dollars, both included; a run whose cost is not known fits no limit.
    sandbox : bool, optional
        Runs of the sandbox, or real ones; None for both.
    sort, descending
        One of `SORTS`. Missing values come last in both directions; equal ones by time, then by id, in the
        same direction.
    limit : int, optional
        The page: how many at most; None for all.
    offset : int
        How many before it.

    Raises
    ------
    InvalidRequestError
        A value that makes no sense.
    """

    text: str = ""
    states: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    name: str = ""
    rating_min: int | None = None
    starred: bool = False
    since: datetime | None = None
    until: datetime | None = None
    cost_min_usd: float | None = None
    cost_max_usd: float | None = None
    sandbox: bool | None = None
    sort: str = "created_at"
    descending: bool = True
    limit: int | None = 50
    offset: int = 0

    def __post_init__(self) -> None:
        checked = {
            **{field: _text(getattr(self, field), field) for field in ("text", "name")},
            **{field: _words(getattr(self, field), field) for field in ("states", "tags")},
            **{field: _time(getattr(self, field), field) for field in ("since", "until")},
            "offset": whole(self.offset, "offset", 0, _LARGEST),
        }
        if self.limit is not None:
            checked["limit"] = whole(self.limit, "limit", 0, _LARGEST)
        if self.rating_min is not None:
            checked["rating_min"] = whole(self.rating_min, "rating_min", 1, BEST)
        for field in ("cost_min_usd", "cost_max_usd"):
            checks.number(getattr(self, field), field, "a sum in US dollars, 0 or more", 0.0)
        for field in ("starred", "descending"):
            checks.switch(getattr(self, field), field)
        checks.optional_switch(self.sandbox, "sandbox")
        checks.one_of(self.sort, "sort", SORTS)
        for field, value in checked.items():
            object.__setattr__(self, field, value)


@dataclass(frozen=True, slots=True)
class Found:
    """A page of runs, and how many there are on all pages."""

    runs: list[Run]
    total: int


@dataclass(frozen=True, slots=True)
class Facets:
    """What can be asked for, each with how many runs have it; most frequent first.

    `tags` are those of runs and of their pictures.
    """

    states: list[tuple[str, int]]
    tags: list[tuple[str, int]]
    names: list[tuple[str, int]]


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise refusal(field, value, "text")
    return storable(value)


def _words(value: object, field: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise refusal(field, value, 'a list of words, e.g. ["draft"]')
    return tuple(dict.fromkeys(_text(word, field) for word in value))


def _time(value: object, field: str) -> datetime | None:
    if value is None:
        return None
    try:
        if isinstance(value, datetime) and value.utcoffset() is not None:
            return value.astimezone(UTC)
    except (OverflowError, ValueError):  # at the ends of the calendar
        pass
    raise refusal(field, value, "a datetime with a time zone")


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
        Words that must all occur; see `Query`.

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
