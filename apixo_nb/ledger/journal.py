"""The journal: task ids on disk before anything else happens, whatever the database does meanwhile.

A process has a file of its own beside the ledger while its submits are on their way: made, locked and given
room before the request leaves, removed once the row of each task says the same. What a process that died has
left there is brought into the rows by whoever opens the ledger next, or decides by a row.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from apixo_nb.core.files import allocate, is_file_of, lock_open_file, remove_open_file, sync_folder
from apixo_nb.core.records import Run
from apixo_nb.errors import LedgerError

from . import rows
from .database import Database
from .leases import Leases
from .schema import runs

#: The file of earlier versions, for all processes; the names of the others begin as this one does.
NAME = "ledger-tasks.jsonl"

_ROOM = 65_536  # bytes that are reserved at a time
_FOR_THE_TASK = 10_000  # bytes of a record besides its row; the longest task id fits, escaped
_BINARY = getattr(os, "O_BINARY", 0)
_RECORD = re.compile(r'\{"run_id"')  # cannot stand within a JSON string, whose quotes are escaped


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The task of a run.

    Attributes
    ----------
    at : datetime
        When it was submitted, in UTC.
    ledger : str
        The ledger that has its row; "" if an earlier version wrote the entry.
    row : dict
        The whole row, as JSON has it; empty if an earlier version wrote the entry.
    """

    run_id: str
    task_id: str
    at: datetime
    ledger: str = ""
    row: dict[str, Any] = field(default_factory=dict)

    def record(self) -> bytes:
        """The entry as it is written: it begins and ends with a line end, so a torn one harms no other."""
        entry = {
            "run_id": self.run_id,
            "task_id": self.task_id,
            "at": self.at.isoformat(),
            "ledger": self.ledger,
            "row": self.row,
        }
        return b"\n" + json.dumps(entry).encode() + b"\n"


@dataclass(slots=True)
class _Slot:
    """The place of a record in the file, in bytes; `record` is what was written there."""

    offset: int
    size: int
    record: bytes = b""


class TaskJournal:
    """The journal of one ledger in this process, and the files that others have beside it.

    Safe to use from several threads. Raises OSError from `reserve` and `write` where the disk refuses.
    """

    def __init__(self, beside: Path) -> None:
        self._beside = beside
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._slots: dict[str, _Slot] = {}
        self._path: Path | None = None
        self._handle = -1
        self._next = self._end = 0  # where the next slot begins, and where the reserved room ends

    def _own(self) -> threading.Lock:
        """The lock; after a fork the file is the parent's, and the lock may be held by a thread of his."""
        if self._pid != os.getpid():
            if self._handle != -1:
                os.close(self._handle)
            self._reset()
        return self._lock

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self._beside.parent

    # --- this process's file ---

    def reserve(self, run_id: str, row: dict[str, Any]) -> bool:
        """Open the file, and reserve room for the record of a run; False if it has some already."""
        size = len(json.dumps(row)) + _FOR_THE_TASK
        with self._own():
            if run_id in self._slots:
                return False
            self._reserve(run_id, size)
            return True

    def write(self, entry: JournalEntry) -> None:
        """Write an entry; it is on the disk when this returns."""
        record = entry.record()
        with self._own():
            slot = self._slots.get(entry.run_id)
            if slot is None or slot.size < len(record):
                slot = self._reserve(entry.run_id, len(record))
            self._put(slot, record)
            if not self._is_in_place():  # somebody has removed it
                self._renew()

    def has(self, run_id: str) -> bool:
        """Whether the task of a run is on the disk here, and not in its row as far as is known."""
        with self._own():
            return run_id in self._slots and bool(self._slots[run_id].record)

    def recorded(self, run_id: str) -> None:
        """Its row has the task: the entry is not needed any more."""
        with self._own():
            self._drop(run_id)

    def release(self, run_id: str) -> None:
        """No task will come for this run: give its room back, unless one has come."""
        with self._own():
            if run_id in self._slots and not self._slots[run_id].record:
                self._drop(run_id)

    def close(self) -> None:
        """Let go of the file; it stays if it has a task that is not in its row."""
        with self._own():
            for run_id in [run_id for run_id, slot in self._slots.items() if not slot.record]:
                self._drop(run_id)
            if self._handle != -1:
                os.close(self._handle)
            self._reset()

    def _reserve(self, run_id: str, size: int) -> _Slot:
        if self._handle == -1:
            self._open()
        try:
            if self._next + size > self._end:
                self._end = self._next + max(size, _ROOM)
                allocate(self._handle, self._next, self._end - self._next)
                os.fsync(self._handle)
        except OSError:
            self._end = self._next
            if not self._slots:
                self._remove()
            raise
        slot = self._slots[run_id] = _Slot(self._next, size)
        self._next += size
        return slot

    def _open(self) -> None:
        self._beside.parent.mkdir(parents=True, exist_ok=True)
        while True:
            path = self._beside.with_name(f"{self._beside.stem}-{secrets.token_hex(4)}.jsonl")
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
            self._path, self._handle, self._next, self._end = path, handle, 0, 0
            lock_open_file(handle)
            if self._is_in_place():  # nobody took the new file for one that is left over
                break
            os.close(handle)
        with suppress(OSError):
            sync_folder(path.parent)

    def _put(self, slot: _Slot, record: bytes) -> None:
        os.lseek(self._handle, slot.offset, os.SEEK_SET)
        if os.write(self._handle, record) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._handle)
        slot.record = record

    def _is_in_place(self) -> bool:
        return self._path is not None and is_file_of(self._path, self._handle)

    def _renew(self) -> None:
        """Write all that is not in its row into another file."""
        slots, self._slots = self._slots, {}
        os.close(self._handle)
        self._handle = -1
        for run_id, old in slots.items():
            slot = self._reserve(run_id, old.size)
            if old.record:
                self._put(slot, old.record)

    def _drop(self, run_id: str) -> None:
        if self._slots.pop(run_id, None) is not None and not self._slots:
            self._remove()

    def _remove(self) -> None:
        handle, self._handle = self._handle, -1
        if self._path is not None and handle != -1:
            remove_open_file(self._path, handle)

    # --- the files of all processes ---

    def files(self) -> list[Path]:
        """The files that are there; those of processes that live as well."""
        return journal_files(self._beside)

    def torn_files(self) -> list[Path]:
        """Files with half a record, which only a power cut leaves; they are never removed."""
        return [file for file in self.files() if _parse(_text_of(file))[1]]

    def remove_if_left_over(self, file: Path, is_done: Callable[[list[JournalEntry]], bool]) -> None:
        """Remove a file that no process has open, if `is_done` says that the rows have all of it."""
        with suppress(OSError):  # it is gone, or it is on a read-only folder
            handle = os.open(file, os.O_RDWR | _BINARY)
            free = False
            try:
                if lock_open_file(handle) and is_file_of(file, handle):
                    entries, torn = _parse(_text_of(file))
                    free = not torn and is_done(entries)
            finally:
                if free:
                    remove_open_file(file, handle)
                else:
                    os.close(handle)


def journal_files(beside: Path) -> list[Path]:
    """The files of a journal, by the file of earlier versions."""
    others = [*beside.parent.glob(f"{beside.stem}-*.jsonl"), *beside.parent.glob(f"{beside.stem}-*.merging")]
    return [file for file in (beside, *sorted(others)) if file.is_file()]


def entries_of(file: Path) -> list[JournalEntry]:
    """The whole entries of a file; none if there is no such file, or it cannot be read."""
    return _parse(_text_of(file))[0]


def _text_of(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8", "replace").replace("\0", "")  # zeros: room that is reserved
    except OSError:  # there is none, or another process was quicker
        return ""


def _parse(text: str) -> tuple[list[JournalEntry], bool]:
    """The entries of a text, wherever they begin, and whether there is anything else in it."""
    found: list[JournalEntry] = []
    rest, at = "", 0
    for start, end, entry in _records(text):
        found.append(entry)
        rest += text[at:start]
        at = end
    return found, bool((rest + text[at:]).strip())


def _records(text: str) -> Iterator[tuple[int, int, JournalEntry]]:
    decoder, after = json.JSONDecoder(), 0
    for match in _RECORD.finditer(text):
        if match.start() < after:  # the row within a record
            continue
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            read, end = decoder.raw_decode(text, match.start())
            run_id, task_id = read["run_id"], read["task_id"]
            if isinstance(run_id, str) and isinstance(task_id, str):
                at, row = datetime.fromisoformat(read["at"]), dict(read.get("row") or {})
                after = end
                yield match.start(), end, JournalEntry(run_id, task_id, at, str(read.get("ledger", "")), row)


class RecordedTasks:
    """The task ids of a ledger's runs: first in the journal, then in their rows, of whichever process."""

    def __init__(self, database: Database, leases: Leases, beside: Path | None) -> None:
        self._database = database
        self._leases = leases
        if beside is None and database.file is not None:
            beside = database.file.with_name(NAME)
        self._journal = TaskJournal(beside) if beside else None
        file = database.file
        here = file is not None and beside is not None and file.parent == beside.parent
        self._ledger = file.name if file is not None and here else database.shown_place

    @contextmanager
    def reserved(self, run: Run) -> Iterator[None]:
        """Around the writing of a new row: there is room for its task, or LedgerError is raised."""
        if self._journal is None:
            yield
            return
        try:
            fresh = self._journal.reserve(run.run_id, run.model_dump(mode="json"))
        except OSError as error:
            text = (
                f"There is no room to write down a task in {self._journal.folder}: {error.strerror or error}"
            )
            step = "Make room there, or set APIXO_HOME to another folder, then try again. Nothing was sent."
            raise LedgerError(text, next_step=step) from None
        try:
            yield
        except BaseException:
            if fresh:
                self._journal.release(run.run_id)
            raise

    def write_ahead(self, run: Run) -> None:
        """See `Ledger.journal_task`."""
        if self._journal is None:
            return
        row, at = run.model_dump(mode="json"), run.submitted_at or run.created_at
        try:
            self._journal.write(JournalEntry(run.run_id, str(run.task_id), at, self._ledger, row))
        except OSError as error:
            text = f"The journal in {self._journal.folder} cannot be written: {error.strerror or error}"
            raise LedgerError(text, task_id=run.task_id, next_step="Make room there.") from None

    def record(self, run: Run) -> bool:
        """See `Ledger.record_task`."""
        if not self._is_ahead(run):
            with suppress(LedgerError):
                self.write_ahead(run)
        try:
            with self._database.writing() as connection:
                me, at = self._leases.renew(connection), run.submitted_at or run.created_at
                taken = rows.put_task(connection, run.run_id, (str(run.task_id), at), run, me.id)
        except LedgerError as refused:
            if self._is_ahead(run):
                return False
            text = f"The paid task {run.task_id} could be written nowhere: {refused.message}"
            step = "Note the task id: Client().wait(task_id) fetches its result."
            raise LedgerError(text, task_id=run.task_id, maybe_billed=True, next_step=step) from None
        if not taken:
            kept = "; the journal keeps it" if self._is_ahead(run) else ""
            text = f"Run {run.run_id} has another task in the ledger than {run.task_id}{kept}"
            step = "Note the task id: Client().wait(task_id) fetches its result. `%apixo doctor` shows both."
            raise LedgerError(text, task_id=run.task_id, maybe_billed=True, next_step=step)
        if self._journal is not None:
            self._journal.recorded(run.run_id)
        return True

    def _is_ahead(self, run: Run) -> bool:
        return self._journal is not None and self._journal.has(run.run_id)

    def release(self, run_id: str) -> None:
        """No task will come for a run any more."""
        if self._journal is not None:
            self._journal.release(run_id)

    def close(self) -> None:
        """Let go of the journal."""
        if self._journal is not None:
            self._journal.close()

    def merge(self) -> None:
        """Bring the entries of all processes into their rows; what no row takes stays where it is."""
        if self._journal is None or self._database.read_only:
            return
        for file in self._journal.files():
            entries = entries_of(file)
            if waiting := self._sorted(entries)[0]:
                with self._database.writing() as connection:
                    for entry in waiting:
                        task = (entry.task_id, entry.at)
                        rows.put_task(connection, entry.run_id, task, self._whole(entry), None)
            self._journal.remove_if_left_over(file, self._are_in_rows)
            for entry in entries:
                if self._journal.has(entry.run_id) and self._are_in_rows([entry]):
                    self._journal.recorded(entry.run_id)

    def _sorted(self, entries: list[JournalEntry]) -> tuple[list[JournalEntry], list[JournalEntry]]:
        """Those that are not in their rows and can be, and those that no row of this ledger takes."""
        known: dict[str, str | None] = {}
        with self._database.reading() as connection:
            for part in rows.parts([entry.run_id for entry in entries]):
                found = sa.select(runs.c.run_id, runs.c.task_id).where(runs.c.run_id.in_(part))
                known |= {row.run_id: row.task_id for row in connection.execute(found)}
        missing = [entry for entry in entries if known.get(entry.run_id, "") != entry.task_id]
        fits = [
            entry
            for entry in missing
            if known.get(entry.run_id, "" if self._whole(entry) is None else None) is None
        ]
        return fits, [entry for entry in missing if entry not in fits]

    def _are_in_rows(self, entries: list[JournalEntry]) -> bool:
        return self._sorted(entries) == ([], [])

    def _whole(self, entry: JournalEntry) -> Run | None:
        """The row of an entry, if it is one of this ledger."""
        if entry.ledger == self._ledger:
            with suppress(ValidationError):
                return Run.model_validate(entry.row)
        return None

    def stray(self) -> list[JournalEntry]:
        """See `Ledger.stray_tasks`."""
        files = self._journal.files() if self._journal is not None else []
        return self._sorted([entry for file in files for entry in entries_of(file)])[1]

    def torn(self) -> list[Path]:
        """See `Ledger.torn_journals`."""
        return self._journal.torn_files() if self._journal is not None else []
