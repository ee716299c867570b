"""Records as HTML and as text. Jinja escapes every value; nothing here builds markup from strings.

The lasting output of a run is plain HTML with inline styles and small WebP pictures: it survives saving,
closing, nbconvert, GitHub and an untrusted notebook, where widgets die.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import text
from .run import (
    CANCELLED,
    FAILED,
    PLANNED,
    PROCESSING,
    SUBMITTED,
    SUBMITTING,
    SUCCESS,
    TIMEOUT,
    UNKNOWN,
    Run,
)
from .scrub import without_callback
from .text import printable

if TYPE_CHECKING:
    import jinja2

    from .spec import Cadence

_WIDTH_PX = 860  # of a card
_FRAME_PX = 26  # its padding and border, left and right
_GAP_PX = 10  # between two pictures
_PROMPT_SHOWN = 280

_PHASES = {
    PLANNED: "In line",
    SUBMITTING: "Submitting",
    SUBMITTED: "Waiting",
    PROCESSING: "Waiting",
    SUCCESS: "Downloading",
    FAILED: "Failed",
    UNKNOWN: "Unknown: the submit's answer was lost",
    CANCELLED: "Stopped waiting; the task may still finish",
    TIMEOUT: "Gave up waiting; the task may still finish",
}


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture as a run's card shows it: a link to the original, and a data URI or ""."""

    link: str
    data_uri: str
    width: int
    height: int


@functools.cache
def _templates() -> jinja2.Environment:
    import jinja2

    loader = jinja2.PackageLoader("apixo_nb", "static")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


def render(template: str, **values: Any) -> str:
    """A template of static/ with these values, all of them escaped.

    What is shown in a notebook has the classes ``mathjax_ignore`` and ``tex2jax_ignore`` (of MathJax 3 and 2)
    on its outermost element: two prices in one output would be set as mathematics otherwise.
    """
    return _templates().get_template(template).render(width=_WIDTH_PX, **values)


# --- a finished run ---------------------------------------------------------------------------------


def run_html(run: Run, thumbnails: Sequence[Thumbnail], said: str = "") -> str:
    """The lasting card of a run: pictures, prompt, ratio, time, cost, run id; `said`: how it came about."""
    prompt, rest = _fold(run.prompt)
    remark = remark_of(run)
    return render(
        "run.html",
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


def remark_of(run: Run) -> str:
    """What a reader must not overlook, in one line; "" for a plain success."""
    return without_callback(_remark(run), run.callback_url)


def _remark(run: Run) -> str:
    if run.state == SUCCESS:
        missing = f"{run.missing} not on disk yet" if run.missing else ""
        return "; ".join(text for text in (run.remark, missing, printable(run.fail_msg)) if text)
    if run.state == FAILED:
        said = ": ".join(text for text in (run.fail_code, run.fail_msg) if text)
        return f"Failed: {printable(said)}"
    if run.state == SUBMITTING:
        return "Its submit has no answer yet; it is not sent again"
    if run.state == PLANNED:
        return "Not sent"
    return phase(run)


def facts(run: Run) -> list[str]:
    """Ratio, number, time, cost and id of a run, as short texts."""
    count = f"{run.num_images} picture" + ("s" if run.num_images != 1 else "")
    took = seconds(run.cost_time_ms / 1000) if run.cost_time_ms is not None else ""
    references = f"{len(run.image_urls)} reference" + ("s" if len(run.image_urls) != 1 else "")
    parts = [
        run.aspect_ratio,
        count,
        references if run.image_urls else "",
        took,
        cost(run),
        printable(run.name, 60),
        " ".join(f"#{printable(tag, 40)}" for tag in run.tags),
        f"run {run.run_id}",
    ]
    return [part for part in parts if part]


def cost(run: Run) -> str:
    """What a run cost, in dollars; "up to" while that is not known."""
    if run.state == PLANNED:
        return ""
    known = run.is_final and run.cost_micros is not None
    said = price(run.cost_micros or 0) if known else f"up to {price(run.price_micros)}"
    if known and not run.cost_micros:
        return said
    return f"{said}, not paid" if run.sandbox else said


def price(micros: int) -> str:
    """Micro-dollars as $0.35; more digits where the price has them. `text.dollars` takes US dollars."""
    return text.dollars(micros / 1e6)


def seconds(value: float) -> str:
    """A duration for people: 3.2 s, 41 s, 2 min 5 s."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"


def run_text(run: Run, paths: Sequence[str], said: str = "") -> str:
    """The card of a run as plain text, for terminals and text exports."""
    remark = remark_of(run)
    sign = "✓" if run.state == SUCCESS and not remark else "⚠"
    where = "SANDBOX · " if run.sandbox else ""
    lines = [f"{sign} {where}{' · '.join(facts(run))}", f"  {printable(run.prompt, 100)}"]
    return "\n".join(
        [*lines, *(f"  {line}" for line in (remark, said) if line), *(f"  {path}" for path in paths)]
    )


# --- a run on its way -------------------------------------------------------------------------------


def phase(run: Run) -> str:
    """What a run is doing, in a word or a sentence; a state of APIXO's own is shown as it is."""
    return _PHASES.get(run.state) or f"Waiting ({printable(run.state, 40)})"


def progress_facts(run: Run, elapsed_s: float, cadence: Cadence) -> list[str]:
    """Elapsed and expected time, downloads and cost of a run on its way."""
    waiting = run.state not in (SUBMITTING, SUCCESS, FAILED)
    downloads = f"{len(run.files)} of {len(run.result_urls)} pictures" if run.state == SUCCESS else ""
    expected = f"{elapsed_s:.0f} s, {expectation(cadence)}" if waiting else ""
    return [part for part in (expected, downloads, cost(run), printable(run.prompt, 60)) if part]


def expectation(cadence: Cadence) -> str:
    """How long a task is likely to take; with what earlier tasks took, where they are enough."""
    if cadence.slow_s is None:
        return f"usually about {cadence.expected_s:.0f} s"
    return f"usually {_short(cadence.expected_s)}, 9 of 10 under {_short(cadence.slow_s)}"


def _short(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def progress_html(run: Run, elapsed_s: float, cadence: Cadence) -> str:
    """The state of a run on its way, as one line of HTML."""
    shown = progress_facts(run, elapsed_s, cadence)
    return render("progress.html", phase=phase(run), facts=shown, sandbox=run.sandbox)


def progress_text(run: Run, elapsed_s: float, cadence: Cadence) -> str:
    """The state of a run on its way, as one line of text."""
    where = "SANDBOX · " if run.sandbox else ""
    return f"{where}{phase(run)}: {' · '.join(progress_facts(run, elapsed_s, cadence))}"


def progress_share(run: Run, elapsed_s: float, cadence: Cadence) -> float:
    """How full the bar is, 0 to 1: it slows down towards the expected time and never runs backwards."""
    if run.state == SUCCESS:
        return 0.95 + 0.05 * len(run.files) / max(1, len(run.result_urls))
    return 0.94 * (1 - math.exp(-1.5 * elapsed_s / max(cadence.expected_s, 0.1)))


def lasting_html(card_html: str, panel_id: str) -> str:
    """A card (HTML made here) as the panel leaves it in the notebook."""
    import markupsafe

    return render("lasting.html", card=markupsafe.Markup(card_html), panel_id=panel_id)  # noqa: S704


def ballot_html(name: str, by: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What came of a ballot; the rows are those of `ballot.results`."""
    return render("ballot.html", name=name, by=by, rows=rows)


def sentence_html(sentence: str) -> str:
    """One sentence in the frame of a card."""
    return render("sentence.html", text=sentence)


# --- a plan -----------------------------------------------------------------------------------------


def plan_summary(runs: Sequence[Run]) -> str:
    """Count and cost of runs that were not started."""
    pictures, total = sum(run.num_images for run in runs), sum(run.price_micros for run in runs)
    tasks = f"{len(runs)} task" + ("s" if len(runs) != 1 else "")
    free = ", in the sandbox: nothing is paid" if runs and runs[0].sandbox else ""
    return f"{tasks}, {pictures} picture{'s' if pictures != 1 else ''}, {price(total)}{free}."


def plan_html(runs: Sequence[Run], base_url: str) -> str:
    """What --dry-run shows."""
    return render("plan.html", summary=plan_summary(runs), requests=_requests(runs, base_url))


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
