"""What may be asked of the ledger: a `Query`, carried out by the database, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from .errors import InvalidRequestError
from .labels import check_number, check_switch
from .run import BEST, Run
from .sqltext import Dialect, dialect_of
from .tables import images, runs
from .text import printable
from .wire import storable

_LARGEST = 2**31 - 1
_MOST_USD = 1e12  # so that a sum in micro-dollars fits any database

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

_IN_CASE = ("state", "aspect_ratio")  # APIXO's words; what people write is sorted without case


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
            check_number(getattr(self, field), field, "a sum in US dollars, 0 or more", 0.0)
        for field in ("starred", "descending"):
            if not isinstance(getattr(self, field), bool):
                raise refusal(field, getattr(self, field), "True or False")
        check_switch(self.sandbox, "sandbox")
        if self.sort not in SORTS:
            raise refusal("sort", self.sort, ", ".join(SORTS))
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


def ask(connection: sa.Connection, query: Query) -> tuple[int | None, sa.Select[Any]]:
    """How many runs a query finds, and the selection of its page; None where all of them are on it."""
    says = dialect_of(connection)
    which = sa.and_(sa.true(), *_conditions(query, says))
    page = sa.select(runs).where(which).order_by(*_order(query, says))
    if query.limit is None and not query.offset:
        return None, page
    total = connection.scalar(sa.select(sa.func.count()).select_from(runs).where(which)) or 0
    return total, page.limit(query.limit).offset(query.offset)


def facets(connection: sa.Connection, *, sandbox: bool | None) -> Facets:
    """Count what can be asked for."""
    kind = sa.true() if sandbox is None else runs.c.sandbox == sandbox
    states, names = (
        Counter({word: count for word, count in connection.execute(_counts(column, kind)) if word})
        for column in (runs.c.state, runs.c.name)
    )
    of_run: dict[str, set[str]] = {}
    for tagged, column in ((runs, runs.c.tags), (runs.join(images), images.c.tags)):
        some = kind & (sa.cast(column, sa.Text) != "[]")
        for run_id, tags in connection.execute(
            sa.select(runs.c.run_id, column).select_from(tagged).where(some)
        ):
            of_run.setdefault(run_id, set()).update(tag for tag in tags if isinstance(tag, str))
    tags = Counter(tag for some_tags in of_run.values() for tag in some_tags)
    return Facets(_ranked(states), _ranked(tags), _ranked(names))


def _counts(column: sa.Column[Any], kind: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(column, sa.func.count()).where(kind).group_by(column)


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0].casefold(), each[0]))


# --- a query as SQL ---------------------------------------------------------------------------------


def _conditions(query: Query, says: Dialect) -> Iterable[sa.ColumnElement[bool]]:
    for compare, column, value in (
        (operator.eq, runs.c.sandbox, query.sandbox),
        (operator.eq, runs.c.name, query.name or None),
        (operator.ge, runs.c.rating, query.rating_min),
        (operator.ge, runs.c.created_at, query.since),
        (operator.lt, runs.c.created_at, query.until),
        (operator.ge, runs.c.cost_micros, _micros(query.cost_min_usd)),
        (operator.le, runs.c.cost_micros, _micros(query.cost_max_usd)),
    ):
        if value is not None:
            yield compare(column, value)
    if query.states:
        yield runs.c.state.in_(query.states)
    if query.starred:
        yield _some_picture(images.c.starred.is_(True))
    for tag in query.tags:
        yield says.has(runs.c.tags, tag) | _some_picture(says.has(images.c.tags, tag))
    if words := list(dict.fromkeys(query.text.split())):
        yield says.holds(_all_text(says), words, runs)


def _some_picture(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists(sa.select(sa.literal(1)).where((images.c.run_id == runs.c.run_id) & condition))


def _all_text(says: Dialect) -> sa.ColumnElement[str]:
    """Everything that a person may remember of a run, as lines."""
    columns = ("prompt", "prompt_template", "name", "note", "run_id", "fail_code", "fail_msg")
    of_run: list[sa.ColumnElement[str]] = [runs.c[column] for column in columns]
    of_run += [sa.func.coalesce(runs.c.task_id, ""), says.lines(runs.c.tags)]
    of_picture = _lines([images.c.note, says.lines(images.c.tags)])
    pictures = sa.select(sa.func.aggregate_strings(of_picture, "\n")).where(images.c.run_id == runs.c.run_id)
    return _lines([*of_run, sa.func.coalesce(pictures.correlate(runs).scalar_subquery(), "")])


def _lines(texts: list[Any]) -> sa.ColumnElement[str]:
    joined: sa.ColumnElement[str] = sa.cast(texts[0], sa.Text)
    for text in texts[1:]:
        joined = joined.concat("\n").concat(text)
    return joined


def _order(query: Query, says: Dialect) -> list[sa.ColumnElement[Any]]:
    turn: Callable[[Any], Any] = sa.desc if query.descending else sa.asc
    key = _sort_key(query.sort, says)
    missing = sa.case((key.is_(None), 1), else_=0)
    return [missing, turn(key), turn(runs.c.created_at), turn(says.sortable(runs.c.run_id))]


def _sort_key(sort: str, says: Dialect) -> sa.ColumnElement[Any]:
    column = runs.c[{"costTime": "cost_time_ms", "cost_usd": "cost_micros"}.get(sort, sort)]
    if not isinstance(column.type, sa.Text):
        return column
    present = sa.func.nullif(column, "", type_=sa.Text)
    return says.sortable(present if sort in _IN_CASE else says.folded(present))


def _micros(usd: float | None) -> int | None:
    return None if usd is None else round(min(usd, _MOST_USD) * 1_000_000)


# --- what makes sense -------------------------------------------------------------------------------


def refusal(field: str, value: object, allowed: str) -> InvalidRequestError:
    """The error that says what a field cannot be."""
    text = f"{field} cannot be {printable(repr(value) if isinstance(value, str) else value, 80)}"
    return InvalidRequestError(text, field=field, value=value, allowed=allowed)


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


def whole(value: object, field: str, least: int, most: int) -> int:
    """A whole number between two others, numpy's too; raises InvalidRequestError for anything else."""
    allowed = f"a whole number from {least} to {most}"
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise refusal(field, value, allowed) from None
    if isinstance(value, bool) or not least <= number <= most:
        raise refusal(field, value, allowed)
    return number
