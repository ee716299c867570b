"""Disks that are full, read-only or gone: nothing is sent in vain, and what was paid for is shown."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apixo_nb import errors
from apixo_nb.display import cards as live
from apixo_nb.ledger.budgets import TOTAL
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.sandbox import Sandbox, handlers
from apixo_nb.session import session as shared
from apixo_nb.session.session import Session
from tests.support import sandboxes
from tests.support.commands import printed
from tests.support.factories import a_run
from tests.support.ledger_files import in_file
from tests.support.processes import in_processes
from tests.support.sandboxes import Gate
from tests.support.waiting import PATIENCE_S, ended, wait_for

clock, sandbox, gate, session = (
    sandboxes.clock,
    sandboxes.sandbox,
    sandboxes.gate,
    sandboxes.session,
)

REFUSED = (errors.StorageError, errors.LedgerError)


class Disk:
    """A small disk of its own, in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Use it to the last byte."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        self._ballast.unlink()

    def remount(self, how: str) -> None:
        """With "ro" nobody may write to it, with "rw" again."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.path)], check=True, timeout=PATIENCE_S)


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[str], Disk]]:
    made: list[Path] = []

    def make(size: str) -> Disk:
        path = tmp_path / f"disk{len(made)}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
        except (OSError, subprocess.CalledProcessError) as refused:
            pytest.skip(f"only root may mount a small disk here: {refused}")
        made.append(path)
        return Disk(path)

    yield make
    if shared._current is not None:
        shared._current[0].close()
    for path in made:
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=PATIENCE_S)


def two_lines(error: errors.ApixoError, place: Path) -> str:
    """The text of an error of two lines that names the place and says that nothing was sent."""
    headline, advice = str(error).splitlines()
    assert str(place) in headline
    assert advice.endswith(".")
    return headline


# --- full before anything is sent -------------------------------------------------------------------


@pytest.mark.parametrize("size", ["40k", "400k", "4m"])
def test_disk_without_room_for_a_picture_is_noticed_before_anything_is_sent(
    service: Sandbox, make_disk: Callable[[str], Disk], monkeypatch: pytest.MonkeyPatch, size: str
):
    disk = make_disk(size)
    monkeypatch.setenv("APIXO_HOME", str(disk.path))
    with pytest.raises(REFUSED) as refused:
        shared.current().begin("a fox").wait()
    two_lines(refused.value, disk.path)
    assert service.account.submits == 0


def test_disk_that_fills_up_stops_the_next_run_and_not_what_is_there(
    service: Sandbox, make_disk: Callable[[str], Disk], monkeypatch: pytest.MonkeyPatch
):
    disk = make_disk("12m")
    monkeypatch.setenv("APIXO_HOME", str(disk.path))
    run = shared.current().begin("a fox").wait()
    disk.fill()
    with pytest.raises(REFUSED) as refused:
        shared.current().begin("a cat").wait()
    two_lines(refused.value, disk.path)
    assert service.account.submits == 1
    assert shared.current().ledger.runs() == [run]
    disk.make_room()
    assert shared.current().begin("a cat").wait().missing == 0


def test_room_is_asked_for_as_many_pictures_as_are_bought(
    service: Sandbox, make_disk: Callable[[str], Disk], monkeypatch: pytest.MonkeyPatch
):
    disk = make_disk("17m")
    monkeypatch.setenv("APIXO_IMAGES", str(disk.path))
    with pytest.raises(errors.StorageError, match=r"4 picture\(s\) may need 32 MB") as refused:
        shared.current().begin("a fox", num_images=4).wait()
    two_lines(refused.value, disk.path)
    assert service.account.submits == 0
    assert shared.current().begin("a fox", num_images=2).wait().missing == 0


@pytest.fixture
def ledger_disk(make_disk: Callable[[str], Disk], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    """A disk for the ledger, that has one; the pictures are on another."""
    disk = make_disk("1m")
    monkeypatch.setenv("APIXO_HOME", str(disk.path))
    monkeypatch.setenv("APIXO_IMAGES", str(tmp_path / "pictures"))
    Ledger(disk.path / "ledger.db").close()
    return disk


def test_ledger_on_a_full_disk_is_noticed_before_anything_is_sent(ledger_disk: Disk, service: Sandbox):
    ledger_disk.fill()
    with pytest.raises(errors.LedgerError, match="full") as refused:
        shared.current().begin("a fox").wait()
    two_lines(refused.value, ledger_disk.path)
    assert service.account.submits == 0


# --- full after the POST ----------------------------------------------------------------------------


def test_disk_that_fills_up_during_the_submit_costs_neither_task_nor_picture(
    ledger_disk: Disk, service: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    session = shared.current()
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    ledger_disk.fill()
    gate.open.set()
    with pytest.raises(errors.LedgerError) as refused:
        job.wait()
    [task_id] = service.account.accepted
    assert (refused.value.run_id, refused.value.task_id) == (job.run.run_id, task_id)
    assert any(
        task_id in part.read_text("utf-8", "replace") for part in ledger_disk.path.glob("ledger-tasks*")
    )
    assert len(str(refused.value).splitlines()) == 2
    assert (job.run.state, job.run.missing) == ("success", 0)
    assert "data:image/webp" in live.card(session, job.run)["text/html"]
    assert in_file(session, "SELECT state FROM runs") == [("submitting",)]


def test_run_whose_row_is_behind_is_complete_once_there_is_room_and_it_is_mended(
    ledger_disk: Disk, service: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    session = shared.current()
    job = session.begin("a fox", tags=["t"])
    assert gate.arrived.wait(PATIENCE_S)
    ledger_disk.fill()
    gate.open.set()
    with pytest.raises(errors.LedgerError, match="not kept in full") as refused:
        job.wait()
    assert "`%apixo doctor --rebuild` and `%apixo resume` bring its row up to date" in refused.value.advice
    ledger_disk.make_room()
    ended(job)
    wait_for(lambda: in_file(session, "SELECT owner FROM runs") == [(None,)], "the run to be let go")
    printed("doctor --rebuild")
    printed("resume")
    [run] = session.ledger.runs()
    assert (run.state, run.task_id, run.files) == ("success", service.account.accepted[0], job.run.files)
    assert (run.cost_micros, run.tags, service.account.submits) == (350_000, ("t",), 1)


def test_room_that_is_made_in_time_leaves_no_trace(
    ledger_disk: Disk, service: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    pictures = Gate()
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    pictures.holds(handlers.PictureHandler, "get", monkeypatch)
    job = shared.current().begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    ledger_disk.fill()
    gate.open.set()
    assert pictures.arrived.wait(PATIENCE_S)
    ledger_disk.make_room()
    pictures.open.set()
    run = job.wait()
    [row] = shared.current().ledger.runs()
    # A word on the way that the full disk did not take is none that anything depends on.
    assert row.replace(service_state="") == run.replace(service_state="")
    assert (run.task_id, run.missing) == (service.account.accepted[0], 0)


@pytest.fixture
def unsaved(
    make_disk: Callable[[str], Disk], service: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> tuple[Disk, Session, Any]:
    """A disk that was full when the picture came, the session, and what came of it."""
    assert service.account.submits == 0
    disk = make_disk("20m")
    monkeypatch.setenv("APIXO_IMAGES", str(disk.path))
    gate.holds(handlers.PictureHandler, "get", monkeypatch)
    session = shared.current()
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    disk.fill()
    gate.open.set()
    with pytest.raises(errors.ImageError):
        job.wait()
    return disk, session, job


def test_picture_that_finds_no_room_is_a_success_and_says_where_there_is_none(
    unsaved: tuple[Disk, Session, Any],
):
    disk, session, job = unsaved
    error = job.answer.exception()
    assert error.unsaved
    assert "No space left" in error.headline
    assert str(disk.path) in str(error)
    [run] = session.ledger.runs()
    assert (run.state, run.missing, run.cost_micros) == ("success", 1, 350_000)
    assert {path.name for path in disk.path.iterdir()} == {"ballast"}


def test_picture_that_finds_no_room_is_shown_all_the_same(unsaved: tuple[Disk, Session, Any]):
    _disk, session, job = unsaved
    held = session.images.held(job.run.run_id, 0)
    assert held.startswith("data:image/webp")
    assert held in live.card(session, job.run)["text/html"]


def test_picture_that_found_no_room_comes_with_resume_once_there_is_some(
    unsaved: tuple[Disk, Session, Any], sandbox: Sandbox
):
    disk, session, _job = unsaved
    disk.make_room()
    assert "picture" in printed("resume") or session.ledger.runs()
    [run] = session.ledger.runs()
    assert (run.missing, len(run.files), sandbox.account.submits) == (0, 1, 1)
    assert (disk.path / run.files[0]).is_file()


# --- read-only --------------------------------------------------------------------------------------


def test_read_only_folder_is_noticed_before_anything_is_sent_and_shows_its_history(
    service: Sandbox, make_disk: Callable[[str], Disk], monkeypatch: pytest.MonkeyPatch
):
    disk = make_disk("20m")
    monkeypatch.setenv("APIXO_HOME", str(disk.path))
    run = shared.current().begin("a fox").wait()
    shared.current().close()  # as long as a file is open to be written to, nothing can be made read-only
    disk.remount("ro")
    with pytest.raises(REFUSED, match=r"(?i)read-only") as refused:
        shared.current().begin("a cat").wait()
    two_lines(refused.value, disk.path)
    with contextlib.closing(Session()) as fresh:
        assert fresh.ledger.runs() == [run]
        assert len(fresh.history()) == 1
        assert "data:image/webp" in live.card(fresh, run)["text/html"]
    shared.current().close()
    disk.remount("rw")
    assert service.account.submits == 1


def test_read_only_ledger_is_noticed_before_anything_is_sent(ledger_disk: Disk, service: Sandbox):
    ledger_disk.remount("ro")
    with pytest.raises(errors.LedgerError, match=r"(?i)read-only") as refused:
        shared.current().begin("a fox").wait()
    two_lines(refused.value, ledger_disk.path)
    assert "APIXO_HOME" in refused.value.advice
    ledger_disk.remount("rw")
    assert service.account.submits == 0


def test_commands_that_only_look_work_on_a_read_only_disk(ledger_disk: Disk, service: Sandbox):
    with contextlib.closing(Ledger(ledger_disk.path / "ledger.db")) as ledger:
        ledger.set_budget(TOTAL, sandbox=True, limit_micros=1_000_000)
        ledger.insert(a_run(state="success", cost_micros=350_000))
    ledger_disk.remount("ro")
    assert "runs      1, 1 success" in printed("status")
    assert "in all: $0.35" in printed("spend")
    assert "$0.65 left" in printed("budget")
    assert "Nothing to resume" in printed("resume")
    assert service.account.submits == 0
    ledger_disk.remount("rw")


# --- gone, or something else in its place -----------------------------------------------------------


@pytest.mark.parametrize("variable", ["APIXO_HOME", "APIXO_IMAGES"])
def test_file_in_place_of_the_folder_is_noticed_before_anything_is_sent(
    service: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
):
    place = tmp_path / "a file"
    place.write_text("not a folder", "utf-8")
    monkeypatch.setenv(variable, str(place))
    with pytest.raises(REFUSED) as refused:
        shared.current().begin("a fox").wait()
    two_lines(refused.value, place)
    assert service.account.submits == 0
    assert place.read_text("utf-8") == "not a folder"


def test_folder_removed_while_in_use_is_noticed_before_anything_more_is_sent(
    session: Session, sandbox: Sandbox
):
    session.begin("a fox").wait()
    shutil.rmtree(session.settings.home_path)
    with pytest.raises(errors.LedgerError, match="removed while it was in use") as refused:
        session.begin("a cat").wait()
    two_lines(refused.value, session.settings.home_path)
    assert sandbox.account.submits == 1


def test_folder_removed_during_the_submit_costs_neither_task_nor_picture(
    session: Session, sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.holds(handlers.SubmitHandler, "post", monkeypatch)
    job = session.begin("a fox")
    assert gate.arrived.wait(PATIENCE_S)
    shutil.rmtree(session.settings.home_path)
    gate.open.set()
    with pytest.raises(errors.LedgerError) as refused:
        job.wait()
    assert refused.value.task_id == sandbox.account.accepted[0]
    assert job.run.missing == 0
    assert "data:image/webp" in live.card(session, job.run)["text/html"]


def test_ledger_deleted_while_in_use_is_noticed_before_anything_more_is_sent(
    session: Session, sandbox: Sandbox
):
    session.begin("a fox").wait()
    session.ledger_file().unlink()
    for _ in range(2):
        with pytest.raises(errors.LedgerError, match="removed") as refused:
            session.begin("a cat").wait()
        two_lines(refused.value, session.ledger_file())
    assert sandbox.account.submits == 1


def test_ledger_replaced_while_in_use_is_noticed_once_and_then_is_the_ledger(
    session: Session, sandbox: Sandbox, tmp_path: Path
):
    session.begin("a fox").wait()
    with contextlib.closing(Ledger(tmp_path / "other.db")) as other:
        theirs = a_run("theirs", state="success")
        other.insert(theirs)
    (tmp_path / "other.db").replace(session.ledger_file())
    with pytest.raises(errors.LedgerError, match="replaced while it was in use") as refused:
        session.begin("a cat").wait()
    two_lines(refused.value, session.ledger_file())
    assert sandbox.account.submits == 1
    with pytest.raises(errors.LedgerError, match="new or an older copy"):  # until a person has chosen
        session.begin("a cat")
    assert [found.run_id for found in session.ledger.runs()] == [theirs.run_id]
    assert sandbox.account.submits == 1


def test_ledger_put_back_after_it_was_moved_away_is_the_same_again(session: Session, tmp_path: Path):
    first = session.begin("a fox").wait()
    session.ledger_file().rename(tmp_path / "moved.db")
    with pytest.raises(errors.LedgerError, match="removed"):
        session.begin("a cat").wait()
    (tmp_path / "moved.db").rename(session.ledger_file())
    second = session.begin("a cat").wait()
    assert session.ledger.runs() == [first, second]


# --- without a disk of one's own --------------------------------------------------------------------


def ask_with_small_files(_number: int, limit: int) -> Iterator[Any]:
    """Ask for a picture in a process whose files may have so many bytes at most."""
    session = shared.current()
    assert session.runner is not None
    _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield None
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        session.begin("a fox").wait()
    except errors.ApixoError as error:
        yield [type(error).__name__, *str(error).splitlines()]
    else:
        yield []


@pytest.mark.parametrize("limit", [0, 4096, 20_000])
def test_files_that_may_not_grow_are_noticed_before_anything_is_sent(
    session: Session, sandbox: Sandbox, limit: int
):
    name, headline, advice = in_processes(ask_with_small_files, 1, limit)[0]
    assert name in ("StorageError", "LedgerError")
    assert str(session.settings.home_path) in headline
    assert advice.endswith(".")
    assert sandbox.account.submits == 0
    with contextlib.closing(Ledger(session.ledger_file())) as ledger:
        assert ledger.runs() == []
