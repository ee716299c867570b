"""Leases: which process works on which run, so that two kernels never take up the same one.

The `owners` table has a row for each open ledger, with its process and last heartbeat; a run's `owner` column
names the row of the process that works on it. A lease ends with its process: whoever comes next finds out
whether that process still lives (see `core.process`), and takes the run over if it does not.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from apixo_nb.core.process import ProcessIdentity, this_process
from apixo_nb.core.records import SUBMITTING, UNKNOWN, Run
from apixo_nb.errors import LedgerError

from . import rows
from .database import Database
from .schema import owners, runs


class Leases:
    """The leases of a ledger's runs, seen from this process.

    Attributes
    ----------
    holder : ProcessIdentity or None
        This process as the holder of its leases; None before the first one.

    Raises
    ------
    LedgerError
        From every method but `close`: the database cannot be read or written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.holder: ProcessIdentity | None = None

    def claim(self, run_id: str) -> Run | None:
        """Lease a run to this process; its row as it is then, or None if another process has it leased."""
        with self._database.writing() as connection:
            me = self.renew(connection)
            holder = connection.scalar(sa.select(runs.c.owner).where(runs.c.run_id == run_id))
            if holder not in (None, me.id) and holder in live_owners(connection):
                return None
            connection.execute(runs.update().where(runs.c.run_id == run_id).values(owner=me.id))
            found = rows.read_runs(connection, sa.select(runs).where(runs.c.run_id == run_id))
            return found[0] if found else None

    def release(self, run_id: str) -> None:
        """End this process's lease of a run."""
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
        me, now = self.holder, datetime.now(UTC)
        beat = owners.update().where(owners.c.id == me.id).values(heartbeat_at=now)
        if not connection.execute(beat).rowcount:  # new, or taken for dead by another machine since
            columns = {"id": me.id, "host": me.host, "pid": me.pid, "started": me.started}
            connection.execute(owners.insert().values(**columns, heartbeat_at=now))
        return me

    def mark_abandoned(self) -> None:
        """Mark the submits of processes that have ended as unknown, and delete those processes' leases."""
        with self._database.reading() as connection:
            leased = sa.select(runs.c.run_id).where((runs.c.state == SUBMITTING) | runs.c.owner.is_not(None))
            if connection.scalar(leased.limit(1)) is None:
                return
        with self._database.writing() as connection:
            live = live_owners(connection)
            abandoned = runs.c.owner.is_(None) | runs.c.owner.not_in(live)
            unknown = runs.update().where((runs.c.state == SUBMITTING) & abandoned)
            text = "The kernel or program ended before the submit was answered"
            connection.execute(unknown.values(state=UNKNOWN, fail_msg=text))
            connection.execute(runs.update().where(abandoned & runs.c.owner.is_not(None)).values(owner=None))
            connection.execute(owners.delete().where(owners.c.id.not_in(live)))

    def held(self) -> set[str]:
        """Ids of the runs that are leased to a living process, this one included."""
        with self._database.reading() as connection:
            return _leased_to(connection, live_owners(connection))

    def held_elsewhere(self) -> set[str]:
        """Ids of the runs that are leased to another living process."""
        with self._database.reading() as connection:
            others = live_owners(connection) - {self.holder.id if self.holder else ""}
            return _leased_to(connection, others)

    def close(self) -> None:
        """End all leases of this process; those that a fork has inherited are the parent's, and stand."""
        if self.holder is None or self.holder.pid != this_process().pid:
            return
        me, self.holder = self.holder, None
        try:
            with self._database.writing() as connection:
                connection.execute(runs.update().where(runs.c.owner == me.id).values(owner=None))
                connection.execute(owners.delete().where(owners.c.id == me.id))
        except LedgerError:
            return  # the leases end with the process


def live_owners(connection: sa.Connection) -> set[str]:
    """Ids of the owners whose processes live."""
    return {
        row.id
        for row in connection.execute(sa.select(owners))
        if ProcessIdentity(row.host, row.pid, row.started, row.id).is_alive(row.heartbeat_at)
    }


def _leased_to(connection: sa.Connection, holders: set[str]) -> set[str]:
    return set(connection.scalars(sa.select(runs.c.run_id).where(runs.c.owner.in_(holders))))
