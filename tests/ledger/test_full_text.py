"""The index of texts says where to look, and no more: the answers are those of the rows, whatever happens."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from apixo_nb.core.records import Image
from apixo_nb.errors import LedgerError
from apixo_nb.ledger import search as lookup
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.ledger.query import Query
from tests.support.factories import a_run
from tests.support.old_ledgers import ROWS, older


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each search takes in what waits, however little it is."""
    monkeypatch.setattr(lookup, "_FEW", 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(place: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(place)) as opened:
        yield opened


def execute(place: Path, *statements: str) -> list[tuple[object, ...]]:
    """As another program, which knows none of our functions; what the last one gives."""
    with contextlib.closing(sqlite3.connect(place)) as connection, connection:
        found: list[tuple[object, ...]] = []
        for statement in statements:
            found = connection.execute(statement).fetchall()
        return found


def kept(ledger: Ledger, *prompts: str) -> None:
    for prompt in prompts:
        assert ledger.insert(a_run(prompt).replace(images=(Image(index=0, url="u"),)))


def found(ledger: Ledger, text: str) -> set[str]:
    page = ledger.find(Query(text=text))
    assert page.total == len(page.runs)
    return {run.prompt for run in page.runs}


def tables(place: Path) -> set[object]:
    return {name for (name,) in execute(place, "SELECT name FROM sqlite_master")}


def test_purchase_writes_no_index(ledger: Ledger, place: Path):
    run = ledger.add(a_run("a fox"))
    assert "texts" not in tables(place)
    assert execute(place, "SELECT run_id FROM unsearched") == [(run.run_id,)]


def test_search_takes_in_what_is_new_and_finds_it_the_same_again(ledger: Ledger, place: Path):
    kept(ledger, "a fox", "an OX", "夜の喫茶店")
    for _ in range(2):
        assert found(ledger, "FOX") == {"a fox"}
        assert found(ledger, "ox") == {"a fox", "an OX"}
        assert found(ledger, "喫茶店") == found(ledger, "茶") == {"夜の喫茶店"}
        assert execute(place, "SELECT count(*) FROM unsearched") == [(0,)]
    assert execute(place, "SELECT count(*) FROM texts") == [(3,)]


def test_few_new_texts_are_read_from_their_rows(ledger: Ledger, place: Path, monkeypatch: pytest.MonkeyPatch):
    kept(ledger, "a fox")
    assert found(ledger, "fox") == {"a fox"}
    monkeypatch.setattr(lookup, "_FEW", 10)
    kept(ledger, "a red fox")
    assert found(ledger, "fox") == {"a fox", "a red fox"}
    assert execute(place, "SELECT count(*) FROM unsearched") == [(1,)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runs SET prompt = 'a lynx', prompt_template = ''",
        "UPDATE OR ABORT runs SET note = 'Lynx'",
        "UPDATE runs SET tags = '[\"lynx\"]'",
        "UPDATE runs SET task_id = 'a-LYNX', state = 'submitted'",
        "UPDATE images SET note = 'lynx'",
        "UPDATE images SET tags = '[\"lynx\"]'",
        """INSERT INTO images (run_id, "index", url, file, sha256, format, error, note)
            SELECT run_id, 1, '', '', '', '', '', 'lynx' FROM runs""",
    ],
)
@pytest.mark.parametrize("seen", [True, False])
def test_what_another_program_writes_is_found(ledger: Ledger, place: Path, statement: str, seen: bool):  # noqa: FBT001
    kept(ledger, "a fox")
    if seen:
        assert found(ledger, "fox") == {"a fox"}
    execute(place, statement)
    assert len(found(ledger, "lynx")) == 1
    assert found(ledger, "fox") == ({"a fox"} if "prompt" not in statement else set())


def test_picture_or_run_that_another_program_takes_away_is_found_no_more(ledger: Ledger, place: Path):
    kept(ledger, "a fox", "a cat")
    [cat] = [run.run_id for run in ledger.runs() if run.prompt == "a cat"]
    ledger.choose(cat, 0, note="lynx")
    assert found(ledger, "lynx") == {"a cat"}
    execute(place, "DELETE FROM images")
    assert found(ledger, "lynx") == set()
    execute(place, "DELETE FROM runs WHERE prompt = 'a fox'")
    assert found(ledger, "fox") == set()


def test_vacuum_changes_no_answer(ledger: Ledger, place: Path):
    kept(ledger, *(f"lynx{number}lynx" for number in range(10, 30)))
    assert found(ledger, "x17l") == {"lynx17lynx"}
    execute(place, "DELETE FROM images", "DELETE FROM runs WHERE prompt < 'lynx15'")
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute("VACUUM")
    assert found(ledger, "x17l") == {"lynx17lynx"}


def test_sqlite_without_such_an_index_finds_the_same_and_what_it_writes_is_found(
    ledger: Ledger, place: Path, monkeypatch: pytest.MonkeyPatch
):
    kept(ledger, "a fox")
    with monkeypatch.context() as old:
        old.setattr(lookup, "is_known", lambda: False)
        assert found(ledger, "fox") == {"a fox"}
        assert "texts" not in tables(place)
    assert found(ledger, "fox") == {"a fox"}
    with monkeypatch.context() as old:
        old.setattr(lookup, "is_known", lambda: False)
        kept(ledger, "a red fox")
        assert found(ledger, "fox") == {"a fox", "a red fox"}
    assert found(ledger, "fox") == {"a fox", "a red fox"}


@pytest.mark.parametrize(
    "damage", ["DELETE FROM texts_index_data", "DROP TABLE texts_index", "DROP TABLE texts"]
)
def test_damaged_index_costs_time_and_no_answer(ledger: Ledger, place: Path, damage: str):
    kept(ledger, "a fox")
    assert found(ledger, "fox") == {"a fox"}
    execute(place, damage)
    kept(ledger, "a red fox")
    for _ in range(2):
        assert found(ledger, "fox") == {"a fox", "a red fox"}


def test_damaged_index_is_made_anew_and_locks_no_ledger(ledger: Ledger, place: Path):
    kept(ledger, "a fox")
    assert found(ledger, "fox") == {"a fox"}
    execute(place, "DELETE FROM texts_index_data")
    kept(ledger, "a red fox")
    assert found(ledger, "fox") == {"a fox", "a red fox"}
    with contextlib.closing(Ledger(place)) as again:
        for _ in range(2):
            assert found(again, "fox") == {"a fox", "a red fox"}
    assert execute(place, "SELECT count(*) FROM unsearched") == [(0,)]
    assert execute(place, "INSERT INTO texts_index (texts_index) VALUES ('integrity-check')") == []


def test_search_does_not_swallow_that_the_ledger_was_replaced(ledger: Ledger, place: Path):
    kept(ledger, "a fox")
    other = place.with_name("other.db")
    with contextlib.closing(Ledger(other)) as theirs:
        kept(theirs, "a wolf")
    other.replace(place)
    with pytest.raises(LedgerError, match="replaced"):
        found(ledger, "fox")


def test_search_waits_for_no_kernel_that_writes(ledger: Ledger, place: Path):
    kept(ledger, "a fox")
    with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert found(ledger, "fox") == {"a fox"}
        other.execute("ROLLBACK")
    assert execute(place, "SELECT count(*) FROM unsearched") == [(1,)]
    ledger.add(a_run("a cat"))  # with the patience that a purchase has


def test_page_of_an_indexed_search_reads_no_row_that_does_not_fit(ledger: Ledger):
    kept(ledger, "a fox", "a cat")
    assert found(ledger, "fox") == {"a fox"}
    said: list[str] = []
    database = ledger._database
    with database.reading() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_trace_callback(said.append)
    found(ledger, "fox")
    driver.set_trace_callback(None)
    [asked] = [each for each in said if "MATCH" in each]
    with database.reading() as connection:
        plan = [str(row[3]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}")]
    assert not [step for step in plan if step.startswith("SCAN") and "runs" in step]
    assert any("texts_index VIRTUAL TABLE INDEX" in step for step in plan)


def test_draws_of_a_request_are_looked_up_by_it(ledger: Ledger):
    run = ledger.add(a_run("a fox"))
    with ledger._database.reading() as connection:
        last = f"SELECT max(take) FROM runs WHERE digest = '{run.digest}' AND sandbox = 1"
        [plan] = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {last}").all()
        [count] = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT count(*) FROM runs WHERE sandbox = 1"
        ).all()
    assert "ix_runs_digest" in plan[3]
    assert "COVERING INDEX ix_runs_made" in count[3]


def test_texts_of_an_older_ledger_wait_until_a_search(place: Path):
    execute(place, *older("2"))
    with contextlib.closing(Ledger(place)) as ledger:
        assert execute(place, "SELECT count(*) FROM unsearched") == [(len(ROWS),)]
        assert ledger.find(Query(text="GRÜN 🦊")).total == len(ROWS)
        assert execute(place, "SELECT count(*) FROM unsearched") == [(0,)]
