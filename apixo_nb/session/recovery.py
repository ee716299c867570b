"""Recovery: pictures that are not on disk are downloaded, submits without an answer get their end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from apixo_nb.core import event_loop
from apixo_nb.core.records import FAILED, UNKNOWN, Image, Run
from apixo_nb.engine.job import Job
from apixo_nb.errors import InvalidRequestError
from apixo_nb.text import printable

from .session import Session

# --- pictures that are not on disk ------------------------------------------------------------------


def download_missing(session: Session, timeout_s: float | None = None) -> list[Job]:
    """Begin to download every picture that is not on disk, those that end soonest first; it is free.

    A file that was there once and is gone counts as well, as long as its address may still live.
    """
    others = session.ledger.leases.held_elsewhere()
    wanting = [run for run in session.successes() if run.run_id not in others and _wants(session, run)]
    for run in wanting:
        for image in missing_files(session, run):
            gone = Image(index=image.index, url=image.url, error="The file is gone from the folder")
            session.ledger.put_image(run.run_id, gone)
    wanting.sort(key=lambda run: run.expires_at or datetime.max.replace(tzinfo=UTC))
    return [session.follow(session.run(run.run_id), timeout_s) for run in wanting]


def _wants(session: Session, run: Run) -> bool:
    if run.missing or run.is_unread:
        return bool(run.task_id)
    may_live = run.expires_at is None or run.expires_at > datetime.now(UTC)
    return may_live and bool(missing_files(session, run))


def missing_files(session: Session, run: Run) -> list[Image]:
    """The pictures of a run whose files are gone."""
    return [image for image in run.images if image.file and not session.images.has(image)]


def downloaded_lines(before: int, runs: Sequence[Run]) -> list[str]:
    """How many pictures are on disk now that were not, `before` of them counted; which are not, and why."""
    missing = [(run, image) for run in runs for image in run.images if not image.file]
    unread = [run for run in runs if run.is_unread]
    saved = sum(len(run.files) for run in runs) - before
    lines = [f"{saved} picture{'' if saved == 1 else 's'} downloaded, {len(missing)} still missing."]
    lines += [f"  run {run.run_id}, picture {image.index + 1}: {image.error}" for run, image in missing]
    return [*lines, *(f"  run {run.run_id}: {run.fail_msg}" for run in unread)]


# --- submits without an answer ----------------------------------------------------------------------


def adopt(session: Session, run_id: str, task_id: str) -> Run:
    """Give a run without an answer its task, as APIXO's console shows it; it can then be resumed.

    Raises
    ------
    InvalidRequestError
        The run has an answer.
    NotFoundError
        APIXO does not know the task.
    """
    run = _unanswered(session, run_id)
    taken = session.ledger.with_task(task_id)
    if taken is not None:
        text = f"Task {printable(task_id, 80)} is that of run {taken.run_id} already"
        raise InvalidRequestError(text, field="task_id", value=task_id)
    status = event_loop.run(session.client.status(task_id, model=run.model))
    session.ledger.record_task(run_id, status.task_id, run.submitted_at or run.created_at)
    return session.run(run_id)


def resolve(session: Session, run_id: str, *, paid: bool) -> Run:
    """Say whether a run without an answer was charged. It then counts as that, and is no longer at stake.

    Raises
    ------
    InvalidRequestError
        The run has an answer.
    """
    run = _unanswered(session, run_id)
    note = f"Settled by hand: {'charged' if paid else 'not charged'}. {run.fail_msg}"
    if paid:
        session.ledger.update(run_id, fail_msg=note, cost_micros=run.price_micros)
    else:
        session.ledger.update(run_id, fail_msg=note, cost_micros=0, state=FAILED)
    return session.run(run_id)


def _unanswered(session: Session, run_id: str) -> Run:
    session.ledger.leases.mark_abandoned()
    run = session.run(run_id)
    if run.state != UNKNOWN:
        text = f"Run {run_id} is {printable(run.state, 40)}: its submit was answered"
        raise InvalidRequestError(text, field="run_id", value=run_id, allowed="a run that is unknown")
    return run
