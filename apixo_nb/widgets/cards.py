"""The runs that a page shows, as JSON: cards, rows of the history, comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from apixo_nb.core.cadence import Cadence
from apixo_nb.core.formatting import cost, expectation, facts, phase, remark_of, seconds
from apixo_nb.core.records import (
    CANCELLED,
    FAILED,
    PLANNED,
    PROCESSING,
    SUBMITTING,
    SUCCESS,
    TIMEOUT,
    UNKNOWN,
    Image,
    Run,
)
from apixo_nb.display.cards import differences
from apixo_nb.engine.job import Job
from apixo_nb.errors import ApixoError
from apixo_nb.experiments.progress import Forecast, about, progress_of
from apixo_nb.session.session import Session
from apixo_nb.text import dollars, printable, redacted, without_callback

_PROMPT_SHOWN = 600  # characters of a card and of a row of the history; the whole is one click away

_KINDS = {
    SUCCESS: "done",
    FAILED: "failed",
    UNKNOWN: "unknown",
    SUBMITTING: "unknown",  # its POST may have left
    CANCELLED: "stopped",
    TIMEOUT: "stopped",
}


def live_card(job: Job, began_at: datetime, cadence: Cadence) -> dict[str, Any]:
    """A run on its way. The page counts the seconds itself, from `began_at`."""
    run = job.run
    return {
        **_head(run),
        "kind": "live",
        "phase": _live_phase(job),
        "began_ms": _ms(began_at),
        "expected_s": cadence.expected_s,
        "expected": expectation(cadence),
        "polls": job.polls,
        "downloads": f"{len(run.files)} of {len(run.result_urls)}" if run.state == SUCCESS else "",
        "stoppable": not job.stopped,
    }


def _live_phase(job: Job) -> str:
    if job.stopped:
        return "Stopping"
    # A run that was left and is taken up again keeps its state until there is news of it.
    return phase(job.run.replace(state=PROCESSING) if job.run.state in (CANCELLED, TIMEOUT) else job.run)


def ended_card(run: Run, error: BaseException | None, notice: str = "") -> dict[str, Any]:
    """A run that has ended, or that nobody waits for any more; `error` is what its job says of it."""
    return {
        **_head(run),
        "kind": _kind(run),
        "phase": _ended_phase(run),
        "notice": notice,
        "remark": remark_of(run) if run.state == SUCCESS else "",
        "problem": _problem(run, error),
        "took": seconds(run.cost_time_ms / 1000) if run.cost_time_ms is not None else "",
        "retry_price": retry_price(run),
        "retry_micros": run.price_micros,
        "resumable": bool(run.task_id) and (not run.is_final or bool(run.missing)),
        "pictures": pictures(run),
    }


def _head(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "state": run.state,
        "prompt": run.prompt[:_PROMPT_SHOWN],
        "cut": len(run.prompt) > _PROMPT_SHOWN,
        "cost": cost(run),
        "facts": facts(run),
        "sandbox": run.sandbox,
    }


def _kind(run: Run) -> str:
    return _KINDS.get(run.state, "stopped" if run.task_id else "unsent")


def _ended_phase(run: Run) -> str:
    if run.state == SUCCESS:
        return "Done" if not run.missing else "Done, but not all is on disk"
    return "Not sent" if _kind(run) == "unsent" else phase(run)


def _problem(run: Run, error: BaseException | None) -> dict[str, str]:
    """Why there are no pictures, and what to do, as the error says it or as the row does."""
    if isinstance(error, ApixoError):
        return {"text": without_callback(error.message, run.callback_url), "advice": error.advice}
    text = "" if run.state == SUCCESS else remark_of(run)
    return {"text": text, "advice": ""} if text else {}


def retry_price(run: Run) -> str:
    """What another try costs; "" where it could pay twice, or where there is nothing to try again."""
    if _kind(run) not in ("failed", "unsent"):
        return ""
    return dollars(run.price_micros)


def pictures(run: Run) -> list[dict[str, Any]]:
    """The pictures of a run."""
    return [picture(run, image, alive=is_alive(run)) for image in run.images]


def is_alive(run: Run) -> bool:
    """Whether the addresses of its pictures have not expired yet."""
    return run.expires_at is None or run.expires_at > datetime.now(UTC)


def picture(run: Run, image: Image, *, alive: bool) -> dict[str, Any]:
    """One picture, with what a person said of it; `alive` tells whether its address at APIXO still works.

    Not the address itself, which may be signed: the page asks for it.
    """
    return {
        "run_id": run.run_id,
        "index": image.index,
        "alt": f"Picture {image.index + 1} of {max(len(run.images), 1)}: {printable(run.prompt, 200)}",
        "file": image.file,
        "missing": printable(redacted(image.error, run.callback_url)) if not image.file else "",
        "width": image.width or 1,
        "height": image.height or 1,
        "size": f"{image.width} \u00d7 {image.height}" if image.width else "",
        "alive": alive and bool(image.url),
        "rating": image.rating,
        "starred": image.starred,
        "note": image.note,
        "tags": list(image.tags),
    }


def history_row(run: Run) -> dict[str, Any]:
    """A run as a row of the history."""
    return {
        **_head(run),
        "kind": _kind(run),
        "created_ms": _ms(run.created_at),
        "aspect_ratio": run.aspect_ratio,
        "num_images": run.num_images,
        "took": seconds(run.cost_time_ms / 1000) if run.cost_time_ms is not None else "",
        "rating": run.rating,
        "name": run.name,
        "tags": list(run.tags),
        "why": "" if run.state == SUCCESS else printable(remark_of(run), 160),
        "pictures": pictures(run),
    }


# --- side by side -----------------------------------------------------------------------------------


def comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """Several runs side by side: their parameters, those that differ marked, and their prompts.

    The first prompt is as it is; each other one is told by its difference to the first.
    """
    return {
        "runs": [{**history_row(run), "prompt": run.prompt, "cut": False} for run in runs],
        **differences(runs),
    }


def _ms(when: datetime) -> int:
    return round(when.timestamp() * 1000)


# --- the runs that a page shows ---------------------------------------------------------------------

_CARDS = 60  # cards on the page, newest first; the rest is in the history
_RUNS_KEPT = 200  # runs that have ended, beyond which the oldest are forgotten here
_QUEUED_CARDS = 4  # cards of runs that wait to be sent; the progress line counts them all


@dataclass(eq=False, slots=True)
class TrackedRun:
    """One run that is shown, and the session it runs in, which may be of earlier settings.

    `ours`: begun on the panel, and leaves its lasting output there. `bought`: newly paid for.
    """

    job: Job
    session: Session
    began_at: datetime
    run_id: str
    ours: bool = False
    bought: bool = False
    final: dict[str, Any] = field(default_factory=dict)


class RunList:
    """The runs on the page. Its methods are called under the panel's lock."""

    def __init__(self, has_ended: Callable[[TrackedRun], None]) -> None:
        self._has_ended = has_ended  # called once for each run, on the thread that draws
        self._runs: dict[str, TrackedRun] = {}  # by run, oldest first
        self._open: dict[Job, TrackedRun] = {}
        self._group: list[TrackedRun] = []  # what was begun since nothing was on its way
        self._forecast: Forecast | None = None

    def add(self, session: Session, jobs: Iterable[Job], *, ours: bool = False, bought: bool = False) -> None:
        """List runs, the last one on top; those of earlier settings stay. See `TrackedRun`."""
        for job in jobs:
            tracked = self._open.get(job) or self._runs.get(job.run.run_id)
            if tracked is None or tracked.job is not job:
                tracked = self._begin(session, job)
            tracked.ours |= ours
            tracked.bought |= bought

    def _begin(self, session: Session, job: Job) -> TrackedRun:
        if not self._open:
            self._group, self._forecast = [], None
        tracked = TrackedRun(job, session, _began(job.run), job.run.run_id)
        old = self._runs.pop(job.run.run_id, None)  # taken up again: a run has one card
        self._group = [known for known in self._group if known is not old] if old else self._group
        self._group.append(tracked)
        self._runs[job.run.run_id] = self._open[job] = tracked
        return tracked

    @property
    def busy(self) -> bool:
        """Whether one of them is still on its way."""
        return bool(self._open)

    def job(self, run_id: str) -> Job | None:
        """The job of a run that is shown, or None."""
        tracked = self._runs.get(run_id)
        return tracked.job if tracked else None

    def ended(self) -> list[TrackedRun]:
        """Runs that were begun on the panel and have ended, oldest first."""
        return [tracked for tracked in self._runs.values() if tracked.ours and tracked.job not in self._open]

    def renew(self, run: Run) -> None:
        """A person has rated, starred or labelled one of its pictures."""
        tracked = self._runs.get(run.run_id)
        if tracked and tracked.final:
            tracked.job.run = run
            tracked.final = {}

    def cards(self) -> list[dict[str, Any]]:
        """The page's cards, newest first."""
        for job, tracked in list(self._open.items()):
            if tracked.run_id != job.run.run_id:  # another kernel was quicker: it follows that one's run
                self._runs.pop(tracked.run_id, None)
                tracked.run_id = job.run.run_id
                self._runs[tracked.run_id] = tracked
            if job.ended.done():
                del self._open[job]
                self._has_ended(tracked)
        self._forget()
        queued = (tracked for job, tracked in self._open.items() if not job.done and job.run.state == PLANNED)
        hidden = set(islice(queued, _QUEUED_CARDS, None))
        shown = (tracked for tracked in reversed(self._runs.values()) if tracked not in hidden)
        return [self._card(tracked) for tracked in islice(shown, _CARDS)]

    def _forget(self) -> None:
        """Let the oldest go that have ended."""
        spare = len(self._runs) - len(self._open) - _RUNS_KEPT
        if spare > 0:
            old = [run_id for run_id, tracked in self._runs.items() if tracked.job not in self._open]
            for run_id in old[:spare]:
                del self._runs[run_id]

    def progress(self, now: float) -> str:
        """One line for all that goes on together; "" for a single run. `now` is a time that only grows."""
        if len(self._group) < 2:
            return ""
        jobs = [tracked.job for tracked in self._group]
        if self._forecast is None:
            cadence = self._group[0].session.cadence_of(jobs[0].run)
            self._forecast = Forecast(cadence.expected_s, None)
        bought = [tracked.job for tracked in self._group if tracked.bought]
        state = progress_of(jobs, bought)
        money = [state.money()] if bought else []
        left = [about(self._forecast.left_s(jobs, now))] if state.ended < state.total else []
        return " · ".join([", ".join(state.words()), *money, *left])

    def _card(self, tracked: TrackedRun) -> dict[str, Any]:
        job = tracked.job
        if job in self._open:
            return live_card(job, tracked.began_at, tracked.session.cadence_of(job.run))
        if not tracked.final:
            error = job.answer.exception() if job.answer.done() else None
            tracked.final = ended_card(job.run, error, job.note)
        return tracked.final


def _began(run: Run) -> datetime:
    """From when on the page counts; a run that is taken up again may have begun long ago."""
    return run.submitted_at or datetime.now(UTC)
