"""Templates of a sweep from what people have: a text, a list of texts, a DataFrame or a CSV file."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apixo_nb.core.models import ModelSpec, Value
from apixo_nb.core.request import known_model, make_labels
from apixo_nb.errors import InvalidRequestError
from apixo_nb.text import printable

from .prompts import MOST_TASKS, Template, is_missing, values_in

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
