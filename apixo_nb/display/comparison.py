"""Runs side by side, as lasting HTML: pictures, what differs between the prompts word by word, parameters."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from apixo_nb.core.formatting import HtmlResult, cost, remark_of, render, seconds
from apixo_nb.core.models import MODELS
from apixo_nb.core.records import Image, Run
from apixo_nb.storage.originals import Images
from apixo_nb.text import bare_address, printable

from .cards import choice

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


def _parameters(run: Run) -> dict[str, str]:
    spec = MODELS.get(run.model)
    known = {parameter.wire: parameter.help.capitalize() for parameter in spec.parameters} if spec else {}
    return {
        "Model": run.model,
        **{known.get(name, name): str(value) for name, value in run.parameters.items()},
        "References": "\n".join(run.image_urls) or "none",
        "State": run.state,
        "Time": seconds(run.cost_time_ms / 1000) if run.cost_time_ms is not None else "",
        "Cost": cost(run),
        "Rating": str(run.rating or ""),
        "Name": run.name,
        "Tags": ", ".join(run.tags),
        "Made": f"{run.created_at.astimezone():%Y-%m-%d %H:%M}",
        "Run": run.run_id,
    }


MOST_COMPARED = 4  # more do not stand side by side on a screen
_WIDTHS_PX = {2: 360, 3: 260, 4: 200}  # of a column

#: Facts that always differ, so that they say nothing about the runs.
_OWN = ("Made", "Run")


def differences(runs: Sequence[Run]) -> dict[str, Any]:
    """What differs between runs: their parameters, those that differ marked, and their prompts.

    The first prompt is as it is; each other one is told by its difference to the first.
    """
    columns = [_parameters(run) for run in runs]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    table = [[column.get(label, "") for column in columns] for label in labels]
    return {
        "parameters": [
            {"label": label, "values": values, "differs": len(set(values)) > 1}
            for label, values in zip(labels, table, strict=True)
            if any(values)
        ],
        "prompts": [difference(runs[0].prompt, run.prompt) for run in runs],
    }


def compared(found: Sequence[tuple[Run, Sequence[Image]]], images: Images) -> HtmlResult:
    """Runs with those of their pictures that are to be seen."""
    runs, px = [run for run, _ in found], _WIDTHS_PX[len(found)]
    told = differences(runs)
    parameters = [_parameter(**one) for one in told["parameters"]]
    columns = [_column(run, pictures, images, px) for run, pictures in found]
    html = render("comparison.html", columns=columns, prompts=told["prompts"], parameters=parameters, px=px)
    return HtmlResult(html, _text(runs, told["prompts"], parameters))


def _column(run: Run, pictures: Sequence[Image], images: Images, px: int) -> dict[str, Any]:
    side = px if len(pictures) < 2 else px // 2 - 4
    return {
        "pictures": [
            {"thumbnail": thumbnail, "choice": choice(image)}
            for image, thumbnail in zip(
                pictures, images.thumbnails([(run, image) for image in pictures], side), strict=True
            )
        ],
        "remark": remark_of(run),
        "sandbox": run.sandbox,
    }


def _parameter(label: str, values: Sequence[str], *, differs: bool) -> dict[str, Any]:
    if label == "References":  # their queries may be keys, and this stays in the notebook
        values = ["\n".join(bare_address(url) for url in value.split("\n")) for value in values]
        values = [value or "none" for value in values]
    return {"label": label, "values": list(values), "differs": differs and label not in _OWN}


# --- as text ----------------------------------------------------------------------------------------

_SIGNS = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}


def _text(
    runs: Sequence[Run], prompts: Sequence[Sequence[tuple[Kind, str]]], parameters: Sequence[dict[str, Any]]
) -> str:
    lines = [
        f"{number}. run {run.run_id}: "
        + printable("".join(_SIGNS[kind].format(piece) for kind, piece in pieces), 600)
        for number, (run, pieces) in enumerate(zip(runs, prompts, strict=True), 1)
    ]
    differing = [one for one in parameters if one["differs"]]
    return "\n".join(
        [*lines, *(f"{one['label']}: {printable(' | '.join(one['values']), 300)}" for one in differing)]
    )
