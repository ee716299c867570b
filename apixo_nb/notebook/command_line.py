"""What a command is, how its line is read, and what it answers; the same for ``%apixo`` and ``apixo-nb``."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from apixo_nb.errors import ApixoError, InvalidRequestError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from apixo_nb.session.session import Session


class _Choices(tuple[str, ...]):
    """The choices of an argument; Python 3.11 looks for the empty list among them where nothing is given."""

    __slots__ = ()

    def __contains__(self, value: object) -> bool:
        return value == [] or super().__contains__(value)


@dataclass(frozen=True, slots=True)
class Argument:
    """A value that is known by its place on the line.

    `nargs` is as in `argparse`: None for exactly one, ``"?"`` for at most one, ``"*"`` for any number.
    """

    name: str
    help: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    nargs: Literal["?", "*"] | None = "?"
    default: str | None = None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare it to a parser."""
        parser.add_argument(
            self.name,
            nargs=self.nargs,
            default=self.default,
            choices=self.choices and _Choices(self.choices),
            metavar=self.metavar,
            help=self.help,
        )

    @property
    def words(self) -> tuple[str, ...]:
        """What can be typed for it, where that is a closed list."""
        return self.choices or ()


@dataclass(frozen=True, slots=True)
class Option:
    """A flag. It stores `value`, or the word after it where `value` is None; those of one `dest` exclude."""

    flag: str
    dest: str
    help: str
    value: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        """Declare it to a parser, or to a group of it."""
        if self.value is None:
            parser.add_argument(
                self.flag, dest=self.dest, help=self.help, choices=self.choices, metavar=self.metavar
            )
        else:
            parser.add_argument(
                self.flag, dest=self.dest, help=self.help, action="store_const", const=self.value
            )

    @property
    def words(self) -> tuple[str, ...]:
        """What can be typed for it."""
        return (self.flag,)


@dataclass(frozen=True, slots=True)
class Context:
    """Where a command runs: `refuse` ends it, with the usage of that place; `shell` is that of a notebook."""

    refuse: Callable[[str], NoReturn]
    shell: InteractiveShell | None = None

    @property
    def session(self) -> Session:
        """The session that notebooks share; made when first asked for, as not every command needs one."""
        from apixo_nb.session.session import current

        return current()


@dataclass(frozen=True, slots=True)
class Message:
    """What a command answers, in lines; `path` is what it wrote, and not `ok` where something is wrong."""

    lines: Sequence[str]
    path: Path | None = None
    ok: bool = True


def say(*lines: str) -> None:
    """Print for a person."""
    print("\n".join(lines))  # noqa: T201 - what the magics say


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Parameters
    ----------
    name, help : str
        The word, and one line that says what it does.
    run : callable
        Gets the arguments and the context. It returns lines of text, a `Message`, a table or widget, or None.
    arguments : tuple of Argument and Option
    epilog : str
        What stands below the help of the command.
    problem : str
        A line that cannot be used, in a notebook; ``{}`` is that line.
    allowed : str
        What may stand on it.
    refusal : callable, optional
        Makes the error from the words, where `problem` does not fit.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace, Context], Any]
    arguments: tuple[Argument | Option, ...] = ()
    epilog: str | None = None
    problem: str = ""
    allowed: str = ""
    refusal: Callable[[Sequence[str]], ApixoError] | None = None

    @property
    def description(self) -> str:
        """Its help as a sentence."""
        return f"{self.help[0].upper()}{self.help[1:]}."

    @property
    def words(self) -> list[str]:
        """The words that can follow its name, for completion."""
        return [word for argument in self.arguments for word in argument.words]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare what it takes to a parser."""
        groups: dict[str, argparse._MutuallyExclusiveGroup] = {}
        for argument in self.arguments:
            if isinstance(argument, Option):
                if argument.dest not in groups:
                    groups[argument.dest] = parser.add_mutually_exclusive_group()
                argument.add_to(groups[argument.dest])
            else:
                argument.add_to(parser)

    def refused(self, words: Sequence[str]) -> ApixoError:
        """The error of a line of ``%apixo`` that cannot be used."""
        if self.refusal is not None:
            return self.refusal(words)
        given = " ".join(words)
        nothing = f"%apixo {self.name} takes nothing after it, not {{!r:.60}}"
        problem = self.problem or (f"%apixo {self.name} cannot be {{!r:.60}}" if self.arguments else nothing)
        return InvalidRequestError(problem.format(given), field=self.name, value=given, allowed=self.allowed)


class LineParser(argparse.ArgumentParser):
    """Reads the words after ``%apixo COMMAND``; raises our error in place of printing usage and exiting."""

    def __init__(self, command: Command, words: Sequence[str] = ()) -> None:
        super().__init__(
            f"%apixo {command.name}",
            description=command.description,
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self._command, self._words = command, words
        command.add_arguments(self)

    def error(self, _message: str) -> NoReturn:
        """Name the line and what is allowed, in place of what argparse says of it."""
        raise self._command.refused(self._words)


def split_words(line: str, *, posix: bool = os.name == "posix") -> list[str]:
    """The words of a line. What stands in quotes is one word; on Windows a backslash is a part of it."""
    try:
        words = shlex.split(line, posix=posix)
    except ValueError:  # an open quote stays what it is
        return line.split()
    return words if posix else [_unquoted(word) for word in words]


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word
