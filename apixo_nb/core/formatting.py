"""Records as HTML and as text. Jinja escapes every value; nothing here builds markup from strings.

The lasting output of a run is plain HTML with inline styles and small WebP pictures: it survives saving,
closing, nbconvert, GitHub and an untrusted notebook, where widgets die.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from apixo_nb.text import dollars, printable, redacted, without_callback

from .records import (
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

if TYPE_CHECKING:
    import jinja2

    from .cadence import Cadence


class HtmlResult:
    """Lasting HTML and the same as plain text.

    Attributes
    ----------
    html : str
        Inline styles and small pictures only, so it stays in a saved, exported or untrusted notebook.
    text : str
    """

    def __init__(self, html: str, text: str) -> None:
        self.html = html
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: Iterable[str] | None = None, **_: Any) -> dict[str, str]:
        bundle = {"text/html": self.html, "text/plain": self.text}
        return {kind: value for kind, value in bundle.items() if include is None or kind in include}


_WIDTH_PX = 860  # of a card

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


@functools.cache
def _templates() -> jinja2.Environment:
    import jinja2

    loader = jinja2.PackageLoader("apixo_nb", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


def render(template: str, **values: Any) -> str:
    """A template of templates/ with these values, all of them escaped.

    What is shown in a notebook has the classes ``mathjax_ignore`` and ``tex2jax_ignore`` (of MathJax 3 and 2)
    on its outermost element: two prices in one output would be set as mathematics otherwise.
    """
    return _templates().get_template(template).render(width=_WIDTH_PX, **values)


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
    if run.state == UNKNOWN and run.raw:
        return f"{phase(run)}. The answer was: {printable(redacted(run.raw, run.callback_url))}"
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
    said = dollars(run.cost_micros or 0) if known else f"up to {dollars(run.price_micros)}"
    if known and not run.cost_micros:
        return said
    return f"{said}, not paid" if run.sandbox else said


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


def progress_text(run: Run, elapsed_s: float, cadence: Cadence) -> str:
    """The state of a run on its way, as one line of text."""
    where = "SANDBOX · " if run.sandbox else ""
    return f"{where}{phase(run)}: {' · '.join(progress_facts(run, elapsed_s, cadence))}"


def progress_share(run: Run, elapsed_s: float, cadence: Cadence) -> float:
    """How full the bar is, 0 to 1: it slows down towards the expected time and never runs backwards."""
    if run.state == SUCCESS:
        return 0.95 + 0.05 * len(run.files) / max(1, len(run.result_urls))
    return 0.94 * (1 - math.exp(-1.5 * elapsed_s / max(cadence.expected_s, 0.1)))


def sentence_html(sentence: str) -> str:
    """One sentence in the frame of a card."""
    return render("message.html", text=sentence)


# --- a plan -----------------------------------------------------------------------------------------


def plan_summary(runs: Sequence[Run]) -> str:
    """Count and cost of runs that were not started."""
    pictures, total = sum(run.num_images for run in runs), sum(run.price_micros for run in runs)
    tasks = f"{len(runs)} task" + ("s" if len(runs) != 1 else "")
    free = ", in the sandbox: nothing is paid" if runs and runs[0].sandbox else ""
    return f"{tasks}, {pictures} picture{'s' if pictures != 1 else ''}, {dollars(total)}{free}."
