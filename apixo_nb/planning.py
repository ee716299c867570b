"""From what a sweep asks for to its plan: every cell checked, and looked up in the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import InvalidRequestError
from .expansion import Cell, Template, expand
from .labels import Labels
from .request import Request, make_request
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
    cells = expand(templates, asked.sets, asked.lists, known=asked.known, raw=asked.raw, repeat=asked.repeat)
    requests = [_request(session, cell, asked) for cell in cells]
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
