"""Which runs the panel shows: those in flight in this kernel, whichever cell began them, and the ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from .cards import ended_card, live_card
from .job import Job
from .run import PLANNED, Run
from .session import Session
from .tally import Forecast, about, count

_SHOWN = 60  # cards on the page, newest first; the rest is in the history
_KEPT = 200  # runs that have ended, beyond which the oldest are forgotten here
_IN_LINE = 4  # cards of those that stand in line and are not sent yet; the progress line counts them all


@dataclass(eq=False, slots=True)
class Track:
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


class Board:
    """The runs on the page. Its methods are called under the panel's lock."""

    def __init__(self, has_ended: Callable[[Track], None]) -> None:
        self._has_ended = has_ended  # called once for each run, on the thread that draws
        self._tracks: dict[str, Track] = {}  # by run, oldest first
        self._open: dict[Job, Track] = {}
        self._bunch: list[Track] = []  # what was begun since nothing was on its way
        self._forecast: Forecast | None = None

    def add(self, session: Session, jobs: Iterable[Job], *, ours: bool = False, bought: bool = False) -> None:
        """Show runs, the last one on top; those of earlier settings stay. `ours`, `bought`: see `Track`."""
        for job in jobs:
            track = self._open.get(job) or self._tracks.get(job.run.run_id)
            if track is None or track.job is not job:
                track = self._begin(session, job)
            track.ours |= ours
            track.bought |= bought

    def _begin(self, session: Session, job: Job) -> Track:
        if not self._open:
            self._bunch, self._forecast = [], None
        track = Track(job, session, _began(job.run), job.run.run_id)
        old = self._tracks.pop(job.run.run_id, None)  # taken up again: a run has one card
        self._bunch = [known for known in self._bunch if known is not old] if old else self._bunch
        self._bunch.append(track)
        self._tracks[job.run.run_id] = self._open[job] = track
        return track

    @property
    def busy(self) -> bool:
        """Whether one of them is still on its way."""
        return bool(self._open)

    def job(self, run_id: str) -> Job | None:
        """The job of a run that is shown, or None."""
        track = self._tracks.get(run_id)
        return track.job if track else None

    def ended(self) -> list[Track]:
        """Runs that were begun on the panel and have ended, oldest first."""
        return [track for track in self._tracks.values() if track.ours and track.job not in self._open]

    def renew(self, run: Run) -> None:
        """A person has said something of one of its pictures."""
        track = self._tracks.get(run.run_id)
        if track and track.final:
            track.job.run = run
            track.final = {}

    def cards(self) -> list[dict[str, Any]]:
        """The page's cards, newest first."""
        for job, track in list(self._open.items()):
            if track.run_id != job.run.run_id:  # another kernel was quicker: it follows that one's run
                self._tracks.pop(track.run_id, None)
                track.run_id = job.run.run_id
                self._tracks[track.run_id] = track
            if job.ended.done():
                del self._open[job]
                self._has_ended(track)
        self._forget()
        in_line = (track for job, track in self._open.items() if not job.done and job.run.state == PLANNED)
        hidden = set(islice(in_line, _IN_LINE, None))
        shown = (track for track in reversed(self._tracks.values()) if track not in hidden)
        return [self._card(track) for track in islice(shown, _SHOWN)]

    def _forget(self) -> None:
        """Let the oldest go that have ended."""
        spare = len(self._tracks) - len(self._open) - _KEPT
        if spare > 0:
            old = [run_id for run_id, track in self._tracks.items() if track.job not in self._open]
            for run_id in old[:spare]:
                del self._tracks[run_id]

    def progress(self, now: float) -> str:
        """One line for all that goes on together; "" for a single run. `now` is a time that only grows."""
        if len(self._bunch) < 2:
            return ""
        jobs = [track.job for track in self._bunch]
        if self._forecast is None:
            cadence = self._bunch[0].session.cadence_of(jobs[0].run)
            self._forecast = Forecast(cadence.expected_s, None)
        bought = [track.job for track in self._bunch if track.bought]
        standing = count(jobs, bought)
        money = [standing.money()] if bought else []
        left = [about(self._forecast.left_s(jobs, now))] if standing.ended < standing.total else []
        return " · ".join([", ".join(standing.words()), *money, *left])

    def _card(self, track: Track) -> dict[str, Any]:
        job = track.job
        if job in self._open:
            return live_card(job, track.began_at, track.session.cadence_of(job.run))
        if not track.final:
            error = job.answer.exception() if job.answer.done() else None
            track.final = ended_card(job.run, error, job.said)
        return track.final


def _began(run: Run) -> datetime:
    """From when on the page counts; a run that is taken up again may have begun long ago."""
    return run.submitted_at or datetime.now(UTC)
