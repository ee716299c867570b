"""The index of texts: what a search reads in place of every row. On SQLite; PostgreSQL reads the rows.

It only says where to look, and may always be behind: `tables.unsearched` knows the runs whose texts are new
or have changed, and those are searched row by row. A search takes them into the index, a part at a time; so
buying a picture never waits for the index, and an SQLite that is too old for it searches as well, but slower.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from functools import cache
from typing import Any

import sqlalchemy as sa

from .database import Database
from .errors import LedgerError
from .sqltext import Dialect, dialect_of
from .tables import RUN_TEXTS, images, runs, unsearched

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
