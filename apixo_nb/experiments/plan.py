"""The plan of a sweep: every cell is checked and looked up in the ledger before anything is bought."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from apixo_nb.core import checks
from apixo_nb.core.models import DEFAULT_MODEL, MODELS, ModelSpec, Value
from apixo_nb.core.records import Run
from apixo_nb.core.request import Labels, Request, known_model, make_labels, make_request
from apixo_nb.errors import InvalidRequestError
from apixo_nb.session.replay import Decision
from apixo_nb.session.session import Session
from apixo_nb.text import dollars, printable

from .cell_options import MOST_DRAWS
from .prompts import MOST_TASKS, Cell, Template, check_different, expand, is_missing, values_in


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep comes to, before anything is bought. `product` is how it is made up, in words."""

    decisions: tuple[Decision, ...]
    product: str

    @property
    def bought(self) -> list[Run]:
        """The runs that would be newly paid for."""
        return [decision.run for decision in self.decisions if decision.action == "buy"]

    @property
    def price_micros(self) -> int:
        """What these cost together."""
        return sum(run.price_micros for run in self.bought)

    @property
    def size(self) -> str:
        """The product, and how many tasks and pictures it is."""
        runs = [decision.run for decision in self.decisions]
        pictures = sum(run.num_images for run in runs)
        return f"{self.product} = {_count(len(runs), 'task')}, {_count(pictures, 'picture')}"

    @property
    def _actions(self) -> Counter[str]:
        return Counter(decision.action for decision in self.decisions)

    @property
    def free(self) -> list[str]:
        """What costs nothing now, as short texts: it was paid for before."""
        counts = self._actions
        texts = {"show": "stored, shown at $0", "follow": "taken up again at $0"}
        return [f"{counts[action]} {text}" for action, text in texts.items() if counts[action]]

    @property
    def summary(self) -> str:
        """Count and cost in a few words: what is stored, what is open, what is to be paid for."""
        counts = self._actions
        free = ", in the sandbox: nothing is paid" if any(run.sandbox for run in self.bought) else ""
        price = dollars(self.price_micros)
        texts = {
            "show": "stored ($0)",
            "follow": "open, taken up again ($0)",
            "leave": "left out, as their submits have no answer",
            "buy": f"to buy: {price}{free}",
        }
        parts = [f"{counts[action]} {text}" for action, text in texts.items() if counts[action]]
        return f"{self.size}. {', '.join(parts)}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """What a sweep asks for, apart from its templates.

    `sets` and `lists` are the values of variables and of parameters, `known` the notebook's variables (None:
    there is no notebook), `new` buys what is stored as well.
    """

    model: str = DEFAULT_MODEL
    parameters: Mapping[str, Any] = field(default_factory=dict)
    lists: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    sets: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    image_urls: Iterable[str] = ()
    labels: Labels = field(default_factory=Labels)
    repeat: int = 1
    known: Mapping[str, Any] | None = None
    raw: bool = False
    new: bool = False


def make_plan(session: Session, templates: Sequence[Template], options: SweepOptions) -> Plan:
    """All of a sweep, checked and looked up in the ledger; nothing is bought yet.

    Raises
    ------
    InvalidRequestError
        What is wrong, and in which cell.
    """
    if _is_list(options.image_urls):  # a generator would give its pictures to the first cell only
        options = replace(options, image_urls=tuple(options.image_urls))
    cells = expand(
        templates, options.sets, options.lists, known=options.known, raw=options.raw, repeat=options.repeat
    )
    requests = [_request(session, cell, options) for cell in cells]
    # Once more, now that defaults are filled in.
    check_different(cells, [request.digest() for request in requests])
    runs = [
        session.plan(
            request,
            _labels(cell.template, options.labels),
            prompt_template=cell.template.text,
            variables=cell.variables,
        )
        for cell, request in zip(cells, requests, strict=True)
        for _draw in range(options.repeat)
    ]
    decisions = session.decide(runs, new=options.new, leave=True)
    return Plan(tuple(decisions), _product(templates, cells, options))


def _request(session: Session, cell: Cell, options: SweepOptions) -> Request:
    given: dict[str, Any] = {**options.parameters, **cell.parameters}
    own = cell.template.image_urls
    urls = options.image_urls if own is None else own
    try:
        return make_request(
            cell.prompt, model=options.model, image_urls=urls, allow_loopback=session.is_sandbox, **given
        )
    except InvalidRequestError as error:
        words = [f"{name}={printable(value, 40)}" for name, value in cell.variables.items()]
        place = ", ".join([*([cell.template.where] if cell.template.where else []), *words])
        if not place:
            raise
        raise InvalidRequestError(
            f"{error.message}, with {place}",
            field=error.field,
            value=error.value,
            allowed=error.allowed,
            next_step=error.next_step,
        ) from None


def _labels(template: Template, shared: Labels) -> Labels:
    """A template's own labels go before those of all; tags come together."""
    tags = tuple(dict.fromkeys([*shared.tags, *template.tags]))
    return Labels(template.name or shared.name, tags, template.note or shared.note)


def _product(templates: Sequence[Template], cells: Sequence[Cell], options: SweepOptions) -> str:
    """How the sweep is made up, in words."""
    factors = {"prompts": len(templates)} if len(templates) > 1 else {}
    factors |= {name: len(values) for name, values in (*options.sets.items(), *options.lists.items())}
    factors |= {"takes": options.repeat} if options.repeat > 1 else {}
    whole = math.prod(factors.values())
    # A template takes no part in what it does not use: then it is no plain product.
    sign = " × " if whole == len(cells) * options.repeat else ", "  # noqa: RUF001 - the sign is meant
    return sign.join(f"{number} {name}" for name, number in factors.items()) or "1 cell"


def typed_lists(model: str, lists: Mapping[str, Sequence[Any]]) -> dict[str, list[Value]]:
    """Texts as values of the model's parameters; what they may be is checked with the request."""
    known = {parameter.wire: parameter for parameter in MODELS[model].parameters} if model in MODELS else {}
    return {
        wire: [
            known[wire].typed(value) if wire in known and isinstance(value, str) else value
            for value in values
        ]
        for wire, values in lists.items()
    }


# --- from the arguments of a call ---------------------------------------------------------------------


def split_values(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments as fields of `SweepOptions`: single parameters, lists of parameters, variables.

    A single value of a variable becomes a list of one.
    """
    parameters = {parameter.wire for parameter in known_model(model).parameters}
    lists = {name: values_in(name, value) for name, value in values.items() if _is_list(value)}
    single = {name: value for name, value in values.items() if name not in lists}
    return {
        "parameters": {name: value for name, value in single.items() if name in parameters},
        "lists": typed_lists(model, {name: lists[name] for name in lists if name in parameters}),
        "sets": {
            name: lists[name] if name in lists else values_in(name, [single[name]])
            for name in values
            if name not in parameters
        },
    }


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def checked_repeat(repeat: object) -> int:
    """How many draws of each cell; raises InvalidRequestError for what is no such number."""
    return checks.whole(repeat, "repeat", 1, MOST_DRAWS)


PROMPT, REFERENCES = "prompt", "image_urls"
LABELS = ("name", "tags", "note")


def read_templates(template: Any, model: str) -> list[Template]:
    """The templates of a text, a list of texts, a table or a CSV file; raises InvalidRequestError."""
    facts = known_model(model)
    if is_table(template):
        return templates_of_table(template, facts)
    if is_csv(template):
        return templates_of_csv(template, facts)
    if isinstance(template, str):
        return [Template(template)]
    texts = values_in("template", template)
    for text in texts:
        if not isinstance(text, str):
            raise InvalidRequestError(
                f"A template is no text: {printable(repr(text), 60)}", field="template", value=text
            )
    if not texts:
        raise InvalidRequestError("There is no template", field="template", allowed="at least one")
    return [Template(text) for text in texts]


def is_table(given: object) -> bool:
    """Whether it is a DataFrame, by what it can do."""
    return hasattr(given, "columns") and hasattr(given, "to_dict")


def is_csv(given: object) -> bool:
    """Whether it is the path of a file: a Path, or one line of text that ends in ``.csv``."""
    if isinstance(given, str):
        return given.casefold().endswith(".csv") and "\n" not in given
    return isinstance(given, os.PathLike)


def templates_of_table(table: Any, model: ModelSpec) -> list[Template]:
    """The rows of a DataFrame as templates; raises InvalidRequestError, which names row and column."""
    columns = [str(column) for column in table.columns]
    rows = ([*values] for values in table.itertuples(index=False, name=None))
    return _templates(columns, rows, model, first=1)


def templates_of_csv(path: str | os.PathLike[str], model: ModelSpec) -> list[Template]:
    """The rows of a CSV file as templates; UTF-8, parted by commas, semicolons or tabs.

    Raises
    ------
    InvalidRequestError
        It cannot be read; or names row and column.
    """
    with _reading(Path(path)) as lines:
        rows = csv.reader(lines, delimiter=_delimiter(lines))
        columns = next(rows, [])
        return _templates(columns, rows, model, first=2)  # as the line of a spreadsheet, below its head


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with path.expanduser().open(encoding="utf-8-sig", newline="") as lines:
            yield lines
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, InvalidRequestError):
            raise
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InvalidRequestError(
            f"{printable(path)} cannot be read: {printable(why, 100)}",
            field="template",
            value=path,
            allowed="a CSV file in UTF-8 with a column prompt, or the text of a template",
        ) from None


def _delimiter(lines: Any) -> str:
    """What parts the head; spreadsheets of many countries write semicolons."""
    head = lines.readline()
    lines.seek(0)
    return max(",;\t", key=head.count)


def _templates(columns: list[str], rows: Iterable[list[Any]], model: ModelSpec, first: int) -> list[Template]:
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if PROMPT not in columns or twice is not None:
        what = "has no column prompt" if twice is None else f"has two columns {twice!r:.60}"
        shown = ", ".join(printable(column, 30) for column in columns[:12]) or "none"
        raise InvalidRequestError(
            f"The table {what}", field=PROMPT, value=columns, next_step=f"Its columns are: {shown}."
        )
    found: list[Template] = []
    for number, values in enumerate(rows, first):
        if len(found) == MOST_TASKS:
            raise InvalidRequestError(
                "The table is too long for one sweep", field=PROMPT, allowed=f"at most {MOST_TASKS:,} rows"
            )
        pairs = zip(columns, values, strict=False)
        row = {column: value for column, value in pairs if not is_missing(value)}
        if any(not _is_blank(value) for value in row.values()):  # a line at the end of a file is no prompt
            found.append(_template(row, model, f"row {number}"))
    if not found:
        raise InvalidRequestError("The table has no rows", field=PROMPT, allowed="one prompt a row")
    return found


def _template(row: Mapping[str, Any], model: ModelSpec, where: str) -> Template:
    if not isinstance(row.get(PROMPT), str) or _is_blank(row[PROMPT]):
        raise InvalidRequestError(f"There is no prompt in {where}", field=PROMPT, value=row.get(PROMPT))
    parameters = {parameter.wire: parameter for parameter in model.parameters}
    given = [wire for wire in parameters if not _is_blank(row.get(wire, ""))]
    labels = make_labels(str(row.get("name", "")), _words(row, "tags", where) or (), str(row.get("note", "")))
    taken = {PROMPT, REFERENCES, *LABELS, *parameters}
    return Template(
        row[PROMPT],
        variables={column: value for column, value in row.items() if column not in taken},
        parameters={wire: _value(row[wire], parameters[wire].typed) for wire in given},
        image_urls=_words(row, REFERENCES, where),
        name=labels.name,
        tags=labels.tags,
        note=labels.note,
        where=where,
    )


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _value(value: Any, typed: Any) -> Value:
    # A column of whole numbers with gaps is one of floats.
    whole = isinstance(value, float) and value.is_integer()
    return typed(str(int(value) if whole else value))  # type: ignore[no-any-return]


def _words(row: Mapping[str, Any], column: str, where: str) -> tuple[str, ...] | None:
    """Several texts in one cell: a list, JSON, or parted by blanks; None if there are none."""
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, str):
        value = _json_list(value, column, where) if value.lstrip().startswith("[") else value.split()
    value = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(word, str) for word in value):
        raise InvalidRequestError(
            f"{column} in {where} is no list of texts", field=column, value=row[column], allowed='e.g. ["a"]'
        )
    return value or None


def _json_list(text: str, column: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequestError(
            f"{column} in {where} is no JSON: {text!r:.60}",
            field=column,
            value=text,
            allowed='such as ["a", "b"], or words parted by blanks',
        ) from None
