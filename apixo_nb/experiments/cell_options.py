"""The options of ``%%apixo``: the source of parser, help and completion.

The choices of a model come from its spec, so a new model or a new ratio needs no change here.
"""

from __future__ import annotations

import argparse
import builtins
import difflib
import keyword
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NoReturn

from apixo_nb.core import checks
from apixo_nb.core.models import DEFAULT_MODEL, MODELS, Parameter, Value
from apixo_nb.errors import InvalidRequestError

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

    def listed(self, text: str, what: str) -> Listed:
        """The list that a text is; raises as `values` does."""
        return Listed(name=self.plain(text[1:])) if text.startswith("@") else self.values(text, what)

    def values(self, text: str, what: str) -> Listed:
        """The values between the commas of a text.

        Raises
        ------
        InvalidRequestError
            One is missing (``a,,b``, but not ``a,"",b``). `what` names the option.
        """
        parts = text.split(",")
        if "" in parts:
            rule = "No blank follows a comma; a value with blanks or commas needs quotes"
            plain = self.plain(text)
            raise InvalidRequestError(
                f"A value of {what} is missing: {plain!r:.80}",
                field=what,
                value=plain,
                next_step=f'{rule}, and an empty one is "".',
            )
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


#: Options that the design names and that are still to come; each says so in its own words.
NOT_YET = {
    "--callback": "Polling works everywhere; the Python client takes request_type='callback'.",
}

#: Draws of one request that can be asked for at once: a slip of the hand shall not buy thousands.
MOST_DRAWS = 100

EXAMPLES = """\
examples:
  %%apixo                              one square picture
  %%apixo --ar 3:2 -n 2 -o cafes       two wide ones, bound to the variable cafes
  %%apixo --dry-run                    show the request and its cost, send nothing
  %%apixo --set style=oil,"cut paper" --ar 1:1,3:2 --repeat 3
                                       a sweep: all combinations, three draws of each
  %%apixo --ref https://example.com/a.png

The cell below is the prompt. {name} is filled from the notebook's variables ({{ and }} are
braces, --raw turns this off). A line that holds only --- parts several prompts."""


@dataclass(frozen=True, slots=True)
class Options:
    """One ``%%apixo`` line, read.

    `parameters` holds what was given of the model's own as one value, and `lists` as several; `sets` holds
    the values of variables of the template.
    """

    model: str = DEFAULT_MODEL
    parameters: dict[str, Value] = field(default_factory=dict)
    lists: dict[str, Listed] = field(default_factory=dict)
    sets: dict[str, Listed] = field(default_factory=dict)
    image_urls: tuple[str, ...] = ()
    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""
    repeat: int = 1
    new: bool = False
    dry_run: bool = False
    raw: bool = False
    background: bool = False
    yes: bool = False
    max_cost_usd: float | None = None
    timeout_s: float | None = None
    output: str = ""

    @property
    def is_sweep(self) -> bool:
        """Whether many runs come from one template: any list, ``--set``, or several draws."""
        return bool(self.sets or self.lists or self.repeat > 1)


class _Parser(argparse.ArgumentParser):
    """Raises our error in place of printing usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise InvalidRequestError(f"%%apixo: {message}", field="options", next_step="See %apixo help.")


def model_parameters() -> list[Parameter]:
    """Every parameter of every model, each flag once; values of several models are joined."""
    found: dict[str, Parameter] = {}
    for model in MODELS.values():
        for parameter in model.parameters:
            known = found.get(parameter.flag)
            values = tuple(dict.fromkeys([*(known.values if known else ()), *parameter.values]))
            found[parameter.flag] = Parameter(
                parameter.wire, parameter.flag, values, parameter.default, parameter.help
            )
    return list(found.values())


def parser() -> argparse.ArgumentParser:
    """The parser of the line; its help is the magic's help."""
    made = _Parser(
        prog="%%apixo",
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make pictures with APIXO from the prompt in the cell below, and keep them.",
        epilog=EXAMPLES,
    )
    for option in model_parameters():
        choices = ", ".join(str(value) for value in option.values)
        text = f"{option.help}: {choices} (default {option.default}); a list makes a sweep"
        made.add_argument(option.flag, dest=option.flag, metavar="VALUE", help=text)
    add = made.add_argument
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=A,B",
        help="values of {NAME} in the prompt, or NAME=@LIST for a list of the notebook; makes a sweep",
    )
    add(
        "--ref",
        action="append",
        default=[],
        metavar="URL",
        help="reference picture, a public URL; up to 5 times",
    )
    add("--model", default=DEFAULT_MODEL, metavar="ID", help=f"model (default {DEFAULT_MODEL})")
    add("--name", default="", metavar="TEXT", help="name of the experiment, kept on the row")
    add("--tag", action="append", default=[], metavar="WORD", help="tag, kept on the row; may be given again")
    add("--note", default="", metavar="TEXT", help="note, kept on the row")
    add(
        "--repeat",
        default="1",
        metavar="R",
        help="variations of the same request; each is paid for (no seed)",
    )
    add("--new", action="store_true", help="buy another variation, whatever the cell has")
    add("--dry-run", action="store_true", help="show the exact request, count and cost; send nothing")
    add("--max-cost", metavar="USD", help="refuse to start above this sum")
    add("--yes", action="store_true", help="start a sweep without asking, however much it costs")
    add("--bg", action="store_true", help="return at once; the run goes on, and its output with it")
    add("--timeout", metavar="SECONDS", help="give up waiting; the task is kept and can be resumed")
    add("--raw", action="store_true", help="send the prompt as typed, without filling {names}")
    add(
        "-o",
        dest="output",
        default="",
        metavar="NAME",
        help="bind the run (a list of runs, a sweep) to a variable",
    )
    return made


def _not_yet(what: str, advice: str) -> InvalidRequestError:
    return InvalidRequestError(f"{what} is not there yet", field=what, next_step=advice)


def parse(line: str) -> Options:
    """Read the line after ``%%apixo``.

    Raises
    ------
    InvalidRequestError
        Names the option, the value and what is allowed.
    """
    marked, marks = mark(line)
    reader = parser()
    given, unknown = reader.parse_known_args(_words(marked, line))
    if unknown:
        raise _unknown(marks.plain(unknown[0]))
    _check_dashes(given, reader)
    single, lists = _parameters(given, marks)
    text = {name: marks.plain(value) for name, value in vars(given).items() if isinstance(value, str)}
    return Options(
        model=text["model"],
        parameters=single,
        lists=lists,
        sets=_sets(given.set, marks),
        image_urls=tuple(map(marks.plain, given.ref)),
        name=text["name"],
        tags=tuple(map(marks.plain, given.tag)),
        note=text["note"],
        repeat=checks.read_whole(text["repeat"], "--repeat", 1, MOST_DRAWS),
        new=given.new,
        dry_run=given.dry_run,
        raw=given.raw,
        background=given.bg,
        yes=given.yes,
        max_cost_usd=_number(text.get("max_cost"), "--max-cost", "a sum in US dollars, 0 or more", 0.0),
        timeout_s=_number(text.get("timeout"), "--timeout", "a number of seconds above 0", 1e-3),
        output=_variable(text["output"]),
    )


def _words(marked: str, line: str) -> list[str]:
    try:
        return shlex.split(marked)
    except ValueError:
        raise InvalidRequestError(
            f"A quote is not closed in: {line.strip():.80}", field="options", next_step="Close it."
        ) from None


def _check_dashes(given: argparse.Namespace, reader: argparse.ArgumentParser) -> None:
    """Argparse drops a value of two dashes, as in ``--note=--``, and leaves an empty list in its place."""
    for name, value in vars(given).items():
        several = reader.get_default(name) == []
        if [] in (value if several else [value]):
            raise InvalidRequestError(f"--{name.strip('-')} cannot be '--'", field=name, value="--")


#: What other tools and APIXO's own names call an option.
_OTHER_WORDS = {
    **dict.fromkeys(("--ratio", "--aspect", "--aspect-ratio", "--aspect_ratio", "--size"), "--ar"),
    **dict.fromkeys(("--num", "--num-images", "--num_images", "--count", "--pictures"), "-n"),
    **dict.fromkeys(("--image", "--image-url", "--image_urls", "--reference"), "--ref"),
    **dict.fromkeys(("--draws", "--takes"), "--repeat"),
}


def _unknown(word: str) -> InvalidRequestError:
    flags = known_flags()
    if not word.startswith("-"):
        step = "The prompt goes into the cell below the line; a value with blanks needs quotes."
        return InvalidRequestError(
            f"What is {word!r:.80} on this line?", field="options", value=word, next_step=step
        )
    flag = word.split("=", maxsplit=1)[0]
    if flag in ("-h", "--help"):
        flags = []  # nothing is near it but the help itself
    if flag in NOT_YET:
        return _not_yet(flag, NOT_YET[flag])
    near = difflib.get_close_matches(flag, flags, n=1, cutoff=0.55)
    near = [_OTHER_WORDS[flag]] if flag in _OTHER_WORDS else near
    step = f"Did you mean {near[0]}?" if near else "See %apixo help."
    return InvalidRequestError(f"Unknown option {word!r:.80}", field=word, value=word, next_step=step)


def _parameters(given: argparse.Namespace, marks: Marks) -> tuple[dict[str, Value], dict[str, Listed]]:
    """The parameters that have one value, and those that have a list."""
    # One flag can have another wire name in each model: -n is num_images here, max_images there.
    model = MODELS.get(given.model, MODELS[DEFAULT_MODEL])
    own = {parameter.flag: parameter for parameter in model.parameters}
    single: dict[str, Value] = {}
    lists: dict[str, Listed] = {}
    for option in model_parameters():
        text, known = getattr(given, option.flag), own.get(option.flag, option)
        if text is None:
            continue
        plain = marks.plain(text)
        if text.startswith("@"):
            lists[known.wire] = marks.listed(text, option.flag)
        elif "," in plain:  # quoted or not: no value has a comma, or a blank at its ends
            lists[known.wire] = marks.values(re.sub(r"\s*,\s*", ",", plain.strip()), option.flag)
        else:
            single[known.wire] = known.typed(plain)
    return single, lists


def _sets(given: Sequence[str], marks: Marks) -> dict[str, Listed]:
    """The values of ``--set``, by variable."""
    found: dict[str, Listed] = {}
    for word in given:
        name, equals, values = word.partition("=")
        name = marks.plain(name)
        if not equals or not name.isidentifier():
            rule = '--set NAME=A,B or --set NAME=@LIST, such as --set style=oil,"cut paper"'
            raise InvalidRequestError(
                f"--set cannot be {marks.plain(word)!r:.80}",
                field="--set",
                value=marks.plain(word),
                allowed=rule,
            )
        if name in found:
            step = f"Put all its values into one list: --set {name}=A,B."
            raise InvalidRequestError(
                f"--set {name} is given twice", field="--set", value=name, next_step=step
            )
        found[name] = marks.listed(values, f"--set {name}")
    return found


def _number(text: str | None, flag: str, rule: str, at_least: float) -> float | None:
    return None if text is None else checks.read_number(text, flag, rule, at_least)


def _variable(name: str) -> str:
    usable = name.isidentifier() and not keyword.iskeyword(name) and not hasattr(builtins, name)
    if name and not usable:
        rule = "a plain variable name that is no Python word"
        raise InvalidRequestError(f"-o cannot bind {name!r:.80}", field="-o", value=name, allowed=rule)
    return name


# --- for completion ---------------------------------------------------------------------------------


def known_flags() -> list[str]:
    """All flags that work, in the order of the help."""
    return [flag for action in parser()._actions for flag in action.option_strings]  # noqa: SLF001 - no public list


def values_of(flag: str) -> Sequence[str]:
    """The values that a flag takes, where they are a closed list."""
    closed = {option.flag: [str(value) for value in option.values] for option in model_parameters()}
    return {**closed, "--model": list(MODELS)}.get(flag, [])
