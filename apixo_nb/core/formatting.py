"""Records as HTML and as text. Jinja escapes every value; nothing here builds markup from strings.

The lasting output of a run is plain HTML with inline styles and small WebP pictures: it survives saving,
closing, nbconvert, GitHub and an untrusted notebook, where widgets die.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from apixo_nb.text import dollars, printable, redacted, to_micros, without_callback

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


CARD_WIDTH_PX = 860  # of a card

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
    return _templates().get_template(template).render(width=CARD_WIDTH_PX, **values)


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
    return ". ".join(text for text in (phase(run), run.remark) if text)


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


def run_text(run: Run, paths: Sequence[str], note: str = "") -> str:
    """The card of a run as plain text, for terminals and text exports."""
    remark = remark_of(run)
    sign = "✓" if run.state == SUCCESS and not remark else "⚠"
    where = "SANDBOX · " if run.sandbox else ""
    lines = [f"{sign} {where}{' · '.join(facts(run))}", f"  {printable(run.prompt, 100)}"]
    return "\n".join(
        [*lines, *(f"  {line}" for line in (remark, note) if line), *(f"  {path}" for path in paths)]
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


# --- what runs cost together ------------------------------------------------------------------------


def spent_micros(runs: Iterable[Run]) -> int:
    """The sum of the runs whose cost is known."""
    return sum(run.cost_micros or 0 for run in runs)


def at_stake_micros(runs: Iterable[Run]) -> int:
    """The price of the runs that may have been charged, or may still be: nobody knows their end."""
    return sum(run.at_stake_micros for run in runs)


def spent_text(runs: Sequence[Run]) -> str:
    """Both sums in one line; a range while something is at stake."""
    stake = at_stake_micros(runs)
    more = f", and up to {dollars(stake)} more for runs whose end is not known" if stake else ""
    paid = ", none of it paid: this is the sandbox" if runs and runs[0].sandbox else ""
    return f"{dollars(spent_micros(runs))} by list price{more}{paid}"


def count_text(runs: Sequence[Run]) -> str:
    """How many runs there are, in all and in each state."""
    states = Counter(run.state for run in runs)
    shown = (f", {count} {printable(state, 40)}" for state, count in sorted(states.items()))
    return f"{len(runs)}" + "".join(shown)


# --- by day, tag and state --------------------------------------------------------------------------

#: How runs are grouped; a run with several tags counts in each.
GROUPS: dict[str, Callable[[Run], Sequence[str]]] = {
    "state": lambda run: [run.state],
    "day": lambda run: [f"{run.created_at.astimezone():%Y-%m-%d}"],
    "tag": lambda run: run.tags or ["(no tag)"],
}

FAILED_NOTE = "Failed tasks are counted as $0.00; APIXO's pages do not say whether they are charged."


def spend_lines(runs: Sequence[Run], by: Iterable[str] = GROUPS) -> list[str]:
    """A table for each grouping: its runs, what they cost, and what more they may have cost."""
    lines = []
    for name in by:
        groups: dict[str, list[Run]] = {}
        for run in runs:
            for label in GROUPS[name](run):
                groups.setdefault(label, []).append(run)
        lines += _table(name, groups)
    lines.append(f"in all: {spent_text(runs)}")
    if any(run.state == FAILED and run.task_id for run in runs):
        lines.append(FAILED_NOTE)
    return lines


def _table(name: str, groups: dict[str, list[Run]]) -> list[str]:
    rows = [
        (
            printable(label, 40),
            str(len(members)),
            dollars(spent_micros(members)),
            dollars(stake) if (stake := at_stake_micros(members)) else "",
        )
        for label, members in sorted(groups.items())
    ]
    table = [(name, "runs", "spent", "at stake"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    return [
        *(
            f"{label:<{widths[0]}}  {runs:>{widths[1]}}  {spent:>{widths[2]}}  {stake:>{widths[3]}}".rstrip()
            for label, runs, spent, stake in table
        ),
        "",
    ]


# --- against the balance ----------------------------------------------------------------------------


def balance_text(usd: float, before: tuple[datetime, float] | None, since: Sequence[Run]) -> str:
    """What changed since the balance was last looked at, and what the ledger says of that time.

    Parameters
    ----------
    usd : float
        The balance now, in US dollars.
    before : time and US dollars, optional
        The balance before.
    since : list of Run
        The runs made since then, of the same service.
    """
    if before is None:
        return ""
    seen_at, was = before
    change = to_micros(was) - to_micros(usd)
    moved = (
        f"fell by {dollars(change)}"
        if change > 0
        else f"rose by {dollars(-change)}"
        if change
        else "is the same"
    )
    spent, stake = spent_micros(since), at_stake_micros(since)
    expected = dollars(spent) if not stake else f"{dollars(spent)} to {dollars(spent + stake)}"
    fits = spent - 1 <= change <= spent + stake + 1  # a balance is rounded
    verdict = (
        ""
        if fits
        else " They differ: by another program, a top-up, a charge for a failed task or another price."
    )
    when = f"{seen_at.astimezone():%Y-%m-%d %H:%M}"
    return f"Since {when} it {moved}; the ledger's runs of that time cost {expected}.{verdict}"
