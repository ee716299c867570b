"""Completion of ``%%apixo --ar <TAB>`` and ``%apixo <TAB>``, from the options and the table of commands."""

from __future__ import annotations

from typing import Any

from IPython.core.completer import SimpleCompletion, context_matcher
from IPython.core.getipython import get_ipython

from apixo_nb.experiments.cell_options import known_flags, values_of

from .commands import COMMANDS


def _nothing() -> dict[str, Any]:
    # A new one each time: IPython writes into it, and a shared one breaks the next, unrelated completion.
    return {"completions": [], "suppress": False}


@context_matcher(identifier="apixo_nb", priority=500)  # type: ignore[untyped-decorator]
def complete(context: Any) -> dict[str, Any]:
    """Complete ``%%apixo --ar <TAB>`` and ``%apixo <TAB>``; silence Python's own completion there."""
    head = context.text_until_cursor
    words = head.split()
    typed_name_only = len(words) == 1 and not head.endswith(" ")
    if not words or words[0] not in ("%apixo", "%%apixo") or typed_name_only:
        return _nothing()
    if words[0] == "%%apixo" and context.cursor_line != 0:
        return _nothing()
    fragment = "" if head[-1].isspace() else words[-1]
    before = words if not fragment else words[:-1]
    candidates = _of_list(before, fragment) or _candidates(before)
    found = [word for word in candidates if word.startswith(fragment)]
    if not found:
        # Nothing of ours: Python's words would be wrong there as well, but for a file name or a variable.
        return _nothing() | {"suppress": words[0] == "%apixo"}
    completions = [SimpleCompletion(word, type="param") for word in found]
    # The whole fragment is replaced, from its dashes on.
    return {"completions": completions, "suppress": True, "matched_fragment": fragment}


def _candidates(before: list[str]) -> list[str]:
    if before[0] == "%%apixo":
        return list(values_of(before[-1])) or known_flags()
    if len(before) == 1:
        return list(COMMANDS)
    command = COMMANDS.get(before[1])
    return [word for word in command.words if word not in before] if command else []


def _of_list(before: list[str], fragment: str) -> list[str]:
    """Words for the next value of a list, after ``1:1,``, or for a list of the notebook, after ``@``."""
    flag, values = before[-1], values_of(before[-1])
    head, at, _name = fragment.rpartition("@")
    if at and ((flag == "--set" and head.endswith("=")) or (values and not head)):
        return [f"{head}@{name}" for name in _lists()]
    head, comma, _value = fragment.rpartition(",")
    taken = head.split(",")
    return [f"{head},{value}" for value in values if value not in taken] if comma else []


# Nothing is asked of a value but its type: a property of a foreign object may do anything.
_LISTS = (list, tuple, set, frozenset, range, dict)
_FOREIGN = ("Series", "Index", "ndarray")


def _lists() -> list[str]:
    """Names of the notebook's lists."""
    shell = get_ipython()
    if shell is None:
        return []
    return [
        name
        for name, value in shell.user_ns.items()
        if not name.startswith("_")
        and name not in shell.user_ns_hidden
        and (isinstance(value, _LISTS) or type(value).__name__ in _FOREIGN)
    ]
