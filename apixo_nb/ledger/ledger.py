"""The ledger: every run a row, written before the money is spent.

It is small and written some five times a task, so safety comes before speed (see `database`). Pictures are
not in here, only their names and hashes. A run that somebody works on is leased to a process of this or
another machine (see `leases`). Only a run whose process has ended is taken up by another.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from apixo_nb.core.models import FINAL_STATES
from apixo_nb.core.records import (
    FAILED,
    PLANNED,
    SUBMITTED,
    SUCCESS,
    UNKNOWN,
    HistoryRow,
    Image,
    Run,
    Vote,
    utc_now,
)
from apixo_nb.errors import BudgetError, LedgerError
from apixo_nb.text import printable, to_micros, to_usd

from . import budgets, rows, search
from .budgets import Budget
from .database import Database
from .journal import JournalEntry, RecordedTasks
from .leases import Leases
from .query import Facets, Found, Query
from .schema import WITHOUT_TASK, balances, meta, runs, votes

_RESTING = (PLANNED, FAILED, UNKNOWN, SUCCESS)  # nobody waits for these
_DURATIONS = 200  # the last ones, from which a task's time is foretold
_LEFT_OUT = "runs_left_out"  # the key in `meta`


class Ledger:
    """Runs and their pictures in a database. Safe to use from several threads and processes.

    Attributes
    ----------
    shown_place : str
        Where it is, without a password.
    leases : Leases
        Which process works on which run.

    Parameters
    ----------
    place : Path or str
        A file for SQLite, or a SQLAlchemy URL.
    journal : Path, optional
        The file by which the journal of task ids lies; default: beside a SQLite file.

    Raises
    ------
    LedgerError
        From every method: the database cannot be opened, read or written; the message says why.
    """

    def __init__(self, place: Path | str, journal: Path | None = None) -> None:
        self._database = Database(place)
        self.shown_place = self._database.shown_place
        self.leases = Leases(self._database)
        self._tasks = RecordedTasks(self._database, self.leases, journal)
        self.merge_journal()

    def close(self) -> None:
        """Let go of the database, and of the runs that this process worked on."""
        try:
            self._tasks.close()
            self.leases.close()
        finally:
            self._database.close()

    # --- a run's way ---

    def add(self, run: Run, *, once: bool = False) -> Run:
        """Write a new row, owned by this process; one without a take gets the next.

        In one transaction with the check of every budget, so kernels that race never pass one together.
        `once`: unless another process was quicker to ask for the same, which is the same cell and place, or
        else the same take; then its row is returned.

        Raises
        ------
        BudgetError
            It would pass a budget. Nothing was written.
        LedgerError
            Its row is there already: whoever wrote it has bought it, or is about to. Or there is no room to
            write down its task.
        """
        with self._tasks.reserved(run), self._database.writing() as connection:
            rows.check_new(connection, run.run_id)
            self.leases.free_planned(connection)
            same = (runs.c.digest == run.digest) & (runs.c.sandbox == run.sandbox)
            competing = rows.competing_run(connection, same & rows.same_place(run)) if once else None
            if competing is not None:
                return competing
            budgets.check(connection, [run])
            numbered = run.replace(take=run.take or rows.next_take(connection, same), bought_at=utc_now())
            lease = self.leases.lease_new(connection, run.run_id)
            connection.execute(runs.insert().values(**rows.row_of(numbered), **lease))
            rows.count_missing(connection, run.run_id)
        return numbered

    def insert(self, run: Run) -> bool:
        """Write a row that comes from elsewhere, with its pictures, leased to nobody; False if it is there.

        A state that no run with a task can have becomes `submitted`: the database refuses it.
        """
        if run.task_id and run.state in WITHOUT_TASK:
            run = run.replace(state=SUBMITTED)
        with self._database.writing() as connection:
            if rows.is_there(connection, run.run_id):
                return False
            rows.insert(connection, run)
        return True

    def catch_up(self, run: Run) -> bool:
        """Bring a row that has ended up to what is known from elsewhere; False if that is nothing new.

        What it knows of a picture stands. A picture that it does not know is taken in, and a choice of one
        for which it has none. A row that is open is never ended; see `rows.catch_up`.
        """
        with self._database.writing() as connection:
            return rows.catch_up(connection, run, self.leases.live(connection))

    def update(self, run_id: str, *, whole: Run | None = None, **changes: Any) -> None:
        """Change some columns of a row. A final state stands: another one is not written over it.

        `whole`: what is written if the row is gone, as when the ledger was replaced by an older copy.

        Raises
        ------
        LedgerError
            There is no such row, and `whole` was not given.
        """
        row = runs.c.run_id == run_id
        if "state" in changes:
            row &= runs.c.state.not_in(FINAL_STATES) | (runs.c.state == changes["state"])
        with self._database.writing() as connection:
            if not connection.execute(runs.update().where(row).values(**changes)).rowcount:
                self._need_row(connection, run_id, whole)
            if "result_urls" in changes:
                rows.count_missing(connection, run_id)

    def _need_row(self, connection: sa.Connection, run_id: str, whole: Run | None) -> None:
        if rows.is_there(connection, run_id):
            return
        if whole is None:
            text = f"Run {printable(run_id, 80)} is not in the ledger any more, so nothing was written"
            step = "Was the ledger replaced? `%apixo doctor --rebuild` makes rows from the facts there are."
            raise LedgerError(text, run_id=run_id, next_step=step)
        rows.insert(connection, whole, self.leases.renew(connection).id)

    def claim(self, run_id: str, cell: Run) -> str:
        """Give a run that no cell has to the cell of another row, and say which cell has it now.

        Returns
        -------
        str
            The id of that cell; "" if the run has no row yet.
        """
        columns = {name: getattr(cell, name) for name in ("cell_id", "cell_position", "notebook")}
        row = runs.c.run_id == run_id
        with self._database.writing() as connection:
            connection.execute(runs.update().where(row & (runs.c.cell_id == "")).values(**columns))
            return str(connection.scalar(sa.select(runs.c.cell_id).where(row)) or "")

    def journal_task(self, run: Run) -> None:
        """Write the task id of a run that was just bought into the journal, durably; it waits for no lock.

        Raises
        ------
        LedgerError
            The disk refuses.
        """
        self._tasks.write_ahead(run)

    def record_task(self, run: Run) -> bool:
        """Write the task id of a run: into the journal, then into its row, see `rows.put_task`.

        Returns False if the database refuses; the journal has it then.

        Raises
        ------
        LedgerError
            Both refuse: its message is then the only place that has the task id. Or the row has another
            task: the journal keeps this one.
        """
        return self._tasks.record(run)

    def release(self, run_id: str) -> None:
        """End this process's work on a run: its lease, and its room in the journal."""
        self._tasks.release(run_id)
        self.leases.release(run_id)

    def merge_journal(self) -> None:
        """Write the task ids of all journals into their rows."""
        self._tasks.merge()

    def mark_abandoned(self) -> None:
        """Before a run is called lost: read all journals, then see which submits' processes have ended."""
        self._tasks.merge()
        self.leases.mark_abandoned()

    def stray_tasks(self) -> list[JournalEntry]:
        """Tasks in the journal that the rows of this ledger do not take."""
        return self._tasks.stray()

    def torn_journals(self) -> list[Path]:
        """Journal files with half a record in them."""
        return self._tasks.torn()

    def put_image(self, run_id: str, image: Image, whole: Run | None = None) -> None:
        """Write what is known of one picture; its choice stands, and the facts of a file that is gone.

        `whole`: as in `update`.
        """
        with self._database.writing() as connection:
            if whole is not None:
                self._need_row(connection, run_id, whole)
            rows.put_picture(connection, run_id, image)
            rows.count_missing(connection, run_id)

    def choose(self, run_id: str, index: int, **choice: Any) -> bool:
        """Write some of a person's choice of a picture, see `records.CHOICE`; False if there is none such.

        The run's rating becomes that of its best picture, in the same transaction.
        """
        with self._database.writing() as connection:
            return rows.choose(connection, run_id, index, choice)

    # --- pictures without rows ---

    @property
    def identity(self) -> object:
        """What changes when another file is put in place of an SQLite file."""
        return self._database.identity

    def without_rows(self, run_ids: Iterable[str]) -> set[str]:
        """Those of some runs that have no row here, but for those that are left out by `leave_out`."""
        unknown = set(run_ids)
        with self._database.reading() as connection:
            for part in rows.parts(sorted(unknown)):
                unknown.difference_update(
                    connection.scalars(sa.select(runs.c.run_id).where(runs.c.run_id.in_(part)))
                )
            return unknown.difference(_left_out(connection)) if unknown else unknown

    def leave_out(self, run_ids: Iterable[str]) -> None:
        """Remember that these runs have no rows here, as a person wants it."""
        with self._database.writing() as connection:
            kept = sorted({*_left_out(connection), *run_ids})
            connection.execute(meta.delete().where(meta.c.key == _LEFT_OUT))
            connection.execute(meta.insert().values(key=_LEFT_OUT, value=json.dumps(kept)))

    # --- money ---

    def check_budgets(self, planned: Sequence[Run]) -> None:
        """Raise BudgetError if these together would pass a budget; `add` checks each once more."""
        try:
            with self._database.reading() as connection:
                budgets.check(connection, planned)
        except BudgetError:
            self.leases.mark_abandoned()  # what a dead process did not send is not reserved any more
            with self._database.reading() as connection:
                budgets.check(connection, planned)

    def set_budget(self, scope: str, *, sandbox: bool, limit_micros: int | None) -> None:
        """Set a budget in micro-dollars, or with None take it away; see `budgets.Budget` for the scopes."""
        with self._database.writing() as connection:
            budgets.write(connection, scope, sandbox=sandbox, limit_micros=limit_micros)

    def budgets(self, *, sandbox: bool) -> list[Budget]:
        """All budgets, with what counts against each now."""
        with self._database.reading() as connection:
            return budgets.read(connection, sandbox=sandbox)

    def record_balance(self, usd: float, *, sandbox: bool) -> tuple[datetime, float] | None:
        """Write a balance; returns the one before it: when, and how many US dollars."""
        with self._database.writing() as connection:
            kind = balances.c.sandbox == sandbox
            last = connection.execute(
                sa.select(balances).where(kind).order_by(balances.c.seen_at.desc())
            ).first()
            columns = {"seen_at": datetime.now(UTC), "sandbox": sandbox, "micros": to_micros(usd)}
            connection.execute(balances.insert().values(**columns))
        return (last.seen_at, to_usd(last.micros)) if last else None

    # --- runs; `sandbox` takes those of the sandbox, or the real ones, and None both ---

    def get(self, run_id: str) -> Run | None:
        """One run, or None."""
        found = self._select(runs.c.run_id == run_id)
        return found[0] if found else None

    def with_task(self, task_id: str) -> Run | None:
        """The first run that has this task, or None."""
        found = self._select(runs.c.task_id == task_id)
        return found[0] if found else None

    def runs(self, *, sandbox: bool | None = None) -> list[Run]:
        """All runs, oldest first."""
        return self._select(sa.true(), sandbox=sandbox)

    def some(self, run_ids: Sequence[str]) -> list[Run]:
        """Runs of these ids, oldest first."""
        return [run for part in rows.parts(run_ids) for run in self._select(runs.c.run_id.in_(part))]

    def find(self, query: Query) -> Found:
        """The runs that a query asks for, and how many there are in all."""
        return search.page(self._database, query)

    def each(self, query: Query) -> Iterator[Run]:
        """As `find`, one by one, for large tables: no lock is held meanwhile, and no record is kept."""
        return search.each(self._database, query)

    def lines(self, query: Query, *, pictures: bool = False) -> Iterator[HistoryRow]:
        """As `each`, for a table: quicker, and with the pictures only if they are asked for."""
        return search.lines(self._database, query, pictures=pictures)

    def facets(self, sandbox: bool | None = None) -> Facets:  # noqa: FBT001 - there is nothing else to say
        """What can be asked for: states, tags and names, with how many runs have each; most first."""
        with self._database.reading() as connection:
            return search.facets(connection, sandbox=sandbox)

    def record_vote(self, vote: Vote) -> None:
        """Write a vote."""
        with self._database.writing() as connection:
            connection.execute(votes.insert().values(**dataclasses.asdict(vote)))

    def remove_vote(self, vote_id: str) -> None:
        """Delete a vote."""
        with self._database.writing() as connection:
            connection.execute(votes.delete().where(votes.c.vote_id == vote_id))

    def votes(self, ballot: str | None = None) -> list[Vote]:
        """All votes, or those of a ballot, oldest first."""
        chosen = sa.true() if ballot is None else votes.c.ballot == ballot
        with self._database.reading() as connection:
            wanted = sa.select(votes).where(chosen).order_by(votes.c.voted_at, votes.c.vote_id)
            return [Vote(**row) for row in connection.execute(wanted).mappings()]

    def draws(self, planned: Run) -> list[Run]:
        """All runs of the same request, oldest first; those of the sandbox and real ones never mix."""
        return self._select((runs.c.digest == planned.digest) & (runs.c.sandbox == planned.sandbox))

    def unfinished(self, *, sandbox: bool | None = None) -> list[Run]:
        """Runs that still want something: a task whose end was not seen, or a picture not on disk."""
        candidates = self._select(runs.c.state.not_in(_RESTING) | (runs.c.missing > 0), sandbox=sandbox)
        return [run for run in candidates if run.is_open or run.missing or (run.is_unread and run.task_id)]

    def successes(self, *, sandbox: bool | None = None) -> list[Run]:
        """Runs that have, or should have, pictures; oldest first."""
        return self._select(runs.c.state == SUCCESS, sandbox=sandbox)

    def since(self, when: datetime, *, sandbox: bool | None = None) -> list[Run]:
        """Runs made at that time or later, oldest first."""
        return self._select(runs.c.created_at >= when, sandbox=sandbox)

    def unanswered(self, *, sandbox: bool | None = None) -> list[Run]:
        """Runs whose submit was never answered, and may have been charged; oldest first."""
        return self._select(rows.UNANSWERED, sandbox=sandbox)

    def durations_s(self, run: Run) -> list[float]:
        """How long the last tasks like this one took at APIXO, in seconds (costTime); newest first."""
        like = (runs.c.model == run.model) & (runs.c.num_images == run.num_images)
        like &= (runs.c.sandbox == run.sandbox) & (runs.c.state == SUCCESS)
        known = (
            like & (runs.c.cost_time_ms > 0) & (runs.c.created_at > datetime.now(UTC) - timedelta(days=30))
        )
        columns = sa.select(runs.c.cost_time_ms, runs.c.image_urls).where(known)
        with self._database.reading() as connection:
            found = connection.execute(columns.order_by(runs.c.created_at.desc()).limit(_DURATIONS)).all()
        return [ms / 1000 for ms, references in found if bool(references) == bool(run.image_urls)]

    def _select(self, condition: sa.ColumnElement[bool], *, sandbox: bool | None = None) -> list[Run]:
        wanted = sa.select(runs).where(condition).order_by(runs.c.created_at, runs.c.run_id)
        if sandbox is not None:
            wanted = wanted.where(runs.c.sandbox == sandbox)
        with self._database.reading() as connection:
            return rows.read_runs(connection, wanted)


def _left_out(connection: sa.Connection) -> list[str]:
    kept = connection.scalar(sa.select(meta.c.value).where(meta.c.key == _LEFT_OUT))
    return json.loads(kept) if kept else []


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLAlchemy URL; None where it is no file of SQLite's."""
    try:
        parts = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return None
    file = parts.database if parts.get_backend_name() == "sqlite" else None
    return Path(file).absolute() if file and file != ":memory:" and not file.startswith("file:") else None
