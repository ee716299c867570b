"""The ledger on SQLite: durable when a call returns, whole when copied, clear when it cannot be used."""

from __future__ import annotations

import concurrent.futures
import contextlib
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from apixo_nb.core.records import Image, Run
from apixo_nb.errors import LedgerError
from apixo_nb.ledger import database
from apixo_nb.ledger.ledger import Ledger
from tests.support.factories import a_full_run, a_run
from tests.support.hostile import HOSTILE_TEXTS
from tests.support.ledger_files import rows_on_disk


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.db"


@pytest.fixture
def ledger(place: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(place)) as opened:
        yield opened


def clear_error(error: LedgerError) -> str:
    """The text of an error that is two lines: what happened, and what to do."""
    headline, advice = str(error).splitlines()
    assert "ledger" in headline
    assert advice.endswith(".")
    return headline


# --- rows ---


def test_row_is_on_disk_when_add_returns(ledger: Ledger, place: Path):
    run = ledger.add(a_run())
    assert rows_on_disk(place, "run_id, state, task_id") == [(run.run_id, "submitting", None)]


def test_change_is_on_disk_when_update_returns(ledger: Ledger, place: Path):
    run = ledger.add(a_run())
    ledger.update(run.run_id, state="submitted", task_id="task_1")
    assert rows_on_disk(place, "run_id, state, task_id") == [(run.run_id, "submitted", "task_1")]


def test_every_value_of_a_run_comes_back(ledger: Ledger):
    run = ledger.add(a_full_run())
    assert ledger.get(run.run_id) == run


def test_update_leaves_everything_else_alone(ledger: Ledger):
    run = ledger.add(a_full_run())
    ledger.update(run.run_id, note="another")
    assert ledger.get(run.run_id) == run.replace(note="another")


def test_unknown_run_is_none(ledger: Ledger):
    assert ledger.get("20261123-000000-00000000") is None


def test_runs_come_oldest_first(ledger: Ledger):
    now = datetime.now(UTC)
    for days in (2, 3, 1):
        ledger.add(a_run(f"day {days}", created_at=now + timedelta(days=days)))
    assert [run.prompt for run in ledger.runs()] == ["day 1", "day 2", "day 3"]


def test_same_request_counts_its_takes(ledger: Ledger):
    takes = [ledger.add(a_run()).take for _ in range(3)]
    assert takes == [1, 2, 3]
    assert [run.take for run in ledger.runs()] == takes


def test_other_requests_have_takes_of_their_own(ledger: Ledger):
    assert [ledger.add(a_run(prompt)).take for prompt in ("a fox", "a cat", "a fox")] == [1, 1, 2]


def test_sandbox_takes_do_not_count_for_the_real_service(ledger: Ledger):
    assert [ledger.add(a_run(sandbox=sandbox)).take for sandbox in (True, False, True)] == [1, 1, 2]


def test_times_come_back_aware_in_utc(ledger: Ledger):
    in_tokyo = datetime(2026, 1, 1, 3, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=9)))
    run = ledger.add(a_run(created_at=in_tokyo))
    [found] = ledger.runs()
    assert found.created_at == in_tokyo == run.created_at
    assert found.created_at.utcoffset() == timedelta(0)


def test_derived_columns_are_there_for_people_who_query(ledger: Ledger, place: Path):
    ledger.add(a_full_run())
    assert rows_on_disk(place, "mode, aspect_ratio, num_images") == [("gpt-image-1", "1:1", 2)]


def test_lists_and_dicts_are_json_in_the_file(ledger: Ledger, place: Path):
    ledger.add(a_full_run())
    [(variables, first_tag)] = rows_on_disk(
        place, "json_extract(variables, '$.mood'), json_extract(tags, '$[0]')"
    )
    assert (variables, first_tag) == ("calm", "red")


def test_picture_replaces_what_was_known_of_it(ledger: Ledger):
    run = ledger.add(a_full_run())
    ledger.put_image(run.run_id, Image(index=1, url="https://p.example/2.png", file="b.png", sha256="00"))
    ledger.put_image(run.run_id, Image(index=0, url="https://p.example/1.png", error="gone"))
    better = Image(
        index=0, url="https://p.example/1.png", file="a.png", bytes=7, width=1, height=2, format="PNG"
    )
    ledger.put_image(run.run_id, better)
    [found] = ledger.runs()
    assert [image.file for image in found.images] == ["a.png", "b.png"]
    assert found.images[0] == better


def test_pictures_stay_with_their_run(ledger: Ledger):
    first, second = ledger.add(a_run()), ledger.add(a_run())
    ledger.put_image(second.run_id, Image(index=0, url="https://p.example/1.png", file="b.png"))
    assert [run.files for run in ledger.runs()] == [(), ("b.png",)]
    assert ledger.get(first.run_id) == first


def test_picture_without_a_run_is_refused(ledger: Ledger):
    with pytest.raises(LedgerError):
        ledger.put_image("nobody", Image(index=0, url="https://p.example/1.png"))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"state": "planned"}, False),
        ({"state": "failed", "task_id": "t"}, False),
        ({"state": "unknown"}, False),
        ({"state": "submitted", "task_id": "t"}, True),
        ({"state": "processing", "task_id": "t"}, True),
        ({"state": "cancelled", "task_id": "t"}, True),
        ({"state": "timeout", "task_id": "t"}, True),
        ({"state": "a new word", "task_id": "t"}, True),
        ({"state": "success", "task_id": "t", "result_urls": ("https://p.example/1.png",)}, True),
        ({"state": "success", "task_id": "t"}, True),
    ],
)
def test_unfinished_is_what_resume_could_bring_on(ledger: Ledger, changes: dict[str, Any], *, wanted: bool):
    ledger.add(a_run(**changes))
    assert bool(ledger.unfinished()) is wanted


def test_success_with_its_pictures_is_finished(ledger: Ledger):
    url = "https://p.example/1.png"
    run = ledger.add(a_run(state="success", task_id="t", result_urls=(url,)))
    ledger.put_image(run.run_id, Image(index=0, url=url, file="a.png"))
    assert ledger.unfinished() == []


@pytest.mark.parametrize("late", ["cancelled", "timeout", "processing"])
def test_final_state_stands_against_a_late_word_of_another_kernel(ledger: Ledger, late: str):
    run = ledger.add(a_run(state="success", task_id="t"))
    ledger.update(run.run_id, state=late)
    assert [found.state for found in ledger.runs()] == ["success"]


# --- text ---


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_text_round_trips_in_every_text_column(ledger: Ledger, text: str):
    texts: dict[str, Any] = dict.fromkeys(["prompt", "prompt_template", "name", "note", "raw"], text)
    lists: dict[str, Any] = {"tags": (text,), "variables": {text: text}, "image_urls": (text,)}
    run = ledger.add(a_run(**texts, **lists))
    assert ledger.get(run.run_id) == run


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_round_trips(ledger: Ledger, text: str):
    run = ledger.add(a_run(note=text, tags=(text,), variables={text: text}))
    assert ledger.get(run.run_id) == run


# --- SQLite, as set up for copying, network homes and two kernels ---


def test_sqlite_keeps_a_rollback_journal_and_waits_for_the_disk(ledger: Ledger):
    with ledger._database.reading() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    full = 2
    assert found == {
        "journal_mode": "truncate",
        "synchronous": full,
        "busy_timeout": 10_000,
        "foreign_keys": 1,
    }


def test_writer_takes_the_lock_when_it_begins(ledger: Ledger, place: Path):
    with contextlib.closing(sqlite3.connect(place, timeout=0, isolation_level=None)) as other:
        with ledger._database.writing(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")  # and lets go of it
        other.execute("ROLLBACK")


def test_reader_leaves_writers_alone(ledger: Ledger, place: Path):
    with contextlib.closing(sqlite3.connect(place, timeout=0, isolation_level=None)) as other:
        with ledger._database.reading():
            other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


WRITER = """
import sys
from pathlib import Path
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.core.request import make_request
from apixo_nb.core.records import new_run

ledger = Ledger(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(25):
    planned = new_run(make_request("a fox"), unit_price_micros=1, sandbox=True)
    run = ledger.add(planned.replace(state="submitting"))
    ledger.update(run.run_id, state="submitted", task_id=run.run_id)
"""


def test_two_kernels_write_at_once_without_losing_a_row_or_a_take(place: Path):
    command = [sys.executable, "-c", WRITER, str(place)]
    writers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert sorted(rows_on_disk(place, "take, state")) == [(take, "submitted") for take in range(1, 76)]


def test_copy_of_the_file_alone_has_every_row_while_a_kernel_runs(
    ledger: Ledger, place: Path, tmp_path: Path
):
    runs = [ledger.add(a_run(f"fox {number}")) for number in range(20)]
    copied = shutil.copy(place, tmp_path / "copy.db")
    with contextlib.closing(Ledger(copied)) as copy:
        assert copy.runs() == runs


def test_ledger_opens_again_with_all_it_held(place: Path):
    with contextlib.closing(Ledger(place)) as first:
        run = first.add(a_full_run())
    with contextlib.closing(Ledger(place)) as second:
        assert second.runs() == [run]


# --- when it cannot be used ---


def test_ledger_of_a_newer_version_can_be_read_and_is_left_as_it_is(place: Path):
    with contextlib.closing(Ledger(place)) as ledger:
        run = ledger.add(a_run())
    with contextlib.closing(sqlite3.connect(place)) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    before = place.read_bytes()
    with contextlib.closing(Ledger(place)) as ledger:
        assert ledger.runs() == [run]
        with pytest.raises(LedgerError, match="newer apixo_nb") as refused:
            ledger.add(a_run())
    assert "Nothing was sent" in refused.value.advice
    assert place.read_bytes() == before


@pytest.mark.parametrize("version", ["", "two"])
def test_unreadable_version_is_a_ledger_error(place: Path, version: str):
    Ledger(place).close()
    with contextlib.closing(sqlite3.connect(place)) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", [version])
    with pytest.raises(LedgerError):
        Ledger(place)


def test_file_that_is_no_database_is_named_and_kept(place: Path):
    place.parent.mkdir()
    place.write_text("a letter to my aunt\n" * 100, encoding="utf-8")
    with pytest.raises(LedgerError) as refused:
        Ledger(place)
    assert str(place) in clear_error(refused.value)
    assert place.read_text(encoding="utf-8").startswith("a letter")


def test_damaged_file_is_an_error_not_an_empty_table(ledger: Ledger, place: Path):
    ledger.add(a_run())
    ledger.close()
    content = bytearray(place.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    place.write_bytes(content)
    with pytest.raises(LedgerError) as refused:
        ledger.runs()
    assert "damaged" in clear_error(refused.value)


def test_folder_in_place_of_the_file_is_explained(place: Path):
    place.mkdir(parents=True)
    with pytest.raises(LedgerError) as refused:
        Ledger(place)
    assert str(place) in clear_error(refused.value)


def test_file_in_place_of_the_folder_is_explained(place: Path):
    place.parent.write_text("not a folder", encoding="utf-8")
    with pytest.raises(LedgerError) as refused:
        Ledger(place)
    assert str(place) in clear_error(refused.value)
    assert "APIXO_HOME" in refused.value.advice


def test_read_only_ledger_can_be_read_and_says_so_when_written(ledger: Ledger, place: Path):
    run = ledger.add(a_run())
    with contextlib.closing(Ledger(f"sqlite:///file:{place}?mode=ro&uri=true")) as read_only:
        assert read_only.runs() == [run]
        with pytest.raises(LedgerError) as refused:
            read_only.add(a_run())
    assert "read-only" in clear_error(refused.value)


def test_ledger_locked_for_longer_than_it_waits_says_so(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database, "_BUSY_MS", 10)
    with (
        contextlib.closing(Ledger(place)) as ledger,
        contextlib.closing(sqlite3.connect(place, isolation_level=None)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerError) as refused:
            ledger.add(a_run())
        assert "locked" in clear_error(refused.value)
        other.execute("ROLLBACK")
        assert ledger.add(a_run()).take == 1


def test_lock_that_passes_is_waited_for(ledger: Ledger, place: Path):
    release = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)"
    release += "; c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", release, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"

        # The holder is told to let go when the ledger is about to ask for the lock.
        @event.listens_for(ledger._database._engine, "checkout")
        def _let_go(*_: Any) -> None:
            assert holder.stdin is not None
            holder.stdin.close()

        assert ledger.add(a_run()).take == 1
    assert len(rows_on_disk(place)) == 1


# --- a taskId that the database does not take just now ---


@pytest.fixture
def kept_beside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Ledger, Run]]:
    """A ledger whose file was locked when the taskId came, and the run."""
    monkeypatch.setattr(database, "_BUSY_MS", 10)
    with contextlib.closing(Ledger(place)) as ledger:
        run = ledger.add(a_run())
        with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            ledger.record_task(
                run.replace(state="submitted", task_id="task_1", submitted_at=datetime.now(UTC))
            )
        assert rows_on_disk(place, "state, task_id") == [("submitting", None)]
        yield ledger, run


def test_task_kept_beside_is_brought_in_by_the_next_kernel(kept_beside: tuple[Ledger, Run], place: Path):
    with contextlib.closing(Ledger(place)) as following:
        [run] = following.unfinished()
    assert (run.state, run.task_id, run.submitted_at is None) == ("submitted", "task_1", False)
    kept_beside[0].merge_journal()  # the file is that of the first kernel, which lives
    assert list(place.parent.glob("ledger-tasks*")) == []


def test_task_kept_beside_leaves_a_final_state_alone(kept_beside: tuple[Ledger, Run], place: Path):
    ledger, run = kept_beside
    ledger.update(run.run_id, state="success", cost_micros=350_000)
    ledger.merge_journal()
    assert rows_on_disk(place, "state, task_id") == [("success", "task_1")]


def test_task_kept_beside_does_not_replace_another(kept_beside: tuple[Ledger, Run], place: Path):
    ledger, run = kept_beside
    ledger.update(run.run_id, task_id="task_2", state="processing")
    ledger.merge_journal()
    assert rows_on_disk(place, "state, task_id") == [("processing", "task_2")]


@pytest.mark.usefixtures("kept_beside")
@pytest.mark.parametrize(
    "line", ["", "{}", "5", "[]", '{"run_id": "x"', '{"run_id": "x", "task_id": {}, "at": 3}']
)
def test_damaged_line_beside_costs_no_other(place: Path, line: str):
    [beside] = place.parent.glob("*.jsonl")
    beside.write_text(f"{line}\n{beside.read_text('utf-8')}{line}\n", encoding="utf-8")
    with contextlib.closing(Ledger(place)):
        assert rows_on_disk(place, "state, task_id") == [("submitted", "task_1")]


@pytest.mark.usefixtures("kept_beside")
def test_kernels_that_bring_it_in_at_once_all_succeed(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database, "_BUSY_MS", 10_000)
    barrier = threading.Barrier(8)

    def open_and_close(_: int) -> None:
        barrier.wait(timeout=30)
        Ledger(place).close()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(open_and_close, range(8))) == [None] * 8
    assert rows_on_disk(place, "state, task_id") == [("submitted", "task_1")]


def test_full_disk_says_so_and_keeps_what_was_there(ledger: Ledger):
    run = ledger.add(a_run())

    @event.listens_for(ledger._database._engine, "checkout")
    def _no_room(connection: Any, *_: Any) -> None:
        connection.execute("PRAGMA max_page_count=1")  # SQLite takes it as "not one page more"

    with pytest.raises(LedgerError) as refused:
        ledger.add(a_run(note="x" * 1_000_000))
    assert "full" in clear_error(refused.value)
    assert ledger.runs() == [run]


def test_deleted_ledger_is_noticed_before_anything_is_promised(ledger: Ledger, place: Path):
    ledger.add(a_run())
    place.unlink()
    try:
        run = ledger.add(a_run())
    except LedgerError as refused:
        clear_error(refused)
    else:
        assert rows_on_disk(place) == [(run.run_id,)]


def test_folder_deleted_while_open_is_noticed_before_anything_is_promised(ledger: Ledger, place: Path):
    ledger.add(a_run())
    shutil.rmtree(place.parent)
    try:
        run = ledger.add(a_run())
    except LedgerError as refused:
        clear_error(refused)
    else:
        assert rows_on_disk(place) == [(run.run_id,)]


PASSWORD = "Pelican-91x"

UNUSABLE_URLS = [
    f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:1/db",  # nobody listens there
    f"postgresql://me:{PASSWORD}@127.0.0.1:port/db",
    f"postgresql//me:{PASSWORD}@127.0.0.1/db",
    f"nosuch://me:{PASSWORD}@127.0.0.1/db",
    f"postgresql+nodriver://me:{PASSWORD}@127.0.0.1/db",
    f"mysql+mysqldb://me:{PASSWORD}@127.0.0.1/db",
    f"me:{PASSWORD}",
]


@pytest.mark.parametrize("url", UNUSABLE_URLS)
def test_unusable_ledger_url_is_a_ledger_error_without_the_password(url: str):
    with pytest.raises(LedgerError) as refused:
        Ledger(url)
    shown = (
        f"{refused.value} {refused.value!r} {refused.value.__cause__} {refused.value._render_traceback_()}"
    )
    assert PASSWORD not in shown


def test_place_is_shown_without_its_password():
    url = f"sqlite://me:{PASSWORD}@/:memory:"
    assert PASSWORD not in database._without_password(url)
    assert "me" in database._without_password(url)


def test_task_of_another_ledger_stays_beside_until_that_one_is_back(tmp_path: Path):
    aside = tmp_path / "ledger-tasks.jsonl"
    team = Ledger(tmp_path / "team.db", aside)
    run = team.add(a_run())
    aside.write_text(
        f'{{"run_id": "{run.run_id}", "task_id": "task_1", "at": "2026-01-01T00:00:00+00:00"}}\n', "utf-8"
    )
    Ledger(tmp_path / "other.db", aside).close()
    assert "task_1" in aside.read_text("utf-8")
    team.merge_journal()
    found = team.get(run.run_id)
    assert found is not None
    assert found.task_id == "task_1"
    assert not aside.exists()
    team.close()
