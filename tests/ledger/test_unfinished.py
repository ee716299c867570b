"""The line of ``%load_ext`` about unfinished business: right, quick, and silent where there is none."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from apixo_nb.core.records import Image, Run
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.ledger.unfinished import pending_line
from apixo_nb.sandbox import Sandbox
from tests.support.factories import a_run
from tests.support.kernels import kernel
from tests.support.processes import another_kernel
from tests.support.waiting import PATIENCE_S, wait_for

URLS = tuple(f"https://pictures.example/{number}.png" for number in range(4))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.db"


@pytest.fixture
def ledger(place: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(place)) as opened:
        yield opened


def line(place: Path) -> str:
    """What is said of a sandbox, without what is always said."""
    said = pending_line(place, sandbox=True)
    assert not said or (said.startswith("apixo_nb: ") and said.endswith(": `%apixo resume`"))
    return said.removeprefix("apixo_nb: ").removesuffix(": `%apixo resume`")


def success(pictures: int = 1, hours: float | None = 100.0, **changes: Any) -> Run:
    """A success whose pictures are not on disk, and whose addresses end in so many hours."""
    # Half an hour more, so that a slow machine does not change the rounded number.
    ends = None if hours is None else datetime.now(UTC) + timedelta(hours=hours, minutes=10)
    facts: dict[str, Any] = {"state": "success", "cost_micros": 350_000, "expires_at": ends}
    return a_run(result_urls=URLS[:pictures], task_id="t", **facts, **changes)


@pytest.mark.parametrize("state", ["submitted", "processing", "timeout", "cancelled", "a new word"])
def test_task_whose_end_nobody_saw_is_unfinished(ledger: Ledger, place: Path, state: str):
    ledger.insert(a_run(state=state, task_id="t"))
    assert line(place) == "1 run unfinished"


def test_several_are_counted(ledger: Ledger, place: Path):
    for number in range(3):
        ledger.insert(a_run(state="submitted", task_id=f"t{number}"))
    assert line(place) == "3 runs unfinished"


@pytest.mark.parametrize("state", ["planned", "failed", "success"])
def test_what_has_come_to_rest_is_not_mentioned(ledger: Ledger, place: Path, state: str):
    task = None if state == "planned" else "t"
    ledger.insert(a_run(state=state, task_id=task, cost_micros=0 if state == "failed" else 350_000))
    ledger.insert(a_run(state=state))
    assert line(place) in ("", "2 pictures not downloaded")  # a success without addresses misses one
    assert bool(line(place)) == (state == "success")


@pytest.mark.parametrize(
    ("pictures", "hours", "said"),
    [
        (1, 100.0, "1 picture not downloaded, the first URL expires in 4 days"),
        (4, 100.0, "4 pictures not downloaded, the first URL expires in 4 days"),
        (1, 48.0, "1 picture not downloaded, the first URL expires in 2 days"),
        (1, 30.0, "1 picture not downloaded, the first URL expires in 30 hours"),
        (1, 1.0, "1 picture not downloaded, the first URL expires in 1 hour"),
        (1, 0.0, "1 picture not downloaded, the first URL expires in 0 hours"),
        (1, -5.0, "1 picture not downloaded, the first URL has probably expired"),
        (1, None, "1 picture not downloaded"),
    ],
)
def test_pictures_that_are_not_on_disk_are_counted_with_the_time_that_is_left(
    ledger: Ledger, place: Path, pictures: int, hours: float | None, said: str
):
    ledger.insert(success(pictures, hours))
    assert line(place) == said


def test_first_address_to_end_is_that_of_a_picture_that_is_missing(ledger: Ledger, place: Path):
    ledger.insert(success(hours=100))
    ledger.insert(success(2, hours=24))
    here = success(hours=5)
    ledger.insert(here)
    ledger.put_image(here.run_id, Image(index=0, url=URLS[0], file="a.png"))
    assert line(place) == "3 pictures not downloaded, the first URL expires in 24 hours"


def test_submits_without_an_answer_are_counted_with_what_is_at_stake(ledger: Ledger, place: Path):
    run = a_run(state="unknown")
    ledger.insert(run)
    assert line(place) == "1 submit without an answer, up to $0.35 at stake"
    ledger.insert(a_run(state="submitting"))
    assert line(place) == "2 submits without an answer, up to $0.70 at stake"
    ledger.update(run.run_id, cost_micros=350_000)
    assert line(place) == "1 submit without an answer, up to $0.35 at stake"


def test_all_of_it_is_one_line(ledger: Ledger, place: Path):
    ledger.insert(a_run(state="processing", task_id="t"))
    ledger.insert(success(2, 30))
    ledger.insert(a_run(state="unknown"))
    assert line(place) == (
        "1 run unfinished, 2 pictures not downloaded, the first URL expires in 30 hours, "
        "1 submit without an answer, up to $0.35 at stake"
    )


def test_sandbox_and_real_runs_are_told_apart(ledger: Ledger, place: Path):
    ledger.insert(a_run(state="processing", task_id="t", sandbox=False))
    ledger.insert(success(sandbox=False))
    assert line(place) == ""
    assert "1 run unfinished, 1 picture not downloaded" in pending_line(place, sandbox=False)


# --- nothing to say ---------------------------------------------------------------------------------


def test_no_ledger_is_silent_and_none_is_made(place: Path):
    assert pending_line(place, sandbox=True) == ""
    assert not place.parent.exists()


@pytest.mark.parametrize("content", [b"", b"a letter", b"SQLite format 3\0" + b"\xff" * 8000])
def test_file_that_is_no_ledger_is_silent_and_left_as_it_is(place: Path, content: bytes):
    place.parent.mkdir()
    place.write_bytes(content)
    assert pending_line(place, sandbox=True) == ""
    assert place.read_bytes() == content


def test_folder_in_place_of_the_ledger_is_silent(place: Path):
    place.mkdir(parents=True)
    assert pending_line(place, sandbox=True) == ""


def test_odd_names_of_folders_are_no_addresses(tmp_path: Path):
    place = tmp_path / "a?mode=rwc#b%20c & d" / "ledger.db"
    with contextlib.closing(Ledger(place)) as ledger:
        ledger.insert(a_run(state="processing", task_id="t"))
    assert line(place) == "1 run unfinished"


def test_locked_ledger_is_silent(ledger: Ledger, place: Path):
    ledger.insert(a_run(state="processing", task_id="t"))
    with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert pending_line(place, sandbox=True) == ""
        other.execute("ROLLBACK")
    assert line(place) == "1 run unfinished"


@pytest.mark.parametrize(
    "change", ["DROP TABLE owners", "ALTER TABLE runs DROP COLUMN owner", "DROP TABLE runs"]
)
def test_ledger_of_an_older_version_is_silent_and_left_as_it_is(place: Path, change: str):
    with contextlib.closing(Ledger(place)) as ledger:
        ledger.insert(a_run(state="processing", task_id="t"))
    with contextlib.closing(sqlite3.connect(place)) as connection, connection:
        connection.execute(change)
    before = place.read_bytes()
    assert pending_line(place, sandbox=True) == ""
    assert place.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE runs SET expires_at = 'soon', missing = 1, state = 'success'",
        "UPDATE runs SET missing = 'many'",
        "UPDATE runs SET num_images = 'x', state = 'unknown', task_id = NULL",
        "UPDATE owners SET heartbeat_at = 'x', host = 'elsewhere'",
        "UPDATE owners SET pid = 'x'",
    ],
)
def test_values_that_make_no_sense_raise_nothing(place: Path, change: str):
    with contextlib.closing(Ledger(place)) as ledger:
        ledger.add(a_run(state="processing", task_id="t"))
        with contextlib.closing(sqlite3.connect(place)) as connection, connection:
            connection.execute(change)
        assert isinstance(pending_line(place, sandbox=True), str)


# --- other kernels ----------------------------------------------------------------------------------


def test_what_a_living_kernel_works_on_is_not_unfinished(ledger: Ledger, place: Path, service: Sandbox):
    with another_kernel("[never] a fox") as running:
        wait_for(lambda: service.account.polls, "the other kernel to wait for its task")
        assert len(ledger.runs()) == 1
        assert line(place) == ""
        running.send_signal(signal.SIGKILL)
        running.wait(PATIENCE_S)
    assert line(place) == "1 run unfinished"


def test_kernel_says_what_a_killed_one_has_left(service: Sandbox, tmp_path: Path):
    with another_kernel("[never] a fox") as running:
        wait_for(lambda: service.account.polls, "the other kernel to wait for its task")
        running.send_signal(signal.SIGKILL)
    with kernel(tmp_path) as notebook:
        said = str(notebook.run("%reload_ext apixo_nb"))
    assert "apixo_nb: 1 run unfinished: `%apixo resume`" in said


LOADED = """
import sys
from pathlib import Path
from apixo_nb.ledger.unfinished import pending_line
print(pending_line(Path(sys.argv[1]), sandbox=True))
print(sorted({"sqlalchemy", "pandas", "PIL", "httpx2", "pydantic"} & set(sys.modules)))
"""


def test_it_costs_no_heavy_import(ledger: Ledger, place: Path):
    ledger.insert(a_run(state="processing", task_id="t"))
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(place)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    said, loaded = done.stdout.splitlines()
    assert said == "apixo_nb: 1 run unfinished: `%apixo resume`"
    assert "sqlalchemy" not in loaded
    assert "pandas" not in loaded


def test_load_ext_says_it_without_sqlalchemy(ledger: Ledger, service: Sandbox, tmp_path: Path):
    assert service.account.submits == 0
    ledger.insert(a_run(state="processing", task_id="t"))
    program = (
        "import sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
        "InteractiveShell.instance().run_line_magic('load_ext', 'apixo_nb')\n"
        "print('sqlalchemy' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines() == ["apixo_nb: 1 run unfinished: `%apixo resume`", "False False"]
