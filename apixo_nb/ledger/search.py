"""What may be asked of the ledger: a `Query`, carried out by the database, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from . import lookup, rows
from .database import Database
from .errors import InvalidRequestError, LedgerError
from .labels import check_number, check_switch
from .lines import Line
from .run import BEST, Run
from .sqltext import Dialect, dialect_of, words_in
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


def page(database: Database, query: Query) -> Found:
    """The runs that a query asks for, and how many there are in all."""
    total, ids = _ids(database, query)
    return Found(list(_in_order(database, ids)), total)


def each(database: Database, query: Query) -> Iterator[Run]:
    """As `page`, one by one, for large tables: no lock is held meanwhile, and no record is kept."""
    return _in_order(database, _ids(database, query)[1])


def lines(database: Database, query: Query, *, pictures: bool) -> Iterator[Line]:
    """As `each`, for a table; with the pictures, or the names of their files only."""
    for part in rows.parts(_ids(database, query)[1]):
        with database.reading() as connection:
            found = rows.read_lines(connection, part, pictures=pictures)
        yield from found


def _ids(database: Database, query: Query) -> tuple[int, Sequence[str]]:
    """How many runs a query finds, and the ids of those on its page, in order."""
    if not query.text.split():
        with database.reading() as connection:
            return _ids_within(connection, query, indexed=False)
    database.check_still_there()  # said to the person, and not taken for a flaw of the index
    lookup.refresh(database)
    try:
        with database.reading() as connection:
            return _ids_within(connection, query, indexed=lookup.is_there(connection))
    except LedgerError as error:
        with database.reading() as connection:  # if it is only the index that is damaged, the rows answer
            found = _ids_within(connection, query, indexed=False)
        if error.damaged:
            lookup.forget(database)
        return found


def _ids_within(connection: sa.Connection, query: Query, *, indexed: bool) -> tuple[int, Sequence[str]]:
    says = dialect_of(connection)
    which = sa.and_(sa.true(), *_conditions(query, says, indexed=indexed))
    ids = sa.select(runs.c.run_id).where(which).order_by(*_order(query, says))
    if query.limit is None and not query.offset:
        found = connection.scalars(ids).all()
        return len(found), found
    part = ids.limit(query.limit).offset(query.offset)
    if query.text:  # what finds the rows is the work, so it is done once
        rows_found = connection.execute(part.add_columns(sa.func.count().over())).all()
        if rows_found:
            return rows_found[0][1], [row[0] for row in rows_found]
    total = connection.scalar(sa.select(sa.func.count()).select_from(runs).where(which)) or 0
    return total, connection.scalars(part).all() if total > query.offset else ()


def _in_order(database: Database, ids: Sequence[str]) -> Iterator[Run]:
    for part in rows.parts(ids):
        with database.reading() as connection:
            found = rows.read_runs(connection, sa.select(runs).where(runs.c.run_id.in_(part)))
        known = {run.run_id: run for run in found}
        yield from (known[run_id] for run_id in part if run_id in known)


def facets(connection: sa.Connection, *, sandbox: bool | None) -> Facets:
    """Count what can be asked for."""
    kind = sa.true() if sandbox is None else runs.c.sandbox == sandbox
    states, names, tags = Counter[str](), Counter[str](), Counter[str]()
    # In one go, as it reads all rows; few have each their own name and tags.
    alike = (runs.c.state, runs.c.name, sa.cast(runs.c.tags, sa.Text))
    for state, name, said, count in connection.execute(
        sa.select(*alike, sa.func.count()).where(kind).group_by(*alike)
    ):
        states[state] += count
        names[name] += count
        tags.update(dict.fromkeys(words_in(said), count))
    tags.update(tag for own in _of_pictures(connection, kind).values() for tag in own)
    del states[""], names[""]  # no state and no name are nothing to ask for
    return Facets(_ranked(states), _ranked(tags), _ranked(names))


def _of_pictures(connection: sa.Connection, kind: sa.ColumnElement[bool]) -> dict[str, set[str]]:
    """By run, the tags that its pictures have and it has not itself."""
    of_run, of_picture = (sa.cast(table.c.tags, sa.Text) for table in (runs, images))
    tagged = sa.select(runs.c.run_id, of_run, of_picture).select_from(runs.join(images))
    found: dict[str, set[str]] = {}
    for run_id, known, own in connection.execute(tagged.where(kind & (of_picture != "[]"))):
        found.setdefault(run_id, set()).update({*words_in(own)} - {*words_in(known)})
    return found


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0].casefold(), each[0]))


# --- a query as SQL ---------------------------------------------------------------------------------


def _conditions(query: Query, says: Dialect, *, indexed: bool) -> Iterable[sa.ColumnElement[bool]]:
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
        yield lookup.holds(says, words, indexed=indexed)


def _some_picture(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists(sa.select(sa.literal(1)).where((images.c.run_id == runs.c.run_id) & condition))


def _order(query: Query, says: Dialect) -> list[sa.ColumnElement[Any]]:
    turn: Callable[[Any], Any] = sa.desc if query.descending else sa.asc
    by_time = [turn(runs.c.created_at), turn(says.sortable(runs.c.run_id))]
    if query.sort == "created_at":  # never missing; as plain as this, an index has them in order
        return by_time
    key = _sort_key(query.sort, says)
    return [sa.case((key.is_(None), 1), else_=0), turn(key), *by_time]


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
