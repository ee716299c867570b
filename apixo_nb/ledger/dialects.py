"""Text in SQL: case, words and lists of words, asked of SQLite and of PostgreSQL with the same answer.

SQLite knows only the case of ASCII and reads no JSON in older builds, so it is taught some functions of
Python's. PostgreSQL has them all; its ICU collation knows the case of every script, whatever the locale of
the server.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import sqlalchemy as sa

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
