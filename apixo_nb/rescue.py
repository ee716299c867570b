"""Pictures that are paid for and not on disk, brought there while their addresses live."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from .job import Job
from .run import SUCCESS, Image, Run
from .session import Session


def rescue(session: Session, timeout_s: float | None = None) -> list[Job]:
    """Begin to download every picture that is not on disk, those that end soonest first; it is free.

    A file that was there once and is gone counts as well, as long as its address may still live.
    """
    theirs = session.ledger.elsewhere()
    wanting = [run for run in session.successes() if run.run_id not in theirs and _wants(session, run)]
    for run in wanting:
        for image in vanished(session, run):
            lost = Image(index=image.index, url=image.url, error="The file is gone from the folder")
            session.ledger.put_image(run.run_id, lost)
    wanting.sort(key=lambda run: run.expires_at or datetime.max.replace(tzinfo=UTC))
    return [session.follow(session.run(run.run_id), timeout_s) for run in wanting]


def vanished(session: Session, run: Run) -> list[Image]:
    """The pictures of a run whose files are gone."""
    return [image for image in run.images if image.file and not session.images.path(image).exists()]


def _wants(session: Session, run: Run) -> bool:
    if run.missing or not run.result_urls:
        return bool(run.task_id)
    may_live = run.expires_at is None or run.expires_at > datetime.now(UTC)
    return may_live and bool(vanished(session, run))


def rescued_lines(before: int, runs: Sequence[Run]) -> list[str]:
    """What came of it: how many pictures are here now, and which are not, and why."""
    missing = [(run, image) for run in runs for image in run.images if not image.file]
    unread = [run for run in runs if run.state == SUCCESS and not run.result_urls]
    saved = sum(len(run.files) for run in runs) - before
    lines = [f"{saved} picture{'' if saved == 1 else 's'} downloaded, {len(missing)} still missing."]
    lines += [f"  run {run.run_id}, picture {image.index + 1}: {image.error}" for run, image in missing]
    return [*lines, *(f"  run {run.run_id}: {run.fail_msg}" for run in unread)]
