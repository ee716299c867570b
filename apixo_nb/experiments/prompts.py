"""Prompts from templates, and the cells of a sweep: the full product of templates and lists of values.

Every error is raised here, before anything is bought. A value that occurs twice in a list is refused, neither
dropped nor bought twice: both would be a guess about money, and ``repeat`` asks for several draws.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import string
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apixo_nb.core.models import Value
from apixo_nb.errors import InvalidRequestError
from apixo_nb.text import printable

from .cell_options import Listed

_SEPARATOR = re.compile(r"^---[ \t]*$", re.MULTILINE)
_RAW_HINT = "Write {{ and }} for braces, or use --raw to send the text as it is."


def split_prompts(body: str) -> list[str]:
    """The prompts of one cell: parted by lines that hold only ``---``, blank lines around each dropped."""
    text = body.replace("\r\n", "\n").replace("\r", "\n")
    prompts = [_trim_blank_lines(part) for part in _SEPARATOR.split(text)]
    found = [prompt for prompt in prompts if prompt.strip()]
    if not found:
        raise InvalidRequestError("There is no prompt: the cell below the magic is empty", field="prompt")
    return found


def _trim_blank_lines(text: str) -> str:
    lines = text.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    return "\n".join(lines)


def fill(template: str, variables: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Fill a template; returns the prompt and the variables it used, as text.

    Raises InvalidRequestError for an unknown name (with the nearest known ones), a lone brace, or anything
    in braces that is not a plain name.
    """
    pieces: list[str] = []
    used: dict[str, str] = {}
    for text, name in _parse(template):
        pieces.append(text)
        if name is not None:
            used[name] = _value(name, variables)
            pieces.append(used[name])
    return "".join(pieces), used


def names_in(template: str) -> list[str]:
    """The variables that a template uses, each once; raises as `fill` does."""
    return list(dict.fromkeys(name for _text, name in _parse(template) if name is not None))


def _parse(template: str) -> list[tuple[str, str | None]]:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        near = _lone_brace(template)
        raise InvalidRequestError(
            f"The prompt has a brace without its partner, at {printable(near, 40)!r}",
            field="prompt",
            value=near,
            next_step=_RAW_HINT,
        ) from None
    return [(text, _plain_name(name, form, conversion)) for text, name, form, conversion in parsed]


def _lone_brace(template: str) -> str:
    """The text from the first brace that has no partner."""
    # Whole pairs are blotted out, character for character, so that positions stay.
    blotted = re.sub(r"\{\{|\}\}|\{[^{}]*\}", lambda pair: " " * len(pair[0]), template)
    found = re.search(r"[{}]", blotted)
    return template[found.start() :] if found else template


def _plain_name(name: str | None, form: str | None, conversion: str | None) -> str | None:
    if name is None:
        return None
    if not name.isidentifier() or form or conversion:
        whole = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
        raise InvalidRequestError(
            f"{{{whole}}} in the prompt is not the name of a variable",
            field="prompt",
            value=whole,
            next_step=_RAW_HINT,
        )
    return name


def _value(name: str, variables: Mapping[str, Any]) -> str:
    if name in variables:
        return str(variables[name])
    visible = [known for known in variables if not known.startswith("_")]
    near = difflib.get_close_matches(name, visible, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Set {name} in an earlier cell."
    raise InvalidRequestError(
        f"The prompt uses {{{name}}}, but the notebook has no variable {name}",
        field="prompt",
        value=name,
        next_step=f"{hint} {_RAW_HINT}",
    )


#: Tasks of one sweep: a slip of the hand shall not plan millions.
MOST_TASKS = 10_000


@dataclass(frozen=True, slots=True)
class Template:
    """One prompt of a sweep, and what belongs to it alone, such as the columns of its row of a table.

    Attributes
    ----------
    variables : mapping
        Values for its names, beside those that all templates share.
    parameters : mapping
        Wire name to value; goes before the parameters that all share.
    image_urls : tuple of str or None
        Its reference pictures, if it has its own.
    name, note : str, and tags : tuple of str
        Its labels.
    where : str
        What to call it in a message, such as "row 3".
    """

    text: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Value] = field(default_factory=dict)
    image_urls: tuple[str, ...] | None = None
    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One request of a sweep: a template, filled, with one value of each parameter that has a list."""

    template: Template
    prompt: str
    variables: dict[str, str]
    parameters: dict[str, Value]


Lists = Mapping[str, Sequence[Any]]


def expand(
    templates: Sequence[Template],
    sets: Lists,
    lists: Lists,
    *,
    known: Mapping[str, Any] | None = None,
    raw: bool = False,
    repeat: int = 1,
) -> list[Cell]:
    """The cells of a sweep, in the order of the lists; the last list changes fastest.

    Parameters
    ----------
    templates : sequence of Template
    sets : mapping
        Values of variables. A template takes part in those that it uses.
    lists : mapping
        Values of parameters, by wire name.
    known : mapping, optional
        The notebook's variables; None where there is no notebook.
    raw : bool
        The templates are prompts as they are.
    repeat : int
        Draws of each cell; they count towards the most tasks that a sweep may have.

    Raises
    ------
    InvalidRequestError
        A variable that no template uses, an unknown name, an empty list, a value given twice, a product
        above `MOST_TASKS`.
    """
    for name, values in (*sets.items(), *lists.items()):
        _check_values(name, values)
    used = [[] if raw else names_in(template.text) for template in templates]
    _check_used(sets, [name for names in used for name in names], raw=raw)
    for template in templates:
        _check_given_once(template, {*sets, *lists})
    own = [{name: sets[name] for name in names if name in sets} for names in used]
    _check_size([[*found.values(), *lists.values()] for found in own], repeat)
    cells = [
        _cell(template, chosen, known, raw=raw)
        for template, found in zip(templates, own, strict=True)
        for chosen in _product(found, lists)
    ]
    check_different(
        cells,
        [(cell.prompt, cell.template.image_urls, repr(sorted(cell.parameters.items()))) for cell in cells],
    )
    return cells


Chosen = tuple[dict[str, Any], dict[str, Any]]


def _product(sets: Lists, lists: Lists) -> Iterator[Chosen]:
    """Each combination: the variables, and the parameters."""
    for values in itertools.product(*sets.values(), *lists.values()):
        yield (
            dict(zip(sets, values[: len(sets)], strict=True)),
            dict(zip(lists, values[len(sets) :], strict=True)),
        )


def _cell(template: Template, chosen: Chosen, known: Mapping[str, Any] | None, *, raw: bool) -> Cell:
    variables, parameters = chosen
    prompt, used = template.text, dict[str, str]()
    if not raw:
        # What the sweep sets goes before what belongs to the row, and that before what is around.
        values = {**(known or {}), **template.variables, **variables}
        if known is None:
            _check_known(template, values)
        prompt, used = fill(template.text, values)
    return Cell(template, prompt, used, {**parameters, **template.parameters})


# --- what can be wrong ------------------------------------------------------------------------------


def _check_values(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise InvalidRequestError(
            f"The list of {name} is empty", field=name, allowed="a list of at least one value"
        )
    seen: set[str] = set()
    for value in map(str, values):
        if value in seen:
            raise InvalidRequestError(
                f"{value!r:.60} stands twice in the list of {name}",
                field=name,
                value=value,
                next_step="Leave it out once; for several draws of each cell there is --repeat (repeat=).",
            )
        seen.add(value)


def _check_used(sets: Lists, used: Sequence[str], *, raw: bool) -> None:
    for name in sets:
        if name in used:
            continue
        near = difflib.get_close_matches(name, used, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Write {{{name}}} where its values are to stand."
        if raw:
            hint = "A raw prompt is sent as it is: nothing in it is filled."
        raise InvalidRequestError(f"No prompt uses {{{name}}}", field=name, value=name, next_step=hint)


def _check_known(template: Template, values: Mapping[str, Any]) -> None:
    """As `fill` does for a notebook, in the words of Python."""
    for name in names_in(template.text):
        if name not in values:
            near = difflib.get_close_matches(name, values, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Give it as {name}=[...]."
            raise InvalidRequestError(
                f"The prompt uses {{{name}}}, and nothing is given for it{_in(template)}",
                field="prompt",
                value=name,
                next_step=f"{hint} Write {{{{ and }}}} for braces, or say raw=True.",
            )


def _check_given_once(template: Template, names: Collection[str]) -> None:
    for name in names:
        if name in template.variables or name in template.parameters:
            raise InvalidRequestError(
                f"{name} is given both for the sweep and{_in(template) or ' by a template'}",
                field=name,
                next_step="Leave out the column, or the argument.",
            )


def _in(template: Template) -> str:
    return f" in {template.where}" if template.where else ""


def _check_size(products: Iterable[Sequence[Sequence[Any]]], repeat: int) -> None:
    tasks = repeat * sum(math.prod(map(len, lists)) for lists in products)
    if tasks > MOST_TASKS:
        raise InvalidRequestError(
            f"{tasks:,} tasks are too many for one sweep",
            field="sweep",
            value=tasks,
            allowed=f"at most {MOST_TASKS:,}",
        )


def check_different(cells: Sequence[Cell], keys: Iterable[Hashable]) -> None:
    """Refuse two cells that ask for the same, and would be bought twice without a word.

    Parameters
    ----------
    cells : sequence of Cell
    keys : iterable of hashable
        One for each cell; cells that ask for the same have equal keys.
    """
    seen: dict[Hashable, Cell] = {}
    for cell, key in zip(cells, keys, strict=True):
        if (twin := seen.setdefault(key, cell)) is not cell:
            places = " and ".join(found.template.where for found in (twin, cell) if found.template.where)
            raise InvalidRequestError(
                f"Two cells ask for the same{f' ({places})' if places else ''}: {printable(cell.prompt, 60)}",
                field="prompt",
                value=cell.prompt,
                next_step="Leave one out; for several draws of each cell there is --repeat (repeat=).",
            )


# --- lists by name ----------------------------------------------------------------------------------


def values_of(what: str, listed: Listed, namespace: Mapping[str, Any]) -> list[Any]:
    """The values of a list as it was typed: the texts, or what the notebook has under that name.

    Raises
    ------
    InvalidRequestError
        There is no such variable, or it is no list.
    """
    if not listed.name:
        return list(listed.texts)
    name, _, column = listed.name.partition(".")
    if name not in namespace:
        visible = [known for known in namespace if not known.startswith("_")]
        near = difflib.get_close_matches(name, visible, n=3)
        step = f"Did you mean {' or '.join(near)}?" if near else f"Set {name or 'it'} in an earlier cell."
        raise InvalidRequestError(
            f"The notebook has no variable {name!r:.80}", field=what, value=listed, next_step=step
        )
    found = namespace[name]
    if column:
        # Columns and keys only: no attribute of an object is followed.
        if column not in getattr(found, "columns", found if isinstance(found, Mapping) else ()):
            raise InvalidRequestError(f"{name} has no column {column!r:.80}", field=what, value=listed)
        found = found[column]
    return values_in(what, found)


def values_in(what: str, given: object) -> list[Any]:
    """The values of a Python list, a column of a table, or any other iterable; of a set, sorted.

    Raises
    ------
    InvalidRequestError
        It is no list, or one of its values is missing.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidRequestError(
            f"The values of {what} are no list: {printable(repr(given), 60)}",
            field=what,
            value=given,
            allowed="a list, or any iterable of values",
        )
    columns = getattr(given, "columns", None)
    if columns is not None:
        names = ", ".join(printable(name, 30) for name in list(columns)[:8])
        raise InvalidRequestError(
            f"The values of {what} are a whole table", field=what, allowed=f"one of its columns: {names}"
        )
    values = list(itertools.islice(given, MOST_TASKS + 1))  # some iterables never end
    if len(values) > MOST_TASKS:
        raise InvalidRequestError(
            f"The list of {what} is too long", field=what, allowed=f"at most {MOST_TASKS:,}"
        )
    if any(map(is_missing, values)):
        raise InvalidRequestError(
            f"A value in the list of {what} is missing", field=what, allowed="text or numbers"
        )
    return sorted(values, key=str) if isinstance(given, set | frozenset) else values


def is_missing(value: object) -> bool:
    """Whether it is None, or one of the tables' words for it: NaN, NaT, NA."""
    try:
        return value is None or bool(value != value)  # noqa: PLR0124 - NaN alone is not itself
    except (TypeError, ValueError):  # NA says neither yes nor no
        return type(value).__name__ == "NAType"
