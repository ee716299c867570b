"""What a person gives along with a request: labels of the row, limits of time and money; checked here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import InvalidRequestError
from .text import printable
from .wire import storable


@dataclass(frozen=True, slots=True)
class Labels:
    """What a run's row says beside the request."""

    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""


def make_labels(name: object, tags: object, note: object) -> Labels:
    """Checked labels; raises InvalidRequestError for what is no text."""
    return Labels(_text(name, "name"), _tags(tags), _text(note, "note"))


def _tags(tags: object) -> tuple[str, ...]:
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidRequestError(
            f"tags is not a list of words: {printable(repr(tags), 80)}",
            field="tags",
            value=tags,
            allowed='e.g. ["draft"]',
        )
    return tuple(_text(tag, "tags") for tag in tags)


def _text(text: object, field: str) -> str:
    if not isinstance(text, str):
        message = f"{field} is no text: {text!r:.80}"
        raise InvalidRequestError(message, field=field, value=text, allowed="text")
    return storable(text)


def check_number(value: object, field: str, rule: str, at_least: float) -> None:
    """Raise InvalidRequestError unless `value` is None or a finite number of `at_least` or more."""
    if value is None:
        return
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:  # 10**400
        number = math.nan
    if not math.isfinite(number) or number < at_least:
        shown = repr(value) if isinstance(value, str) else value
        message = f"{field} cannot be {printable(shown, 80)}"
        raise InvalidRequestError(message, field=field, value=value, allowed=rule)


def check_switch(value: object, field: str) -> None:
    """Raise InvalidRequestError unless `value` is True, False or None: "no" would count as yes."""
    if value is not None and not isinstance(value, bool):
        message = f"{field} cannot be {printable(repr(value), 80)}"
        raise InvalidRequestError(message, field=field, value=value, allowed="True, False or None")


def check_timeout(timeout_s: object) -> None:
    """`check_number` for how long to wait, in seconds."""
    check_number(timeout_s, "timeout_s", "a number of seconds above 0", 1e-3)
