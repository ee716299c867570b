"""Two kernels on one ledger: a run is worked on by one of them, and bought by one of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from apixo_nb.core import event_loop as loop
from apixo_nb.core.formatting import remark_of
from apixo_nb.core.process import STALE, this_process
from apixo_nb.core.records import Run
from apixo_nb.core.request import make_request
from apixo_nb.engine import recorder
from apixo_nb.errors import ApixoError, BudgetError, LedgerError, SubmitUnknownError
from apixo_nb.ledger import database, leases
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.ledger.schema import owners, runs
from apixo_nb.sandbox import Fault, Sandbox, handlers
from apixo_nb.session import session as shared
from apixo_nb.session.session import Session
from tests.support import postgres, sandboxes
from tests.support.commands import printed
from tests.support.factories import a_run, finished, with_task
from tests.support.ledger_files import in_file
from tests.support.processes import another_kernel, in_processes, run_cell, run_cell_with_id
from tests.support.sandboxes import Clock, Gate, downloads
from tests.support.waiting import PATIENCE_S, ended, wait_for

clock, sandbox, gate, session = sandboxes.clock, sandboxes.sandbox, sandboxes.gate, sandboxes.session
server, url = postgres.server, postgres.url


# --- taking up what was left ------------------------------------------------------------------------


def leave_behind(_number: int, rows: list[dict[str, Any]]) -> Iterator[Any]:
    """Own some runs, and die."""
    ledger = shared.current().ledger
    for row in rows:
        run = Run.model_validate(row)
        ledger.add(run)
    yield None
    yield len(rows)


def take_up(_number: int) -> Iterator[Any]:
    """What ``%apixo resume`` does."""
    session = shared.current()
    assert session.ledger is not None
    assert session.client is not None
    recorder._LOOK_S = 0.02
    yield None
    jobs = session.resume()
    for job in jobs:
        job.wait()
    session.close()
    yield [job.run.run_id for job in jobs]


def test_two_kernels_that_resume_at_once_take_up_each_run_once(session: Session, sandbox: Sandbox):
    tasks = [with_task(session, f"[seconds:{0.1 + number % 4 / 10}] fox {number}") for number in range(20)]
    wait_for(lambda: sandbox.account.now_ms() > max(task.ready_ms for task in quick(sandbox)), "tasks to end")
    left = [run if number % 2 else finished(sandbox, run) for number, run in enumerate(tasks)]
    in_processes(leave_behind, 1, [run.model_dump(mode="json") for run in left])
    taken = in_processes(take_up, 2)
    assert {run_id for one in taken for run_id in one} == {run.run_id for run in left}
    assert [(run.state, run.missing) for run in session.ledger.runs()] == [("success", 0)] * 20
    assert len(downloads(sandbox)) == 20
    assert set(downloads(sandbox).values()) == {1}
    assert sandbox.account.submits == 20
    assert in_file(session, "SELECT count(*) FROM runs WHERE owner IS NOT NULL") == [(0,)]
    assert in_file(session, "SELECT count(*) FROM owners") == [(0,)]


def quick(sandbox: Sandbox) -> list[Any]:
    return [task for task in sandbox.account.tasks.values() if task.ready_ms is not None]


def test_submit_of_a_living_kernel_is_left_to_it_and_is_unknown_once_that_is_dead(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    with another_kernel("a fox") as kernel:
        assert gate.arrived.wait(PATIENCE_S)
        said = printed("resume")
        assert "1 run(s) are in the hands of another kernel or program, and are left to it." in said
        assert "at stake" not in said
        assert [run.state for run in session.ledger.runs()] == ["submitting"]
        kernel.send_signal(signal.SIGKILL)
        kernel.wait(PATIENCE_S)
        said = printed("resume")
    assert "1 submit(s) without an answer, up to $0.35 at stake" in said
    assert "in the hands of" not in said
    assert [run.state for run in session.ledger.runs()] == ["unknown"]
    gate.open.set()
    assert printed("resume").startswith("1 submit(s) without an answer")
    assert sandbox.account.submits == 1


def test_task_of_a_living_kernel_is_left_to_it_and_taken_over_once_that_is_dead(
    session: Session, sandbox: Sandbox, clock: Clock
):
    with another_kernel("[seconds:1000] a fox") as kernel:
        wait_for(lambda: sandbox.account.polls, "the other kernel to wait for its task")
        said = printed("resume")
        assert said == "1 run(s) are in the hands of another kernel or program, and are left to it.\n"
        assert session.resume() == []
        kernel.send_signal(signal.SIGKILL)
        kernel.wait(PATIENCE_S)
    clock.ahead_s += 1000
    said = printed("resume")
    [run] = session.ledger.runs()
    assert (run.state, run.missing) == ("success", 0)
    assert run.files[0] in said
    assert set(downloads(sandbox).values()) == {1}
    assert sandbox.account.submits == 1


def test_run_that_is_named_is_followed_in_its_kernel_and_taken_over_if_that_dies(
    session: Session, sandbox: Sandbox, clock: Clock
):
    with another_kernel("[seconds:1000] a fox") as kernel:
        wait_for(lambda: sandbox.account.polls, "the other kernel to wait for its task")
        [run] = session.ledger.runs()
        [job] = session.resume(run.run_id)
        assert not job.done
        kernel.send_signal(signal.SIGKILL)
        kernel.wait(PATIENCE_S)
        clock.ahead_s += 1000
        assert job.wait().missing == 0
    assert sandbox.account.submits == 1


def test_row_of_a_submit_that_nobody_owns_is_unknown_and_at_stake(session: Session):
    session.ledger.insert(a_run(state="submitting"))
    assert "1 submit(s) without an answer, up to $0.35 at stake" in printed("resume")
    assert [(run.state, run.cost_micros) for run in session.ledger.runs()] == [("unknown", None)]


NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now', ?)"


def far_owner(session: Session, beat: str, **facts: Any) -> None:
    """Have all runs leased to a process of another machine, with its last heartbeat by its own clock."""
    identity = (
        dataclasses.asdict(this_process()) | {"id": "far", "machine_id": "far", "boot_id": "far"} | facts
    )
    names = [*identity, "heartbeat_at"]
    marks = ", ".join("?" * len(identity))
    with contextlib.closing(sqlite3.connect(session.ledger_file())) as other, other:
        other.execute("DELETE FROM owners WHERE id = 'far'")
        insert = f"INSERT INTO owners ({', '.join(names)}) VALUES ({marks}, {NOW})"
        other.execute(insert, [*identity.values(), beat])
        other.execute("UPDATE runs SET owner = 'far'")


STALE_S = STALE.total_seconds()
CLOCKS = ["0 seconds", "+10 minutes", "-10 minutes", "-14 hours"]


@pytest.mark.parametrize("clock_says", CLOCKS)
@pytest.mark.parametrize("same", [{}, {"machine_id": this_process().machine_id}])
def test_kernel_of_a_machine_of_the_same_name_lives_while_its_heart_beats_whatever_its_clock_says(
    session: Session, clock_says: str, same: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leases, "since_boot_s", lambda: 15 * 3600.0)
    run = a_run(state="submitting")
    session.ledger.insert(run)
    seconds = 0.0
    session.ledger.leases.monotonic = lambda: seconds
    for beat in range(10):
        far_owner(session, clock_says, pid=2**22 + 1, host=this_process().host, **same)
        assert session.ledger.leases.held_elsewhere() == {run.run_id}, beat
        assert session.ledger.leases.claim(run.run_id) is None
        assert session.lost() == []
        seconds += STALE_S - 1
    assert session.ledger.leases.held_elsewhere() == {run.run_id}
    seconds += 2
    assert session.ledger.leases.held_elsewhere() == set()
    assert [lost.run_id for lost in session.lost()] == [run.run_id]


@pytest.mark.parametrize(
    ("beat", "same"), [("-2 days", {}), ("-4 minutes", {"machine_id": this_process().machine_id})]
)
def test_kernel_of_days_ago_or_of_before_this_machine_was_restarted_is_dead_at_once(
    session: Session, beat: str, same: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leases, "since_boot_s", lambda: 60.0)
    run = a_run(state="processing", task_id="task_1")
    session.ledger.insert(run)
    far_owner(session, beat, **same)
    if not same or same["machine_id"]:
        assert session.ledger.leases.held_elsewhere() == set()
        assert session.ledger.leases.claim(run.run_id) is not None


def test_heartbeats_of_a_team_are_told_by_the_clock_of_its_database(url: str):
    run = a_run(state="processing", task_id="task_1")
    identity = dataclasses.asdict(this_process()) | {"boot_id": "far"}
    with contextlib.closing(Ledger(url)) as ledger:
        ledger.insert(run)
        for minutes, theirs in ((2, {run.run_id}), (4, set())):
            engine = sa.create_engine(url)
            with engine.begin() as connection:
                connection.execute(sa.delete(owners))
                beat = sa.func.now() - timedelta(minutes=minutes)
                connection.execute(owners.insert().values(**identity, heartbeat_at=beat))
                connection.execute(sa.update(runs).values(owner=identity["id"]))
            engine.dispose()
            assert ledger.leases.held_elsewhere() == theirs
            assert (ledger.leases.claim(run.run_id) is None) == bool(theirs)


OURS = ["planned", "submitting", "submitted", "unknown", "cancelled", "timeout"]


@pytest.mark.parametrize("word", OURS)
def test_word_of_ours_that_apixo_says_of_a_task_is_shown_and_never_acted_on(
    session: Session, sandbox: Sandbox, word: str
):
    session.ledger.set_budget("total", sandbox=True, limit_micros=400_000)
    sandbox.faults.add(Fault("status", "state", times="always", state=word))
    with another_kernel("a fox") as kernel:
        wait_for(lambda: any(run.service_state for run in session.ledger.runs()), "the word to be written")
        kernel.send_signal(signal.SIGKILL)
        kernel.wait(PATIENCE_S)
    [run] = session.ledger.runs()
    assert (run.state, run.service_state) == ("processing", word)
    assert f'APIXO says "{word}"' in remark_of(run)
    assert session.lost() == []
    with pytest.raises(BudgetError):
        session.begin("another fox").wait()
    sandbox.faults.clear()
    [[run_id, _file]] = in_processes(run_cell, 1, "a fox")
    assert run_id == run.run_id
    assert sandbox.account.submits == 1


def test_word_that_nobody_knows_is_the_state_verbatim(session: Session, sandbox: Sandbox):
    sandbox.faults.add(Fault("status", "state", times="always", state="Queued Up"))
    job = session.begin("a fox")
    wait_for(lambda: [run.state for run in session.ledger.runs()] == ["Queued Up"], "the word to be written")
    assert job.run.remark == ""
    job.stop()


# --- buying the same thing at once ------------------------------------------------------------------


@pytest.mark.parametrize("decided", ["early", "late"])
def test_same_cell_in_two_kernels_at_once_is_bought_once_and_shown_in_both(
    session: Session, sandbox: Sandbox, decided: str
):
    one, another = in_processes(run_cell, 2, "a fox", decided)
    assert one == another
    assert (session.images.folder / one[1]).is_file()
    assert (sandbox.account.submits, len(session.ledger.runs())) == (1, 1)
    assert set(downloads(sandbox).values()) == {1}


def test_one_cell_that_eight_kernels_run_at_once_is_bought_once(session: Session, sandbox: Sandbox):
    shown = in_processes(run_cell_with_id, 8, "a fox", ["cell"])
    [run] = session.ledger.runs()
    assert shown == [[run.run_id, *run.files]] * 8
    assert (run.cell_id, run.cell_position, run.take) == ("cell", 1, 1)
    assert (sandbox.account.submits, set(downloads(sandbox).values())) == (1, {1})


def test_eight_cells_that_eight_kernels_run_at_once_are_bought_once_each(session: Session, sandbox: Sandbox):
    ids = [f"cell-{number}" for number in range(8)]
    shown = in_processes(run_cell_with_id, 8, "a fox", ids)
    made = session.ledger.runs()
    assert sorted(run_id for run_id, _file in shown) == sorted(run.run_id for run in made)
    assert (sorted(run.cell_id for run in made), sorted(run.take for run in made)) == (ids, [*range(1, 9)])
    assert sandbox.account.submits == 8
    assert in_processes(run_cell_with_id, 8, "a fox", ids) == shown
    assert sandbox.account.submits == 8


def test_same_cell_whose_answer_is_lost_is_sent_by_one_kernel_only(session: Session, sandbox: Sandbox):
    said = in_processes(run_cell, 2, "[lost] a fox")
    assert said == [["SubmitUnknownError"]] * 2
    assert sandbox.account.submits == 1
    assert [run.state for run in session.ledger.runs()] == ["unknown"]


def test_cell_that_stood_in_line_while_another_kernel_lost_the_answer_is_not_sent(
    session: Session, sandbox: Sandbox
):
    planned = session.plan(make_request("[lost] a fox"))
    [decision] = session.decide([planned])
    in_processes(run_cell, 1, "[lost] a fox")
    with pytest.raises(SubmitUnknownError):
        session.carry_out(decision).wait()
    assert sandbox.account.submits == 1


def test_cell_that_stood_in_line_while_another_kernel_was_refused_is_bought(
    session: Session, sandbox: Sandbox
):
    prompt = "[http:400] a fox"
    [decision] = session.decide([session.plan(make_request(prompt))])
    assert in_processes(run_cell, 1, prompt) == [["BadRequestError"]]
    with pytest.raises(ApixoError):
        session.carry_out(decision).wait()
    assert sandbox.account.submits == 2


# --- who works on what ------------------------------------------------------------------------------


def claim(_number: int, place: str, run_id: str) -> Iterator[Any]:
    """Ask for a run, and keep it until all have asked."""
    ledger = Ledger(place if "://" in place else Path(place))
    ledger.leases.heartbeat()
    yield None
    won = ledger.leases.claim(run_id) is not None
    # Whoever ends is dead, and another may have its run: so nobody ends before all have asked.
    wait_for(lambda: len(in_owners(place)) == 8, "the others to ask")
    yield won


def in_owners(place: str) -> list[Any]:
    engine = sa.create_engine(place if "://" in place else f"sqlite:///{place}")
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT id FROM owners")).all()
    engine.dispose()
    return list(found)


def test_of_eight_kernels_that_ask_for_a_run_at_once_one_gets_it(tmp_path: Path):
    eight_ask(str(tmp_path / "ledger.db"))


def test_of_eight_kernels_that_ask_for_a_run_at_once_one_gets_it_on_postgres(url: str):
    eight_ask(url)


def eight_ask(place: str) -> None:
    run = a_run(state="processing", task_id="task_1")
    with contextlib.closing(Ledger(place if "://" in place else Path(place))) as ledger:
        ledger.insert(run)
        won = in_processes(claim, 8, place, run.run_id)
        assert sorted(won) == [False] * 7 + [True]
        assert ledger.leases.held_elsewhere() == set()
        assert ledger.leases.claim(run.run_id) == run  # all of them are dead by now


def test_run_that_could_not_be_let_go_because_of_a_lock_is_let_go_later(
    service: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_BUSY_MS", 10)
    gate.holds(handlers.PictureHandler, "get", monkeypatch)
    session = shared.current()
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    with contextlib.closing(sqlite3.connect(session.ledger_file(), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        gate.open.set()
        with pytest.raises(LedgerError) as refused:
            job.wait()
        ended(job)
    assert refused.value.task_id == service.account.accepted[0]
    assert len(job.run.files) == 1
    wait_for(lambda: in_file(session, "SELECT owner FROM runs") == [(None,)], "the run to be let go")


def test_session_closed_before_it_could_let_go_leaves_nothing_waiting(
    service: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_BUSY_MS", 10)
    monkeypatch.setattr(recorder, "_AGAIN_S", 0.1)
    gate.holds(handlers.PictureHandler, "get", monkeypatch)
    session = shared.current()
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    with contextlib.closing(sqlite3.connect(session.ledger_file(), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        gate.open.set()
        ended(job)
        session.close()

    async def waiting() -> list[str]:
        await asyncio.sleep(0.5)  # timers of one loop come in their order: the next attempt was before
        names = [str(getattr(task.get_coro(), "__qualname__", "")) for task in asyncio.all_tasks()]
        return [name for name in names if "Recorder" in name]

    assert loop.run(waiting()) == []
    assert len(service.account.accepted) == 1


def test_closed_session_has_let_go_of_its_runs(session: Session, clock: Clock, sandbox: Sandbox):
    other = Session()
    job = other.begin("[seconds:1000] a fox")
    wait_for(lambda: sandbox.account.polls, "the task to be waited for")
    assert session.ledger.leases.held_elsewhere() == {job.run.run_id}
    assert [run.run_id for run in session.elsewhere()] == [job.run.run_id]
    other.close()
    assert in_file(session, "SELECT owner FROM runs") == [(None,)]
    assert in_file(session, "SELECT * FROM owners") == []
    clock.ahead_s += 1000
    [resumed] = session.resume()
    assert resumed.wait().missing == 0
    assert sandbox.account.submits == 1


def test_heartbeats_are_written_while_a_run_is_in_flight(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorder, "_HEARTBEAT_S", 0.05)
    job = session.begin("[never] a fox")

    def beats() -> Any:
        return in_file(session, "SELECT heartbeat_at FROM owners")

    wait_for(beats, "the owner to be written")
    first = beats()
    wait_for(lambda: beats() > first, "a heartbeat")
    job.stop()


def test_owner_is_written_with_the_row_and_gone_when_the_run_has_ended(
    session: Session, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    [(pid,)] = in_file(session, "SELECT pid FROM runs JOIN owners ON owners.id = runs.owner")
    assert pid == os.getpid()
    gate.open.set()
    job.wait()
    ended(job)
    assert in_file(session, "SELECT owner FROM runs") == [(None,)]


def test_two_sessions_of_one_process_leave_each_other_their_runs(
    session: Session, sandbox: Sandbox, clock: Clock
):
    with contextlib.closing(Session()) as other:
        job = other.begin("[seconds:1000] a fox")
        wait_for(lambda: sandbox.account.polls, "the task to be waited for")
        assert session.resume() == []
        clock.ahead_s += 1000
        assert job.wait().missing == 0
    assert set(downloads(sandbox).values()) == {1}


def test_stop_while_another_kernel_is_followed_leaves_its_run_alone(
    session: Session, sandbox: Sandbox, clock: Clock
):
    with contextlib.closing(Session()) as other:
        job = other.begin("[seconds:1000] a fox")
        wait_for(lambda: sandbox.account.polls, "the task to be waited for")
        [followed] = session.resume(job.run.run_id)
        stopping = threading.Thread(target=followed.stop)
        stopping.start()
        stopping.join(PATIENCE_S)
        ended(followed)
        assert [live.run.run_id for live in other.jobs()] == [job.run.run_id]
        clock.ahead_s += 1000
        assert job.wait().missing == 0
    [run] = session.ledger.runs()
    assert (run.state, sandbox.account.submits) == ("success", 1)
