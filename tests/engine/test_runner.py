"""Runs from a request to pictures on disk, over real HTTP: what is written when, what every fault leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from apixo_nb import errors
from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core import event_loop as loop
from apixo_nb.core import settings as config
from apixo_nb.core.records import Run
from apixo_nb.core.request import make_request
from apixo_nb.ledger import database, journal
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.sandbox import Sandbox, SandboxOptions, handlers
from apixo_nb.sandbox.account import Account
from apixo_nb.session.maintenance import status_lines
from apixo_nb.session.session import Session
from tests.support.factories import KEY
from tests.support.sandboxes import Clock, Gate
from tests.support.waiting import ended

PATIENCE_S = 20  # no test waits so long; one that would hang ends here


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sandbox(clock: Clock) -> Iterator[Sandbox]:
    with Sandbox(SandboxOptions(seconds=0.1, picture_scale=0.25), clock=clock) as running:
        yield running


@pytest.fixture
def make_session(sandbox: Sandbox, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Sessions on one home, as of several kernels."""
    opened: list[Session] = []

    def make(**traits: Any) -> Session:
        usual = {"base_url": sandbox.base_url, "home": str(tmp_path / "home")}
        pace = {"first_poll": 0.05, "poll_interval": 0.05}
        session = Session(config.Apixo(**(usual | pace | traits)), key=KEY)
        session.client.retry = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.02)
        opened.append(session)
        return session

    yield make
    for session in opened:
        session.close()


@pytest.fixture
def session(make_session: Callable[..., Session]) -> Session:
    return make_session()


@pytest.fixture
def gate(sandbox: Sandbox) -> Iterator[Gate]:  # noqa: ARG001 - a gate is open before its sandbox stops
    made = Gate()
    yield made
    made.open.set()


def on_disk(session: Session, columns: str = "state, task_id") -> list[Any]:
    """What another program sees in the ledger's file now."""
    place = session.settings.home_path / "ledger.db"
    with contextlib.closing(sqlite3.connect(place)) as connection:
        return connection.execute(f"SELECT {columns} FROM runs ORDER BY created_at").fetchall()


def when_polled(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> threading.Event:
    """An event that is set when the sandbox has been asked for a status."""
    polled, original = threading.Event(), Account.note

    def note(account: Account, seen: Any) -> None:
        original(account, seen)
        if sandbox.account.polls >= times:
            polled.set()

    monkeypatch.setattr(Account, "note", note)
    return polled


# --- the order that keeps money safe, as the server sees it ---


@pytest.fixture
def ledger_at(session: Session, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """For each kind of request, the row on disk when the first of it reached the server."""
    found: dict[str, Any] = {}
    original = Account.note

    def note(account: Account, seen: Any) -> None:
        if seen.kind not in found:
            found[seen.kind] = on_disk(session, "state, task_id, result_urls")
        original(account, seen)

    monkeypatch.setattr(Account, "note", note)
    return found


def test_row_is_on_disk_before_the_post_arrives(session: Session, ledger_at: dict[str, Any]):
    session.begin("a fox").wait()
    assert ledger_at["submit"] == [("submitting", None, "[]")]


def test_task_id_is_on_disk_before_the_first_poll(
    session: Session, sandbox: Sandbox, ledger_at: dict[str, Any]
):
    session.begin("a fox").wait()
    assert ledger_at["status"] == [("submitted", sandbox.account.accepted[0], "[]")]


def test_result_urls_are_on_disk_before_the_first_download(session: Session, ledger_at: dict[str, Any]):
    run = session.begin("a fox").wait()
    [(state, task_id, urls)] = ledger_at["picture"]
    assert (state, task_id) == ("success", run.task_id)
    assert all(url in urls for url in run.result_urls)


def test_states_are_told_in_order(session: Session):
    heard: list[str] = []
    session.listen(lambda run: heard.append(run.state))
    session.begin("[seconds:0.3] a fox").wait()
    news = [state for state, before in zip(heard, [None, *heard], strict=False) if state != before]
    assert news == ["submitting", "submitted", "processing", "success"]


def test_listener_hears_immutable_records_and_can_be_taken_back(session: Session):
    heard: list[Run] = []
    forget = session.listen(heard.append)
    run = session.begin("a fox").wait()
    assert heard[-1] == run
    forget()
    forget()
    count = len(heard)
    session.begin("a fox").wait()
    assert len(heard) == count


@pytest.mark.parametrize("state", ["submitting", "submitted", "processing", "success"])
def test_listener_that_raises_costs_neither_task_nor_picture(session: Session, sandbox: Sandbox, state: str):
    def broken(run: Run) -> None:
        if run.state == state:
            raise ZeroDivisionError

    session.listen(broken)
    assert session.begin("[seconds:0.2] a fox").wait().missing == 0
    [run] = session.ledger.runs()
    assert (run.task_id, run.state, len(run.files)) == (sandbox.account.accepted[0], "success", 1)


def test_everything_of_a_success_is_in_the_row(session: Session, sandbox: Sandbox):
    run = session.begin("a fox", aspect_ratio="3:2", num_images=2, name="n", tags=["t"], note="k").wait()
    task = sandbox.account.tasks[str(run.task_id)]
    [found] = session.ledger.runs()
    assert found == run
    assert (run.state, run.name, run.tags, run.note, run.take) == ("success", "n", ("t",), "k", 1)
    assert (run.cost_micros, run.missing, len(run.files)) == (700_000, 0, 2)
    assert run.cost_time_ms == (task.ready_ms or 0) - task.created_ms
    assert run.wait_ms is not None
    assert run.finished_at is not None
    assert run.expires_at is not None


def test_pictures_are_on_disk_as_the_ledger_says(session: Session):
    run = session.begin("a fox", num_images=4).wait()
    assert [image.index for image in run.images] == [0, 1, 2, 3]
    for image in run.images:
        with Pillow.open(session.images.path(image)) as picture:
            assert (picture.size, picture.format) == ((image.width, image.height), "PNG")
        assert session.images.path(image).stat().st_size == image.bytes
        assert session.images.path(image).with_suffix(".json").exists()


def test_folder_holds_no_leftovers(session: Session):
    run = session.begin("a fox", num_images=2).wait()
    names = {path.name for path in session.images.folder.iterdir()}
    assert names == {*run.files, *(name.replace(".png", ".json") for name in run.files)}


# --- every kind of trouble ---

PRICE = 350_000

# prompt, state, fail code, cost in micro-dollars, error, tasks accepted
TROUBLES: list[tuple[str, str, str, int | None, type[errors.ApixoError], int]] = [
    ("[fail:SensitiveContent]", "failed", "SensitiveContent", 0, errors.TaskFailedError, 1),
    ("[fail:A new code]", "failed", "A new code", 0, errors.TaskFailedError, 1),
    ("[http:400]", "failed", "HTTP 400", 0, errors.BadRequestError, 0),
    ("[http:401]", "failed", "HTTP 401", 0, errors.AuthenticationError, 0),
    ("[http:402]", "failed", "HTTP 402", 0, errors.InsufficientBalanceError, 0),
    ("[http:403]", "failed", "HTTP 403", 0, errors.PermissionDeniedError, 0),
    ("[http:404]", "failed", "HTTP 404", 0, errors.NotFoundError, 0),
    ("[http:500]", "unknown", "", None, errors.SubmitUnknownError, 0),
    ("[http:503]", "unknown", "", None, errors.SubmitUnknownError, 0),
    ("[lost]", "unknown", "", None, errors.SubmitUnknownError, 1),
    ("[lost:500]", "unknown", "", None, errors.SubmitUnknownError, 1),
    ("[lost:502]", "unknown", "", None, errors.SubmitUnknownError, 1),
    ("[lost:504]", "unknown", "", None, errors.SubmitUnknownError, 1),
    ("[pictures:0]", "success", "", PRICE, errors.ResultError, 1),
    ("[gone]", "success", "", PRICE, errors.ImageError, 1),
    ("[broken]", "success", "", PRICE, errors.ImageError, 1),
    ("[html]", "success", "", PRICE, errors.ImageError, 1),
]


@pytest.mark.parametrize(("prompt", "state", "code", "micros", "error", "accepted"), TROUBLES)
def test_trouble_ends_in_its_state_cost_and_error(  # noqa: PLR0917 - one column of the table each
    session: Session,
    sandbox: Sandbox,
    prompt: str,
    state: str,
    code: str,
    micros: int | None,
    error: type[errors.ApixoError],
    accepted: int,
):
    with pytest.raises(error) as raised:
        session.begin(f"{prompt} a fox").wait()
    [run] = session.ledger.runs()
    assert (run.state, run.fail_code, run.cost_micros) == (state, code, micros)
    assert raised.value.run_id == run.run_id
    assert raised.value.task_id == run.task_id
    assert (sandbox.account.submits, len(sandbox.account.accepted)) == (1, accepted)


def test_lost_answer_says_what_is_at_stake_and_is_never_sent_again(session: Session, sandbox: Sandbox):
    with pytest.raises(errors.SubmitUnknownError) as raised:
        session.begin("[lost] a fox", num_images=4).wait()
    assert raised.value.maybe_billed
    assert raised.value.at_stake_usd == 1.40
    assert session.resume() == []
    assert sandbox.account.submits == 1


def test_refusal_for_haste_is_sent_again_and_bought_once(session: Session, sandbox: Sandbox):
    run = session.begin("[busy:1] a fox").wait()
    assert (run.state, sandbox.account.submits, len(sandbox.account.accepted)) == ("success", 2, 1)


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("prompt", ["a fox", "[lost] a fox", "[http:402] a fox"])
def test_a_run_is_bought_once_however_often_it_is_started(
    session: Session, sandbox: Sandbox, prompt: str, *, once: bool
):
    planned = session.plan(make_request(prompt))
    first = session.start(planned, once=once)
    ended(first)
    asked = sandbox.account.submits
    with pytest.raises(errors.LedgerError, match="in the ledger already") as refused:
        session.start(planned, once=once).wait()
    assert "Nothing was sent" in refused.value.advice
    assert not refused.value.maybe_billed
    with pytest.raises(errors.ConfigurationError, match="started before"):
        session.start(first.run, once=once)
    assert (sandbox.account.submits, len(session.ledger.runs())) == (asked, 1)
    assert session.ledger.get(planned.run_id) == first.run


def test_a_run_in_flight_is_not_started_again_and_keeps_its_job(session: Session, sandbox: Sandbox):
    planned = session.plan(make_request("[never] a fox"))
    job = session.start(planned)
    with pytest.raises(errors.ConfigurationError, match="started before"):
        session.start(planned, once=True)
    assert session.jobs() == [job]
    job.cancel()
    ended(job)
    assert sandbox.account.submits <= 1


def test_nobody_listening_is_not_sent_and_costs_nothing(make_session: Callable[..., Session]):
    session = make_session(base_url="http://127.0.0.1:1")
    with pytest.raises(errors.APIConnectionError, match="not sent"):
        session.begin("a fox").wait()
    [run] = session.ledger.runs()
    assert (run.state, run.fail_code, run.cost_micros) == ("failed", "APIConnectionError", 0)


@pytest.mark.parametrize(
    ("prompt", "remark", "files"),
    [
        ("[pictures:1]", "2 pictures asked for, 1 came", 1),
        ("[pictures:3]", "2 pictures asked for, 3 came", 3),
    ],
)
def test_other_number_of_pictures_is_kept_and_flagged(session: Session, prompt: str, remark: str, files: int):
    run = session.begin(f"{prompt} a fox", num_images=2).wait()
    assert (run.state, run.remark, len(run.files)) == ("success", remark, files)
    assert run.cost_micros == 700_000


def test_missing_cost_time_is_reckoned_from_the_other_times(session: Session, sandbox: Sandbox):
    run = session.begin("[no-cost-time] a fox").wait()
    task = sandbox.account.tasks[str(run.task_id)]
    assert run.cost_time_ms == (task.ready_ms or 0) - task.created_ms


def test_picture_that_is_gone_names_its_fault_and_comes_with_resume(session: Session, sandbox: Sandbox):
    with pytest.raises(errors.ImageError, match="gone"):
        session.begin("[gone] a fox").wait()
    [run] = session.ledger.runs()
    assert (run.state, run.missing, run.images[0].file) == ("success", 1, "")
    assert "gone" in run.images[0].error
    heal(run, sandbox)
    [job] = session.resume()
    assert job.wait().missing == 0
    assert sandbox.account.submits == 1
    assert session.resume() == []


def heal(run: Run, sandbox: Sandbox) -> None:
    """Make the sandbox forget the marker of a task."""
    task = sandbox.account.tasks[str(run.task_id)]
    request = {**task.request, "input": {**task.request["input"], "prompt": "a fox"}}
    sandbox.account.tasks[str(run.task_id)] = dataclasses.replace(task, request=request)


def test_one_bad_picture_does_not_cost_the_others(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    original = handlers.PictureHandler.get

    async def second_is_gone(handler: Any, token: str, task_id: str, index: str) -> None:
        await original(handler, token, task_id, "99" if index == "2" else index)

    with monkeypatch.context() as patched:
        patched.setattr(handlers.PictureHandler, "get", second_is_gone)
        with pytest.raises(errors.ImageError):
            session.begin("a fox", num_images=4).wait()
    [run] = session.ledger.runs()
    assert [bool(image.file) for image in run.images] == [True, False, True, True]
    downloads = sandbox.account.downloads
    [job] = session.resume()
    assert job.wait().missing == 0
    assert sandbox.account.downloads == downloads + 1


def test_result_without_pictures_is_asked_for_once_more_by_resume(session: Session, sandbox: Sandbox):
    with pytest.raises(errors.ResultError):
        session.begin("[pictures:0] a fox").wait()
    [run] = session.ledger.runs()
    sandbox.account.tasks[str(run.task_id)] = task_with_pictures(sandbox, run, 1)
    [job] = session.resume()
    assert (job.wait().missing, len(job.run.files)) == (0, 1)


def task_with_pictures(sandbox: Sandbox, run: Run, pictures: int) -> Any:
    return dataclasses.replace(sandbox.account.tasks[str(run.task_id)], pictures=pictures)


@pytest.mark.parametrize("change", ["fail", "empty"])
def test_success_stays_a_success_whatever_the_task_says_later(
    session: Session, sandbox: Sandbox, change: str
):
    with pytest.raises(errors.ImageError):
        session.begin("[gone] a fox").wait()
    [before] = session.ledger.runs()
    task = task_with_pictures(sandbox, before, 0)
    if change == "fail":
        task.request["input"]["prompt"] = "[fail:Unknown error] [gone] a fox"
    task.__dict__.pop("script", None)
    sandbox.account.tasks[str(before.task_id)] = task
    [job] = session.resume()
    with pytest.raises(errors.ApixoError):
        job.wait()
    [run] = session.ledger.runs()
    assert (run.state, run.cost_micros, run.result_urls) == ("success", PRICE, before.result_urls)


# --- stopping ---


def test_stop_before_the_row_is_written_sends_nothing(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    original, arrived, go = Ledger.add, threading.Event(), threading.Event()

    def slow(ledger: Ledger, run: Run, **options: Any) -> Run:
        arrived.set()
        go.wait(PATIENCE_S)
        return original(ledger, run, **options)

    monkeypatch.setattr(Ledger, "add", slow)
    job = session.begin("a fox")
    assert arrived.wait(PATIENCE_S)
    job.cancel()
    with pytest.raises(errors.RunCancelledError):
        job.wait()
    go.set()
    ended(job)
    assert on_disk(session) == [("planned", None)]
    assert sandbox.account.submits == 0


def test_stop_during_a_submit_returns_at_once_and_still_keeps_the_task(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    job.cancel()
    with pytest.raises(errors.RunCancelledError, match="on its way") as stopped:
        job.wait()
    assert (stopped.value.maybe_billed, stopped.value.at_stake_usd) == (True, 0.35)
    gate.open.set()
    ended(job)
    assert on_disk(session) == [("cancelled", sandbox.account.accepted[0])]
    assert (sandbox.account.submits, sandbox.account.polls) == (1, 0)


def test_run_stopped_during_its_submit_is_resumed_at_no_further_post(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    job.cancel()
    gate.open.set()
    ended(job)
    [resumed] = session.resume()
    assert (resumed.wait().state, resumed.run.missing) == ("success", 0)
    assert sandbox.account.submits == 1


def test_stop_while_a_refused_submit_pauses_sends_no_second_post(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    refused = threading.Event()
    original = handlers.SubmitHandler.write_error

    def told(handler: Any, status_code: int, **facts: Any) -> None:
        original(handler, status_code, **facts)
        refused.set()

    monkeypatch.setattr(handlers.SubmitHandler, "write_error", told)
    job = session.begin("[busy:9] a fox")
    assert refused.wait(PATIENCE_S)
    job.cancel()
    with pytest.raises(errors.RunCancelledError):
        job.wait()
    ended(job)
    assert (sandbox.account.submits, sandbox.account.accepted) == (1, [])


def test_stop_while_waiting_keeps_the_task_and_says_how_to_go_on(
    session: Session, sandbox: Sandbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    polled = when_polled(sandbox, monkeypatch)
    job = session.begin("[seconds:1000] a fox")
    assert polled.wait(PATIENCE_S)
    job.cancel()
    with pytest.raises(errors.RunCancelledError, match="Stopped waiting") as stopped:
        job.wait()
    ended(job)
    assert on_disk(session) == [("cancelled", job.run.task_id)]
    assert "%apixo resume" in stopped.value.advice
    assert stopped.value.task_id == sandbox.account.accepted[0]
    clock.ahead_s += 1000
    assert session.resume()[0].wait().missing == 0
    assert sandbox.account.submits == 1


def test_stop_while_downloading_keeps_the_success_and_resume_fetches_it(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.PictureHandler, "get", monkeypatch)
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    job.cancel()
    with pytest.raises(errors.RunCancelledError):
        job.wait()
    ended(job)
    [run] = session.ledger.runs()
    assert (run.state, run.missing, run.cost_micros) == ("success", 1, PRICE)
    gate.open.set()
    assert session.resume()[0].wait().missing == 0
    assert sandbox.account.submits == 1


def test_keyboard_interrupt_stops_the_run_and_carries_its_ids(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    polled = when_polled(sandbox, monkeypatch)
    job = session.begin("[never] a fox")

    def interrupted(_future: Any) -> Any:
        assert polled.wait(PATIENCE_S)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt) as stop:
            job.wait()
    ended(job)
    assert vars(stop.value)["run_id"] == job.run.run_id
    assert vars(stop.value)["task_id"] == sandbox.account.accepted[0]
    assert on_disk(session)[0][0] == "cancelled"


def test_second_stop_and_stop_after_the_end_do_nothing(session: Session):
    job = session.begin("a fox")
    job.wait()
    job.cancel()
    job.stop()
    assert (job.wait().state, on_disk(session)[0][0]) == ("success", "success")


def test_stop_in_the_same_breath_as_the_start_sends_nothing(session: Session, sandbox: Sandbox):
    async def begin_and_stop() -> Any:  # on the loop thread: nothing of the run has happened yet
        job = session.begin("a fox")
        job.cancel()
        return job

    job = loop.run(begin_and_stop())
    ended(job)
    with pytest.raises(errors.RunCancelledError) as stopped:
        job.wait()
    assert not stopped.value.maybe_billed
    assert sandbox.account.submits == 0
    assert [state for state, _ in on_disk(session)] in ([], ["planned"])


def test_resume_stopped_in_the_same_breath_ends(session: Session):
    job = stopped_at_once(session, "[never] a fox")

    async def resume_and_stop() -> Any:
        [resumed] = session.resume(job.run.run_id)
        resumed.cancel()
        return resumed

    resumed = loop.run(resume_and_stop())
    with pytest.raises(errors.RunCancelledError):
        resumed.answer.result(timeout=5)


def stopped_at_once(session: Session, prompt: str, **options: Any) -> Any:
    """A run with a task that nobody waits for any more."""
    submitted = threading.Event()
    forget = session.listen(lambda run: submitted.set() if run.task_id else None)
    job = session.begin(prompt, **options)
    assert submitted.wait(PATIENCE_S)
    forget()
    job.cancel()
    ended(job)
    return job


# --- giving up, and taking up again ---


def test_timeout_keeps_the_task_and_resume_finishes_it_at_no_further_post(
    session: Session, sandbox: Sandbox, clock: Clock
):
    with pytest.raises(errors.WaitTimeoutError) as raised:
        session.begin("[seconds:1000] a fox", timeout_s=0.2).wait()
    assert raised.value.maybe_billed
    assert on_disk(session) == [("timeout", sandbox.account.accepted[0])]
    clock.ahead_s += 1000
    [job] = session.resume()
    assert (job.wait().state, job.run.missing) == ("success", 0)
    assert sandbox.account.submits == 1


def test_resume_of_a_task_that_still_runs_may_time_out_again(session: Session, sandbox: Sandbox):
    for _ in range(2):
        jobs = session.resume(timeout_s=0.1) or [session.begin("[never] a fox", timeout_s=0.1)]
        with pytest.raises(errors.WaitTimeoutError):
            jobs[0].wait()
    assert on_disk(session)[0][0] == "timeout"
    assert sandbox.account.submits == 1


def test_task_made_by_a_clock_that_runs_ahead_is_polled_all_the_same(session: Session, clock: Clock):
    run = stopped_at_once(session, "[seconds:1000] a fox").run
    clock.ahead_s += 1000
    session.ledger.update(run.run_id, submitted_at=run.created_at + timedelta(days=1))
    [job] = session.resume(timeout_s=30)
    assert job.answer.result(timeout=10).state == "success"
    assert (job.run.wait_ms or 0) >= 0


def test_resume_right_after_a_stop_is_a_wait_of_its_own(
    session: Session, sandbox: Sandbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    polled = when_polled(sandbox, monkeypatch)
    job = session.begin("[seconds:1000] a fox")
    assert polled.wait(PATIENCE_S)
    clock.ahead_s += 1000

    async def stop_and_resume() -> Any:  # on the loop thread: the stop is asked for, and not yet carried out
        job._cancel()
        return session.resume(job.run.run_id)

    [resumed] = loop.run(stop_and_resume())
    assert resumed.wait().missing == 0
    assert sandbox.account.submits == 1


def test_kernel_that_waits_late_does_not_undo_what_another_has_finished(
    make_session: Callable[..., Session], sandbox: Sandbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    polled = when_polled(sandbox, monkeypatch)
    first, second = make_session(), make_session(first_poll=5000.0)
    job = first.begin("[seconds:1000] a fox")
    assert polled.wait(PATIENCE_S)
    [late] = second.resume(job.run.run_id)
    clock.ahead_s += 1000
    assert job.wait().state == "success"
    late.cancel()
    ended(late)
    assert on_disk(first)[0][0] == "success"


def test_unknown_task_is_given_up_and_the_row_stays_open(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    run = stopped_at_once(session, "[never] a fox").run
    sandbox.account.tasks.clear()
    monkeypatch.setattr("apixo_nb.core.models.NOT_FOUND_GRACE_S", 0.0)
    with pytest.raises(errors.NotFoundError) as raised:
        session.resume()[0].wait()
    assert raised.value.run_id == run.run_id
    assert session.ledger.unfinished()


SCRIPT = """
import sys
import apixo_nb
apixo_nb.generate(sys.argv[1])
"""


@contextlib.contextmanager
def script(session: Session, sandbox: Sandbox, prompt: str) -> Iterator[subprocess.Popen[str]]:
    """A program of its own that buys one picture; killed at the end."""
    settings = {
        "APIXO_BASE_URL": sandbox.base_url,
        "APIXO_API_KEY": KEY,
        "APIXO_HOME": str(session.settings.home_path),
        "APIXO_FIRST_POLL": "0.05",
        "APIXO_POLL_INTERVAL": "0.05",
    }
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, prompt],
        env={**os.environ, **settings},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate()


def test_task_of_a_killed_kernel_is_finished_by_the_next_one_and_paid_once(
    session: Session, sandbox: Sandbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    polled = when_polled(sandbox, monkeypatch, times=2)
    with script(session, sandbox, "[seconds:1000] a fox") as program:
        assert polled.wait(PATIENCE_S)
        program.send_signal(signal.SIGKILL)
    clock.ahead_s += 1000
    [job] = session.resume()
    run = job.wait()
    assert (run.state, run.missing) == ("success", 0)
    assert all(session.images.path(image).exists() for image in run.images)
    assert (sandbox.account.submits, len(sandbox.account.accepted)) == (1, 1)


def test_kernel_killed_in_a_submit_leaves_a_row_that_says_what_is_at_stake(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    with script(session, sandbox, "a fox") as program:
        assert gate.arrived.wait(PATIENCE_S)
        program.send_signal(signal.SIGKILL)
    gate.open.set()
    assert session.resume() == []
    [run] = session.ledger.runs()
    assert (run.task_id, run.cost_micros) == (None, None)
    assert "up to $0.35" in status_lines(session)[-1]
    assert sandbox.account.submits == 1


def test_killed_while_downloading_leaves_no_half_picture_and_resume_fetches_it(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.PictureHandler, "get", monkeypatch)
    with script(session, sandbox, "a fox") as program:
        assert gate.arrived.wait(PATIENCE_S)
        program.send_signal(signal.SIGKILL)
    assert not list(session.images.folder.glob("*.png"))
    gate.open.set()
    [job] = session.resume()
    assert job.wait().missing == 0
    assert len(list(session.images.folder.glob("*.png"))) == 1
    assert sandbox.account.submits == 1


# --- a ledger that fails in the middle ---


@contextlib.contextmanager
def locked(session: Session) -> Iterator[None]:
    """Another program holds the ledger."""
    place = session.settings.home_path / "ledger.db"
    with contextlib.closing(sqlite3.connect(place, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_ledger_locked_before_the_post_spends_nothing(
    make_session: Callable[..., Session], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_BUSY_MS", 10)
    session = make_session()
    assert session.ledger.runs() == []
    with locked(session), pytest.raises(errors.LedgerError, match="locked"):
        session.begin("a fox").wait()
    assert sandbox.account.submits == 0


def test_ledger_locked_right_after_the_post_loses_no_task(
    make_session: Callable[..., Session], sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_BUSY_MS", 10)
    session = make_session()
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    with locked(session):
        gate.open.set()
        with contextlib.suppress(errors.LedgerError):
            job.wait()
    other, patience = make_session(), time.monotonic() + PATIENCE_S
    while other.run(job.run.run_id).state != "success" and time.monotonic() < patience:
        for resumed in other.resume():  # once the first session could let go of it
            resumed.wait()
        time.sleep(0.05)
    [run] = session.ledger.runs()
    assert (run.task_id, run.missing) == (sandbox.account.accepted[0], 0)
    assert (run.state, sandbox.account.submits) == ("success", 1)


def test_task_that_can_be_written_nowhere_is_named_in_the_error(
    make_session: Callable[..., Session], sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_BUSY_MS", 10)
    session = make_session()
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)

    def full(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal.TaskJournal, "write", full)
    with locked(session):
        gate.open.set()
        with pytest.raises(errors.ApixoError) as raised:
            job.wait()
    assert raised.value.task_id == sandbox.account.accepted[0]
    assert raised.value.run_id == job.run.run_id
    assert sandbox.account.accepted[0] in str(raised.value)


def test_session_closed_during_a_submit_keeps_the_task(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    closing = threading.Thread(target=session.close)
    closing.start()
    gate.open.set()
    closing.join(PATIENCE_S)
    ended(job)
    assert on_disk(session)[0][1] == sandbox.account.accepted[0]


def test_session_closed_while_waiting_leaves_a_run_that_can_be_resumed(
    make_session: Callable[..., Session], sandbox: Sandbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    polled = when_polled(sandbox, monkeypatch)
    first = make_session()
    job = first.begin("[seconds:1000] a fox")
    assert polled.wait(PATIENCE_S)
    first.close()
    ended(job)
    with pytest.raises(errors.ApixoError):
        job.wait()
    clock.ahead_s += 1000
    [resumed] = make_session().resume()
    assert resumed.wait().missing == 0
    assert sandbox.account.submits == 1


def test_process_that_ends_during_its_submit_still_keeps_the_task(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    monkeypatch.setenv("APIXO_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    monkeypatch.setenv("APIXO_HOME", str(session.settings.home_path))
    program = (
        "import time\n"
        "from apixo_nb.session.session import current\n"
        "job = current().begin('a fox')\n"
        "while not job.posted:\n    time.sleep(0.01)\n"
        "print('the end', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "the end\n"
        assert gate.arrived.wait(PATIENCE_S)
        gate.open.set()
        assert process.wait(PATIENCE_S) == 0
    assert on_disk(session) == [("cancelled", sandbox.account.accepted[0])]


def test_child_of_a_fork_sends_nothing_that_its_parent_has_in_line(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("APIXO_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    monkeypatch.setenv("APIXO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APIXO_FIRST_POLL", "0.05")
    monkeypatch.setenv("APIXO_POLL_INTERVAL", "0.05")
    program = (
        "import os, time, warnings\n"
        "warnings.simplefilter('ignore')\n"  # Python 3.12 and later warn of threads at a fork
        "from apixo_nb import Session\n"
        "session = Session()\n"
        "fox = session.begin('[busy:1] a fox')\n"  # turned away once: it stands in line, its row is written
        "while not len(session.runner._submits) or not fox.run.take:\n    time.sleep(0.01)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    session.begin('a cat').wait()\n"
        "    time.sleep(2)\n"  # longer than the pause that was asked for
        "    os._exit(0)\n"
        "print(fox.wait().state, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("success 0", "")
    prompts = sorted(task.prompt for task in sandbox.account.tasks.values())
    assert prompts == ["[busy:1] a fox", "a cat"]
    assert sandbox.account.submits == 3


def test_child_of_a_fork_neither_waits_for_its_parents_runs_nor_stops_them(service: Sandbox):
    program = (
        "import os, sys, threading, time, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from apixo_nb import Session, errors\n"
        "session = Session()\n"
        "fox = session.begin('[busy:1] [never] a fox')\n"
        "while not len(session.runner._submits) or not fox.run.take:\n    time.sleep(0.01)\n"
        "held = threading.Event()\n"
        "def hold():\n"
        "    with session._lock:\n"
        "        held.set()\n"
        "        leave.wait()\n"
        "leave = threading.Event()\n"
        "threading.Thread(target=hold).start()\n"  # no such thread in the child, where the lock would stay
        "held.wait()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    fox.cancel()\n"
        "    try:\n        fox.wait()\n"
        "    except errors.RunCancelledError as error:\n        print(error.message, flush=True)\n"
        "    assert fox.done and not session.busy\n"
        "    assert [run.run_id for run in session.elsewhere()] == [fox.run.run_id]\n"  # its lease stands
        "    session.close()\n"
        "    sys.exit(7)\n"  # the long way out
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "leave.set()\n"
        "while not fox.run.task_id:\n    time.sleep(0.01)\n"
        "print(fox.run.task_id, code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    said, ended = done.stdout.splitlines()
    assert "in the process that this one was forked from" in said
    [task_id] = service.account.accepted
    assert (ended, done.stderr) == (f"{task_id} 7", "")


# --- listeners and stops that nothing may hang on ---


def test_listener_that_asks_for_the_end_of_the_program_ends_nothing(session: Session, sandbox: Sandbox):
    def leave(_run: Run) -> None:
        raise SystemExit

    session.listen(leave)
    assert session.begin("a fox").wait().missing == 0
    assert session.begin("a cat").wait().missing == 0
    assert sandbox.account.submits == 2


def test_listener_that_sleeps_or_buys_holds_up_no_run(session: Session, sandbox: Sandbox):
    bought: list[Run] = []
    awake = threading.Event()

    def buy_once(run: Run) -> None:
        if run.task_id and run.prompt == "a fox" and not bought:
            bought.append(run)
            bought.append(session.begin("from a listener").wait())
            awake.wait(PATIENCE_S)

    session.listen(buy_once)
    assert session.begin("a fox").wait().missing == 0
    while len(bought) < 2:
        time.sleep(0.01)
    awake.set()
    assert bought[1].missing == 0
    assert sandbox.account.submits == 2


def test_task_is_on_disk_before_anybody_hears_of_it(session: Session, sandbox: Sandbox):
    found: list[bool] = []

    def look(run: Run) -> None:
        if run.task_id and not found:
            kept = session.settings.home_path.glob("ledger*")
            found.append(any(str(run.task_id).encode() in file.read_bytes() for file in kept))

    session.listen(look)
    session.begin("a fox").wait()
    assert found == [True]
    assert sandbox.account.submits == 1


def test_waiting_on_the_loop_thread_is_refused_in_a_sentence(session: Session):
    job = session.begin("[seconds:0.3] a fox")

    async def wait_there() -> None:
        job.wait()

    with pytest.raises(RuntimeError, match="would wait for itself"):
        loop.run(wait_there())
    assert job.wait().missing == 0


def test_stop_between_taking_a_run_and_beginning_it_leaves_nothing_that_hangs(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    planned = session.plan(make_request("a fox"))
    runner = session.runner

    def stopped(*_args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runner, "_launch", stopped)
        with pytest.raises(KeyboardInterrupt):
            session.start(planned)
    assert session.start(planned.replace(run_id=f"{planned.run_id}-2")).wait().missing == 0
    assert not session.busy
    session.close()
    assert sandbox.account.submits == 1


SLOW_SCRIPT = """
import apixo_nb, time
from apixo_nb.engine import runner
from apixo_nb.session.session import current
runner._LAST_S = 0.05
job = current().begin("a fox")
while not job.posted:
    time.sleep(0.01)
print("posted", flush=True)
job.wait()
"""


@pytest.mark.parametrize("again", [False, True])
def test_script_stopped_during_its_submit_waits_for_the_answer_unless_stopped_again(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch, *, again: bool
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    monkeypatch.setenv("APIXO_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    monkeypatch.setenv("APIXO_HOME", str(session.settings.home_path))
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SLOW_SCRIPT], **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "posted\n"
        assert gate.arrived.wait(PATIENCE_S)
        process.send_signal(signal.SIGINT)
        said = ""
        while "Waiting up to" not in said:
            said = process.stderr.readline()
        if again:
            process.send_signal(signal.SIGINT)
            assert "up to $0.35 may have been charged" in process.stderr.read()
        gate.open.set()
        process.wait(PATIENCE_S)
    [run] = session.ledger.runs()
    assert run.task_id == (None if again else sandbox.account.accepted[0])
