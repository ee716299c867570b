"""Runs as the panel's page shows them: facts as JSON, ready to be drawn, texts made by `display`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from apixo_nb.core.cadence import Cadence
from apixo_nb.core.formatting import cost, expectation, facts, phase, price, remark_of, seconds
from apixo_nb.core.models import ModelSpec
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
from apixo_nb.display.comparison import differences
from apixo_nb.engine.job import Job
from apixo_nb.errors import ApixoError
from apixo_nb.experiments.progress import Forecast, about, progress_of
from apixo_nb.session.session import Session
from apixo_nb.text import printable, scrubbed, without_callback

_PROMPT_SHOWN = 600  # characters of a card and of a row of the history; the whole is one click away

_KINDS = {
    SUCCESS: "done",
    FAILED: "failed",
    UNKNOWN: "unknown",
    SUBMITTING: "unknown",  # its POST may have left
    CANCELLED: "stopped",
    TIMEOUT: "stopped",
}


def model_facts(spec: ModelSpec, unit_price_micros: int) -> dict[str, Any]:
    """What a form must know of a model: its parameters, limits and price (micro-dollars a picture)."""
    return {
        "id": spec.id,
        "prompt_max": spec.prompt_max,
        "references_max": spec.references.maximum,
        "count": spec.count,
        "price_micros": unit_price_micros,
        "parameters": [
            {
                "wire": parameter.wire,
                "label": parameter.help.capitalize(),
                "values": list(parameter.values),
                "default": parameter.default,
            }
            for parameter in spec.parameters
        ],
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
    return phase(job.run.but(state=PROCESSING) if job.run.state in (CANCELLED, TIMEOUT) else job.run)


def ended_card(run: Run, error: BaseException | None, said: str = "") -> dict[str, Any]:
    """A run that has ended, or that nobody waits for any more; `error` is what its job says of it."""
    return {
        **_head(run),
        "kind": _kind(run),
        "phase": _ended_phase(run),
        "said": said,
        "remark": remark_of(run) if run.state == SUCCESS else "",
        "problem": _problem(run, error),
        "took": seconds(run.cost_time_ms / 1000) if run.cost_time_ms is not None else "",
        "again": again(run),
        "again_micros": run.price_micros,
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


def again(run: Run) -> str:
    """What another try costs; "" where it could pay twice, or where there is nothing to try again."""
    if _kind(run) not in ("failed", "unsent"):
        return ""
    return price(run.price_micros)


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
        "missing": printable(scrubbed(image.error, run.callback_url)) if not image.file else "",
        "width": image.width or 1,
        "height": image.height or 1,
        "size": f"{image.width} \u00d7 {image.height}" if image.width else "",
        "alive": alive and bool(image.url),
        "rating": image.rating,
        "starred": image.starred,
        "note": image.note,
        "tags": list(image.tags),
    }


def row(run: Run) -> dict[str, Any]:
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
        "runs": [{**row(run), "prompt": run.prompt, "cut": False} for run in runs],
        **differences(runs),
    }


def _ms(when: datetime) -> int:
    return round(when.timestamp() * 1000)


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
        state = progress_of(jobs, bought)
        money = [state.money()] if bought else []
        left = [about(self._forecast.left_s(jobs, now))] if state.ended < state.total else []
        return " · ".join([", ".join(state.words()), *money, *left])

    def _card(self, track: Track) -> dict[str, Any]:
        job = track.job
        if job in self._open:
            return live_card(job, track.began_at, track.session.cadence_of(job.run))
        if not track.final:
            error = job.answer.exception() if job.answer.done() else None
            track.final = ended_card(job.run, error, job.note)
        return track.final


def _began(run: Run) -> datetime:
    """From when on the page counts; a run that is taken up again may have begun long ago."""
    return run.submitted_at or datetime.now(UTC)
