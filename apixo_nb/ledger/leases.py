"""Leases: which process works on which run, so that two kernels never take up the same one.

The `owners` table has a row for each open ledger, with its process and last heartbeat; a run's `owner` column
names the row of the process that works on it. A lease ends with its process: whoever comes next finds out
whether that process still lives (see `core.process`), and takes the run over if it does not.

A process that was paused may have been taken for dead. So each POST is preceded by `begin_submit`, which asks
in one transaction whether the run is still its own: a takeover changes the lease's token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from apixo_nb.core.process import STALE, ProcessIdentity, since_boot_s, this_place, this_process
from apixo_nb.core.records import PLANNED, SUBMITTING, UNKNOWN, Run, utc_now
from apixo_nb.errors import LedgerError

from . import rows
from .database import Database
from .schema import database_now, owners, runs

#: A heartbeat so old is old by any clock: two machines' clocks differ by hours at most.
_OLD_BY_ANY_CLOCK = timedelta(days=1)

_NEXT_TOKEN = {"lease_token": runs.c.lease_token + 1}


class LeaseLostError(LedgerError):
    """The run is not this process's any more: another one has taken it over, or its row is gone."""


class Leases:
    """The leases of a ledger's runs, seen from this process.

    Attributes
    ----------
    holder : ProcessIdentity or None
        This process as the holder of its leases; None before the first one.
    monotonic : callable
        Seconds, to measure how long another machine's process has been silent.

    Raises
    ------
    LedgerError
        From every method but `close`: the database cannot be read or written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.holder: ProcessIdentity | None = None
        self.monotonic: Callable[[], float] = time.monotonic
        self._tokens: dict[str, int] = {}  # of the runs that this process has leased
        self._watched: dict[str, tuple[datetime, float]] = {}  # owners: last heartbeat, and since when

    def claim(self, run_id: str) -> Run | None:
        """Lease a run to this process; its row as it is then, or None if another process has it leased."""
        with self._database.writing() as connection:
            me = self.renew(connection)
            holder = connection.scalar(sa.select(runs.c.owner).where(runs.c.run_id == run_id))
            if holder not in (None, me.id) and holder in self.live(connection):
                return None
            this = runs.c.run_id == run_id
            connection.execute(runs.update().where(this).values(owner=me.id, **_NEXT_TOKEN))
            self._tokens[run_id] = connection.scalar(sa.select(runs.c.lease_token).where(this)) or 0
            found = rows.read_runs(connection, sa.select(runs).where(this))
            return found[0] if found else None

    def lease_new(self, connection: sa.Connection, run_id: str) -> dict[str, Any]:
        """The columns of a new row, to be leased to this process in a transaction of the caller's."""
        self._tokens[run_id] = 1
        return {"owner": self.renew(connection).id, "lease_token": 1}

    def begin_submit(self, run_id: str) -> datetime:
        """Write that the POST of a planned run leaves now, the last step before it does; returns the time.

        Raises
        ------
        LeaseLostError
            The run is not this process's any more. Nothing was written, and nothing may be sent.
        """
        with self._database.writing() as connection:
            mine = self._is_mine(connection, run_id) & runs.c.task_id.is_(None)
            mine &= runs.c.state.in_((PLANNED, SUBMITTING))
            bought_at = utc_now()
            begun = runs.update().where(mine).values(state=SUBMITTING, bought_at=bought_at)
            if not connection.execute(begun).rowcount:
                known = connection.scalar(sa.select(runs.c.state).where(runs.c.run_id == run_id))
                why = (
                    "was taken over by another kernel or program"
                    if known
                    else "is not in the ledger any more"
                )
                step = "Nothing was sent. `%apixo history` shows what became of it."
                raise LeaseLostError(f"Run {run_id} {why}", run_id=run_id, next_step=step)
        return bought_at

    def end_submit(self, run_id: str) -> None:
        """Write that a submit surely was not accepted: until its next attempt, the run is planned again."""
        with self._database.writing() as connection:
            mine = self._is_mine(connection, run_id) & (runs.c.state == SUBMITTING) & runs.c.task_id.is_(None)
            connection.execute(runs.update().where(mine).values(state=PLANNED))

    def _is_mine(self, connection: sa.Connection, run_id: str) -> sa.ColumnElement[bool]:
        holder, token = self.renew(connection).id, self._tokens.get(run_id, -1)
        return (runs.c.run_id == run_id) & (runs.c.owner == holder) & (runs.c.lease_token == token)

    def release(self, run_id: str) -> None:
        """End this process's lease of a run."""
        self._tokens.pop(run_id, None)
        if self.holder is not None:
            mine = (runs.c.run_id == run_id) & (runs.c.owner == self.holder.id)
            with self._database.writing() as connection:
                connection.execute(runs.update().where(mine).values(owner=None))

    def heartbeat(self) -> None:
        """Tell other machines that this process lives, if it has taken a lease."""
        if self.holder is not None:
            with self._database.writing() as connection:
                self.renew(connection)

    def renew(self, connection: sa.Connection) -> ProcessIdentity:
        """Write a heartbeat in a transaction of the caller's; returns this process as the holder of leases.

        After a fork the child is a holder of its own.
        """
        process = this_process()
        if self.holder is None or (self.holder.pid, self.holder.started) != (process.pid, process.started):
            self.holder = process
        me, now = self.holder, database_now(connection)
        beat = owners.update().where(owners.c.id == me.id).values(heartbeat_at=now)
        if not connection.execute(beat).rowcount:  # new, or taken for dead by another machine since
            columns = {name: getattr(me, name) for name in _IDENTITY}
            connection.execute(owners.insert().values(**columns, heartbeat_at=now))
        return me

    def mark_abandoned(self) -> None:
        """Mark the submits of processes that have ended as unknown, and delete those processes' leases."""
        with self._database.reading() as connection:
            leased = sa.select(runs.c.run_id).where((runs.c.state == SUBMITTING) | runs.c.owner.is_not(None))
            if connection.scalar(leased.limit(1)) is None:
                return
        with self._database.writing() as connection:
            live = self.live(connection)
            abandoned = runs.c.owner.is_(None) | runs.c.owner.not_in(live)
            unknown = runs.update().where((runs.c.state == SUBMITTING) & abandoned)
            text = "The kernel or program ended before the submit was answered"
            connection.execute(unknown.values(state=UNKNOWN, fail_msg=text))
            taken = runs.update().where(abandoned & runs.c.owner.is_not(None))
            connection.execute(taken.values(owner=None, **_NEXT_TOKEN))
            connection.execute(owners.delete().where(owners.c.id.not_in(live)))

    def free_planned(self, connection: sa.Connection) -> None:
        """Take from dead processes what they did not send: nobody is going to."""
        dead = runs.c.owner.is_not(None) & runs.c.owner.not_in(self.live(connection))
        planned = runs.update().where((runs.c.state == PLANNED) & dead)
        connection.execute(planned.values(owner=None, **_NEXT_TOKEN))

    def held(self) -> set[str]:
        """Ids of the runs that are leased to a living process, this one included."""
        with self._database.reading() as connection:
            return _leased_to(connection, self.live(connection))

    def held_elsewhere(self) -> set[str]:
        """Ids of the runs that are leased to another living process."""
        with self._database.reading() as connection:
            others = self.live(connection) - {self.holder.id if self.holder else ""}
            return _leased_to(connection, others)

    def close(self) -> None:
        """End all leases of this process; those that a fork has inherited are the parent's, and stand."""
        if self.holder is None or self.holder.pid != this_process().pid:
            return
        me, self.holder = self.holder, None
        self._tokens.clear()
        try:
            with self._database.writing() as connection:
                connection.execute(runs.update().where(runs.c.owner == me.id).values(owner=None))
                connection.execute(owners.delete().where(owners.c.id == me.id))
        except LedgerError:
            return  # the leases end with the process

    def live(self, connection: sa.Connection) -> set[str]:
        """Ids of the owners whose processes live."""
        found = connection.execute(sa.select(owners)).mappings().all()
        if not found:
            return set()
        one_clock = connection.dialect.name != "sqlite"
        now: datetime = connection.execute(sa.select(database_now(connection))).scalar_one()
        alive = set()
        for row in found:
            owner, beat = ProcessIdentity(**{name: row[name] for name in _IDENTITY}), row["heartbeat_at"]
            silent = now - beat if one_clock else self._silent(owner, beat, now)
            if owner.is_alive(silent):
                alive.add(owner.id)
        return alive

    def _silent(self, owner: ProcessIdentity, beat: datetime, now: datetime) -> timedelta:
        """For how long there was no heartbeat of an owner, whose machine's clock may differ from ours.

        It is watched by our own clock, unless it is older than clocks can differ, or than the start of this
        very machine.
        """
        by_clocks = now - beat
        booted = now - timedelta(seconds=since_boot_s())
        restarted = bool(owner.machine_id) and owner.machine_id == this_place()[0] and beat < booted
        if by_clocks > _OLD_BY_ANY_CLOCK or (restarted and by_clocks > STALE):
            return by_clocks
        seconds = self.monotonic()
        known, since = self._watched.get(owner.id, (None, seconds))
        if known != beat:
            self._watched[owner.id] = (beat, seconds)
            return timedelta(0)
        return timedelta(seconds=seconds - since)


_IDENTITY = ("id", "host", "pid", "started", "machine_id", "boot_id", "pid_namespace")


def _leased_to(connection: sa.Connection, holders: set[str]) -> set[str]:
    return set(connection.scalars(sa.select(runs.c.run_id).where(runs.c.owner.in_(holders))))
