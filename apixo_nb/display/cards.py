"""Runs in a cell: a run as a card, several side by side, their progress and their plan."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from apixo_nb.core.formatting import (
    CARD_WIDTH_PX,
    HtmlResult,
    cost,
    facts,
    phase,
    plan_summary,
    progress_facts,
    remark_of,
    render,
    run_text,
    seconds,
)
from apixo_nb.core.models import MODELS
from apixo_nb.core.records import BEST, Image, Run
from apixo_nb.storage.originals import Images, Thumbnail
from apixo_nb.text import bare_address, printable

if TYPE_CHECKING:
    from apixo_nb.core.cadence import Cadence

_FRAME_PX = 26  # its padding and border, left and right
_GAP_PX = 10  # between two pictures
_PROMPT_SHOWN = 280


class Source(Protocol):
    """What knows the pictures and the pace of runs, such as a `Session`."""

    images: Images

    def shown_path(self, file: str) -> str:
        """The path of a picture, as people are shown it."""

    def cadence_of(self, run: Run) -> Cadence:
        """When a run is polled, and how long it is expected to take."""


# --- a finished run ---------------------------------------------------------------------------------


def run_html(run: Run, thumbnails: Sequence[Thumbnail], note: str = "") -> str:
    """The lasting card of a run: pictures, prompt, ratio, time, cost, run id; `note`: how it came about."""
    prompt, rest = _fold(run.prompt)
    remark = remark_of(run)
    return render(
        "run_card.html",
        pictures=[
            _picture(run, index, thumbnail, len(thumbnails)) for index, thumbnail in enumerate(thumbnails)
        ],
        prompt=prompt,
        prompt_rest=rest,
        mark="⚠" if remark else "",
        remark=remark,
        note=note,
        sandbox=run.sandbox,
        facts=facts(run),
    )


def _picture(run: Run, index: int, thumbnail: Thumbnail, count: int) -> dict[str, Any]:
    room = (CARD_WIDTH_PX - _FRAME_PX) // count - _GAP_PX  # all pictures of a run stand in one row
    scale = min(1.0, room / max(thumbnail.width, 1))
    alt = f"Picture {index + 1} of {count}: {printable(run.prompt, 200)}"
    return {
        "link": thumbnail.link,
        "thumbnail": thumbnail.data_uri,
        "alt": alt,
        "title": "Open the original",
        "width": round(thumbnail.width * scale),
        "height": round(thumbnail.height * scale),
    }


def _fold(prompt: str) -> tuple[str, str]:
    """A long prompt as its beginning and its whole; a short one as it is."""
    if len(prompt) <= _PROMPT_SHOWN and prompt.count("\n") < 8:
        return prompt, ""
    return " ".join(prompt[:_PROMPT_SHOWN].split()), prompt


def progress_html(run: Run, elapsed_s: float, cadence: Cadence) -> str:
    """The state of a run on its way, as one line of HTML."""
    shown = progress_facts(run, elapsed_s, cadence)
    return render("run_progress.html", phase=phase(run), facts=shown, sandbox=run.sandbox)


def lasting_html(card_html: str, panel_id: str) -> str:
    """A card (HTML made here) as the panel leaves it in the notebook."""
    import markupsafe

    return render("panel_card.html", card=markupsafe.Markup(card_html), panel_id=panel_id)  # noqa: S704


def vote_results_html(name: str, by: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What came of a ballot; the rows are those of `preferences.results`."""
    return render("vote_results.html", name=name, by=by, rows=rows)


def plan_html(runs: Sequence[Run], base_url: str) -> str:
    """What --dry-run shows."""
    return render("run_plan.html", summary=plan_summary(runs), requests=_requests(runs, base_url))


def plan_text(runs: Sequence[Run], base_url: str) -> str:
    """What --dry-run prints."""
    lines = [f"POST {request['address']}\n{request['body']}" for request in _requests(runs, base_url)]
    return "\n".join([f"Dry run, nothing was sent. {plan_summary(runs)}", *lines])


def _requests(runs: Sequence[Run], base_url: str) -> list[dict[str, str]]:
    return [
        {
            "address": f"{base_url}/generateTask/{run.model}",
            "body": json.dumps(run.request.body(), ensure_ascii=False, indent=2),
        }
        for run in runs
    ]


Picture = tuple[Run, Image]


def choice(image: Image) -> str:
    """What a person says of a picture, in a few characters: ★ 4/5."""
    rating = f"{image.rating}/{BEST}" if image.rating else ""
    return " ".join(part for part in ("★" if image.starred else "", rating) if part)


def best_first(images: Iterable[Image]) -> list[Image]:
    """Starred ones first, then by rating, then in their order."""
    return sorted(images, key=lambda image: (not image.starred, -(image.rating or 0), image.index))


def card(session: Source, run: Run, note: str = "") -> dict[str, str]:
    """The lasting output of a run, as a MIME bundle of HTML and text; `note` tells how it came about."""
    here = [image for image in run.images if image.file or session.images.held(run.run_id, image.index)]
    made = session.images.thumbnails((run, image) for image in here)
    # What the disk did not take was kept in memory; its link leads to where it came from.
    shown = [
        each if image.file else replace(each, link=image.url) for image, each in zip(here, made, strict=True)
    ]
    return {"text/html": run_html(run, shown, note), "text/plain": _card_text(session, run, note)}


def _card_text(session: Source, run: Run, note: str) -> str:
    return run_text(run, [session.shown_path(name) for name in run.files], note)


# --- the difference of two prompts ------------------------------------------------------------------

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


# --- runs side by side ------------------------------------------------------------------------------

MOST_COMPARED = 4  # more do not stand side by side on a screen
_WIDTHS_PX = {2: 360, 3: 260, 4: 200}  # of a column

#: Facts that always differ, so that they say nothing about the runs.
_OWN = ("Made", "Run")


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
    shown = differences(runs)
    parameters = [_parameter(**one) for one in shown["parameters"]]
    columns = [_column(run, pictures, images, px) for run, pictures in found]
    html = render("comparison.html", columns=columns, prompts=shown["prompts"], parameters=parameters, px=px)
    return HtmlResult(html, _text(runs, shown["prompts"], parameters))


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
