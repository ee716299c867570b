"""A ledger of an older version is brought to this one: once, in one step, with all it holds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from apixo_nb.core.records import SCHEMA_VERSION, Image, Run
from apixo_nb.errors import LedgerError
from apixo_nb.ledger.budgets import TOTAL
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.ledger.query import Query
from apixo_nb.notebook.maintenance import unresolved_lines
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.session import Session
from tests.support import postgres, sandboxes
from tests.support.commands import printed
from tests.support.factories import a_run
from tests.support.old_ledgers import ROWS, WITHOUT_A_TASK, older
from tests.support.processes import in_processes
from tests.support.waiting import PATIENCE_S

server, url, session = postgres.server, postgres.url, sandboxes.session

STEPS = [(2, "owners, budgets and missing pictures"), (3, "choices of pictures"), (4, "an index of texts")]
STEPS += [(5, "cells, times of purchase and APIXO's own words")]
NOW = str(SCHEMA_VERSION)


@pytest.fixture(params=["1", "2", "4"])
def version(request: pytest.FixtureRequest) -> str:
    """The version of the ledger that is upgraded."""
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path, version: str) -> Path:
    """Such a ledger, as a file."""
    made = tmp_path / "home" / "ledger.db"
    made.parent.mkdir()
    with contextlib.closing(sqlite3.connect(made)) as connection, connection:
        for statement in older(version):
            connection.execute(statement)
    return made


@pytest.fixture
def old_url(url: str, version: str) -> str:
    """Such a ledger, in a database of a server."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in older(version, dialect="postgresql"):
            connection.exec_driver_sql(statement)
    engine.dispose()
    return url


def check(runs: Sequence[Run]) -> None:
    """Every row and picture is there, with every value."""
    assert [run.run_id for run in runs] == [f"run{number:02}" for number in range(len(ROWS))]
    for run, (state, cost, urls, files, _missing) in zip(runs, ROWS, strict=True):
        assert (run.state, run.cost_micros, len(run.result_urls)) == (state, cost, urls.count("u"))
        assert tuple(image.file for image in run.images) == files
        assert (run.prompt, run.prompt_template, run.variables) == ("a fox 🦊", "a {it}", {"it": "fox 🦊"})
        assert (run.tags, run.note, run.rating, run.fail_msg) == (("red", "grün"), "a note", 4, "d'oh")
        assert run.created_at.isoformat() == "2026-11-23T12:00:00.123456+00:00"
        assert (run.notebook, run.sandbox, run.raw) == ("", True, '{"state": "x"}')
        assert not any(image.is_chosen for image in run.images)


def contents(place: Path) -> list[str]:
    """The whole file as statements, without what is different each time."""
    with contextlib.closing(sqlite3.connect(place)) as connection:
        return [line for line in connection.iterdump() if 'INTO "migrations"' not in line]


#: What each version has brought: tables, columns of runs, indexes, columns of images.
BROUGHT: dict[str, tuple[set[str | None], ...]] = {
    "2": (
        {"owners", "budgets", "balances", "migrations"},
        {"notebook", "owner", "missing"},
        {"ix_runs_missing"},
        set(),
    ),
    "3": (set(), set(), set(), {"rating", "starred", "note", "tags"}),
    "5": (
        set(),
        {"cell_id", "cell_position", "rerun_of", "service_state", "bought_at", "lease_token"},
        set(),
        set(),
    ),
}


def version_of(place: Path | str) -> str:
    """Which of the schemas a file or a database has; anything between them is an error."""
    engine = sa.create_engine(f"sqlite:///{place}" if isinstance(place, Path) else place)
    with engine.connect() as connection:
        query = sa.text("SELECT value FROM meta WHERE key = 'schema_version'")
        version = str(connection.execute(query).scalar_one())
        schema = sa.inspect(connection)
        found: tuple[set[str | None], ...] = (
            set(schema.get_table_names()),
            {column["name"] for column in schema.get_columns("runs")},
            {index["name"] for index in schema.get_indexes("runs")},
            {column["name"] for column in schema.get_columns("images")},
        )
        if isinstance(place, Path):
            assert connection.exec_driver_sql("PRAGMA integrity_check").fetchall() == [("ok",)]
    engine.dispose()
    for since, brought in BROUGHT.items():
        for new, here in zip(brought, found, strict=True):
            assert new & here == (new if version >= since else set())
    return version


# --- what it keeps and what it adds -----------------------------------------------------------------


def test_every_row_of_an_older_ledger_is_there_unchanged(place: Path):
    with contextlib.closing(Ledger(place)) as ledger:
        check(ledger.runs())
    assert version_of(place) == NOW


def test_missing_pictures_are_counted(place: Path):
    Ledger(place).close()
    with contextlib.closing(sqlite3.connect(place)) as connection:
        found = connection.execute("SELECT missing FROM runs ORDER BY run_id").fetchall()
    assert [count for (count,) in found] == [missing for *_, missing in ROWS]


def test_a_word_of_apixo_that_was_taken_for_a_state_of_ours_is_kept_apart(place: Path):
    with contextlib.closing(sqlite3.connect(place)) as connection, connection:
        for number, word in enumerate(WITHOUT_A_TASK):
            connection.execute(
                "UPDATE runs SET task_id = 'paid', state = ? WHERE run_id = ?", (word, f"run{number:02}")
            )
    with contextlib.closing(Ledger(place)) as ledger:
        found = [ledger.get(f"run{number:02}") for number in range(3)]
        assert [(run.state, run.service_state) for run in found if run] == [
            ("processing", word) for word in WITHOUT_A_TASK
        ]
        assert {"run00", "run01", "run02"} <= {run.run_id for run in ledger.unfinished()}


@pytest.mark.parametrize("state", WITHOUT_A_TASK)
def test_no_row_with_a_task_says_that_it_has_none(place: Path, state: str):
    Ledger(place).close()
    with (
        contextlib.closing(sqlite3.connect(place)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="a run with a task"),
    ):
        connection.execute("UPDATE runs SET state = ? WHERE task_id IS NOT NULL", (state,))


def test_when_a_run_was_bought_is_taken_from_when_it_was_sent_or_made(place: Path):
    with contextlib.closing(Ledger(place)) as ledger:
        runs = ledger.runs()
    assert [run.bought_at for run in runs] == [
        None if run.state == "planned" else run.created_at for run in runs
    ]


def test_step_is_recorded_once(place: Path, version: str):
    for _ in range(3):
        Ledger(place).close()
    with contextlib.closing(sqlite3.connect(place)) as connection:
        question = "SELECT version, name FROM migrations WHERE applied_at IS NOT NULL ORDER BY version"
        assert connection.execute(question).fetchall() == steps_from(version)


def steps_from(version: str) -> list[tuple[int, str]]:
    return [step for step in STEPS if step[0] > int(version)]


def test_new_ledger_needs_no_step(tmp_path: Path):
    Ledger(tmp_path / "new.db").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        assert connection.execute("SELECT * FROM migrations").fetchall() == []
    assert version_of(tmp_path / "new.db") == NOW


def test_upgraded_ledger_does_all_that_a_new_one_does(place: Path):
    with contextlib.closing(Ledger(place)) as ledger:
        ledger.set_budget(TOTAL, sandbox=True, limit_micros=10_000_000)
        [budget] = ledger.budgets(sandbox=True)
        assert (budget.spent_micros, budget.at_stake_micros) == (4 * 350_000, 5 * 350_000)
        assert ledger.record_balance(1.0, sandbox=True) is None
        run = ledger.add(a_run(notebook="a.ipynb"))
        assert ledger.leases.claim("run03") is not None
        ledger.put_image("run09", Image(index=0, url="u0", file="new.png"))
        open_or_missing = {"run02", "run03", "run05", "run08", "run09", "run10"}
        assert {found.run_id for found in ledger.unfinished()} == open_or_missing
        assert ledger.get(run.run_id) == run
        assert ledger.choose("run07", 1, rating=5, tags=("grün",))
        assert [found.run_id for found in ledger.find(Query(rating_min=5)).runs] == ["run07"]
        ledger.leases.mark_abandoned()
        assert [found.run_id for found in ledger.unanswered()] == ["run01", "run04"]


def test_schema_of_an_upgraded_ledger_is_that_of_a_new_one(place: Path, tmp_path: Path):
    Ledger(place).close()
    Ledger(tmp_path / "new.db").close()
    assert described(f"sqlite:///{place}") == described(f"sqlite:///{tmp_path / 'new.db'}")


def test_schema_of_an_upgraded_ledger_is_that_of_a_new_one_on_postgres(old_url: str, server: Any):
    Ledger(old_url).close()
    postgres.execute(server.url("postgres"), "CREATE DATABASE fresh")
    Ledger(server.url("fresh")).close()
    try:
        assert described(old_url) == described(server.url("fresh"))
    finally:
        postgres.execute(server.url("postgres"), "DROP DATABASE fresh WITH (FORCE)")


def described(place: str) -> dict[str, Any]:
    """Columns and indexes of every table, by name."""
    engine = sa.create_engine(place)
    found = sa.inspect(engine)
    columns = {
        f"{table}.{column['name']}": (str(column["type"]), column["nullable"])
        for table in found.get_table_names()
        for column in found.get_columns(table)
    }
    indexes = {str(each["name"]) for table in found.get_table_names() for each in found.get_indexes(table)}
    engine.dispose()
    return {"columns": columns, "indexes": indexes}


def test_older_ledger_of_a_team_is_upgraded_with_all_it_holds(old_url: str, version: str):
    with contextlib.closing(Ledger(old_url)) as ledger:
        check(ledger.runs())
        assert {run.run_id for run in ledger.unfinished()} >= {"run08", "run09", "run10"}
        assert {run.run_id for run in ledger.unfinished()}.isdisjoint({"run06", "run07"})
    engine = sa.create_engine(old_url)
    with engine.connect() as connection:
        missing = connection.execute(sa.text("SELECT missing FROM runs ORDER BY run_id")).scalars().all()
        steps = connection.execute(sa.text("SELECT version, name FROM migrations ORDER BY version")).all()
    engine.dispose()
    assert list(missing) == [expected for *_, expected in ROWS]
    assert [tuple(step) for step in steps] == steps_from(version)


def test_notebook_of_an_older_ledger_goes_on_where_it_was(place: Path, session: Session, sandbox: Sandbox):
    assert place == session.ledger_file()
    assert "2 submit(s) without an answer, up to $0.70 at stake" in "\n".join(
        unresolved_lines(session.lost())
    )
    said = printed("status")
    assert "11, 1 failed, 1 planned, 1 processing" in said
    assert "$1.40 by list price, and up to $1.75 more" in said
    assert sandbox.account.submits == 0


# --- several at once, and killed in the middle ------------------------------------------------------


def open_it(_number: int, place: str) -> Iterator[Any]:
    yield None
    with contextlib.closing(Ledger(place if "://" in place else Path(place))) as ledger:
        yield len(ledger.runs())


def test_two_processes_that_open_it_at_once_upgrade_it_once(place: Path, version: str):
    assert in_processes(open_it, 4, str(place)) == [len(ROWS)] * 4
    with contextlib.closing(sqlite3.connect(place)) as connection:
        assert connection.execute("SELECT version, name FROM migrations").fetchall() == steps_from(version)
    assert version_of(place) == NOW


def test_two_processes_that_open_it_at_once_upgrade_it_once_on_postgres(old_url: str):
    assert in_processes(open_it, 4, old_url) == [len(ROWS)] * 4
    with contextlib.closing(Ledger(old_url)) as ledger:
        check(ledger.runs())


def open_and_exit(place: Path | str) -> None:
    """Open a ledger, which upgrades it, and end the process with 0 if that went well."""
    code = 1
    try:
        Ledger(place).close()
        code = 0
    finally:
        os._exit(code)


def upgrade_and_die(_number: int, place: str) -> Iterator[Any]:
    """Upgrade a copy again and again, killed before its first statement, its second, and so on."""
    yield None
    versions = []
    for count in range(1000):
        copy: Path | str = place
        if "://" not in place:  # a database of a server is as it was, or the test ends
            copy = Path(place).with_name(f"copy{count}.db")
            shutil.copy(place, copy)
        if not (child := os.fork()):
            statements = iter(range(count))

            def before(*_: object, left: Iterator[int] = statements) -> None:
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

            event.listen(sa.Engine, "before_cursor_execute", before)
            event.listen(sa.Engine, "commit", before)
            open_and_exit(copy)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        versions.append(version_of(copy))
        if code == 0:
            break
    yield versions


def test_process_killed_between_any_two_statements_leaves_the_old_schema_or_the_new(
    place: Path, version: str
):
    [versions] = in_processes(upgrade_and_die, 1, str(place))
    assert len(versions) > {"1": 20, "2": 10, "4": 5}[version]
    assert versions == sorted(versions)
    assert set(versions) == {version, NOW}
    for count in range(len(versions)):
        with contextlib.closing(Ledger(place.with_name(f"copy{count}.db"))) as ledger:
            check(ledger.runs())


def test_process_killed_between_any_two_statements_leaves_the_old_schema_or_the_new_on_postgres(
    old_url: str, version: str
):
    [versions] = in_processes(upgrade_and_die, 1, old_url)
    assert len(versions) > {"1": 20, "2": 10, "4": 5}[version]
    assert versions == sorted(versions)
    assert set(versions) == {version, NOW}
    with contextlib.closing(Ledger(old_url)) as ledger:
        check(ledger.runs())


CALLS = ("pwrite64", "fdatasync", "ftruncate")


def upgrade_under_strace(number: int, place: str) -> Iterator[Any]:
    """Upgrade a copy again and again, killed as it enters its first system call of a kind, its second..."""
    call, versions = CALLS[number], []
    yield None
    for count in range(1, 1000):
        copy = Path(place).with_name(f"{call}{count}.db")
        shutil.copy(place, copy)
        if not (child := os.fork()):
            ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))  # anybody may trace it
            while "TracerPid:\t0\n" in Path("/proc/self/status").read_text("ascii"):
                time.sleep(0.001)
            open_and_exit(copy)
        inject = f"inject={call}:signal=KILL:when={count}"
        options = ["-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject, "-p", str(child)]
        with subprocess.Popen(["strace", *options], stderr=subprocess.DEVNULL) as tracer:
            refused = tracer.wait(PATIENCE_S) == 1
        if refused:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if refused:
            yield None
            return
        assert code in (0, -signal.SIGKILL)
        versions.append(version_of(copy))
        with contextlib.closing(Ledger(copy)) as ledger:
            check(ledger.runs())
        if code == 0:
            break
    yield versions


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace: see tests/install.sh")
def test_process_killed_at_any_write_to_the_disk_leaves_the_old_schema_or_the_new(place: Path, version: str):
    for versions in in_processes(upgrade_under_strace, len(CALLS), str(place)):
        if versions is None:
            pytest.skip("strace may not trace processes here")
        assert versions == sorted(versions)
        assert versions[0] == version
        assert versions[-1] == NOW


# --- newer than us ----------------------------------------------------------------------------------


@pytest.fixture
def newer(place: Path) -> Path:
    """A ledger that a later version has written."""
    Ledger(place).close()
    with contextlib.closing(sqlite3.connect(place)) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
        connection.execute("ALTER TABLE runs ADD COLUMN colour TEXT")
    return place


def test_newer_ledger_is_read_and_never_written(newer: Path, session: Session, sandbox: Sandbox):
    (newer.parent / "ledger-tasks.jsonl").write_text("kept\n", "utf-8")
    before = newer.read_bytes()
    check(session.ledger.runs())
    assert "11, 1 failed" in printed("status")
    with pytest.raises(LedgerError, match="newer apixo_nb") as refused:
        session.begin("a fox").wait()
    assert len(str(refused.value).splitlines()) == 2
    for line in ("resume", "budget 5.00", "balance"):
        with pytest.raises(LedgerError, match="newer apixo_nb"):
            printed(line)
    session.close()
    assert newer.read_bytes() == before
    assert [path.read_text("utf-8") for path in newer.parent.glob("ledger-tasks*")] == ["kept\n"]
    assert sandbox.account.submits == 0
