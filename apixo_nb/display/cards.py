"""A run in a cell: its card, its progress, its plan."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from apixo_nb.core.formatting import (
    _WIDTH_PX,
    facts,
    phase,
    plan_summary,
    progress_facts,
    remark_of,
    render,
    run_text,
)
from apixo_nb.core.records import BEST, Image, Run
from apixo_nb.storage.originals import Images
from apixo_nb.storage.thumbnails import Thumbnail
from apixo_nb.text import printable

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


def run_html(run: Run, thumbnails: Sequence[Thumbnail], said: str = "") -> str:
    """The lasting card of a run: pictures, prompt, ratio, time, cost, run id; `said`: how it came about."""
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
        said=said,
        sandbox=run.sandbox,
        facts=facts(run),
    )


def _picture(run: Run, index: int, thumbnail: Thumbnail, count: int) -> dict[str, Any]:
    room = (_WIDTH_PX - _FRAME_PX) // count - _GAP_PX  # all pictures of a run stand in one row
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


def card(session: Source, run: Run, said: str = "") -> dict[str, str]:
    """The lasting output of a run, as a MIME bundle of HTML and text; `said` tells how it came about."""
    here = [image for image in run.images if image.file or session.images.held(run.run_id, image.index)]
    made = session.images.thumbnails((run, image) for image in here)
    # What the disk did not take was kept in memory; its link leads to where it came from.
    shown = [
        each if image.file else replace(each, link=image.url) for image, each in zip(here, made, strict=True)
    ]
    return {"text/html": run_html(run, shown, said), "text/plain": _card_text(session, run, said)}


def _card_text(session: Source, run: Run, said: str) -> str:
    return run_text(run, [session.shown_path(name) for name in run.files], said)
