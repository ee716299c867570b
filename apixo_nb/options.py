"""The options of ``%%apixo`` and the commands of ``%apixo``: the source of parser, help and completion.

The choices of a model come from its spec, so a new model or a new ratio needs no change here.
"""

from __future__ import annotations

import argparse
import builtins
import difflib
import keyword
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from .errors import InvalidRequestError
from .spec import DEFAULT_MODEL, MODELS, Parameter, Value

#: Options that the design names and that are still to come; each says so in its own words.
NOT_YET = {
    "--set": "Fill {names} from the notebook's variables, or part prompts by lines of ---.",
    "--callback": "Polling works everywhere; the Python client takes request_type='callback'.",
}

#: Draws of one request that can be asked for at once: a slip of the hand shall not buy thousands.
MOST_DRAWS = 100

#: The commands of ``%apixo``, each with its help.
COMMANDS = {
    "login": "store an API key; it is asked for, never typed on the line",
    "logout": "remove the stored key",
    "status": "where requests go, which key, what the ledger holds and what was spent",
    "balance": "US dollars left for the key, beside what the ledger says",
    "spend": "what was spent by state, day and tag; %apixo spend day shows one",
    "budget": "%apixo budget 5.00 caps spending; then --day or --notebook; off ends it",
    "history": "the last runs as a table; %apixo history 50 shows more",
    "resume": "bring unfinished runs to their end, download what is missing; costs nothing",
    "settle": "%apixo settle RUN paid (or free): how a submit without an answer ended",
    "rescue": "download every picture that is not on disk before its address ends; costs nothing",
    "doctor": "compare ledger and pictures; %apixo doctor --rebuild mends the ledger",
    "panel": "a form to click, live cards of all runs, and the history",
    "wait": "wait for the cells that were run with --bg",
    "export": "all runs to FILE.csv, .jsonl, .parquet or .html; FILE.csv --excel is for spreadsheets",
    "sandbox": "work without key and cost on this machine; %apixo sandbox off ends it",
    "config": "the settings; change one with %config Apixo.NAME = VALUE",
    "help": "this page",
}

EXAMPLES = """\
examples:
  %%apixo                              one square picture
  %%apixo --ar 3:2 -n 2 -o cafes       two wide ones, bound to the variable cafes
  %%apixo --dry-run                    show the request and its cost, send nothing
  %%apixo --ref https://example.com/a.png

The cell below is the prompt. {name} is filled from the notebook's variables ({{ and }} are
braces, --raw turns this off). A line that holds only --- parts several prompts."""


@dataclass(frozen=True, slots=True)
class Options:
    """One ``%%apixo`` line, read. `parameters` holds what was given of the model's own."""

    model: str = DEFAULT_MODEL
    parameters: dict[str, Value] = field(default_factory=dict)
    image_urls: tuple[str, ...] = ()
    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""
    repeat: int = 1
    new: bool = False
    dry_run: bool = False
    raw: bool = False
    background: bool = False
    max_cost_usd: float | None = None
    timeout_s: float | None = None
    output: str = ""


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
        text = f"{option.help}: {choices} (default {option.default})"
        made.add_argument(option.flag, dest=option.flag, metavar="VALUE", help=text)
    add = made.add_argument
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
    add("--repeat", default="1", metavar="R", help="draws of the same request; each is paid for (no seed)")
    add("--new", action="store_true", help="pay for a new draw even where a stored one exists")
    add("--dry-run", action="store_true", help="show the exact request, count and cost; send nothing")
    add("--max-cost", metavar="USD", help="refuse to start above this sum")
    add("--bg", action="store_true", help="return at once; the run goes on, and its output with it")
    add("--timeout", metavar="SECONDS", help="give up waiting; the task is kept and can be resumed")
    add("--raw", action="store_true", help="send the prompt as typed, without filling {names}")
    add(
        "-o", dest="output", default="", metavar="NAME", help="bind the run (or a list of runs) to a variable"
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
    given, unknown = parser().parse_known_args(_words(line))
    if unknown:
        raise _unknown(unknown[0])
    return Options(
        model=given.model,
        parameters=_parameters(given),
        image_urls=tuple(given.ref),
        name=given.name,
        tags=tuple(given.tag),
        note=given.note,
        repeat=_count(given.repeat),
        new=given.new,
        dry_run=given.dry_run,
        raw=given.raw,
        background=given.bg,
        max_cost_usd=_number(given.max_cost, "--max-cost", "a sum in US dollars, 0 or more", 0.0),
        timeout_s=_number(given.timeout, "--timeout", "a number of seconds above 0", 1e-3),
        output=_variable(given.output),
    )


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        raise InvalidRequestError(
            f"A quote is not closed in: {line.strip():.80}", field="options", next_step="Close it."
        ) from None


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
    near = difflib.get_close_matches(flag, flags, n=1, cutoff=0.5)
    step = f"Did you mean {near[0]}?" if near else "See %apixo help."
    return InvalidRequestError(f"Unknown option {word!r:.80}", field=word, value=word, next_step=step)


def _parameters(given: argparse.Namespace) -> dict[str, Value]:
    # One flag can have another wire name in each model: -n is num_images here, max_images there.
    model = MODELS.get(given.model, MODELS[DEFAULT_MODEL])
    own = {parameter.flag: parameter for parameter in model.parameters}
    options = {option.flag: own.get(option.flag, option) for option in model_parameters()}
    texts = {flag: getattr(given, flag) for flag in options}
    return {
        options[flag].wire: _typed(options[flag], text) for flag, text in texts.items() if text is not None
    }


def _typed(option: Parameter, text: str) -> Value:
    """The text as one of the option's values where it is one; what it may be is checked with the request."""
    if "," in text:
        raise _not_yet(f"A list of values for {option.flag}", f"Run one cell for each value of {text!r:.40}.")
    return next((value for value in option.values if str(value) == text), text)


def _number(text: str | None, flag: str, rule: str, at_least: float) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < at_least:
        raise InvalidRequestError(f"{flag} cannot be {text!r:.80}", field=flag, value=text, allowed=rule)
    return number


def _count(text: str) -> int:
    if text.isdecimal() and 0 < int(text) <= MOST_DRAWS:
        return int(text)
    rule = f"a whole number from 1 to {MOST_DRAWS}"
    raise InvalidRequestError(f"--repeat cannot be {text!r:.80}", field="--repeat", value=text, allowed=rule)


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
