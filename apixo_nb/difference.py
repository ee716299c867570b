"""What differs between two prompts, word by word; where a script puts no blanks, character by character."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import Literal

Kind = Literal["same", "removed", "added"]

# A word of letters and digits, also where an accent is a character of its own; one character of a script that
# puts no blanks between words; blanks; anything else by itself.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0eff"
_LETTER = rf"(?:(?![{_UNSPACED}])[\w\u0300-\u036f])"
_WORDS = re.compile(rf"[{_UNSPACED}]|{_LETTER}+(?:['\u2019]{_LETTER}+)*|\s+|[^\w\s]")

_MOST_PAIRS = 500_000  # of equal pieces; each is looked at again and again, so more could take minutes


def words(text: str) -> list[str]:
    """The pieces that are compared; joined, they are the text."""
    return _WORDS.findall(text)


def difference(before: str, after: str) -> list[tuple[Kind, str]]:
    """The two texts as one list: pieces of `before` are same or removed, those of `after` same or added.

    Neighbours of one kind are one piece, and no piece is empty.
    """
    old, new = words(before), words(after)
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    middle = _middle(old[head : len(old) - tail], new[head : len(new) - tail])
    return _joined([("same", old[:head]), *middle, ("same", old[len(old) - tail :])])


def _common(old: list[str], new: list[str]) -> int:
    """How many pieces they have in common from their beginning on."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(old), len(new)))


def _middle(old: list[str], new: list[str]) -> list[tuple[Kind, list[str]]]:
    if _pairs(old, new) > _MOST_PAIRS:
        old, new = _with_blanks(old), _with_blanks(new)
    # `autojunk` takes frequent pieces for noise, so that is only done where it must be.
    noisy = _pairs(old, new) > _MOST_PAIRS
    found: list[tuple[Kind, list[str]]] = []
    for action, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=noisy).get_opcodes():
        same = action == "equal"
        found += [("same", old[a:b])] if same else [("removed", old[a:b]), ("added", new[c:d])]
    return found


def _pairs(old: list[str], new: list[str]) -> int:
    """How many pairs of equal pieces there are."""
    known = Counter(old)
    return sum(known[piece] for piece in new)


def _with_blanks(pieces: list[str]) -> list[str]:
    """Each word and the blanks behind it as one piece; most pairs of a long text are of blanks."""
    found: list[str] = []
    for piece in pieces:
        if found and piece.isspace():
            found[-1] += piece
        else:
            found.append(piece)
    return found


def _joined(parts: list[tuple[Kind, list[str]]]) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    for kind, pieces in parts:
        if found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + "".join(pieces))
        elif pieces:
            found.append((kind, "".join(pieces)))
    return found
