"""Runs as the page of a widget shows them: JSON for cards, rows of the history and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from apixo_nb.core.cadence import Cadence
from apixo_nb.core.formatting import cost, expectation, facts, phase, remark_of, seconds
from apixo_nb.core.records import (
    CANCELLED,
    FAILED,
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
