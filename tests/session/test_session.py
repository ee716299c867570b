"""The session: from settings to a session, prices, limits, replay of settings, and the sums of money."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import apixo_nb
from apixo_nb import errors
from apixo_nb.analysis import formats, frame
from apixo_nb.core import settings as config
from apixo_nb.core.records import Run
from apixo_nb.core.request import Labels
from apixo_nb.sandbox import Sandbox, SandboxOptions
from apixo_nb.sandbox.account import Account
from apixo_nb.session import service as service_module
from apixo_nb.session import session as shared_module
from apixo_nb.session.maintenance import status_lines
from apixo_nb.session.session import Session
from tests.support.factories import KEY, a_session


@pytest.fixture
def session(sandbox: Sandbox) -> Iterator[Session]:
    with contextlib.closing(a_session(base_url=sandbox.base_url)) as made:
        yield made


@pytest.fixture
def shared(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Session]]:
    """The process's own session, set up by the environment as a notebook's is."""
    monkeypatch.setenv("APIXO_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    monkeypatch.setenv("APIXO_FIRST_POLL", "0.05")
    monkeypatch.setenv("APIXO_POLL_INTERVAL", "0.05")
    made: list[Session] = []

    def make() -> Session:
        made.append(Session())
        return made[-1]

    monkeypatch.setattr(shared_module, "Session", make)
    yield shared_module.current
    for session in made:
        session.close()


def everything_in(place: Path) -> str:
    """Every value of every table of the ledger's file, as one text."""
    with contextlib.closing(sqlite3.connect(place)) as connection:
        return "\n".join(connection.iterdump())


def all_of(home: Path) -> bytes:
    """The content of every file below a folder."""
    return b"\n".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())


# --- making pictures ---


def test_generate_returns_a_run_with_its_pictures_on_disk(shared: Callable[[], Session]):
    run = apixo_nb.generate("a fox", aspect_ratio="2:3", num_images=2, tags=["red"], note="n", name="foxes")
    assert (run.state, len(run.files), run.aspect_ratio) == ("success", 2, "2:3")
    assert (run.tags, run.note, run.name) == (("red",), "n", "foxes")
    assert all(shared().images.path(image).exists() for image in run.images)


@pytest.mark.usefixtures("shared")
def test_agenerate_leaves_the_callers_loop_free():
    async def cell() -> tuple[Run, int]:
        beats = 0
        making = asyncio.ensure_future(apixo_nb.agenerate("a fox"))
        while not making.done():
            await asyncio.sleep(0.01)
            beats += 1
        return await making, beats

    run, beats = asyncio.run(cell())
    assert run.state == "success"
    assert beats > 1


@pytest.mark.usefixtures("shared")
def test_generate_works_inside_a_running_loop():
    async def cell() -> Run:
        return apixo_nb.generate("a fox")

    assert asyncio.run(cell()).state == "success"


def test_several_runs_at_once_are_all_made(session: Session, sandbox: Sandbox):
    jobs = [session.begin(f"fox {number}") for number in range(6)]
    runs = [job.wait() for job in jobs]
    assert [run.prompt for run in runs] == [f"fox {number}" for number in range(6)]
    assert len({name for run in runs for name in run.files}) == 6
    assert len(sandbox.account.accepted) == 6


def test_cancelled_agenerate_carries_the_run_and_keeps_the_task(
    shared: Callable[[], Session], sandbox: Sandbox
):
    waiting = threading.Event()
    shared().listen(lambda run: waiting.set() if run.state == "processing" else None)

    async def cell() -> BaseException:
        making = asyncio.ensure_future(apixo_nb.agenerate("[never] a fox"))
        assert await asyncio.to_thread(waiting.wait, 20)
        making.cancel()
        with pytest.raises(asyncio.CancelledError) as stopped:
            await making
        return stopped.value

    facts = vars(asyncio.run(cell()))
    [run] = shared().ledger.runs()
    assert (facts["run_id"], facts["task_id"]) == (run.run_id, sandbox.account.accepted[0])


def test_run_carries_the_words_that_the_caller_gave(session: Session):
    plan = session.plan(
        apixo_nb.core.request.make_request("a red fox"),
        Labels("n", ("t",), "k"),
        prompt_template="a {colour} fox",
        variables={"colour": "red"},
    )
    session.start(plan).wait()
    [row] = session.history().to_dict("records")
    assert (row["prompt_template"], row["variables"]) == ("a {colour} fox", {"colour": "red"})
    assert (row["name"], row["tags"], row["note"]) == ("n", ["t"], "k")


def test_request_planned_again_is_the_same_request_with_its_labels_and_callback(session: Session):
    request = apixo_nb.core.request.make_request(
        "a red fox", num_images=2, request_type="callback", callback_url="https://example.com/hook"
    )
    labels = Labels("n", ("t",), "k")
    old = session.plan(request, labels, prompt_template="a {colour} fox", variables={"colour": "red"})
    again = session.plan_again(old)
    changes = {"run_id", "created_at"}
    assert again.model_dump(exclude=changes) == old.model_dump(exclude=changes)
    assert again.run_id != old.run_id
    polled = old.replace(callback_url=None)  # as after an import, which drops the address
    assert session.plan_again(polled).request_type == "async"


# --- refused before anything is sent ---


@pytest.mark.parametrize(
    "options",
    [
        {"num_images": 3},
        {"aspect_ratio": "16:9"},
        {"model": "gpt-image-9"},
        {"sise": "1:1"},
        {"image_urls": ["cat.png"]},
        {"tags": "red"},
        {"tags": 5},
        {"name": 5},
        {"note": None},
        {"timeout_s": "60"},
        {"timeout_s": float("nan")},
        {"timeout_s": -1},
        {"max_cost_usd": "1"},
        {"max_cost_usd": float("nan")},
    ],
    ids=str,
)
def test_unusable_option_is_refused_before_anything_is_sent(
    session: Session, sandbox: Sandbox, options: dict[str, Any]
):
    with pytest.raises(errors.InvalidRequestError):
        session.begin("a fox", **options)
    assert session.ledger.runs() == []
    assert sandbox.account.submits == 0


@pytest.mark.parametrize("label", ["name", "note", "tags"])
@pytest.mark.parametrize("char", ["\ud800", "\0"], ids=["surrogate", "nul"])
def test_label_that_no_file_can_hold_loses_no_picture(
    session: Session, sandbox: Sandbox, label: str, char: str
):
    text = f"a{char}b"
    try:
        labels: dict[str, Any] = {label: [text] if label == "tags" else text}
        job = session.begin("a fox", **labels)
    except errors.InvalidRequestError:
        assert sandbox.account.submits == 0
    else:
        assert job.wait().missing == 0
        assert len(session.ledger.runs()[0].files) == 1


def test_limit_on_the_cost_is_kept(session: Session, sandbox: Sandbox):
    with pytest.raises(errors.CostLimitError, match=r"\$0.70, above the limit of \$0.69") as refused:
        session.begin("a fox", num_images=2, max_cost_usd=0.69)
    assert "Nothing was sent" in refused.value.advice
    assert sandbox.account.submits == 0
    assert session.begin("a fox", num_images=2, max_cost_usd=0.70).wait().cost_micros == 700_000


def test_limit_counts_all_runs_of_a_cell_together(session: Session):
    request = apixo_nb.core.request.make_request("a fox", num_images=4)
    plans = [session.plan(request) for _ in range(2)]
    session.check_cost(plans, 2.80)
    with pytest.raises(errors.CostLimitError, match=r"\$2.80"):
        session.check_cost(plans, 2.79)


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_limit_of_exactly_the_price_is_enough(session: Session, count: int):
    plans = [session.plan(apixo_nb.core.request.make_request("a fox")) for _ in range(count)]
    session.check_cost(plans, 0.35 * count)


def test_own_unit_price_is_used_everywhere(sandbox: Sandbox):
    with contextlib.closing(a_session(base_url=sandbox.base_url, unit_price_usd=0.035)) as session:
        session.begin("a fox", num_images=2).wait()
        with pytest.raises(errors.SubmitUnknownError) as raised:
            session.begin("[lost] a fox", num_images=4).wait()
        costs = session.history()[["unit_price_usd", "cost_usd"]].fillna(-1).values.tolist()
    assert raised.value.at_stake_usd == 0.14
    assert costs == [[0.035, 0.07], [0.035, -1]]


def test_price_of_nothing_is_allowed(sandbox: Sandbox):
    with contextlib.closing(a_session(base_url=sandbox.base_url, unit_price_usd=0)) as session:
        assert session.begin("a fox", max_cost_usd=0).wait().cost_micros == 0


def test_without_a_key_three_ways_out_are_named_and_nothing_is_written(sandbox: Sandbox):
    session = Session(config.Apixo(base_url=sandbox.base_url))
    with pytest.raises(errors.MissingKeyError) as refused:
        session.begin("a fox")
    for way in ("APIXO_API_KEY", "%apixo login", "%apixo sandbox"):
        assert way in str(refused.value)
    assert session.ledger.runs() == []
    session.close()


# --- money ---


def test_costs_in_the_ledger_are_what_the_account_was_charged(session: Session, sandbox: Sandbox):
    before = sandbox.account.balance_micros
    prompts = ["a fox", "[fail:Timeout] a fox", "[http:400] a fox", "[gone] a fox", "[pictures:0] a", "a cat"]
    jobs = [session.begin(prompt, num_images=2) for prompt in prompts]
    for job in jobs:
        with contextlib.suppress(errors.ApixoError):
            job.wait()
    charged = before - sandbox.account.balance_micros
    assert sum(run.cost_micros or 0 for run in session.ledger.runs()) == charged == 4 * 700_000
    assert session.history()["cost_usd"].sum() == pytest.approx(2.80)


def test_lost_answers_lie_between_the_two_ends_that_are_shown(session: Session, sandbox: Sandbox):
    before = sandbox.account.balance_micros
    for prompt in ("a fox", "[lost] a fox", "[http:502] a fox"):
        with contextlib.suppress(errors.ApixoError):
            session.begin(prompt).wait()
    charged = before - sandbox.account.balance_micros
    runs = session.ledger.runs()
    surely = sum(run.cost_micros or 0 for run in runs)
    perhaps = sum(run.price_micros for run in runs if run.cost_micros is None)
    assert surely <= charged <= surely + perhaps
    assert status_lines(session)[-1].startswith("spent     $0.35")
    assert "up to $0.70 more" in status_lines(session)[-1]


def test_balance_is_the_accounts(session: Session, sandbox: Sandbox):
    session.begin("a fox").wait()
    assert session.balance() == sandbox.account.balance_micros / 1e6 == 99.65


def test_status_says_where_with_what_and_how_much(session: Session, tmp_path: Path):
    session.begin("a fox").wait()
    with contextlib.suppress(errors.ApixoError):
        session.begin("[fail:Timeout] a fox").wait()
    text = "\n".join(status_lines(session))
    for part in ("SANDBOX", "given in code", str(tmp_path / "home" / "ledger.db"), "images"):
        assert part in text
    assert "runs      2, 1 failed, 1 success" in text
    assert "spent     $0.35 by list price" in text
    assert KEY not in text


def test_status_works_without_a_key_and_without_a_ledger():
    text = "\n".join(status_lines(Session(config.Apixo())))
    assert "%apixo login" in text
    assert "runs      0" in text


def test_status_counts_sandbox_and_real_runs_apart(session: Session):
    session.begin("a fox").wait()
    elsewhere = Session(config.Apixo(), key=KEY)
    [counted] = [line for line in status_lines(elsewhere) if line.startswith("runs")]
    assert counted.startswith("runs      0 (and ")
    assert status_lines(elsewhere)[-1].startswith("spent     $0.00")
    elsewhere.close()


# --- looking back ---


def test_history_is_the_ledger_as_a_table(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(session.settings.home_path.parent)
    run = session.begin("a fox").wait()
    [row] = session.history().to_dict("records")
    assert (row["run_id"], row["task_id"], row["state"]) == (run.run_id, run.task_id, "success")
    assert (row["costTime"], row["cost_usd"], row["sandbox"]) == (run.cost_time_ms, 0.35, True)
    assert row["files"] == [f"home/images/{run.run_id}-1.png"]
    assert Path(row["files"][0]).exists()


def test_history_of_nothing_is_an_empty_table(session: Session):
    assert list(session.history().columns) == list(frame.COLUMNS)
    assert session.history().empty


@pytest.mark.usefixtures("shared")
def test_exported_file_reads_back_as_the_history(tmp_path: Path):
    apixo_nb.generate('=1+1\r\n"quoted" 🦊')
    with contextlib.suppress(errors.ApixoError):
        apixo_nb.generate("[fail:Unknown error] NA")
    path = apixo_nb.export_csv(tmp_path / "runs.csv")
    assert formats.read_csv(path).equals(apixo_nb.history())


def test_one_run_is_found_by_its_id_and_a_wrong_one_is_named(session: Session):
    run = session.begin("a fox").wait()
    assert session.run(run.run_id) == run
    with pytest.raises(errors.InvalidRequestError, match="nobody"):
        session.run("nobody")


# --- taking up again ---


@pytest.mark.usefixtures("shared")
def test_resume_brings_all_unfinished_runs_to_their_end(sandbox: Sandbox):
    for prompt in ("[seconds:0.5] a fox", "[seconds:0.5] a cat", "[lost] a dog"):
        with contextlib.suppress(errors.ApixoError):
            apixo_nb.generate(prompt, timeout_s=0.05)
    runs = apixo_nb.resume()
    assert sorted((run.prompt, run.state, run.missing) for run in runs) == [
        ("[seconds:0.5] a cat", "success", 0),
        ("[seconds:0.5] a fox", "success", 0),
    ]
    assert sandbox.account.submits == 3
    assert apixo_nb.resume() == []


def test_resume_of_one_run_raises_what_went_wrong_and_of_all_does_not(shared: Callable[[], Session]):
    with contextlib.suppress(errors.ApixoError):
        apixo_nb.generate("[seconds:0.3] [fail:Unknown error] a fox", timeout_s=0.05)
    [run] = apixo_nb.resume()
    assert (run.state, run.fail_code) == ("failed", "Unknown error")
    with contextlib.suppress(errors.ApixoError):
        apixo_nb.generate("[never] a fox", timeout_s=0.05)
    never = shared().ledger.runs()[-1]
    shared().settings.timeout = 0.1
    with pytest.raises(errors.WaitTimeoutError):
        apixo_nb.resume(never.run_id)


def test_resume_of_a_run_that_cannot_be_resumed_says_why(session: Session):
    with contextlib.suppress(errors.ApixoError):
        session.begin("[lost] a fox").wait()
    [run] = session.ledger.runs()
    with pytest.raises(errors.ApixoError, match=r"(?i)lost|task") as refused:
        session.resume(run.run_id)
    assert refused.value.run_id == run.run_id


def test_real_runs_are_not_asked_for_at_a_sandbox(session: Session, sandbox: Sandbox):
    run = session.ledger.add(session.plan(apixo_nb.core.request.make_request("a fox")).replace(sandbox=False))
    session.ledger.update(run.run_id, state="submitted", task_id="task_real")
    assert session.resume() == []
    assert sandbox.account.polls == 0


def test_resume_of_a_run_that_is_still_watched_here_does_not_watch_it_twice(
    session: Session, sandbox: Sandbox
):
    waiting = threading.Event()
    session.listen(lambda run: waiting.set() if run.state == "processing" else None)
    job = session.begin("[seconds:3] a fox")
    assert waiting.wait(20)
    jobs = session.resume()
    assert all(other.wait().missing == 0 for other in [job, *jobs])
    assert sandbox.account.downloads == 1


# --- the shared session and its settings ---


def test_session_stays_the_same_while_no_setting_changes(shared: Callable[[], Session]):
    assert shared() is shared()


@pytest.mark.parametrize(
    "change",
    [
        {"timeout": 5.0},
        {"sandbox": True},
        {"unit_price_usd": 0.1},
        {"home": "elsewhere"},
        {"first_poll": 1.0},
    ],
    ids=str,
)
def test_changed_setting_makes_a_new_session(shared: Callable[[], Session], change: dict[str, Any]):
    before = shared()
    for name, value in change.items():
        setattr(config.settings(), name, value)
    after = shared()
    assert after is not before
    assert after is shared()


def test_run_in_flight_ends_well_when_a_setting_changes(shared: Callable[[], Session]):
    before = shared()
    job = before.begin("[seconds:0.3] a fox")
    config.settings().timeout = 5.0
    assert shared() is not before
    assert job.wait().missing == 0


def test_stored_key_is_found_by_a_forgotten_session(shared: Callable[[], Session]):
    before = shared()
    shared_module.reset()
    assert shared() is not before


FORKED = """
import os, sys, signal
import apixo_nb
apixo_nb.generate("a fox")
child = os.fork()
if child == 0:
    signal.alarm(15)
    try:
        apixo_nb.generate("a cat")
    except BaseException as error:
        print("child:", repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child_makes_pictures_of_its_own(shared: Callable[[], Session], sandbox: Sandbox):
    program = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (program.returncode, program.stderr) == (0, "")
    assert [run.prompt for run in shared().ledger.runs()] == ["a fox", "a cat"]
    assert len(sandbox.account.accepted) == 2


# --- secrets, and where things are ---


def test_key_is_in_no_file_and_no_repr(session: Session, sandbox: Sandbox):
    for prompt in ("a fox", "[fail:Timeout] a fox", "[lost] a fox", "[http:401] a fox", "[gone] a fox"):
        with contextlib.suppress(errors.ApixoError):
            session.begin(prompt).wait()
    session.export_csv(session.settings.home_path / "runs.csv")
    assert KEY.encode() not in all_of(session.settings.home_path)
    assert KEY not in f"{session!r} {session.client!r} {vars(session)!r} {session.settings!r}"
    assert all(seen.authorised for seen in sandbox.account.requests if seen.kind != "picture")


def test_key_goes_to_the_api_and_never_to_the_picture_host(session: Session, sandbox: Sandbox):
    session.begin("a fox", num_images=2).wait()
    told = {(seen.kind, seen.has_authorization, seen.has_cookie) for seen in sandbox.account.requests}
    assert told == {("submit", True, False), ("status", True, False), ("picture", False, False)}


def test_no_row_holds_an_absolute_path(session: Session):
    session.begin("a fox", num_images=2).wait()
    with contextlib.suppress(errors.ApixoError):
        session.begin("[gone] a fox").wait()
    content = everything_in(session.settings.home_path / "ledger.db")
    assert "a fox" in content
    assert str(session.settings.home_path) not in content
    assert str(Path.home()) + os.sep not in content


def test_no_row_holds_an_absolute_path_when_a_picture_cannot_be_saved(session: Session):
    def take_the_folder_away(run: Run) -> None:
        if run.task_id and session.images.folder.is_dir():
            session.images.folder.rmdir()
            session.images.folder.write_text("in the way", encoding="utf-8")

    session.listen(take_the_folder_away)
    with pytest.raises(errors.ImageError):
        session.begin("a fox").wait()
    assert str(session.settings.home_path) not in everything_in(session.settings.home_path / "ledger.db")


def test_home_may_be_moved_with_everything_in_it(session: Session, sandbox: Sandbox, tmp_path: Path):
    run = session.begin("a fox").wait()
    session.close()
    session.settings.home_path.rename(tmp_path / "moved")
    with contextlib.closing(a_session(base_url=sandbox.base_url, home=str(tmp_path / "moved"))) as moved:
        [found] = moved.ledger.runs()
        assert found == run
        assert moved.images.path(found.images[0]).exists()
        assert moved.resume() == []


# --- the sandbox that a session starts ---


@pytest.fixture
def own_sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Session]]:
    """Sessions with a sandbox of their own, quick and small, stopped at the end."""
    quick: dict[str, Any] = {"seconds": 0.1, "picture_scale": 0.25}
    monkeypatch.setattr(service_module, "_sandboxes", {})
    monkeypatch.setattr(
        "apixo_nb.sandbox.SandboxOptions", lambda **wishes: SandboxOptions(**(wishes | quick))
    )
    opened: list[Session] = []

    def make(**traits: Any) -> Session:
        pace = {"sandbox": True, "first_poll": 0.05, "poll_interval": 0.05}
        opened.append(Session(config.Apixo(**(pace | traits))))
        return opened[-1]

    yield make
    for session in opened:
        session.close()
    for running in service_module._sandboxes.values():
        running.stop()


def test_sandbox_needs_no_key_and_marks_its_rows(own_sandbox: Callable[..., Session]):
    session = own_sandbox()
    run = session.begin("a fox").wait()
    assert (run.sandbox, run.state, session.is_sandbox) == (True, "success", True)
    assert any("SANDBOX" in line for line in status_lines(session))


def test_real_key_is_never_sent_to_the_sandbox(
    own_sandbox: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
):
    heard: list[str] = []

    def knows(_account: Account, authorization: str) -> bool:
        heard.append(authorization)
        return True

    monkeypatch.setattr(Account, "knows", knows)
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    session = own_sandbox()
    session.begin("a fox").wait()
    session.balance()
    assert len(heard) >= 3
    assert KEY not in " ".join(heard)


def test_sandbox_is_shared_by_the_sessions_of_one_home(own_sandbox: Callable[..., Session], tmp_path: Path):
    first, second = own_sandbox(), own_sandbox(timeout=5.0)
    assert first.service.sandbox() is second.service.sandbox()
    assert own_sandbox(home=str(tmp_path / "other")).service.sandbox() is not first.service.sandbox()


def test_tasks_of_the_sandbox_survive_its_restart(own_sandbox: Callable[..., Session]):
    session = own_sandbox()
    with contextlib.suppress(errors.WaitTimeoutError):
        session.begin("[seconds:0.5] a fox", timeout_s=0.05).wait()
    session.service.sandbox().stop()
    service_module._sandboxes.clear()
    [job] = own_sandbox().resume()
    assert job.wait().missing == 0


def test_sandbox_is_never_chosen_silently():
    session = Session(config.Apixo())
    assert not session.is_sandbox
    with pytest.raises(errors.MissingKeyError):
        session.begin("a fox")


def test_rhythm_of_the_sandbox_is_ten_times_as_fast(own_sandbox: Callable[..., Session]):
    real = Session(config.Apixo(), key=KEY).service.cadence()
    quick = own_sandbox(first_poll=None, poll_interval=None).service.cadence()
    assert (real.first_poll_s, real.interval_s) == (20.0, 5.0)
    assert (quick.first_poll_s, quick.interval_s) == (2.0, 0.5)


def test_settings_changed_later_change_nothing_in_a_session_that_is_there(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    settings = config.Apixo(base_url=sandbox.base_url, home="runs", first_poll=0.05, poll_interval=0.05)
    with Session(settings, key=KEY) as session:
        settings.base_url, settings.home = "https://elsewhere.example", "elsewhere"
        (tmp_path / "below").mkdir()
        monkeypatch.chdir(tmp_path / "below")
        run = session.begin("a fox").wait()
        assert (run.sandbox, session.is_sandbox) == (True, True)
        assert (tmp_path / "runs" / "images" / run.files[0]).is_file()
        assert (tmp_path / "runs" / "ledger.db").is_file()


def test_refused_key_stays_in_no_frame_of_the_session():
    with pytest.raises(errors.ConfigurationError) as refused:
        Session(key=f"{KEY} x")
    shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True).format()
    assert f"{KEY} x" not in "".join(line for line in shown if "test_session" not in line)
