"""The ledger of a team: the same promises on a real PostgreSQL server, started for these tests."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from apixo_nb.core import settings as config
from apixo_nb.core.records import Image
from apixo_nb.errors import LedgerError
from apixo_nb.ledger import database
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.maintenance import status_lines
from apixo_nb.session.session import Session
from tests.support import postgres
from tests.support.factories import KEY, a_full_run, a_run
from tests.support.hostile import HOSTILE_TEXTS
from tests.support.postgres import PASSWORD, Server, execute

server, url = postgres.server, postgres.url


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(url)) as opened:
        yield opened


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What some threads return that all begin at the same moment."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Any:
        barrier.wait(timeout=30)
        return work(number)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_every_value_of_a_run_comes_back(ledger: Ledger):
    run = ledger.add(a_full_run())
    ledger.put_image(run.run_id, Image(index=1, url="https://p.example/2.png", error="gone"))
    ledger.put_image(run.run_id, Image(index=0, url="https://p.example/1.png", file="a.png", bytes=2**40))
    ledger.put_image(run.run_id, Image(index=1, url="https://p.example/2.png", file="b.png"))
    ledger.update(run.run_id, note="another")
    [found] = ledger.runs()
    assert found.replace(images=()) == run.replace(note="another")
    assert found.files == ("a.png", "b.png")


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_text_round_trips(ledger: Ledger, text: str):
    run = ledger.add(a_run(prompt=text, note=text, name=text, tags=(text,), variables={text: text}))
    assert ledger.get(run.run_id) == run


def test_times_come_back_aware_in_utc_whatever_the_servers_zone(url: str):
    execute(url, f"ALTER DATABASE {sa.make_url(url).database} SET timezone TO 'Asia/Tokyo'")
    moment = datetime(2026, 3, 29, 2, 30, 0, 999_999, tzinfo=timezone(timedelta(hours=-3)))
    with contextlib.closing(Ledger(url)) as ledger:
        ledger.add(a_run(created_at=moment))
        [found] = ledger.runs()
    assert found.created_at == moment
    assert found.created_at.tzinfo is UTC


def test_word_and_id_of_any_length_are_kept(ledger: Ledger):
    run = ledger.add(a_run())
    ledger.update(run.run_id, state="w" * 300, task_id="t" * 200, fail_code="c" * 1000)
    [found] = ledger.runs()
    assert (len(found.state), len(found.task_id or ""), len(found.fail_code)) == (300, 200, 1000)


def test_what_the_server_refuses_is_a_ledger_error(ledger: Ledger):
    with pytest.raises(LedgerError) as refused:
        ledger.add(a_run(note="a\0b"))
    assert PASSWORD not in str(refused.value)
    assert ledger.runs() == []


def test_unfinished_runs_are_found(ledger: Ledger):
    ledger.add(a_run(state="processing", task_id="t"))
    ledger.add(a_run(state="failed", task_id="u"))
    assert [run.task_id for run in ledger.unfinished()] == ["t"]


def test_kernels_that_open_an_empty_database_at_once_all_succeed(url: str):
    for opened in at_once(6, lambda _: Ledger(url)):
        assert opened.runs() == []
        opened.close()


def test_takes_of_kernels_that_buy_at_once_are_all_different(url: str):
    ledgers = [Ledger(url) for _ in range(6)]
    takes = at_once(6, lambda number: [ledgers[number].add(a_run()).take for _ in range(10)])
    for opened in ledgers:
        opened.close()
    assert sorted(take for some in takes for take in some) == list(range(1, 61))


def test_newer_ledger_is_not_written_to(url: str):
    Ledger(url).close()
    execute(url, "UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with contextlib.closing(Ledger(url)) as ledger, pytest.raises(LedgerError, match="newer apixo_nb"):
        ledger.add(a_run())


def test_wrong_password_is_explained_and_not_shown(server: Server):
    with pytest.raises(LedgerError) as refused:
        Ledger(server.url("postgres", password="Walrus-12y"))
    shown = f"{refused.value} {refused.value!r}"
    assert "Walrus-12y" not in shown
    assert "password authentication failed" in shown
    assert len(str(refused.value).splitlines()) == 2


def test_missing_database_is_explained(server: Server):
    with pytest.raises(LedgerError, match="nowhere"):
        Ledger(server.url("nowhere"))


def test_place_is_shown_without_its_password(ledger: Ledger):
    assert PASSWORD not in ledger.shown_place
    assert "team:***@127.0.0.1" in ledger.shown_place


def test_server_that_was_restarted_costs_no_row(server: Server, ledger: Ledger):
    run = ledger.add(a_run())
    server.stop()
    with pytest.raises(LedgerError):
        ledger.add(a_run())
    server.start()
    ledger.update(run.run_id, state="submitted", task_id="task_1")
    assert [found.task_id for found in ledger.runs()] == ["task_1"]


def test_server_that_was_restarted_between_two_writes_is_not_even_noticed(server: Server, ledger: Ledger):
    run = ledger.add(a_run())
    server.stop()
    server.start()
    ledger.update(run.run_id, state="submitted", task_id="task_1")
    assert [found.task_id for found in ledger.runs()] == ["task_1"]


def test_session_works_with_a_shared_ledger_and_its_own_pictures(url: str, sandbox: Sandbox):
    settings = config.Apixo(base_url=sandbox.base_url, ledger=url, first_poll=0.05, poll_interval=0.05)
    with contextlib.closing(Session(settings, key=KEY)) as session:
        run = session.begin("a fox 🦊", num_images=2).wait()
        [row] = session.history().to_dict("records")
        text = "\n".join(status_lines(session))
    assert (row["run_id"], row["state"], len(row["files"])) == (run.run_id, "success", 2)
    assert "ledger    postgresql+psycopg://team:***@" in text
    assert PASSWORD not in text
    assert not (session.settings.home_path / "ledger.db").exists()


def test_bundle_of_the_largest_values_is_taken_in_and_one_of_larger_ones_stops_nothing(
    url: str, tmp_path: Path
):
    most: dict[str, Any] = {"cost_micros": 10**12, "unit_price_micros": 10**12, "cost_time_ms": 10**10}
    largest = a_run(sandbox=False, task_id="é" * 500, take=10**9, **most)
    larger: list[dict[str, Any]] = [
        {"take": 2**31 - 1},
        {"task_id": os.urandom(4000).hex()},
        {"cost_micros": 2**62},
    ]
    runs = [*(a_run(sandbox=False, **changes) for changes in larger), largest]
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as archive:
        archive.writestr("runs.jsonl", "\n".join(run.model_dump_json() for run in runs))
    with contextlib.closing(Session(config.Apixo(ledger=url, home=str(tmp_path)))) as session:
        done = session.import_bundle(tmp_path / "runs.zip")
        assert (done.added, len(done.problems)) == (1, 3)
        assert session.run(largest.run_id).task_id == largest.task_id
        assert session.ledger.add(a_run(sandbox=False)).take == 10**9 + 1


def test_colleague_who_is_paused_within_a_write_freezes_nobody(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_BUSY_MS", 50)
    engine = sa.create_engine(url)
    with contextlib.closing(Ledger(url, tmp_path / "ledger-tasks.jsonl")) as ledger:
        run = ledger.add(a_run())
        bought = run.replace(state="submitted", task_id="task_1", submitted_at=run.created_at)
        with engine.begin() as paused:
            paused.execute(sa.select(sa.func.pg_advisory_xact_lock(database._LOCK)))
            with pytest.raises(LedgerError, match="another program keeps it locked") as refused:
                ledger.update(run.run_id, note="x")
            assert len(str(refused.value).splitlines()) == 2
            assert not ledger.record_task(bought)  # the journal has it
        ledger.merge_journal()
        assert [(found.state, found.task_id) for found in ledger.runs()] == [("submitted", "task_1")]
        assert list(tmp_path.glob("ledger-tasks*")) == []
    engine.dispose()
