"""From what a sweep asks for to its plan: every cell checked, and looked up in the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import InvalidRequestError
from .expansion import Cell, Template, check_different, expand, values_in
from .labels import Labels
from .options import MOST_DRAWS
from .prompt_table import is_csv, is_table, templates_in, templates_of
from .request import Request, known_model, make_request
from .session import Session
from .spec import DEFAULT_MODEL, MODELS, Value
from .tally import Plan
from .text import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a sweep asks for beside its templates.

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


def make_plan(session: Session, templates: Sequence[Template], asked: Asked) -> Plan:
    """All of a sweep, checked and looked up in the ledger; nothing is bought yet.

    Raises
    ------
    InvalidRequestError
        What is wrong, and in which cell.
    """
    if _is_list(asked.image_urls):  # a generator would give its pictures to the first cell only
        asked = replace(asked, image_urls=tuple(asked.image_urls))
    cells = expand(templates, asked.sets, asked.lists, known=asked.known, raw=asked.raw, repeat=asked.repeat)
    requests = [_request(session, cell, asked) for cell in cells]
    # Once more, now that defaults are filled in.
    check_different(cells, [request.digest() for request in requests])
    runs = [
        session.plan(
            request,
            _labels(cell.template, asked.labels),
            prompt_template=cell.template.text,
            variables=cell.variables,
        )
        for cell, request in zip(cells, requests, strict=True)
        for _draw in range(asked.repeat)
    ]
    decisions = session.decide(runs, new=asked.new, leave=True)
    return Plan(tuple(decisions), _product(templates, cells, asked))


def _request(session: Session, cell: Cell, asked: Asked) -> Request:
    given: dict[str, Any] = {**asked.parameters, **cell.parameters}
    own = cell.template.image_urls
    urls = asked.image_urls if own is None else own
    try:
        return make_request(
            cell.prompt, model=asked.model, image_urls=urls, nearby=session.is_sandbox, **given
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


def _product(templates: Sequence[Template], cells: Sequence[Cell], asked: Asked) -> str:
    """How the sweep is made up, in words."""
    factors = {"prompts": len(templates)} if len(templates) > 1 else {}
    factors |= {name: len(values) for name, values in (*asked.sets.items(), *asked.lists.items())}
    factors |= {"takes": asked.repeat} if asked.repeat > 1 else {}
    whole = math.prod(factors.values())
    # A template takes no part in what it does not use: then it is no plain product.
    sign = " × " if whole == len(cells) * asked.repeat else ", "  # noqa: RUF001 - the sign is meant
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


def wishes_of(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of the model's parameters and of variables; one value of a variable is a list of one."""
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


def draws_of(repeat: object) -> int:
    """How many draws of each cell; raises InvalidRequestError for what is no such number."""
    if isinstance(repeat, int) and not isinstance(repeat, bool) and 1 <= repeat <= MOST_DRAWS:
        return repeat
    raise InvalidRequestError(
        f"repeat cannot be {printable(repr(repeat), 60)}",
        field="repeat",
        value=repeat,
        allowed=f"a whole number from 1 to {MOST_DRAWS}",
    )


def templates_given(template: Any, model: str) -> list[Template]:
    """The templates of a text, a list of texts, a table or a CSV file; raises InvalidRequestError."""
    facts = known_model(model)
    if is_table(template):
        return templates_of(template, facts)
    if is_csv(template):
        return templates_in(template, facts)
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
