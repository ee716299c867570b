"""Checks of what a caller hands in: the value, or an InvalidRequestError.

The error names the field, the value and what is allowed. `whole` and `number` take numbers only, as Python
has them; `read_whole` and `read_number` take text, as a command line has it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable

from apixo_nb.errors import InvalidRequestError
from apixo_nb.text import printable

_DIGITS = 19  # of a number that a database takes; Python reads no more than 4,300


def refusal(field: str, value: object, allowed: str, message: str = "") -> InvalidRequestError:
    """The error that says what a field cannot be, by default as "repeat cannot be 0"."""
    shown = printable(repr(value) if isinstance(value, str) else value, 80)
    message = message or f"{field} cannot be {shown}"
    return InvalidRequestError(message, field=field, value=value, allowed=allowed)


def whole(value: object, field: str, least: int, most: int, *, allowed: str = "", message: str = "") -> int:
    """A whole number between two others, numpy's too."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number <= most:
        raise refusal(field, value, allowed or f"a whole number from {least} to {most}", message)
    return number


def read_whole(text: str, field: str, least: int, most: int, *, allowed: str = "", message: str = "") -> int:
    """A whole number between two others, of which the lesser is 0 or more, written in digits."""
    if not text.isdecimal() or len(text) > _DIGITS or not least <= int(text) <= most:
        raise refusal(field, text, allowed or f"a whole number from {least} to {most}", message)
    return int(text)


def number(value: object, field: str, allowed: str, least: float) -> float | None:
    """A finite number of `least` or more; None stays None, for what was not given."""
    if value is None:
        return None
    try:
        found = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:  # 10**400
        found = math.nan
    if not math.isfinite(found) or found < least:
        raise refusal(field, value, allowed)
    return found


def read_number(text: str, field: str, allowed: str, least: float, *, message: str = "") -> float:
    """A finite number of `least` or more, written as Python reads it."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or found < least:
        raise refusal(field, text, allowed, message)
    return found


def timeout(timeout_s: object) -> float | None:
    """How long to wait, in seconds; None stays None."""
    return number(timeout_s, "timeout_s", "a number of seconds above 0", 1e-3)


def switch(value: object, field: str, allowed: str = "True or False") -> None:
    """Nothing but True and False: "no" would count as yes."""
    if not isinstance(value, bool):
        raise refusal(field, value, allowed)


def optional_switch(value: object, field: str) -> None:
    """As `switch`, or None, for what was not given."""
    if value is not None:
        switch(value, field, "True, False or None")


def one_of(value: object, field: str, choices: Iterable[str], *, message: str = "") -> str:
    """One of these words."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        raise refusal(field, value, ", ".join(known), message)
    return value
