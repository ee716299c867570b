"""``%apixo rescue``: every picture that is paid for and not on disk, while its address lives; no POST."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tornado.web import HTTPError

from apixo_nb.core.records import Run
from apixo_nb.errors import ApixoError
from apixo_nb.sandbox import Sandbox, handlers
from apixo_nb.session.maintenance import download_missing, downloaded_lines
from apixo_nb.session.session import Session
from tests.support import sandboxes
from tests.support.commands import printed
from tests.support.factories import a_run, finished, with_task
from tests.support.processes import another_kernel
from tests.support.sandboxes import Clock, Gate, downloads
from tests.support.waiting import PATIENCE_S, wait_for

clock, sandbox, session, gate = (
    sandboxes.clock,
    sandboxes.sandbox,
    sandboxes.session,
    sandboxes.gate,
)


@pytest.fixture(autouse=True)
def posts(sandbox: Sandbox, session: Session) -> Iterator[None]:
    """No rescue sends anything: every POST of a test was a purchase that the test made itself."""
    assert session.ledger.runs() == []
    yield
    assert sandbox.account.submits == len(sandbox.account.accepted)


def not_downloaded(session: Session, sandbox: Sandbox, prompt: str = "[seconds:0] a fox", **age: Any) -> Run:
    run = finished(sandbox, with_task(session, prompt), **age)
    session.ledger.insert(run)
    return run


def path(session: Session, run: Run, index: int = 0) -> Path:
    return session.images.folder / run.files[index]


def test_nothing_to_rescue_is_said(session: Session, sandbox: Sandbox):
    session.begin("a fox").wait()
    assert printed("rescue") == "Nothing to rescue: every picture that was made is on disk.\n"
    assert sandbox.account.downloads == 1


def test_what_was_never_downloaded_comes(session: Session, sandbox: Sandbox):
    for number in range(3):
        not_downloaded(session, sandbox, f"[seconds:0] fox {number}")
    assert "3 pictures downloaded, 0 still missing." in printed("rescue")
    assert [run.missing for run in session.ledger.runs()] == [0, 0, 0]
    assert sandbox.account.submits == 3


def test_file_that_was_deleted_by_hand_comes_again_and_no_other(session: Session, sandbox: Sandbox):
    run = session.begin("a fox", num_images=2).wait()
    kept, content = path(session, run).read_bytes(), path(session, run, 1).read_bytes()
    path(session, run, 1).unlink()
    assert "1 picture downloaded, 0 still missing." in printed("rescue")
    assert (path(session, run).read_bytes(), path(session, run, 1).read_bytes()) == (kept, content)
    assert sorted(downloads(sandbox).values()) == [1, 2]
    [found] = session.ledger.runs()
    assert (found.files, found.cost_micros) == (run.files, run.cost_micros)


def test_folder_that_was_deleted_comes_again(session: Session):
    run = session.begin("a fox", num_images=2).wait()
    for place in session.images.folder.iterdir():
        place.unlink()
    session.images.folder.rmdir()
    assert "2 pictures downloaded" in printed("rescue")
    assert all((session.images.folder / name).is_file() for name in run.files)


def test_what_expires_first_is_fetched_first(session: Session, sandbox: Sandbox):
    days = [3.0, 14.0, 1.0, 9.0]
    runs = [not_downloaded(session, sandbox, f"[seconds:0] {day}", days=day) for day in days]
    session.ledger.update(runs[0].run_id, expires_at=None)
    jobs = download_missing(session)
    for job in jobs:
        job.wait()
    assert [job.run.prompt for job in jobs] == [f"[seconds:0] {day}" for day in (14.0, 9.0, 1.0, 3.0)]


def test_picture_whose_address_has_probably_ended_is_tried_all_the_same_if_it_never_came(
    session: Session, sandbox: Sandbox
):
    not_downloaded(session, sandbox, days=16)
    assert "1 picture downloaded" in printed("rescue")


def test_deleted_file_whose_address_has_ended_is_left(session: Session, sandbox: Sandbox):
    run = session.begin("a fox").wait()
    path(session, run).unlink()
    session.ledger.update(run.run_id, expires_at=datetime.now(UTC) - timedelta(hours=1))
    assert "Nothing to rescue" in printed("rescue")
    assert sandbox.account.downloads == 1
    [found] = session.ledger.runs()
    assert found.files == run.files


@pytest.mark.parametrize("status", [404, 403, 410])
def test_pictures_that_are_gone_are_named_with_what_their_host_answers(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, status: int
):
    original = handlers.PictureHandler.get

    async def second_is_refused(handler: Any, token: str, task_id: str, index: str) -> None:
        if index == "2":
            raise HTTPError(status)
        await original(handler, token, task_id, index)

    monkeypatch.setattr(handlers.PictureHandler, "get", second_is_refused)
    with pytest.raises(ApixoError):
        session.begin("a fox", num_images=2).wait()
    good = not_downloaded(session, sandbox)
    said = printed("rescue").splitlines()
    [run] = [found for found in session.ledger.runs() if found.run_id != good.run_id]
    assert "1 picture downloaded, 1 still missing." in said
    assert said[-1].startswith(f"  run {run.run_id}, picture 2: The picture is gone")
    assert f"HTTP {status}" in said[-1]
    assert len(run.files) == 1


def test_success_without_addresses_is_asked_for_once_more(session: Session, sandbox: Sandbox):
    with pytest.raises(ApixoError):
        session.begin("[pictures:0] a fox").wait()
    polls = sandbox.account.polls
    said = printed("rescue")
    [run] = session.ledger.runs()
    assert sandbox.account.polls > polls
    assert f"  run {run.run_id}: {run.fail_msg}" in said.splitlines()


def test_runs_of_a_living_kernel_are_left_to_it(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.PictureHandler, "get", monkeypatch)
    with another_kernel("a fox") as kernel:
        assert gate.arrived.wait(PATIENCE_S)
        wait_for(lambda: session.ledger.runs()[0].state == "success", "the result to be written")
        assert download_missing(session) == []
        assert "Nothing to rescue" in printed("rescue")
        gate.open.set()
        kernel.wait(PATIENCE_S)
    assert [run.missing for run in session.ledger.runs()] == [0]
    assert set(downloads(sandbox).values()) == {1}


@pytest.mark.parametrize("state", ["processing", "cancelled", "failed", "unknown", "planned"])
def test_what_is_no_success_is_left(session: Session, sandbox: Sandbox, state: str):
    session.ledger.insert(a_run(state=state, task_id=None if state in ("unknown", "planned") else "task_1"))
    assert "Nothing to rescue" in printed("rescue")
    assert (sandbox.account.polls, sandbox.account.downloads) == (0, 0)


def test_real_runs_are_not_asked_for_at_a_sandbox(session: Session, sandbox: Sandbox):
    urls = ("https://pictures.example/1.png",)
    session.ledger.insert(a_run(state="success", task_id="task_1", result_urls=urls, sandbox=False))
    assert "Nothing to rescue" in printed("rescue")
    assert sandbox.account.downloads == 0


def test_rescue_that_fails_for_all_changes_no_success(session: Session, sandbox: Sandbox, clock: Clock):
    run = session.begin("a fox").wait()
    path(session, run).unlink()
    clock.ahead_s += 1
    task = sandbox.account.tasks[str(run.task_id)]
    task.request["input"]["prompt"] = "[gone] a fox"
    task.__dict__.pop("script", None)
    said = printed("rescue")
    assert "0 pictures downloaded, 1 still missing." in said
    assert any(
        line.startswith(f"  run {run.run_id}, picture 1: The picture is gone") for line in said.splitlines()
    )
    [found] = session.ledger.runs()
    assert found.images == run.images
    assert (found.state, found.cost_micros, found.result_urls) == (
        "success",
        run.cost_micros,
        run.result_urls,
    )


@pytest.mark.parametrize("is_there", [False, True])
def test_folder_that_is_away_is_said_and_no_fact_is_forgotten(
    session: Session,
    sandbox: Sandbox,
    tmp_path: Path,
    is_there: bool,  # noqa: FBT001
):
    runs = [session.begin(prompt, num_images=2).wait() for prompt in ("a fox", "a cat")]
    folder = session.images.folder
    folder.rename(tmp_path / "away")
    if is_there:  # the mount point of a drive that is not connected
        folder.mkdir()
    for run in runs:
        task = sandbox.account.tasks[str(run.task_id)]
        task.request["input"]["prompt"] = "[gone]"
        task.__dict__.pop("script", None)
    said = printed("rescue").splitlines()
    assert said[0].startswith(f"The folder {folder} is {'empty' if is_there else 'missing'}, ")
    assert "0 pictures downloaded, 4 still missing." in said
    assert session.ledger.runs() == runs
    if folder.exists():
        folder.rmdir()
    (tmp_path / "away").rename(folder)
    assert printed("rescue") == "Nothing to rescue: every picture that was made is on disk.\n"


def test_what_came_of_it_counts_one_and_many(session: Session):
    one = a_run(state="success", result_urls=("u",))
    assert downloaded_lines(session, 0, [])[0] == "0 pictures downloaded, 0 still missing."
    assert downloaded_lines(session, 0, [one.replace(result_urls=())]) == [
        "0 pictures downloaded, 0 still missing.",
        f"  run {one.run_id}: ",
    ]
