"""Lists of values on the line of a magic: ``oil,ink,"cut, paper"``, or ``@styles``, a list of the notebook.

A comma, an at sign or nothing at all means another thing within quotes, which `shlex` takes away: so what is
quoted is marked before, and the marks are read after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

#: For private use, so hardly on any line; those that are there are not taken.
_PRIVATE = (range(0xE000, 0xF8FF), range(0xF0000, 0xFFFFD))


@dataclass(frozen=True, slots=True)
class Listed:
    """Several values: as typed, or the name of a list of the notebook (``@name`` or ``@table.column``)."""

    texts: tuple[str, ...] = ()
    name: str = ""

    def __str__(self) -> str:
        return f"@{self.name}" if self.name else ",".join(self.texts)


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands for a comma, an at sign and an empty text that were quoted."""

    comma: str
    at: str
    empty: str

    def plain(self, text: str) -> str:
        """The text as it was typed, without its quotes."""
        return text.replace(self.comma, ",").replace(self.at, "@").replace(self.empty, "")

    def listed(self, text: str) -> Listed:
        """The list that a text is; ValueError if a value of it is missing (``a,,b``, but not ``a,"",b``)."""
        if text.startswith("@"):
            return Listed(name=self.plain(text[1:]))
        parts = text.split(",")
        if "" in parts:
            raise ValueError(self.plain(text))
        return Listed(tuple(self.plain(part) for part in parts))


def mark(line: str) -> tuple[str, Marks]:
    """The line with marks in place of what is quoted, and the marks."""
    unused = (chr(code) for code in chain(*_PRIVATE) if chr(code) not in line)
    marks = Marks(next(unused), next(unused), next(unused))
    return "".join(_marked(line, marks)), marks


def _marked(line: str, marks: Marks) -> Iterator[str]:
    """By the rules of `shlex`: a backslash quotes a character, but not within single quotes."""
    quoted = {",": marks.comma, "@": marks.at}
    quote = before = ""
    for char in line:
        if before == "\\":
            before = ""
            yield quoted.get(char, char)
            continue
        if quote and char == quote:
            if before == quote:  # nothing was in between
                yield marks.empty
            quote = before = ""
            yield char
        elif not quote and char in "'\"":
            quote = before = char
            yield char
        else:
            before = char if char == "\\" and quote != "'" else ""
            yield quoted.get(char, char) if quote else char
