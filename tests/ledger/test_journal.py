"""The journal of task ids: what was paid for is on disk, whatever the database, the disk and others do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from apixo_nb.core.records import Run
from apixo_nb.errors import LedgerError
from apixo_nb.ledger import database, journal
from apixo_nb.ledger.journal import TaskJournal, entries_of, journal_files
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.ledger.unfinished import pending_line
from tests.support.factories import a_run

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.db"


def bought(run: Run, task_id: str = "task_1") -> Run:
    return run.replace(state="submitted", task_id=task_id, submitted_at=AT)


def names(place: Path) -> list[str]:
    return [file.name for file in journal_files(place.with_name(journal.NAME))]


def known(place: Path) -> list[str]:
    files = journal_files(place.with_name(journal.NAME))
    return [entry.task_id for file in files for entry in entries_of(file)]


def row(ledger: Ledger, run: Run) -> tuple[str, str | None, int | None]:
    found = ledger.get(run.run_id)
    assert found is not None
    return found.state, found.task_id, found.cost_micros


def test_room_is_there_before_the_post_and_given_back_after_it(place: Path):
    with contextlib.closing(Ledger(place)) as ledger:
        run = ledger.add(a_run())
        [name] = names(place)
        assert place.with_name(name).stat().st_size > 10_000
        ledger.record_task(bought(run))
        assert names(place) == []
        other = ledger.add(a_run("a cat"))
        assert len(names(place)) == 1
        ledger.release(other.run_id)
        assert names(place) == []


def test_no_room_for_the_task_is_said_before_anything_is_written(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_args: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with contextlib.closing(Ledger(place)) as ledger:
        with pytest.raises(LedgerError, match="no room to write down a task") as refused:
            ledger.add(a_run())
        assert len(str(refused.value).splitlines()) == 2
        assert "Nothing was sent" in str(refused.value)
        assert (ledger.runs(), names(place)) == ([], [])


def test_eight_tasks_under_one_lock_are_all_on_disk_at_once(place: Path):
    with contextlib.closing(Ledger(place)) as ledger:
        runs = [ledger.add(a_run(f"fox {number}")) for number in range(8)]
        with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for number, run in enumerate(runs):
                ledger.journal_task(bought(run, f"task_{number}"))
            assert sorted(known(place)) == [f"task_{number}" for number in range(8)]
        ledger.merge_journal()
        assert sorted(str(run.task_id) for run in ledger.runs()) == [f"task_{number}" for number in range(8)]
        assert names(place) == []


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from apixo_nb.ledger.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
[run] = ledger.runs()
ledger.journal_task(run.replace(state="submitted", task_id="task_1", submitted_at=datetime.now(UTC)))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def left_over(place: Path) -> Run:
    """A run whose kernel was killed right after the answer: its task is in the journal alone."""
    with contextlib.closing(Ledger(place)) as ledger:
        run = ledger.add(a_run())
    assert subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False).returncode == -9
    assert known(place) == ["task_1"]
    return run


def test_killed_kernels_task_is_brought_in_and_its_file_removed(place: Path, left_over: Run):
    with contextlib.closing(Ledger(place)) as ledger:
        assert row(ledger, left_over) == ("submitted", "task_1", None)
    assert names(place) == []


def test_loading_does_not_call_a_task_lost_that_is_in_a_journal(place: Path, left_over: Run):
    with contextlib.closing(sqlite3.connect(place)) as other, other:
        other.execute("UPDATE runs SET state = 'unknown'")
    said = pending_line(place, sandbox=left_over.sandbox)
    assert "1 run unfinished" in said
    assert "without an answer" not in said


def test_no_run_is_called_lost_whose_task_another_kernel_has_on_disk(place: Path):
    with contextlib.closing(Ledger(place)) as mine, contextlib.closing(Ledger(place)) as other:
        run = mine.add(a_run())
        mine.journal_task(bought(run))
        mine.leases.release(run.run_id)
        other.mark_abandoned()
        assert other.unanswered() == []
        assert row(other, run) == ("submitted", "task_1", None)


def test_row_that_was_settled_as_free_is_open_and_charged_once_its_task_is_known(place: Path):
    with contextlib.closing(Ledger(place)) as ledger:
        run = ledger.add(a_run())
        ledger.update(run.run_id, state="failed", cost_micros=0, fail_msg="Settled by hand")
        assert ledger.record_task(bought(run))
        assert row(ledger, run) == ("submitted", "task_1", None)


@pytest.mark.parametrize("by", ["record_task", "merge_journal"])
def test_row_that_is_gone_is_written_whole(place: Path, by: str):
    with contextlib.closing(Ledger(place)) as ledger:
        ledger.release(ledger.add(a_run("an older one")).run_id)
        older = shutil.copy(place, place.with_name("older.db"))
        run = ledger.add(a_run("a fox"))
        shutil.copy(older, place)
        if by == "record_task":
            assert ledger.record_task(bought(run))
        else:
            ledger.journal_task(bought(run))
            ledger.merge_journal()
        assert row(ledger, run) == ("submitted", "task_1", None)
        found = ledger.get(run.run_id)
        assert found is not None
        assert found.prompt == "a fox"
        assert names(place) == []


def test_change_of_a_row_that_is_gone_is_not_taken_for_done(place: Path):
    with contextlib.closing(Ledger(place)) as ledger:
        run = a_run()
        with pytest.raises(LedgerError, match="not in the ledger any more"):
            ledger.update(run.run_id, note="x")
        ledger.update(run.run_id, whole=run.replace(note="x"), note="x")
        assert [found.note for found in ledger.runs()] == ["x"]


def test_second_task_of_a_run_is_kept_and_said(place: Path):
    with contextlib.closing(Ledger(place)) as ledger:
        run = ledger.add(a_run())
        ledger.update(run.run_id, state="processing", task_id="task_1")
        with pytest.raises(LedgerError, match="task_2; the journal keeps it"):
            ledger.record_task(bought(run, "task_2"))
        assert row(ledger, run) == ("processing", "task_1", None)
        assert [entry.task_id for entry in ledger.stray_tasks()] == ["task_2"]
    with contextlib.closing(Ledger(place)) as ledger:
        assert [entry.task_id for entry in ledger.stray_tasks()] == ["task_2"]


def test_torn_record_harms_no_other_and_is_never_removed(place: Path):
    with contextlib.closing(Ledger(place)) as ledger:
        run = ledger.add(a_run())
    whole = json.dumps({"run_id": run.run_id, "task_id": "task_1", "at": AT.isoformat()})
    torn = '{"run_id": "x", "task_i'
    beside = place.with_name(journal.NAME)
    beside.write_text(torn + whole + "\n", "utf-8")
    with contextlib.closing(Ledger(place)) as ledger:
        assert row(ledger, run) == ("submitted", "task_1", None)
        assert ledger.torn_journals() == [beside]
    assert torn in beside.read_text("utf-8")


def test_file_removed_by_somebody_is_written_anew_with_all_of_it(place: Path):
    mine = TaskJournal(place.with_name(journal.NAME))
    with contextlib.closing(mine):
        for number in (1, 2):
            mine.reserve(f"run_{number}", {})
        mine.write(journal.JournalEntry("run_1", "task_1", AT))
        for file in mine.files():
            file.unlink()
        mine.write(journal.JournalEntry("run_2", "task_2", AT))
        assert known(place) == ["task_1", "task_2"]


def test_many_kernels_and_threads_lose_no_task(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database, "_BUSY_MS", 60_000)
    count = 6
    barrier = threading.Barrier(4)

    def buy(ledger: Ledger, who: int) -> None:
        barrier.wait(timeout=60)
        for number in range(count):
            run = ledger.add(a_run(f"fox {who} {number}"))
            ledger.journal_task(bought(run, f"task_{who}_{number}"))
            ledger.merge_journal()
            ledger.release(run.run_id)

    with contextlib.ExitStack() as stack:
        ledgers = [stack.enter_context(contextlib.closing(Ledger(place))) for _ in range(2)]
        threads = [threading.Thread(target=buy, args=(ledgers[who % 2], who)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = sorted(str(run.task_id) for run in ledgers[0].runs())
        assert found == sorted(f"task_{who}_{number}" for who in range(4) for number in range(count))
        for ledger in ledgers:
            ledger.merge_journal()
    assert names(place) == []
