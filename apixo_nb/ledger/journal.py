"""The journal: task ids in a file beside the database, for the moments in which the database refuses them.

A task that is paid for must not hang on another program's lock. Its id is appended here, durably, and merged
into its row later, by whichever process comes first.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from apixo_nb.core.models import FINAL_STATES
from apixo_nb.core.records import SUBMITTED

from .database import Database
from .schema import runs


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The task of a run; `at` is when it was submitted, in UTC."""

    run_id: str
    task_id: str
    at: datetime


class TaskJournal:
    """A file of JSON lines, one entry each. Several processes may append to it and merge it at once."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def append(self, entry: JournalEntry) -> bool:
        """Add an entry; True once it is on the disk, False where it cannot be written."""
        line = {"run_id": entry.run_id, "task_id": entry.task_id, "at": entry.at.isoformat()}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            return False
        return True

    def entries(self) -> list[JournalEntry]:
        """What waits to be merged."""
        return _read(self.file)

    def merge(self, database: Database) -> None:
        """Write the task ids into their rows; raises LedgerError while the database still refuses.

        An entry whose run is not in this database goes back into the journal: the home may have had another
        ledger for a while.
        """
        for segment in self._segments():
            with database.writing() as connection:
                for entry in _read(segment):
                    if not _merged(connection, entry):
                        self.append(entry)
            segment.unlink(missing_ok=True)

    def _segments(self) -> list[Path]:
        """The files to merge. What another process appends from now on goes into a new one."""
        with suppress(OSError):  # there is none, or another kernel was quicker, or the folder is read-only
            self.file.rename(self.file.with_name(f"{self.file.stem}-{secrets.token_hex(4)}.merging"))
        return sorted(self.file.parent.glob(f"{self.file.stem}-*.merging"))


def _merged(connection: sa.Connection, entry: JournalEntry) -> bool:
    """Write an entry into its row, unless that knows a task already; False if there is no such row."""
    row = runs.c.run_id == entry.run_id
    if connection.scalar(sa.select(runs.c.run_id).where(row)) is None:
        return False
    state = sa.case((runs.c.state.in_(FINAL_STATES), runs.c.state), else_=SUBMITTED)
    columns = {"task_id": entry.task_id, "submitted_at": entry.at, "state": state}
    connection.execute(runs.update().where(row & runs.c.task_id.is_(None)).values(**columns))
    return True


def _read(file: Path) -> list[JournalEntry]:
    """The whole lines of a file; one that a crash has torn is left out."""
    found = []
    with suppress(OSError):  # there is none, or another kernel was quicker
        for line in file.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                at = datetime.fromisoformat(entry["at"])
                found.append(JournalEntry(str(entry["run_id"]), str(entry["task_id"]), at))
    return found
