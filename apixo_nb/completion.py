"""Tab completion of the magics' options, values and commands, by IPython's matcher API."""

from __future__ import annotations

from typing import Any

from IPython.core.completer import SimpleCompletion, context_matcher

from . import options


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
    found = [word for word in _candidates(before) if word.startswith(fragment)]
    if not found:
        # Nothing of ours: Python's words would be wrong there as well, but for a file name or a variable.
        return _nothing() | {"suppress": words[0] == "%apixo"}
    completions = [SimpleCompletion(word, type="param") for word in found]
    # The whole fragment is replaced, from its dashes on.
    return {"completions": completions, "suppress": True, "matched_fragment": fragment}


def _candidates(before: list[str]) -> list[str]:
    if before[0] == "%apixo":
        if before[1:] == ["sandbox"]:
            return ["on", "off"]
        return list(options.COMMANDS) if len(before) == 1 else []
    return list(options.values_of(before[-1])) or options.known_flags()
