"""What may be asked of the ledger: a `Query`, carried out by the database, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import operator
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from typing import Any

import sqlalchemy as sa

from apixo_nb.core.records import HistoryRow, Run
from apixo_nb.errors import LedgerError
from apixo_nb.text import to_micros

from . import rows
from .database import Database, Dialect, dialect_of, words_in
from .query import Facets, Found, Query
from .schema import RUN_TEXTS, images, runs, unsearched

_FEW = 200  # texts that are read from their rows as fast as taken in
_PART = 500  # how many are taken in while others wait
_PATIENCE_MS = 50  # another kernel that writes goes first
_AT_MOST_S = 1.0  # what a search gives to the index; the next one goes on
_LETTERS = 3  # the index knows each three letters in a row
_MOST_PARTS = 32  # of the words; more would not find less

# What is searched of each run, without case, and the index of it. Made when first needed.
_texts = sa.table("texts", sa.column("id"), sa.column("run_id"), sa.column("text", sa.Text))
_index = sa.table("texts_index", sa.column("rowid"), sa.column("texts_index"), sa.column("text"))
_MAKE = (
    "CREATE TABLE texts (id INTEGER PRIMARY KEY, run_id VARCHAR(64) NOT NULL UNIQUE, text TEXT NOT NULL)",
    """CREATE VIRTUAL TABLE texts_index USING fts5(text, content='texts', content_rowid='id',
        tokenize='trigram case_sensitive 1', detail=none)""",
)


@cache
def is_known() -> bool:
    """Whether the SQLite of this Python has such an index: FTS5 with trigrams, from 3.34 on."""
    with closing(sqlite3.connect(":memory:")) as connection, suppress(sqlite3.Error):
        connection.execute("CREATE VIRTUAL TABLE t USING fts5(text, tokenize='trigram', detail=none)")
        return True
    return False


def is_there(connection: sa.Connection) -> bool:
    """Whether a ledger has it, and this Python can read it."""
    if connection.dialect.name != "sqlite" or not is_known():
        return False
    both = "SELECT count(*) FROM sqlite_master WHERE name IN ('texts_index', 'unsearched')"
    return connection.exec_driver_sql(both).scalar() == 2


def refresh(database: Database) -> None:
    """Take new texts into the index, for a second at most. Nothing is wrong where that cannot be done."""
    if database.read_only or not database.is_sqlite or not is_known():
        return
    until = time.monotonic() + _AT_MOST_S
    try:
        while _are_many(database):
            with database.writing(_PATIENCE_MS) as connection:
                _take_in(connection)
            if time.monotonic() > until:
                return
    except LedgerError as error:
        if error.damaged:
            forget(database)


def forget(database: Database) -> None:
    """Drop a damaged index: the next searches make it anew. Nothing is wrong if that fails too."""
    with suppress(LedgerError), database.writing(_PATIENCE_MS) as connection:
        for name in ("texts_index", "texts"):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")
        waiting = sa.select(unsearched.c.run_id)
        rest = sa.select(runs.c.run_id).where(runs.c.run_id.not_in(waiting))
        connection.execute(unsearched.insert().from_select(["run_id"], rest))


def _are_many(database: Database) -> bool:
    some = sa.select(unsearched.c.run_id).limit(_FEW + 1).subquery()
    with database.reading() as connection:
        return (connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0) > _FEW


def _take_in(connection: sa.Connection) -> None:
    if not is_there(connection):
        for step in _MAKE:
            connection.exec_driver_sql(step)
    ids = connection.scalars(sa.select(unsearched.c.run_id).limit(_PART)).all()
    these = _texts.c.run_id.in_(ids)
    # The index forgets a text only if it is told what that was.
    old = sa.select(sa.literal("delete"), _texts.c.id, _texts.c.text).where(these)
    connection.execute(_index.insert().from_select(["texts_index", "rowid", "text"], old))
    connection.execute(_texts.delete().where(these))
    says = dialect_of(connection)
    folded = says.folded(_all_text(says, runs))
    new = sa.select(runs.c.run_id, folded).where(runs.c.run_id.in_(ids))
    connection.execute(_texts.insert().from_select(["run_id", "text"], new))
    added = sa.select(_texts.c.id, _texts.c.text).where(these)
    connection.execute(_index.insert().from_select(["rowid", "text"], added))
    connection.execute(unsearched.delete().where(unsearched.c.run_id.in_(ids)))


# --- a search ---------------------------------------------------------------------------------------


def holds(says: Dialect, words: list[str], *, indexed: bool) -> sa.ColumnElement[bool]:
    """Whether all words stand somewhere in the texts of a run, in any case.

    `indexed`: the ledger has the index, see `is_there`.
    """
    if not indexed:
        return says.holds(_all_text(says, runs), words, runs)
    rest = runs.alias("rest")
    waiting = sa.select(unsearched.c.run_id)
    by_row = says.holds(_all_text(says, rest), words, rest)
    unindexed = sa.select(rest.c.run_id).where(rest.c.run_id.in_(waiting) & by_row)
    return runs.c.run_id.in_(sa.union_all(_looked_up(says, words, waiting), unindexed))


def _looked_up(says: Dialect, words: list[str], waiting: sa.Select[Any]) -> sa.Select[Any]:
    folded = "\n".join(words).casefold().split("\n")
    found = sa.select(_texts.c.run_id).where(_texts.c.run_id.not_in(waiting))
    if parts := _parts(folded):
        match = _index.c.texts_index.op("MATCH")(" ".join(parts))
        found = found.where(_texts.c.id.in_(sa.select(_index.c.rowid).where(match)))
    # The parts may stand apart, and a word of one or two letters has none: so the text is looked at.
    found = found.where(sa.func.instr(_texts.c.text, max(folded, key=len)) > 0)
    return found if len(folded) == 1 else found.where(says.holds(_texts.c.text, words, runs))


def _parts(words: list[str]) -> list[str]:
    """Three letters each, quoted: enough of the words to find nearly only what holds them."""
    found = [
        word[min(at, len(word) - _LETTERS) :][:_LETTERS]
        for word in words
        if len(word) >= _LETTERS
        for at in range(0, len(word), _LETTERS)
    ]
    return ['"' + part.replace('"', '""') + '"' for part in dict.fromkeys(found)][:_MOST_PARTS]


def _all_text(says: Dialect, of: Any) -> sa.ColumnElement[str]:
    """Everything that a person may remember of a run, as lines."""
    of_run = {name: of.c[name] for name in RUN_TEXTS}
    of_run |= {"task_id": sa.func.coalesce(of.c.task_id, ""), "tags": says.lines(of.c.tags)}
    of_picture = _lines([images.c.note, says.lines(images.c.tags)])
    pictures = sa.select(sa.func.aggregate_strings(of_picture, "\n")).where(images.c.run_id == of.c.run_id)
    return _lines([*of_run.values(), sa.func.coalesce(pictures.correlate(of).scalar_subquery(), "")])


def _lines(texts: list[Any]) -> sa.ColumnElement[str]:
    joined: sa.ColumnElement[str] = sa.cast(texts[0], sa.Text)
    for text in texts[1:]:
        joined = joined.concat("\n").concat(text)
    return joined


_IN_CASE = ("state", "aspect_ratio")  # APIXO's words; what people write is sorted without case


def page(database: Database, query: Query) -> Found:
    """The runs that a query asks for, and how many there are in all."""
    total, ids = _ids(database, query)
    return Found(list(_in_order(database, ids)), total)


def each(database: Database, query: Query) -> Iterator[Run]:
    """As `page`, one by one, for large tables: no lock is held meanwhile, and no record is kept."""
    return _in_order(database, _ids(database, query)[1])


def lines(database: Database, query: Query, *, pictures: bool) -> Iterator[HistoryRow]:
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
    refresh(database)
    try:
        with database.reading() as connection:
            return _ids_within(connection, query, indexed=is_there(connection))
    except LedgerError as error:
        with database.reading() as connection:  # if it is only the index that is damaged, the rows answer
            found = _ids_within(connection, query, indexed=False)
        if error.damaged:
            forget(database)
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
    for state, name, words, count in connection.execute(
        sa.select(*alike, sa.func.count()).where(kind).group_by(*alike)
    ):
        states[state] += count
        names[name] += count
        tags.update(dict.fromkeys(words_in(words), count))
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
        yield holds(says, words, indexed=indexed)


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
    return None if usd is None else to_micros(usd)
