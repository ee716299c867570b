"""``%apixo doctor``: what it finds, and how it makes a ledger anew from what is left of a damaged one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from apixo_nb.core import settings as config
from apixo_nb.core.records import Run
from apixo_nb.core.request import make_request
from apixo_nb.errors import ApixoError, LedgerError
from apixo_nb.experiments.sweep import sweep
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.sandbox import Sandbox
from apixo_nb.session import maintenance
from apixo_nb.session import session as shared
from apixo_nb.session.session import Session
from tests.support import sandboxes
from tests.support.commands import printed
from tests.support.factories import a_run, finished, with_task
from tests.support.ledger_files import PAGE, damaged, patch, root_page
from tests.support.processes import another_kernel
from tests.support.waiting import wait_for

clock, sandbox, session = sandboxes.clock, sandboxes.sandbox, sandboxes.session

WELL = "Nothing is wrong."


def findings() -> list[str]:
    """What is wrong, line by line, without the line that says what was looked at."""
    first, *wrong = printed("doctor").splitlines()
    assert first.endswith("ledger.db")
    return wrong


def filled_ledger(session: Session) -> list[Run]:
    """A ledger with all kinds of runs that have come to rest, and the pictures of two."""
    ledger = session.ledger
    session.begin("a fox 🦊\r\n", num_images=2, tags=["red", "grün"], name="foxes", note="keep").wait()
    session.begin("a cat", aspect_ratio="3:2").wait()
    with pytest.raises(ApixoError):
        session.begin("[fail:Timeout] a dog").wait()
    ledger.insert(a_run("not sent", state="planned"))
    return ledger.runs()


# --- what it finds ----------------------------------------------------------------------------------


def test_clean_ledger_says_so(session: Session):
    filled_ledger(session)
    assert findings() == [WELL]
    assert printed("doctor").startswith("4 runs and 3 pictures in ")


def test_empty_ledger_is_clean(session: Session):
    assert session.ledger.runs() == []
    assert findings() == [WELL]


def test_missing_file_is_named_and_rescue_brings_it_back(session: Session):
    run = session.begin("a fox").wait()
    (session.images.folder / run.files[0]).unlink()
    [line] = findings()
    assert line.startswith(f"missing file: {run.files[0]} of run {run.run_id}. `%apixo rescue` ")
    printed("rescue")
    assert findings() == [WELL]


def test_changed_file_is_named_and_its_advice_brings_the_original_back(session: Session):
    run = session.begin("a fox").wait()
    place = session.images.folder / run.files[0]
    original = place.read_bytes()
    place.write_bytes(original + b"\0")
    [line] = findings()
    assert line.startswith(f"changed file: {run.files[0]} is not what was downloaded.")
    assert "Move it away" in line
    assert "`%apixo rescue`" in line
    place.rename(session.settings.home_path / "away.png")
    printed("rescue")
    assert place.read_bytes() == original
    assert findings() == [WELL]


def test_file_that_is_a_folder_now_is_a_finding_like_others(session: Session):
    run, other = session.begin("a fox").wait(), session.begin("a cat").wait()
    (session.images.folder / run.files[0]).unlink()
    (session.images.folder / run.files[0]).mkdir()
    (session.images.folder / other.files[0]).unlink()
    found = findings()
    assert any(run.files[0] in line for line in found)
    assert any(other.files[0] in line for line in found)


def test_picture_that_never_came_is_named(session: Session):
    with pytest.raises(ApixoError):
        session.begin("[gone] a fox", num_images=2).wait()
    [run] = session.ledger.runs()
    [line] = findings()
    assert line.startswith(f"not downloaded: 2 picture(s) of run {run.run_id}.")
    assert "`%apixo rescue`" in line


def test_file_without_a_row_is_named_and_rebuilt_from_its_facts(session: Session):
    run = session.begin("a fox").wait()
    forget(session)
    wrong = findings()
    assert f"file without a row: {run.files[0]}. `%apixo doctor --rebuild` makes its row from the facts" in (
        " ".join(wrong)
    )
    assert "1 rows added, 1 of them from facts beside pictures." in printed("doctor --rebuild")
    assert facts(session.ledger.runs()) == facts([run])
    assert findings() == [WELL]


def test_file_without_a_row_and_without_facts_is_named_and_kept(session: Session):
    session.begin("a fox").wait()
    for name in ("mine.png", "mine.jpg", "mine.webp"):
        (session.images.folder / name).write_bytes(b"mine")
    assert sorted(findings()) == [
        f"file without a row: mine.{kind}. No facts." for kind in ("jpg", "png", "webp")
    ]
    printed("doctor --rebuild")
    assert (session.images.folder / "mine.png").read_bytes() == b"mine"


def test_facts_without_a_row_are_named_and_rebuilt(session: Session):
    run = session.begin("a fox").wait()
    (session.images.folder / run.files[0]).unlink()
    forget(session)
    name = run.files[0].replace(".png", ".json")
    [line] = findings()
    assert line.startswith(f"facts without a row: {name}. `%apixo doctor --rebuild` ")
    printed("doctor --rebuild")
    [found] = session.ledger.runs()
    assert (found.prompt, found.missing, found.cost_micros) == (run.prompt, 1, run.cost_micros)
    printed("rescue")
    assert findings() == [WELL]


def test_half_a_download_is_named_once_it_is_old(session: Session):
    session.begin("a fox").wait()
    part = session.images.folder / ".0123456789ab-0123456789ab.part"
    part.write_bytes(b"half")
    assert findings() == [WELL]
    hours_ago = datetime.now(UTC).timestamp() - 7200
    os.utime(part, (hours_ago, hours_ago))
    [line] = findings()
    assert line.startswith(f"left over: {part.name}, half a download.")


def test_what_came_in_place_of_a_picture_is_kept_and_named(session: Session):
    with pytest.raises(ApixoError):
        session.begin("[html] a fox").wait()
    [run] = session.ledger.runs()
    assert f"not a picture: {run.run_id}-1.unreadable holds what came in place of one; kept" in " ".join(
        findings()
    )


def test_open_task_is_named_unless_somebody_works_on_it(session: Session, sandbox: Sandbox):
    run = with_task(session, "[never] a fox")
    with another_kernel("[never] a cat"):
        wait_for(lambda: sandbox.account.polls, "the other kernel to wait for its task")
        session.ledger.insert(run)
        [line] = findings()
    assert line.startswith(f"open task: run {run.run_id}, submitted. `%apixo resume` ")


def test_old_open_task_says_that_its_pictures_have_probably_expired(session: Session):
    run = a_run(state="timeout", task_id="t", created_at=datetime.now(UTC) - timedelta(days=16))
    session.ledger.insert(run)
    [line] = findings()
    assert line.startswith(f"open task: run {run.run_id}, timeout. `%apixo resume` ")
    assert "expired" in line


def test_submit_without_an_answer_is_named_with_what_is_at_stake(session: Session):
    with pytest.raises(ApixoError):
        session.begin("[lost] a fox", num_images=4).wait()
    [run] = session.ledger.runs()
    [line] = findings()
    assert line.startswith(f"submit without an answer: run {run.run_id}, $1.40 at stake.")
    printed(f"settle {run.run_id} paid")
    assert findings() == [WELL]


def test_task_kept_beside_that_belongs_to_no_row_is_named(session: Session):
    session.begin("a fox").wait()
    kept = {"run_id": "20260101-000000-00000000", "task_id": "task_9", "at": "2026-01-01T00:00:00+00:00"}
    beside = session.settings.home_path / "ledger-tasks.jsonl"
    beside.write_text(json.dumps(kept) + "\n", "utf-8")
    [line] = findings()
    assert line.startswith("orphan task: task_9 of run 20260101-000000-00000000,")
    assert beside.exists()


HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e\r\nNothing is wrong."


def unprintable(text: str) -> set[str]:
    """The control and direction characters that a terminal or a notebook would obey."""
    return {char for char in text if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")}


def test_names_of_files_are_printed_safely(session: Session):
    session.begin("a fox").wait()
    for suffix in (".png", ".unreadable", ".part"):
        place = session.images.folder / f"a{HOSTILE}{suffix}"
        place.write_bytes(b"x")
        os.utime(place, (0, 0))
    said = printed("doctor")
    assert unprintable(said) == set()
    assert WELL not in said.splitlines()


@pytest.mark.parametrize("field", ["run_id", "task_id", "prompt", "state"])
def test_text_of_facts_and_rows_is_printed_safely(session: Session, field: str):
    run = session.begin("a fox").wait()
    forget(session)
    place = session.images.folder / run.files[0].replace(".png", ".json")
    changed: dict[str, Any] = {**json.loads(place.read_text("utf-8")), field: HOSTILE}
    place.write_text(json.dumps(changed), "utf-8")
    said = printed("doctor") + printed("doctor --rebuild")
    rows = [{"state": "timeout", "task_id": "t"}, {"state": "unknown"}]
    for row in rows[:1] if field == "task_id" else rows:  # what has a task is not unknown
        session.ledger.insert(Run.model_validate({**a_run().model_dump(), **row, field: f"{HOSTILE}{row}"}))
    assert unprintable(said + printed("doctor") + printed("status") + printed("spend")) == set()


def test_text_of_submits_without_an_answer_is_printed_safely(session: Session):
    session.ledger.insert(a_run(HOSTILE, state="unknown", tags=(HOSTILE,)))
    assert unprintable(printed("resume") + printed("spend")) == set()


def test_facts_cannot_point_out_of_the_folder(session: Session, tmp_path: Path):
    run = session.begin("a fox").wait()
    forget(session)
    (tmp_path / "secret.png").write_bytes(b"secret")
    place = session.images.folder / run.files[0].replace(".png", ".json")
    changed = json.loads(place.read_text("utf-8"))
    changed["image"]["file"] = "../../secret.png"
    place.write_text(json.dumps(changed), "utf-8")
    printed("doctor --rebuild")
    assert [name for found in session.ledger.runs() for name in found.files if "/" in name] == []


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"image": {}}', '{"run_id": "x"}', "\0", "[" * 5000])
def test_files_that_are_no_facts_of_ours_are_passed_over(session: Session, text: str):
    session.begin("a fox").wait()
    (session.images.folder / "other.json").write_text(text, "utf-8")
    assert findings() == [WELL]
    assert "0 rows added" in printed("doctor --rebuild")


def test_it_changes_nothing(session: Session):
    filled_ledger(session)
    home = session.settings.home_path
    before = {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}
    printed("doctor")
    assert {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()} == before


def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the environment as it is now, as in a new kernel."""
    monkeypatch.setattr(config, "_settings", None)
    shared.reset()


def forget(session: Session) -> None:
    """A new ledger in place of the one that is there."""
    session.close()
    session.ledger_file().unlink()
    assert session.ledger.runs() == []


# --- a ledger that knows less than the folder -------------------------------------------------------


def removed(session: Session, _older: bytes) -> None:
    session.ledger_file().unlink()


def restored(session: Session, older: bytes) -> None:
    session.ledger_file().write_bytes(older)


def another_url(session: Session, _older: bytes) -> None:
    os.environ["APIXO_LEDGER"] = f"sqlite:///{session.settings.home_path / 'another.db'}"


def moved_pictures(session: Session, _older: bytes) -> None:
    home = session.settings.home_path
    session.images.folder.rename(home / "pictures")
    os.environ |= {"APIXO_IMAGES": str(home / "pictures"), "APIXO_HOME": str(home / "new")}


LESS: list[Callable[[Session, bytes], None]] = [removed, restored, another_url, moved_pictures]


@pytest.fixture(params=LESS)
def knows_less(
    request: pytest.FixtureRequest, session: Session, monkeypatch: pytest.MonkeyPatch
) -> list[Run]:
    """The runs that were paid for, after their ledger was lost, and in a new kernel."""
    monkeypatch.setenv("APIXO_LEDGER", "")
    monkeypatch.setenv("APIXO_IMAGES", "")
    session.begin("a cat").wait()
    session.close()
    older = session.ledger_file().read_bytes()
    session.begin("a fox", num_images=2).wait()
    made = session.ledger.runs()
    session.close()
    request.param(session, older)
    fresh_settings(monkeypatch)
    return made


def every_door(session: Session) -> list[Callable[[], object]]:
    runs = [session.plan(make_request(prompt)) for prompt in ("a fox", "an owl")]
    return [
        lambda: session.begin("a fox", num_images=2, replay=True),
        lambda: session.begin("an owl"),
        lambda: session.begin_all(runs),
        lambda: session.start(runs[0]),
        lambda: sweep("{a}", a=["fox", "owl"]),
    ]


def test_ledger_that_knows_less_than_the_folder_buys_nothing(knows_less: list[Run], sandbox: Sandbox):
    assert len(knows_less) == 2
    for door in every_door(shared.current()):
        with pytest.raises(LedgerError) as refused:
            door()
        headline, advice = str(refused.value).splitlines()
        assert "is new or an older copy" in headline
        assert all(f"`%apixo doctor --{flag}`" in advice for flag in ("rebuild", "accept"))
    assert sandbox.account.submits == 2


def test_ledger_that_knows_less_is_mended_and_then_shows_what_was_paid_for(
    knows_less: list[Run], sandbox: Sandbox
):
    printed("doctor --rebuild")
    session = shared.current()
    assert facts(session.ledger.runs()) == facts(knows_less)
    shown = [
        session.begin("a cat", replay=True).wait(),
        session.begin("a fox", num_images=2, replay=True).wait(),
    ]
    assert facts(shown) == facts(knows_less)
    session.begin("an owl").wait()
    assert sandbox.account.submits == 3


def test_who_accepts_it_buys_and_is_not_asked_again(
    knows_less: list[Run], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    assert "stay without a row" in printed("doctor --accept")
    shared.current().begin("a fox", num_images=2).wait()
    fresh_settings(monkeypatch)
    shared.current().begin("an owl").wait()
    assert sandbox.account.submits == len(knows_less) + 2


def test_facts_that_cannot_be_read_block_nobody_once_the_ledger_was_rebuilt(
    session: Session, sandbox: Sandbox
):
    run = session.begin("a fox").wait()
    forget(session)
    (session.images.folder / run.files[0]).with_suffix(".json").write_text("{", "utf-8")
    with pytest.raises(LedgerError):
        session.begin("a fox").wait()
    assert "The facts of 1 runs cannot be read" in printed("doctor --rebuild")
    session.begin("a fox").wait()
    assert sandbox.account.submits == 2


def test_ledger_that_is_replaced_by_an_older_copy_meanwhile_buys_nothing(session: Session, sandbox: Sandbox):
    session.begin("a cat").wait()
    shutil.copy(session.ledger_file(), older := session.settings.home_path / "older.db")
    session.begin("a fox").wait()
    older.rename(session.ledger_file())
    for _ in range(3):
        with pytest.raises(LedgerError):
            session.begin("a fox", replay=True).wait()
    assert sandbox.account.submits == 2


# --- a damaged ledger -------------------------------------------------------------------------------


def bad_header(place: Path) -> None:
    patch(place, 0, b"\xff" * 100)


def bad_page(place: Path) -> None:
    """The first page of the table of runs."""
    patch(place, (root_page(place, "runs") - 1) * PAGE, b"\xff" * PAGE)


def bad_middle(place: Path) -> None:
    pages = place.stat().st_size // PAGE
    patch(place, pages // 2 * PAGE, b"\xa5" * PAGE)


def truncated(place: Path) -> None:
    os.truncate(place, place.stat().st_size // 2 // PAGE * PAGE)


def cut_in_a_page(place: Path) -> None:
    os.truncate(place, PAGE * 3 // 2)


def empty(place: Path) -> None:
    os.truncate(place, 0)


def foreign(place: Path) -> None:
    place.unlink()
    with contextlib.closing(sqlite3.connect(place)) as connection, connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
        connection.execute("INSERT INTO recipes VALUES ('soup')")


def letter(place: Path) -> None:
    place.write_text("a letter to my aunt\n" * 100, "utf-8")


def folder(place: Path) -> None:
    place.unlink()
    place.mkdir()


DAMAGES: list[Callable[[Path], None]] = [bad_header, bad_page, bad_middle, truncated, cut_in_a_page]
NO_LEDGERS: list[Callable[[Path], None]] = [empty, foreign, letter, folder]


@pytest.mark.parametrize("damage", DAMAGES + NO_LEDGERS)
def test_damaged_ledger_is_told_in_two_lines_and_nothing_is_sent(
    session: Session, sandbox: Sandbox, damage: Callable[[Path], None]
):
    filled_ledger(session)
    submits = sandbox.account.submits
    left = damaged(session, damage)
    with pytest.raises(LedgerError) as refused:
        shared.current().begin("a fox 🦊\r\n", num_images=2, replay=True).wait()
    headline, advice = str(refused.value).splitlines()
    assert str(session.ledger_file()) in headline
    assert "Nothing" in advice or "APIXO_HOME" in advice
    assert sandbox.account.submits == submits
    assert not left or session.ledger_file().read_bytes() == left


@pytest.mark.parametrize("damage", [*DAMAGES, empty, foreign, letter])
def test_rebuilt_ledger_has_every_run_that_has_a_picture_and_the_old_one_is_kept(
    session: Session, sandbox: Sandbox, damage: Callable[[Path], None]
):
    filled_ledger(session)
    made = [run for run in session.ledger.runs() if run.files]
    submits = sandbox.account.submits
    left = damaged(session, damage)
    printed("doctor --rebuild")
    again = shared.current()
    found = {run.run_id: run for run in again.ledger.runs()}
    assert facts(found[run.run_id] for run in made) == facts(made)
    assert [path.read_bytes() for path in kept_aside(again)] == [left]
    assert findings() == [WELL]
    assert "0 rows added" in printed("doctor --rebuild")
    assert len(kept_aside(again)) == 1
    asked: list[dict[str, Any]] = [{"prompt": run.prompt, **run.parameters} for run in made]
    shown = [again.begin(replay=True, **request).wait() for request in asked]
    assert facts(shown) == facts(made)
    assert sandbox.account.submits == submits


def kept_aside(session: Session) -> list[Path]:
    """The damaged ledgers that were set aside."""
    found = session.settings.home_path.glob("ledger.db.damaged-*")
    return [path for path in found if not path.name.endswith("-journal")]


def facts(runs: Iterable[Run]) -> list[Run]:
    """The runs without APIXO's last answer, which no facts beside a picture hold."""
    return [run.replace(raw="") for run in runs]


def test_rows_that_can_still_be_read_are_salvaged_with_all_they_hold(session: Session, sandbox: Sandbox):
    session.begin("a fox", tags=["t"]).wait()
    for number in range(40):
        session.ledger.insert(a_run(f"[lost] {number}", state="unknown", note="x" * 500, take=1))
    open_run = with_task(session, "[seconds:0.2] open")
    session.ledger.insert(open_run)
    session.ledger.insert(finished(sandbox, with_task(session, "[seconds:0] not downloaded")))
    runs = session.ledger.runs()
    session.close()
    with contextlib.closing(sqlite3.connect(session.ledger_file())) as connection:
        [last] = connection.execute("PRAGMA page_count").fetchone()
    patch(session.ledger_file(), (last - 1) * PAGE, b"\xff" * PAGE)
    shared.reset()
    said = printed("doctor --rebuild")
    kept = shared.current().ledger.runs()
    assert all(run in facts(runs) for run in facts(kept))
    assert len(kept) > len(runs) / 2, said
    assert sandbox.account.submits == 3


def test_budgets_are_set_anew_after_a_ledger_was_made_anew(session: Session):
    filled_ledger(session)
    damaged(session, bad_header)
    said = printed("doctor --rebuild")
    assert "The damaged ledger is kept as" in said
    assert printed("budget") == "SANDBOX · No budget is set.\n"


def test_whole_ledger_is_never_set_aside(session: Session):
    runs = filled_ledger(session)
    assert "0 rows added, 0 of them from facts beside pictures." in printed("doctor --rebuild")
    assert session.ledger.runs() == runs
    assert list(session.settings.home_path.glob("*damaged*")) == []


def test_only_the_damaged_file_is_set_aside_and_never_the_ledger_of_the_home(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    filled_ledger(session)
    home = session.ledger_file()
    session.close()
    whole, other = home.read_bytes(), tmp_path / "other.db"
    shutil.copy(home, other)
    bad_header(other)
    left = other.read_bytes()
    monkeypatch.setenv("APIXO_LEDGER", f"sqlite:///{other}")
    fresh_settings(monkeypatch)
    assert "The damaged ledger is kept as" in printed("doctor --rebuild")
    assert [path.read_bytes() for path in tmp_path.glob("other.db.damaged-*")] == [left]
    assert home.read_bytes() == whole
    assert list(home.parent.glob("*damaged*")) == []


def test_database_of_a_server_is_not_set_aside(session: Session):
    filled_ledger(session)
    home = session.ledger_file()
    session.close()
    whole = home.read_bytes()
    error = LedgerError("The ledger postgresql://host/apixo cannot be used: it is damaged", damaged=True)
    settings = type(session.settings)(ledger="postgresql://host/apixo", home=session.settings.home)
    with pytest.raises(LedgerError) as refused:
        maintenance._damaged_file(Session(settings), error)
    assert len(str(refused.value).splitlines()) == 2
    assert home.read_bytes() == whole


def test_facts_give_an_open_row_its_task_and_no_end(session: Session, sandbox: Sandbox):
    run = session.begin("a fox").wait()
    with contextlib.closing(sqlite3.connect(session.ledger_file())) as connection, connection:
        connection.execute("DELETE FROM images")
        connection.execute(
            "UPDATE runs SET task_id = NULL, state = 'submitting', cost_micros = NULL, result_urls = '[]'"
        )
    assert "1 runs have their task again" in printed("doctor --rebuild")
    [found] = session.ledger.runs()
    assert (found.state, found.task_id, found.cost_micros) == ("submitted", run.task_id, None)
    printed("resume")
    [found] = session.ledger.runs()
    assert (found.state, found.files, found.cost_micros) == ("success", run.files, run.cost_micros)
    assert sandbox.account.submits == 1


def test_ledger_that_is_damaged_while_it_is_open_is_made_anew_too(session: Session):
    filled_ledger(session)
    made = [run for run in session.ledger.runs() if run.files]
    with contextlib.suppress(LedgerError):
        bad_header(session.ledger_file())
        session.ledger.runs()
    printed("doctor --rebuild")
    found = {run.run_id: run for run in shared.current().ledger.runs()}
    assert facts(found[run.run_id] for run in made) == facts(made)
    assert findings() == [WELL]


def test_facts_of_several_ledgers_can_be_brought_together(session: Session, tmp_path: Path):
    mine = filled_ledger(session)
    theirs = tmp_path / "theirs"
    shutil.copytree(session.images.folder, theirs / "images")
    with contextlib.closing(Ledger(theirs / "ledger.db")) as empty_one:
        assert empty_one.runs() == []
    said = maintenance.rebuild(Session(type(session.settings)(home=str(theirs))))
    assert said == ["2 rows added, 2 of them from facts beside pictures."]
    with contextlib.closing(Ledger(theirs / "ledger.db")) as filled:
        assert facts(filled.runs()) == facts(run for run in mine if run.files)
