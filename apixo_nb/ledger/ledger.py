"""The ledger: every run a row, written before the money is spent.

It is small and written some five times a task, so safety comes before speed (see `database`). Pictures are
not in here, only their names and hashes. A run that somebody works on has an owner: a process of this or
another machine (see `owner`). Only a run that has lost its owner is taken up by another.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from apixo_nb.core.models import FINAL_STATES
from apixo_nb.core.process import Owner, this_process
from apixo_nb.core.records import (
    FAILED,
    PLANNED,
    SUBMITTED,
    SUBMITTING,
    SUCCESS,
    UNKNOWN,
    Image,
    Line,
    Run,
    Vote,
)
from apixo_nb.errors import LedgerError

from . import budgets as caps
from . import rows, search
from .budgets import Budget
from .database import Database
from .leases import _living
from .query import Facets, Found, Query
from .schema import balances, budgets, owners, runs, votes


@dataclass(frozen=True, slots=True)
class Kept:
    """One line of the file: the task of a run."""

    run_id: str
    task_id: str
    at: datetime


class Aside:
    """JSON lines, appended durably, and taken back in parts: each is merged once, by whoever comes first."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def append(self, kept: Kept) -> bool:
        """Add a line, durably; False where that cannot be."""
        line = {"run_id": kept.run_id, "task_id": kept.task_id, "at": kept.at.isoformat()}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            return False
        return True

    def parts(self) -> list[Path]:
        """The files to merge. What another process appends from now on goes into a new one."""
        with suppress(OSError):  # there is none, or another kernel was quicker, or the folder is read-only
            self.file.rename(self.file.with_name(f"{self.file.stem}-{secrets.token_hex(4)}.merging"))
        return sorted(self.file.parent.glob(f"{self.file.stem}-*.merging"))


def read(part: Path) -> list[Kept]:
    """The whole lines of a part; one that a crash has torn is left out."""
    found = []
    with suppress(OSError):  # another kernel was quicker
        for line in part.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                kept = json.loads(line)
                at = datetime.fromisoformat(kept["at"])
                found.append(Kept(str(kept["run_id"]), str(kept["task_id"]), at))
    return found


_RESTING = (PLANNED, FAILED, UNKNOWN, SUCCESS)  # nobody waits for these
_DURATIONS = 200  # the last ones, from which a task's time is foretold


class Ledger:
    """Runs and their pictures in a database. Safe to use from several threads and processes.

    Attributes
    ----------
    shown_place : str
        Where it is, without a password.

    Parameters
    ----------
    place : Path or str
        A file for SQLite, or a SQLAlchemy URL.
    aside : Path, optional
        The file that takes taskIds while the database cannot; default: beside a SQLite file.

    Raises
    ------
    LedgerError
        From every method: the database cannot be opened, read or written; the message says why.
    """

    def __init__(self, place: Path | str, aside: Path | None = None) -> None:
        self._database = Database(place)
        self.shown_place = self._database.shown_place
        beside = aside or (place.with_name("ledger-tasks.jsonl") if isinstance(place, Path) else None)
        self._aside = Aside(beside) if beside else None
        self._owner: Owner | None = None
        if not self._database.read_only:
            self.merge_aside()

    def close(self) -> None:
        """Let go of the database, and of the runs that this process worked on."""
        try:
            self._leave()
        finally:
            self._database.close()

    # --- a run's way ---

    def add(self, run: Run, *, once: bool = False) -> Run:
        """Write a new row, owned by this process; one without a take gets the next.

        In one transaction with the check of every budget, so kernels that race never pass one together.
        `once`: unless another process was quicker to ask for this very take; then its row is returned.

        Raises
        ------
        BudgetError
            It would pass a cap. Nothing was written.
        LedgerError
            Its row is there already: whoever wrote it has bought it, or is about to.
        """
        with self._database.writing() as connection:
            owner = self._present(connection)
            rows.check_new(connection, run.run_id)
            same = (runs.c.digest == run.digest) & (runs.c.sandbox == run.sandbox)
            if once and (rival := rows.rival(connection, same & (runs.c.take == run.take))) is not None:
                return rival
            caps.check(connection, [run])
            last = connection.scalar(sa.select(sa.func.max(runs.c.take)).where(same))
            numbered = run.but(take=run.take or (last or 0) + 1)
            connection.execute(runs.insert().values(**rows.row_of(numbered), owner=owner.id))
            rows.count_missing(connection, run.run_id)
        return numbered

    def insert(self, run: Run) -> bool:
        """Write a row that comes from elsewhere, pictures and all, owned by nobody; False if it is there."""
        with self._database.writing() as connection:
            if connection.scalar(sa.select(runs.c.run_id).where(runs.c.run_id == run.run_id)) is not None:
                return False
            connection.execute(runs.insert().values(**rows.row_of(run)))
            for image in run.images:
                rows.put_picture(connection, run.run_id, image)
            rows.count_missing(connection, run.run_id)
        return True

    def catch_up(self, run: Run) -> bool:
        """Bring a row up to what is known from elsewhere; False if that is nothing new.

        An end that the row knows itself stands, and so does what it knows of a picture. A picture that it
        does not know is taken in, and a choice of one for which it has none. A row that a living process
        works on, this one or another, is left alone; see `rows.catch_up`.
        """
        with self._database.writing() as connection:
            return rows.catch_up(connection, run, _living(connection))

    def update(self, run_id: str, **changes: Any) -> None:
        """Change some columns of a row. A final state stands: another one is not written over it."""
        row = runs.c.run_id == run_id
        if "state" in changes:
            row &= runs.c.state.not_in(FINAL_STATES) | (runs.c.state == changes["state"])
        with self._database.writing() as connection:
            connection.execute(runs.update().where(row).values(**changes))
            if "result_urls" in changes:
                rows.count_missing(connection, run_id)

    def keep_task(self, run_id: str, task_id: str, submitted_at: datetime) -> bool:
        """Write the taskId of a run that was just bought; if the database refuses, into a file (False).

        What is paid for must not hang on another program's lock. The file is merged by `merge_aside`.
        """
        try:
            self.update(run_id, state=SUBMITTED, task_id=task_id, submitted_at=submitted_at)
        except LedgerError as refused:
            if self._aside is None or not self._aside.append(Kept(run_id, task_id, submitted_at)):
                # The last place that keeps it is the message.
                text = f"The paid task {task_id} could be written nowhere: {refused.message}"
                step = "Note the task id: Client().wait(task_id) fetches its result."
                raise LedgerError(text, task_id=task_id, maybe_billed=True, next_step=step) from None
            return False
        return True

    def merge_aside(self) -> None:
        """Take taskIds that had to be written beside into their rows."""
        if self._aside is None:
            return
        for part in self._aside.parts():
            with self._database.writing() as connection:
                for kept in read(part):
                    if (
                        connection.scalar(sa.select(runs.c.run_id).where(runs.c.run_id == kept.run_id))
                        is None
                    ):
                        # A row of another ledger, which this home had for a while: kept for it.
                        self._aside.append(kept)
                        continue
                    row = (runs.c.run_id == kept.run_id) & runs.c.task_id.is_(None)
                    state = sa.case((runs.c.state.in_(FINAL_STATES), runs.c.state), else_=SUBMITTED)
                    bought = {"task_id": kept.task_id, "submitted_at": kept.at, "state": state}
                    connection.execute(runs.update().where(row).values(**bought))
            part.unlink(missing_ok=True)

    def orphans(self) -> list[Kept]:
        """Tasks in the file beside whose runs are not in this ledger."""
        if self._aside is None:
            return []
        kept = read(self._aside.file)
        known = {run.run_id for run in self.some([each.run_id for each in kept])}
        return [each for each in kept if each.run_id not in known]

    def put_image(self, run_id: str, image: Image) -> None:
        """Write what is known of one picture, in place of what was known before; its choice stands."""
        with self._database.writing() as connection:
            rows.put_picture(connection, run_id, image)
            rows.count_missing(connection, run_id)

    def choose(self, run_id: str, index: int, **choice: Any) -> bool:
        """Write some of a person's choice of a picture, see `run.CHOICE`; False if there is none such.

        The run's rating becomes that of its best picture, in the same transaction.
        """
        with self._database.writing() as connection:
            return rows.choose(connection, run_id, index, choice)

    # --- who works on what ---

    def claim(self, run_id: str) -> Run | None:
        """Make this process the one that works on a run; None while another one does."""
        with self._database.writing() as connection:
            owner = self._present(connection)
            theirs = connection.scalar(sa.select(runs.c.owner).where(runs.c.run_id == run_id))
            if theirs not in (None, owner.id) and theirs in _living(connection):
                return None
            connection.execute(runs.update().where(runs.c.run_id == run_id).values(owner=owner.id))
        return self.get(run_id)

    def release(self, run_id: str) -> None:
        """Let go of a run that this process worked on."""
        if self._owner is not None:
            mine = (runs.c.run_id == run_id) & (runs.c.owner == self._owner.id)
            with self._database.writing() as connection:
                connection.execute(runs.update().where(mine).values(owner=None))

    def heartbeat(self) -> None:
        """Say to other machines that this process lives."""
        if self._owner is not None:
            with self._database.writing() as connection:
                self._present(connection)

    def settle(self) -> None:
        """Call the submits of processes that have ended unknown, and forget those processes."""
        with self._database.reading() as connection:
            owned = sa.select(runs.c.run_id).where((runs.c.state == SUBMITTING) | runs.c.owner.is_not(None))
            if connection.scalar(owned.limit(1)) is None:
                return
        with self._database.writing() as connection:
            living = _living(connection)
            lost = runs.c.owner.is_(None) | runs.c.owner.not_in(living)
            unknown = runs.update().where((runs.c.state == SUBMITTING) & lost)
            text = "The kernel or program ended before the submit was answered"
            connection.execute(unknown.values(state=UNKNOWN, fail_msg=text))
            connection.execute(runs.update().where(lost & runs.c.owner.is_not(None)).values(owner=None))
            connection.execute(owners.delete().where(owners.c.id.not_in(living)))

    def elsewhere(self) -> set[str]:
        """Ids of the runs that other living processes work on."""
        with self._database.reading() as connection:
            theirs = _living(connection) - {self._owner.id if self._owner else ""}
            found = connection.execute(sa.select(runs.c.run_id).where(runs.c.owner.in_(theirs)))
            return {run_id for (run_id,) in found}

    def in_hands(self) -> set[str]:
        """Ids of the runs that living processes work on, this one among them."""
        with self._database.reading() as connection:
            theirs = runs.c.owner.in_(_living(connection))
            return set(connection.scalars(sa.select(runs.c.run_id).where(theirs)))

    def _present(self, connection: sa.Connection) -> Owner:
        """Who we are, alive at this moment; another one after a fork."""
        me = this_process()
        if self._owner is None or (self._owner.pid, self._owner.started) != (me.pid, me.started):
            self._owner = me
        me, now = self._owner, datetime.now(UTC)
        beat = owners.update().where(owners.c.id == me.id).values(heartbeat_at=now)
        if not connection.execute(beat).rowcount:  # new, or taken for dead by another machine since
            facts = {"id": me.id, "host": me.host, "pid": me.pid, "started": me.started}
            connection.execute(owners.insert().values(**facts, heartbeat_at=now))
        return me

    def _leave(self) -> None:
        if self._owner is None or self._owner.pid != this_process().pid:
            return
        owner, self._owner = self._owner, None
        try:
            with self._database.writing() as connection:
                connection.execute(runs.update().where(runs.c.owner == owner.id).values(owner=None))
                connection.execute(owners.delete().where(owners.c.id == owner.id))
        except LedgerError:
            return  # the process ends soon, and is seen to have

    # --- money ---

    def check_budgets(self, planned: Sequence[Run]) -> None:
        """Raise BudgetError if these together would pass a cap; `add` checks each once more."""
        with self._database.reading() as connection:
            caps.check(connection, planned)

    def set_budget(self, scope: str, *, sandbox: bool, limit_micros: int | None) -> None:
        """Set a cap, or with None take it away; see `budget.Budget` for the scopes."""
        with self._database.writing() as connection:
            key = (budgets.c.scope == scope) & (budgets.c.sandbox == sandbox)
            connection.execute(budgets.delete().where(key))
            if limit_micros is not None:
                facts = {"scope": scope, "sandbox": sandbox, "limit_micros": limit_micros}
                connection.execute(budgets.insert().values(**facts, set_at=datetime.now(UTC)))

    def budgets(self, *, sandbox: bool) -> list[Budget]:
        """All caps, with what counts against each now."""
        with self._database.reading() as connection:
            wanted = sa.select(budgets).where(budgets.c.sandbox == sandbox).order_by(budgets.c.scope)
            return [caps.budget_now(connection, row) for row in connection.execute(wanted)]

    def see_balance(self, usd: float, *, sandbox: bool) -> tuple[datetime, float] | None:
        """Note a balance; returns the one before it: when, and how many US dollars."""
        with self._database.writing() as connection:
            kind = balances.c.sandbox == sandbox
            last = connection.execute(
                sa.select(balances).where(kind).order_by(balances.c.seen_at.desc())
            ).first()
            facts = {"seen_at": datetime.now(UTC), "sandbox": sandbox, "micros": round(usd * 1e6)}
            connection.execute(balances.insert().values(**facts))
        return (last.seen_at, last.micros / 1e6) if last else None

    # --- looking back ---

    def get(self, run_id: str) -> Run | None:
        """One run, or None."""
        found = self._select(runs.c.run_id == run_id)
        return found[0] if found else None

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        return self._select(sa.true())

    def some(self, run_ids: Sequence[str]) -> list[Run]:
        """Runs of these ids, oldest first."""
        return [run for part in rows.parts(run_ids) for run in self._select(runs.c.run_id.in_(part))]

    def find(self, query: Query) -> Found:
        """The runs that a query asks for, and how many there are in all."""
        return search.page(self._database, query)

    def each(self, query: Query) -> Iterator[Run]:
        """As `find`, one by one, for large tables: no lock is held meanwhile, and no record is kept."""
        return search.each(self._database, query)

    def lines(self, query: Query, *, pictures: bool = False) -> Iterator[Line]:
        """As `each`, for a table: quicker, and with the pictures only if they are asked for."""
        return search.lines(self._database, query, pictures=pictures)

    def facets(self, sandbox: bool | None = None) -> Facets:  # noqa: FBT001 - there is nothing else to say
        """What can be asked for: states, tags and names, with how many runs have each; most first."""
        with self._database.reading() as connection:
            return search.facets(connection, sandbox=sandbox)

    def cast(self, vote: Vote) -> None:
        """Keep a vote."""
        with self._database.writing() as connection:
            connection.execute(votes.insert().values(**dataclasses.asdict(vote)))

    def take_back(self, vote_id: str) -> None:
        """Forget a vote."""
        with self._database.writing() as connection:
            connection.execute(votes.delete().where(votes.c.vote_id == vote_id))

    def votes(self, ballot: str | None = None) -> list[Vote]:
        """All votes, or those of a ballot, oldest first."""
        chosen = sa.true() if ballot is None else votes.c.ballot == ballot
        with self._database.reading() as connection:
            cast = sa.select(votes).where(chosen).order_by(votes.c.voted_at, votes.c.vote_id)
            return [Vote(**row) for row in connection.execute(cast).mappings()]

    def draws(self, planned: Run) -> list[Run]:
        """All runs of the same request, oldest first; those of the sandbox and real ones never mix."""
        return self._select((runs.c.digest == planned.digest) & (runs.c.sandbox == planned.sandbox))

    def unfinished(self) -> list[Run]:
        """Runs that still want something: a task whose end was not seen, or a picture not on disk."""
        candidates = self._select(runs.c.state.not_in(_RESTING) | (runs.c.missing > 0))
        return [run for run in candidates if run.is_open or run.missing or _unread(run)]

    def successes(self) -> list[Run]:
        """Runs that have, or should have, pictures; oldest first."""
        return self._select(runs.c.state == SUCCESS)

    def since(self, when: datetime) -> list[Run]:
        """Runs made at that time or later, oldest first."""
        return self._select(runs.c.created_at >= when)

    def lost(self) -> list[Run]:
        """Runs whose submit was never answered: maybe billed."""
        return self._select((runs.c.state == UNKNOWN) & runs.c.cost_micros.is_(None))

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

    def _select(self, condition: sa.ColumnElement[bool]) -> list[Run]:
        wanted = sa.select(runs).where(condition).order_by(runs.c.created_at, runs.c.run_id)
        with self._database.reading() as connection:
            return rows.read_runs(connection, wanted)


def _unread(run: Run) -> bool:
    return run.state == SUCCESS and not run.result_urls and bool(run.task_id)
