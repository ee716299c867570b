"""The runs that the panel lists: those in flight and those that have ended, each with its card."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from apixo_nb.core.records import PLANNED, Run
from apixo_nb.engine.job import Job
from apixo_nb.experiments.progress import Forecast, about, progress_of
from apixo_nb.session.session import Session

from .cards import ended_card, live_card

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
