"""The database under the ledger: how it is opened, locked and upgraded, and what its errors mean.

On SQLite: a rollback journal (TRUNCATE), because people copy ``ledger.db`` while a kernel runs and keep it on
network homes, where a write-ahead log loses rows; ``synchronous=FULL``; and every write transaction begins
IMMEDIATE, as a deferred one fails at once, without waiting, when two kernels write.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from pydantic_core import from_json
from sqlalchemy import event

from apixo_nb.core.records import SCHEMA_VERSION
from apixo_nb.errors import LedgerError
from apixo_nb.text import printable

from . import schema

_BUSY_MS = 10_000  # how long a write waits for another kernel's
_LOCK = 0x41_70_69_78_6F  # the number of our advisory lock on PostgreSQL: "Apixo"
_CHECKED_BYTES = 64_000_000  # a file up to this size is looked through for damage when it is opened


class Database:
    """Transactions on an SQLite file or on the database of an SQLAlchemy URL.

    Attributes
    ----------
    shown_place : str
        Where it is, without a password.
    file : Path or None
        The SQLite file, if it is one of ours.
    """

    def __init__(self, place: Path | str) -> None:
        self.file = place if isinstance(place, Path) else None
        self.shown_place = str(place) if isinstance(place, Path) else _without_password(place)
        self._identity: tuple[int, int] | None = None
        self._newer: str | None = None
        try:
            with self._explained():
                self._engine = _engine(place)
            self._prepare()
        except (ImportError, ValueError) as error:  # no driver for such a URL; a port that is no number
            step = f"{_URL_RULE}, whose driver is installed. Nothing was sent."
            text = f"The ledger {self.shown_place} cannot be used: {type(error).__name__}"
            raise LedgerError(text, next_step=step) from None
        except OSError as error:
            raise LedgerError(
                f"The folder of the ledger {self.shown_place} cannot be made: {error.strerror}",
                next_step="Set APIXO_HOME to a folder you may write to. Nothing was sent.",
            ) from None

    @property
    def read_only(self) -> bool:
        """Whether a newer version has written it, so that this one must not."""
        return self._newer is not None

    def close(self) -> None:
        """Let go of it."""
        self._engine.dispose()

    @property
    def identity(self) -> object:
        """What changes when another file is put in its place."""
        return self._identity

    @property
    def is_sqlite(self) -> bool:
        """Whether it is one of SQLite's."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def writing(self, patience_ms: int | None = None) -> Iterator[sa.Connection]:
        """A transaction that writes, alone: no other kernel's is in it, on no database.

        `patience_ms`: how long it waits for another kernel's, where that is not as long as usual.
        """
        if self._newer is not None:
            raise _too_new(self._newer)
        self.check_still_there()  # before SQLite makes an empty file in its place
        engine = self._engine.execution_options(apixo_patience_ms=patience_ms)
        with self._explained(), engine.begin() as connection:
            self.check_still_there()
            if connection.dialect.name == "postgresql":  # on SQLite, BEGIN IMMEDIATE has done so already
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {patience_ms or _BUSY_MS:d}")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads, and holds up nobody."""
        self.check_still_there()
        reader = self._engine.execution_options(apixo_reading=True)
        with self._explained(), reader.begin() as connection:
            yield connection

    def _prepare(self) -> None:
        try:
            if not self._is_current():
                with self.writing() as connection:
                    self._newer = _upgrade(connection)
            if self.file is not None:
                self._identity = _identity(self.file)
                self._look_through()
        except BaseException:
            self.close()
            raise

    def _is_current(self) -> bool:
        """Whether it needs no upgrade; so that a ledger on a read-only folder can still be read."""
        with self.reading() as connection:
            if not sa.inspect(connection).has_table(schema.meta.name):
                return False
            self._newer = newer = _newer_version(connection)
            return newer is not None or _version(connection) == SCHEMA_VERSION

    def _look_through(self) -> None:
        if self.file is None or self.file.stat().st_size > _CHECKED_BYTES:
            return
        with self.reading() as connection:
            found = next((each for name in _own(connection) if (each := _checked(connection, name))), "")
        if found:
            text = f"The ledger {self.shown_place} is damaged: {printable(found)}"
            raise LedgerError(text, damaged=True, next_step=REBUILD_STEP)

    def check_still_there(self) -> None:
        """An SQLite file that was removed still takes rows, and they are gone with the process."""
        if self.file is None or self._identity is None:
            return
        now = _identity(self.file)
        if now == self._identity:
            return
        gone = now is None
        self._engine.dispose()
        if not gone:
            self._identity = now  # the next transaction opens the file that is there now
        raise LedgerError(
            f"The ledger {self.shown_place} was {'removed' if gone else 'replaced'} while it was in use",
            next_step="Put it back, or restart the kernel to begin a new one. Nothing was sent.",
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            raise _explain(error, self.shown_place) from None


def _own(connection: sa.Connection) -> list[str]:
    """The tables that matter: not those of the index of texts, which is made anew if it is damaged."""
    ours = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'texts%'"
    return [str(name) for name in connection.exec_driver_sql(ours).scalars()]


def _checked(connection: sa.Connection, table: str) -> str:
    """What is wrong with a table and its indexes, or ""."""
    quoted = table.replace("'", "''")  # before SQLite 3.33 the name says nothing, and all is checked
    found = connection.exec_driver_sql(f"PRAGMA quick_check('{quoted}')").scalar()
    return "" if found == "ok" else str(found)


def _engine(place: Path | str) -> sa.Engine:
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        url = sa.URL.create("sqlite", database=str(place))
    else:
        url = sa.make_url(place)
    # A server may have restarted since, so it is asked first.
    engine = sa.create_engine(url, pool_pre_ping=True, json_deserializer=_from_json)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _from_json(text: str | bytes) -> Any:
    """As `json.loads`, which takes several times as long; a large table has a million such texts."""
    try:
        return from_json(text)
    except ValueError:  # halves of surrogates, odd depths: the slow one may know better
        return json.loads(text)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - with its device
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver shall not begin transactions; _begin_sqlite does
    for pragma in (
        f"busy_timeout={_BUSY_MS}",
        "journal_mode=TRUNCATE",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
    teach(connection)


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("apixo_reading"):
        connection.exec_driver_sql("BEGIN")
        return
    patience_ms = options.get("apixo_patience_ms")
    if patience_ms is None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    connection.exec_driver_sql(f"PRAGMA busy_timeout={patience_ms:d}").close()
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_MS}").close()


# --- versions ---------------------------------------------------------------------------------------


def _upgrade(connection: sa.Connection) -> str | None:
    """Make a new ledger, or bring an older one to this version, in one transaction; a newer one's version."""
    fresh = not sa.inspect(connection).has_table(schema.runs.name)
    if not fresh and (newer := _newer_version(connection)) is not None:
        return newer
    found = SCHEMA_VERSION if fresh else _version(connection)
    if fresh and connection.dialect.name == "sqlite" and sa.inspect(connection).get_table_names():
        text = f"The ledger {connection.engine.url.database} is a database of something else"
        raise LedgerError(text, damaged=True, next_step=REBUILD_STEP)
    schema.metadata.create_all(connection)
    if fresh:
        schema.watch_texts(connection)
        schema.hold_states(connection)
    for migration in schema.MIGRATIONS:
        if migration.version > found:
            migration.carry_out(connection)
            done = {"version": migration.version, "name": migration.name, "applied_at": datetime.now(UTC)}
            connection.execute(schema.migrations.insert().values(**done))
    version = schema.meta.c.key == "schema_version"
    connection.execute(schema.meta.delete().where(version))
    connection.execute(schema.meta.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))
    return None


def _version(connection: sa.Connection) -> int:
    found = connection.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.key == "schema_version"))
    if found is None or not found.isdecimal():
        raise LedgerError(
            f"The ledger's schema version is {printable(repr(found), 40)}, which is none",
            next_step="It is damaged, or no ledger: set APIXO_HOME to another folder. Nothing was sent.",
        )
    return int(found)


def _newer_version(connection: sa.Connection) -> str | None:
    version = _version(connection)
    return str(version) if version > SCHEMA_VERSION else None


def _too_new(version: str) -> LedgerError:
    return LedgerError(
        f"The ledger was written by a newer apixo_nb (its schema is {version}, ours is {SCHEMA_VERSION})",
        next_step="It can be read only. Update apixo_nb, or set APIXO_HOME to another folder. "
        "Nothing was sent.",
    )


# --- errors -----------------------------------------------------------------------------------------

REBUILD_STEP = (
    "Nothing was sent. `%apixo doctor --rebuild` sets it aside, never deletes it, and makes a new one from "
    "what can still be read and from the facts beside your pictures."
)
_ELSEWHERE = "Set APIXO_HOME, or APIXO_LEDGER if that is set, to a folder you may write to."
_URL_RULE = "APIXO_LEDGER takes an SQLAlchemy URL such as sqlite:////folder/ledger.db"
_CAUSES = (
    ("lock", "another program keeps it locked", "Close the program that holds it, then try again."),
    ("readonly", "it is read-only", _ELSEWHERE),
    ("unable to open", "it cannot be opened", _ELSEWHERE),
    ("full", "the disk is full", "Make room, then try again."),
    ("disk i/o", "the disk reports an error", "Check the disk and the room on it, then try again."),
    ("not a database", "it is not a ledger, or is damaged", REBUILD_STEP),
    ("malformed", "it is damaged", REBUILD_STEP),
)


def _explain(error: Exception, place: str) -> LedgerError:
    text_of_error = str(getattr(error, "orig", None) or error)
    for mark, cause, step in _CAUSES:
        if mark in text_of_error.casefold():
            text = f"The ledger {place} cannot be used: {cause}"
            return LedgerError(text, damaged=step is REBUILD_STEP, next_step=step)
    text = f"The ledger {place} cannot be used: {type(error).__name__}: {printable(text_of_error, 160)}"
    if isinstance(error, sa.exc.ArgumentError):  # also: no such module
        return LedgerError(text, next_step=f"{_URL_RULE}. Nothing was sent.")
    return LedgerError(text, next_step="Check APIXO_LEDGER and its database. Nothing more was sent.")


def _without_password(place: str) -> str:
    try:
        return sa.make_url(place).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):
        return "at the address given"


Text = sa.ColumnElement[str]
Truth = sa.ColumnElement[bool]

_ICU = "und-x-icu"


class Dialect(Protocol):
    """How a database says it."""

    def folded(self, text: Text) -> Text:
        """Without case: É as é, ẞ and ß as ss."""
        ...

    def sortable(self, text: Text) -> Text:
        """In the order of code points, whatever the locale."""
        ...

    def lines(self, words: sa.Column[Any]) -> Text:
        """A JSON list of words as text, one a line."""
        ...

    def has(self, words: sa.Column[Any], word: str) -> Truth:
        """Whether a JSON list holds exactly this word."""
        ...

    def holds(self, text: Text, words: list[str], of: sa.FromClause) -> Truth:
        """Whether all words stand in a text of a row, in any case; no word has a line end in it."""
        ...


def dialect_of(connection: sa.Connection) -> Dialect:
    """The one of a database; may ask it what it knows."""
    if connection.dialect.name == "sqlite":
        return _Sqlite()
    known = sa.text(
        "SELECT getdatabaseencoding() = 'UTF8' AND EXISTS (SELECT 1 FROM pg_collation WHERE collname = :name)"
    )
    return _Postgres(icu=bool(connection.scalar(known, {"name": _ICU})))


class _Sqlite:
    def folded(self, text: Text) -> Text:
        return sa.func.casefold(text, type_=sa.Text)

    def sortable(self, text: Text) -> Text:
        return text

    def lines(self, words: sa.Column[Any]) -> Text:
        return sa.func.list_lines(words, type_=sa.Text)

    def has(self, words: sa.Column[Any], word: str) -> Truth:
        return sa.func.list_has(words, sa.literal(word, sa.Text), type_=sa.Boolean)

    def holds(self, text: Text, words: list[str], of: sa.FromClause) -> Truth:  # noqa: ARG002 - as the protocol
        folded = sa.literal("\n".join(words).casefold(), sa.Text)
        return sa.func.holds_lines(self.folded(text), folded, type_=sa.Boolean)


class _Postgres:
    def __init__(self, *, icu: bool) -> None:
        self._icu = icu

    def folded(self, text: Text) -> Text:
        if not self._icu:  # a server built without it: as far as its locale goes
            return sa.func.lower(text)
        # Down, up and down again: ẞ is ß, ß is SS, and SS is ss. A final sigma is a sigma.
        lower = sa.func.lower(sa.func.upper(sa.func.lower(sa.collate(text, _ICU))))
        return sa.func.translate(lower, "\u03c2", "\u03c3")

    def sortable(self, text: Text) -> Text:
        return sa.collate(text, "C")

    def lines(self, words: sa.Column[Any]) -> Text:
        each = self._each(words)
        return sa.select(sa.func.coalesce(sa.func.string_agg(each, "\n"), "")).scalar_subquery()

    def has(self, words: sa.Column[Any], word: str) -> Truth:
        each = self._each(words)
        return sa.exists(sa.select(sa.literal(1)).where(each == word))

    def _each(self, words: sa.Column[Any]) -> Text:
        return sa.func.json_array_elements_text(words, type_=sa.Text).column_valued(f"each_of_{words.table}")

    def holds(self, text: Text, words: list[str], of: sa.FromClause) -> Truth:
        folded = self.folded(sa.literal("\n".join(words), sa.Text))
        lines = sa.func.string_to_array(folded, "\n")
        each = sa.func.unnest(lines, type_=sa.Text).table_valued("word", name="words").render_derived()
        # The offset keeps the server from folding the text again for each word.
        once = sa.select(self.folded(text).label("text")).correlate(of).offset(0).subquery("folded")
        absent = sa.select(sa.literal(1)).select_from(once.join(each, sa.true()))
        absent = absent.where(sa.func.strpos(once.c.text, each.c.word) == 0)
        return ~sa.exists(absent)


def teach(connection: Any) -> None:
    """Give an SQLite connection the functions of `_Sqlite`."""
    functions = (_casefold, _list_lines, _list_has, _holds_lines)
    for function in functions:
        count = function.__code__.co_argcount
        connection.create_function(function.__name__[1:], count, function, deterministic=True)


def _casefold(text: object) -> str | None:
    return None if text is None else str(text).casefold()


def _list_lines(words: object) -> str:
    return "\n".join(words_in(words))


def _list_has(words: object, word: str) -> bool:
    return word in words_in(words)


def _holds_lines(text: str, words: str) -> bool:
    return all(word in text for word in words.split("\n"))


def words_in(words: object) -> list[str]:
    """What the text of a list column holds; nothing if somebody has put something else there."""
    if words == "[]":  # most are, and a search asks for each
        return []
    try:
        found = json.loads(str(words))
    except (ValueError, RecursionError):
        return []
    return [word for word in found if isinstance(word, str)] if isinstance(found, list) else []
