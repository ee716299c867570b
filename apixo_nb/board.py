"""Which runs the panel shows: those in flight in this kernel, whichever cell began them, and the ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .cards import ended_card, live_card
from .job import Job
from .run import Run
from .session import Session

_SHOWN = 60  # cards on the page, newest first; the rest is in the history


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

    def add(self, session: Session, jobs: Iterable[Job], *, ours: bool = False) -> None:
        """Show runs, the last one on top; those of earlier settings stay."""
        for job in jobs:
            if job not in self._tracks:
                for other in [known for known in self._tracks if known.run.run_id == job.run.run_id]:
                    del self._tracks[other]  # taken up again: a run has one card
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
        return [self._card(track) for track in reversed(tracks)][:_SHOWN]

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
