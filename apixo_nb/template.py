"""Prompt templates: ``{name}`` is filled from variables, ``{{`` and ``}}`` are braces, and nothing else.

Python's own format language would also follow attributes and call ``__format__``; a prompt is text, so only
plain names are allowed, and a value is never expanded a second time.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Mapping
from typing import Any

from .errors import InvalidRequestError
from .text import printable

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
