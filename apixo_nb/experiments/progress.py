"""Progress of a sweep: counts and sums of its runs, a forecast of its end, failures grouped by cause."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from apixo_nb.analysis.pivot import axis_value
from apixo_nb.core.records import PLANNED, Run, utc_now
from apixo_nb.engine.job import Job
from apixo_nb.engine.rate_limit import RateLimiter
from apixo_nb.errors import ApixoError, RunCancelledError, SubmitUnknownError, WaitTimeoutError
from apixo_nb.text import dollars, printable


class Status(StrEnum):
    """How a run of a sweep stands now; coarser than the state of its row, and as people read it."""

    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    STOPPED = "stopped"
    RUNNING = "running"
    WAITING = "waiting"


_SUBMIT_S = 0.5  # assumed duration of one submit, until a pace can be measured
_LEAST_STARTS = 3  # before a pace is measured
_LEAST_ENDS = 5  # before a duration is measured
_SMOOTH_S = 8.0  # time constant of the forecast
_NAMED = 4  # cells that a failure lists


def cell_label(run: Run, names: Sequence[str], *, take: bool) -> str:
    """What a cell of a sweep is called: its values on the axes, and its take."""
    words = [f"{name}={printable(axis_value(run, name), 40)}" for name in names]
    return ", ".join([*(words or [printable(run.prompt, 60)]), *([f"take {run.take}"] if take else [])])


# --- on its way -------------------------------------------------------------------------------------


def status_of(job: Job) -> Status:
    """How a run of the sweep stands."""
    if not job.done:
        return Status.RUNNING if job.submitting or job.run.state != PLANNED else Status.WAITING
    error = job.answer.exception()
    if error is None:
        return Status.DONE
    if isinstance(error, SubmitUnknownError):
        return Status.UNKNOWN
    return Status.STOPPED if isinstance(error, RunCancelledError | WaitTimeoutError) else Status.FAILED


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts and sums of a sweep at one moment; sums in micro-dollars, of what was bought now."""

    counts: Counter[Status]
    total: int
    spent_micros: int
    price_micros: int
    stake_micros: int
    sandbox: bool

    @property
    def ended(self) -> int:
        """How many have ended, well or not."""
        return self.total - self.counts[Status.RUNNING] - self.counts[Status.WAITING]

    def words(self) -> list[str]:
        """Counts as short texts; what is none is left out, but not what is done."""
        found = [f"{self.counts[Status.DONE]} of {self.total} done"]
        for kind in list(Status)[1:]:
            found += [f"{self.counts[kind]} {kind}"] if self.counts[kind] else []
        return found

    def money(self) -> str:
        """What was spent, of what it may come to, and what lost answers may have cost."""
        spent, price = dollars(self.spent_micros), dollars(self.price_micros)
        of = spent if self.ended == self.total else f"{spent} of {price}"
        stake = f", up to {dollars(self.stake_micros)} at stake" if self.stake_micros else ""
        return f"{of}{stake}, not paid" if self.sandbox else f"{of} spent{stake}"


def progress_of(jobs: Sequence[Job], bought: Collection[Job]) -> Progress:
    """How the jobs of a sweep stand now; `bought` are those that cost money now."""
    return Progress(
        counts=Counter(map(status_of, jobs)),
        total=len(jobs),
        spent_micros=sum(job.run.cost_micros or 0 for job in bought),
        price_micros=sum(job.run.price_micros for job in bought),
        # While somebody waits for it, its price is no news.
        stake_micros=sum(job.run.at_stake_micros for job in bought if job.done),
        sandbox=any(job.run.sandbox for job in jobs),
    )


class Forecast:
    """When a sweep is likely to end; follows what is seen, but slowly, so that it does not jump.

    Parameters
    ----------
    expected_s : float
        How long one task usually takes.
    limiter : RateLimiter
        Of the submits: how many of those that wait leave at once, and how many a second.
    """

    def __init__(self, expected_s: float, limiter: RateLimiter | None) -> None:
        self._expected_s = max(expected_s, 0.1)
        self._limiter = limiter
        self._since: dict[Job, float] = {}  # when each was first seen at work
        self._took: dict[Job, float] = {}  # and how long it was
        self._began: float | None = None
        self._share = 0.0
        self._seen_at = self._end_at = 0.0

    def left_s(self, jobs: Sequence[Job], now: float) -> float:
        """Seconds that are left, about; `now` is a time that only grows."""
        found = now + self._estimate_s(jobs, now)
        if self._began is None:
            self._began, self._seen_at, self._end_at = now, now, found
        self._end_at += (found - self._end_at) * (1 - math.exp((self._seen_at - now) / _SMOOTH_S))
        self._seen_at = now
        # Not so slowly that it would promise an end where much is still to be done.
        return max(0.0, self._end_at - now, (found - now) / 2)

    def share(self, jobs: Sequence[Job], now: float) -> float:
        """How much of it is done, 0 to 1; what runs counts by its age. It never goes back."""
        parts = (self._part(job, now) for job in jobs)
        self._share = max(self._share, sum(parts) / max(1, len(jobs)))
        return self._share

    def _part(self, job: Job, now: float) -> float:
        if job.done:
            return 1.0
        age = now - self._since[job] if job in self._since else 0.0
        return 0.9 * (1 - math.exp(-1.5 * age / self._expected_s))

    def _estimate_s(self, jobs: Sequence[Job], now: float) -> float:
        kinds = {job: status_of(job) for job in jobs}
        for job, kind in kinds.items():
            if kind == Status.RUNNING and job not in self._since:
                self._since[job] = now - _age_s(job.run)
            elif kind == Status.DONE and job in self._since and job not in self._took:
                self._took[job] = now - self._since[job]
        if len(self._took) >= _LEAST_ENDS:  # what is seen here goes before what is usual
            self._expected_s = max(0.1, statistics.median(self._took.values()))
        waiting = sum(kind == Status.WAITING for kind in kinds.values())
        if waiting:
            return waiting / self._pace(now) + self._expected_s
        ages = [now - self._since[job] for job, kind in kinds.items() if kind == Status.RUNNING]
        return max(0.0, self._expected_s - min(ages)) if ages else 0.0

    def _pace(self, now: float) -> float:
        """Submits a second."""
        began = self._began if self._began is not None else now
        started = sum(at >= began for at in self._since.values())
        at_once, rate = (self._limiter.at_once, self._limiter.rate) if self._limiter else (1, math.inf)
        if started >= _LEAST_STARTS and now - began > 1.0:
            return min(rate, started / (now - began))
        return min(rate, at_once / _SUBMIT_S)


def _age_s(run: Run) -> float:
    """Of a task that was made before this sweep looked at it."""
    return max(0.0, (utc_now() - run.submitted_at).total_seconds()) if run.submitted_at else 0.0


def about(left_s: float) -> str:
    """A time that is left, in steps that let a reader rest."""
    if left_s < 1:
        return "any moment now"
    if left_s >= 90:
        return f"about {round(left_s / 60)} min left"
    step = 5 if left_s < 30 else 10
    return f"about {step * math.ceil(left_s / step)} s left"


# --- at its end -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Failure:
    """Cells that came to nothing for the same reason."""

    kind: str
    text: str
    advice: str
    cells: list[str] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """How many, and what happened."""
        return f"{len(self.cells)} {self.kind}: {self.text}"

    @property
    def where(self) -> str:
        """Which cells; the first few."""
        more = f"; and {len(self.cells) - _NAMED} more" if len(self.cells) > _NAMED else ""
        return "; ".join(self.cells[:_NAMED]) + more

    def __str__(self) -> str:
        return f"{self.headline} ({self.where}). {self.advice}".rstrip()


def failures(jobs: Iterable[Job], names: Sequence[str], *, take: bool) -> list[Failure]:
    """What went wrong, grouped by its words, the most frequent first."""
    found: dict[tuple[str, str], Failure] = {}
    for job in jobs:
        kind = status_of(job)
        error = job.answer.exception() if job.done else None
        if error is None:
            continue
        cell = cell_label(job.run, names, take=take)
        text = printable(error.message if isinstance(error, ApixoError) else type(error).__name__)
        advice = error.advice if isinstance(error, ApixoError) else ""
        if kind == Status.UNKNOWN:  # each names its own day; what they share is what counts
            text, cell = "submitted, but the answer was lost", f"{cell}: run {job.run.run_id}"
            advice = SubmitUnknownError.next_step
        text = text.rstrip(".")
        found.setdefault((kind, text), Failure(kind, text, advice)).cells.append(cell)
    return sorted(found.values(), key=lambda failure: -len(failure.cells))
