"""Which runs the panel shows: those in flight in this kernel, whichever cell began them, and the ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .cards import ended_card, live_card
from .job import Job
from .run import PLANNED, Run
from .session import Session
from .tally import Forecast, about, count

_SHOWN = 60  # cards on the page, newest first; the rest is in the history
_IN_LINE = 4  # cards of those that stand in line and are not sent yet; the progress line counts them all


@dataclass(eq=False, slots=True)
class Track:
    """One run that is shown, and the session it runs in, which may be of earlier settings.

    `ours`: begun on the panel, so that it leaves its lasting output there.
    """

    job: Job
    session: Session
    began_at: datetime
    ours: bool = False
    told: bool = False
    final: dict[str, Any] = field(default_factory=dict)


class Board:
    """The runs on the page. Its methods are called under the panel's lock."""

    def __init__(self, has_ended: Callable[[Track], None]) -> None:
        self._has_ended = has_ended  # called once for each run, on the thread that draws
        self._tracks: dict[Job, Track] = {}
        self._bunch: list[Job] = []  # what was begun since nothing was on its way
        self._forecast: Forecast | None = None

    def add(self, session: Session, jobs: Iterable[Job], *, ours: bool = False) -> None:
        """Show runs, the last one on top; those of earlier settings stay."""
        for job in jobs:
            if job not in self._tracks:
                for other in [known for known in self._tracks if known.run.run_id == job.run.run_id]:
                    del self._tracks[other]  # taken up again: a run has one card
                    self._bunch = [known for known in self._bunch if known is not other]
                if not self.busy:
                    self._bunch, self._forecast = [], None
                self._bunch.append(job)
                self._tracks[job] = Track(job, session, _began(job.run))
            self._tracks[job].ours |= ours

    @property
    def busy(self) -> bool:
        """Whether one of them is still on its way."""
        return any(not job.ended.done() for job in self._tracks)

    def job(self, run_id: str) -> Job | None:
        """The job of a run that is shown, or None."""
        return next((job for job in reversed(self._tracks) if job.run.run_id == run_id), None)

    def ended(self) -> list[Track]:
        """Runs that were begun on the panel and have ended, oldest first."""
        return [track for track in self._tracks.values() if track.ours and track.final]

    def renew(self, run: Run) -> None:
        """A person has said something of one of its pictures."""
        for job, track in self._tracks.items():
            if job.run.run_id == run.run_id and track.final:
                job.run = run
                track.final = {}

    def cards(self) -> list[dict[str, Any]]:
        """The page's cards, newest first."""
        tracks = list(self._tracks.values())
        in_line = [track for track in tracks if not track.job.done and track.job.run.state == PLANNED]
        hidden = set(in_line[_IN_LINE:])
        shown = [(track, self._card(track)) for track in reversed(tracks)]
        return [card for track, card in shown if track not in hidden][:_SHOWN]

    def progress(self, now: float) -> str:
        """One line for all that goes on together; "" for a single run. `now` is a time that only grows."""
        jobs = self._bunch
        if len(jobs) < 2:
            return ""
        if self._forecast is None:
            session = self._tracks[jobs[0]].session
            self._forecast = Forecast(session.cadence_of(jobs[0].run).expected_s, None)
        standing = count(jobs, [job for job in jobs if self._tracks[job].ours])
        left = [about(self._forecast.left_s(jobs, now))] if standing.ended < standing.total else []
        return " · ".join([", ".join(standing.words()), standing.money(), *left])

    def _card(self, track: Track) -> dict[str, Any]:
        job = track.job
        if not job.ended.done():
            return live_card(job, track.began_at, track.session.cadence_of(job.run))
        if not track.final:
            error = job.answer.exception() if job.answer.done() else None
            track.final = ended_card(job.run, error, job.said)
            if not track.told:
                track.told = True
                self._has_ended(track)
        return track.final


def _began(run: Run) -> datetime:
    """From when on the page counts; a run that is taken up again may have begun long ago."""
    return run.submitted_at or datetime.now(UTC)
