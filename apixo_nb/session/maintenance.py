"""Looks after a session: its account and budgets, unanswered submits, the state of ledger and pictures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from apixo_nb.core import checks, event_loop
from apixo_nb.core.formatting import balance_text, count_text, spent_text
from apixo_nb.core.models import RESULT_DAYS
from apixo_nb.core.records import FAILED, SCHEMA_VERSION, SUBMITTED, UNKNOWN, Image, Run
from apixo_nb.engine.job import Job
from apixo_nb.errors import ConfigurationError, InvalidRequestError, LedgerError
from apixo_nb.ledger.budgets import DAY, TOTAL, Budget, notebook_scope
from apixo_nb.ledger.ledger import Ledger, sqlite_file
from apixo_nb.ledger.query import Query
from apixo_nb.storage.originals import SUFFIXES, read_sidecar, runs_of_sidecars
from apixo_nb.text import dollars, printable, to_micros

from .session import Session

# --- pictures that are not on disk ------------------------------------------------------------------


def runs_to_download(session: Session) -> list[Run]:
    """Runs with a picture that is not on disk, those that end soonest first.

    A file that was there once and is gone counts as well, as long as its address may still live.
    """
    others = session.ledger.leases.held_elsewhere()
    wanting = [run for run in session.successes() if run.run_id not in others and _wants(session, run)]
    return sorted(wanting, key=lambda run: run.expires_at or datetime.max.replace(tzinfo=UTC))


def download_missing(session: Session, timeout_s: float | None = None) -> list[Job]:
    """Begin to download every picture that is not on disk, see `runs_to_download`; it is free."""
    return [session.follow(run, timeout_s) for run in runs_to_download(session)]


def count_on_disk(session: Session, runs: Iterable[Run]) -> int:
    """How many pictures of some runs are on disk."""
    return sum(session.images.has(image) for run in runs for image in run.images)


def missing_folder_line(session: Session) -> str:
    """What to say where the folder of the ledger's pictures is missing or empty; "" else."""
    folder = session.images.folder
    stored = sum(len(run.files) for run in session.successes())
    if not stored or (folder.is_dir() and any(folder.iterdir())):
        return ""
    away = "is empty" if folder.is_dir() else "is missing"
    text = f"The folder {folder} {away}, and the ledger has {stored} picture(s) in it."
    return f"{text} If its drive is not connected, or it was moved, bring it back first."


def _wants(session: Session, run: Run) -> bool:
    if run.missing or run.is_unread:
        return bool(run.task_id)
    may_live = run.expires_at is None or run.expires_at > datetime.now(UTC)
    return may_live and bool(missing_files(session, run))


def missing_files(session: Session, run: Run) -> list[Image]:
    """The pictures of a run whose files are gone."""
    return [image for image in run.images if image.file and not session.images.has(image)]


def downloaded_lines(session: Session, before: int, runs: Sequence[Run]) -> list[str]:
    """How many pictures are on disk now that were not, `before` of them counted; which are not, and why."""
    missing = [(run, image) for run in runs for image in run.images if not session.images.has(image)]
    unread = [run for run in runs if run.is_unread]
    saved = count_on_disk(session, runs) - before
    lines = [f"{saved} picture{'' if saved == 1 else 's'} downloaded, {len(missing)} still missing."]
    lines += [
        f"  run {run.run_id}, picture {image.index + 1}: {image.error or 'its file is gone from the folder'}"
        for run, image in missing
    ]
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
    at = run.submitted_at or run.created_at
    session.ledger.record_task(run.replace(state=SUBMITTED, task_id=status.task_id, submitted_at=at))
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
    session.ledger.mark_abandoned()
    run = session.run(run_id)
    if run.state != UNKNOWN:
        text = f"Run {run_id} is {printable(run.state, 40)}: its submit was answered"
        raise InvalidRequestError(text, field="run_id", value=run_id, allowed="a run that is unknown")
    return run


@dataclass(slots=True)
class Report:
    """What was looked at, and what is wrong: lines for a person to read, and what to do."""

    looked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """All of it; one line if nothing is wrong."""
        return [*self.looked, *(self.wrong or ["Nothing is wrong."])]


def check(session: Session) -> Report:
    """Compare the ledger with the pictures' folder and with itself. Changes no picture."""
    report = Report()
    try:
        session.ledger.merge_journal()
        runs = session.ledger.runs()
    except LedgerError as error:
        report.wrong += [error.headline, error.advice]
        return report
    pictures = [image for run in runs for image in run.images if image.file]
    report.looked.append(f"{len(runs)} runs and {len(pictures)} pictures in {session.ledger.shown_place}")
    report.wrong += [*_files(session, runs), *_files_without_row(session, runs), *_tasks(session, runs)]
    return report


def _files(session: Session, runs: Iterable[Run]) -> Iterator[str]:
    """Files that are missing or changed."""
    again = "`%apixo rescue` downloads it again."
    for run in runs:
        gone = {image.index for image in missing_files(session, run)}
        for image in run.images:
            file = _short(image.file)
            if image.index in gone:
                yield f"missing file: {file} of run {_short(run.run_id)}. {again}"
                continue
            found = _sha256(session.images.path(image)) if image.file else ""
            if image.file and not found:
                yield f"unreadable file: {file} of run {_short(run.run_id)}. Move it away, then {again}"
            elif found != image.sha256:
                yield f"changed file: {file} is not what was downloaded. Move it away, then {again}"
        if run.missing:
            run_id = _short(run.run_id)
            yield f"not downloaded: {run.missing} picture(s) of run {run_id}. Try `%apixo rescue`."


def _files_without_row(session: Session, runs: Iterable[Run]) -> Iterator[str]:
    """Files that no row knows."""
    folder = session.images.folder
    known = {image.file for run in runs for image in run.images if image.file}
    ids = {run.run_id for run in runs}
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        name = _short(path.name)
        if path.suffix in SUFFIXES and path.name not in known:
            beside = path.with_suffix(".json").exists()
            step = (
                "`%apixo doctor --rebuild` makes its row from the facts beside it." if beside else "No facts."
            )
            yield f"file without a row: {name}. {step}"
        elif path.suffix == ".part" and _age(path) > timedelta(hours=1):
            yield f"left over: {name}, half a download. It can be removed."
        elif path.suffix == ".unreadable":
            yield f"not a picture: {name} holds what came in place of one; kept, as it was paid for."
        elif path.suffix == ".json" and (run := read_sidecar(path)) and run[0].run_id not in ids:
            yield f"facts without a row: {name}. `%apixo doctor --rebuild` makes the row."


def _tasks(session: Session, runs: Iterable[Run]) -> Iterator[str]:
    """Tasks that nobody waits for, and submits whose end nobody knows."""
    old = datetime.now(UTC) - timedelta(days=RESULT_DAYS)
    others = session.ledger.leases.held_elsewhere()
    for run in runs:
        if run.is_open and run.run_id not in others:
            late = " Its pictures have probably expired." if run.created_at < old else ""
            what = f"run {_short(run.run_id)}, {_short(run.state)}"
            yield f"open task: {what}. `%apixo resume` brings it to its end.{late}"
    for run in session.lost():
        run_id, stake = _short(run.run_id), dollars(run.price_micros)
        step = f"`%apixo settle {run_id} paid` or `free` settles it, once your balance tells."
        yield f"submit without an answer: run {run_id}, {stake} at stake. {step}"
    for entry in session.ledger.stray_tasks():
        task = f"{_short(entry.task_id)} of run {_short(entry.run_id)}"
        yield f"orphan task: {task}, which is not in this ledger, or has another task there."
    yield from (f"half a record of a task: {_short(file.name)}" for file in session.ledger.torn_journals())


# --- a new ledger from what is left -----------------------------------------------------------------


def rebuild(session: Session) -> list[str]:
    """Add rows that the ledger misses, from the facts beside the pictures; returns what was done.

    A damaged ledger file is set aside by renaming, never deleted, and what can still be read of it goes into
    the new one first. A row that is open stays open: the facts give it the task that it does not know.

    Raises
    ------
    LedgerError
        The ledger can neither be used nor set aside, or is the database of a server.
    """
    notes: list[str] = []
    salvaged: list[Run] = []
    session.forget_ledger()
    try:
        ledger = session.ledger
    except LedgerError as error:
        if not error.damaged:
            raise
        aside = _set_aside(_damaged_file(session, error), error)
        salvaged = list(_salvage(aside))
        notes.append(f"The damaged ledger is kept as {aside}; {len(salvaged)} rows of it could be read.")
        ledger = session.ledger
    rows = sum(ledger.insert(run) for run in salvaged)
    known = list(runs_of_sidecars(session.images.folder))
    added = sum(ledger.insert(run) for run in known)
    if behind := sum(ledger.catch_up(run) for run in known):
        notes.append(f"{behind} rows brought up to date from the facts beside their pictures.")
    if given := _give_tasks(ledger, known):
        notes.append(f"{given} runs have their task again: `%apixo resume` brings them to their end.")
    if unread := session.runs_without_rows():
        ledger.leave_out(unread)
        notes.append(f"The facts of {len(unread)} runs cannot be read: they are left out from now on.")
    return [*notes, f"{rows + added} rows added, {added} of them from facts beside pictures."]


def accept(session: Session) -> str:
    """Let a session buy though pictures have no rows; remembered in the ledger. Returns what was done."""
    unknown = session.runs_without_rows()
    session.ledger.leave_out(unknown)
    return f"{len(unknown)} runs with pictures stay without a row: a cell that asks for the same buys it."


def _give_tasks(ledger: Ledger, known: Iterable[Run]) -> int:
    """Write the tasks that the facts know, and their rows do not; how many."""
    ledger.mark_abandoned()
    facts = {run.run_id: run for run in known if run.task_id}
    given = 0
    for row in ledger.some(sorted(facts)):
        run = facts[row.run_id]
        same = (row.digest, row.sandbox) == (run.digest, run.sandbox)
        if row.state == UNKNOWN and not row.task_id and same:
            at = run.submitted_at or run.created_at
            ledger.record_task(row.replace(state=SUBMITTED, task_id=run.task_id, submitted_at=at))
            given += 1
    return given


def _damaged_file(session: Session, error: LedgerError) -> Path:
    """The file that was opened as the ledger; raises LedgerError where it is the database of a server."""
    url = session.settings.ledger
    if not url:
        return session.ledger_file()
    file = sqlite_file(url)
    if file is None:
        step = "Nothing was changed. Restore that database from its backup, or set APIXO_LEDGER to another."
        raise LedgerError(error.message, damaged=True, next_step=step)
    return file


def _set_aside(place: Path, error: LedgerError) -> Path:
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    aside = place.with_name(f"{place.name}.damaged-{stamp}")
    try:
        # A journal beside it belongs to it: it may hold what a transaction was about to undo.
        journal = place.with_name(f"{place.name}-journal")
        if journal.exists():
            journal.rename(aside.with_name(f"{aside.name}-journal"))
        place.rename(aside)
    except OSError as problem:
        text = f"{error.message}, and it cannot be set aside: {problem.strerror}"
        raise LedgerError(text, next_step="Move it away by hand.") from None
    return aside


def _salvage(damaged: Path) -> Iterator[Run]:
    """The rows that can still be read, from both ends towards the damage."""
    found: dict[str, dict[str, Any]] = {}
    pictures: dict[str, dict[int, Image]] = {}
    with contextlib.closing(sqlite3.connect(f"{damaged.as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        for runs, images in zip(_RUNS, _IMAGES, strict=True):
            for row in _rows(connection, runs):
                found.setdefault(str(row["run_id"]), row)
            for row in _rows(connection, images):
                with contextlib.suppress(ValidationError, ValueError, TypeError):
                    image = _image_of(row)
                    pictures.setdefault(str(row["run_id"]), {}).setdefault(image.index, image)
    for run_id, row in found.items():
        here = pictures.get(run_id, {})
        with contextlib.suppress(ValidationError, ValueError, TypeError):
            yield _run_of(row, tuple(here[index] for index in sorted(here)))


_RUNS = ("SELECT * FROM runs ORDER BY rowid", "SELECT * FROM runs ORDER BY rowid DESC")
_IMAGES = ("SELECT * FROM images ORDER BY rowid", "SELECT * FROM images ORDER BY rowid DESC")


def _rows(connection: sqlite3.Connection, question: str) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(sqlite3.Error):  # here the damage begins
        for row in connection.execute(question):
            yield dict(row)


_JSON = ("variables", "parameters", "image_urls", "result_urls", "tags")
_TIMES = ("created_at", "bought_at", "submitted_at", "finished_at", "expires_at")


def _run_of(row: dict[str, Any], images: tuple[Image, ...]) -> Run:
    known = {name: value for name, value in row.items() if name in Run.model_fields}
    known |= {name: json.loads(known[name]) for name in _JSON}
    for name in _TIMES:
        if known.get(name):
            known[name] = datetime.fromisoformat(known[name]).replace(tzinfo=UTC)
    return Run.model_validate({**known, "images": images, "schema_version": SCHEMA_VERSION})


def _image_of(row: dict[str, Any]) -> Image:
    tags = json.loads(row.get("tags") or "[]")  # a ledger of before version 3 has none
    return Image.model_validate({**row, "tags": tags})


def _short(text: str) -> str:
    """A name that may come from elsewhere."""
    return printable(text, 120)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _age(path: Path) -> timedelta:
    return datetime.now(UTC) - datetime.fromtimestamp(path.stat().st_mtime, UTC)


def status_lines(session: Session) -> list[str]:
    """Where requests go, with which key, what the ledger holds, what was spent; never the key itself."""
    with contextlib.suppress(LedgerError):  # what is locked can be read
        session.ledger.merge_journal()
    runs = session.runs()
    others = session.ledger.find(Query(sandbox=not session.is_sandbox, limit=0)).total
    beside = f" (and {others} {'of APIXO' if session.is_sandbox else 'of the sandbox, not paid'})"
    sandbox = "SANDBOX, on this machine; nothing is paid"
    return [
        f"requests  {sandbox if session.is_sandbox else session.settings.base_url}",
        f"API key   {_key_text(session)}",
        f"ledger    {session.ledger.shown_place}",
        f"pictures  {session.images.folder}",
        f"runs      {count_text(runs)}{beside if others else ''}",
        f"spent     {spent_text(runs)}",
    ]


def _key_text(session: Session) -> str:
    if session.settings.sandbox:
        return "none is needed"
    key = session.service.key
    return key.source if key else "none; try `%apixo login`"


def budgets(session: Session) -> list[Budget]:
    """The budgets that are set, with what counts against each."""
    return session.ledger.budgets(sandbox=session.is_sandbox)


def set_budget(session: Session, limit_usd: float | None, scope: str = TOTAL) -> None:
    """Limit what runs may cost; None takes the budget away. Kept in the ledger.

    Parameters
    ----------
    limit_usd : float or None
        US dollars. A run that would pass it, with all that is spent and at stake, is refused.
    scope : "total", "day" or "notebook"
        What counts: all runs, those since midnight, or those of this notebook.

    Raises
    ------
    InvalidRequestError
        No such sum or scope.
    ConfigurationError
        The front end does not tell which notebook this is.
    """
    checks.number(limit_usd, "budget", "a sum in US dollars, 0 or more", 0.0)
    limit = None if limit_usd is None else to_micros(limit_usd)
    session.ledger.set_budget(_scope(session, scope), sandbox=session.is_sandbox, limit_micros=limit)


def _scope(session: Session, scope: str) -> str:
    if scope in (TOTAL, DAY):
        return scope
    if scope != "notebook":
        raise InvalidRequestError(
            f"Unknown budget {scope!r:.80}", field="scope", value=scope, allowed="total, day, notebook"
        )
    if not session.settings.notebook:
        step = "Set APIXO_NOTEBOOK or `%config Apixo.notebook`, or use a budget in total or for a day."
        raise ConfigurationError("This front end does not tell which notebook this is", next_step=step)
    return notebook_scope(session.settings.notebook)


def compare_balance(session: Session, usd: float) -> str:
    """What the balance did since it was last compared, beside what the ledger says; "" the first time."""
    before = session.ledger.record_balance(usd, sandbox=session.is_sandbox)
    since = session.ledger.since(before[0], sandbox=session.is_sandbox) if before else []
    return balance_text(usd, before, since)
