"""Bundles: all of a ledger in a ZIP, and back into another, whatever somebody has put into it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from apixo_nb.core.files import Limits
from apixo_nb.core.records import SCHEMA_VERSION, Run
from apixo_nb.errors import ApixoError, BudgetError, LedgerError
from apixo_nb.experiments.review import choose
from apixo_nb.export import bundle
from apixo_nb.export import bundle as bundle_module
from apixo_nb.export import importer as intake
from apixo_nb.notebook import commands
from apixo_nb.notebook.command_line import split_words
from apixo_nb.sandbox import Sandbox
from apixo_nb.session import maintenance
from apixo_nb.session import session as shared
from apixo_nb.session.maintenance import budgets, set_budget
from apixo_nb.session.session import Session
from tests.support import picture_runs, sandboxes
from tests.support.commands import printed
from tests.support.factories import a_full_run, a_run, with_task
from tests.support.picture_runs import (
    CALLBACK,
    NOON,
    a_success,
    encoded,
    files,
    fill,
    keep,
    made_at,
    session_in,
    with_pictures,
)

here, session = picture_runs.here, sandboxes.session


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Session]:
    with contextlib.closing(session_in(tmp_path / "there")) as made:
        yield made


def as_imported(run: Run) -> Run:
    return run.replace(callback_url=None, raw=run.raw.replace(CALLBACK, "(callback address)"))


# --- out --------------------------------------------------------------------------------------------


def test_bundle_and_import_lose_nothing_but_the_callback(here: Session, there: Session, tmp_path: Path):
    runs = fill(here)
    path = here.export(tmp_path / "runs.zip")
    done = there.import_bundle(path)
    assert there.ledger.runs() == [as_imported(run) for run in runs]
    assert (done.added, done.pictures, done.problems) == (6, 4, [])
    pictures = {name: data for name, data in files(here.images.folder).items() if not name.endswith(".json")}
    assert {name: files(there.images.folder)[name] for name in pictures} == pictures
    assert maintenance.check(there).wrong == maintenance.check(here).wrong


def test_facts_beside_an_imported_picture_bring_its_row_back(here: Session, there: Session, tmp_path: Path):
    fill(here)
    there.import_bundle(here.export(tmp_path / "runs.zip"))
    before = [run for run in there.ledger.runs() if run.images]
    there.close()
    there.ledger_file().unlink()
    maintenance.rebuild(there)
    rebuilt = there.ledger.runs()
    assert [run.replace(raw="") for run in before] == rebuilt


def test_originals_lie_in_it_byte_for_byte_and_uncompressed(here: Session, tmp_path: Path):
    fill(here)
    with zipfile.ZipFile(here.export(tmp_path / "runs.zip")) as archive:
        assert archive.testzip() is None
        pictures = [
            entry for entry in archive.infolist() if not entry.filename.endswith((".json", ".jsonl", ".txt"))
        ]
        assert len(pictures) == 4
        for entry in pictures:
            original = here.images.folder / Path(entry.filename).name
            assert entry.compress_type == zipfile.ZIP_STORED
            assert archive.read(entry) == original.read_bytes()
        assert "apixo import" in archive.read("README.txt").decode()


def test_same_runs_give_the_same_bytes(here: Session, tmp_path: Path):
    runs = fill(here)
    one = here.export(tmp_path / "one.zip").read_bytes()
    assert here.export(tmp_path / "two.zip", runs=[*reversed(runs), runs[0]]).read_bytes() == one


def test_callback_address_is_nowhere_in_it(here: Session, tmp_path: Path):
    raw = json.dumps({"taskId": "task_1", "callBackUrl": CALLBACK}).replace("/", "\\/")
    full = a_full_run(callback_url=CALLBACK, images=()).replace(
        raw=raw, fail_msg=f"no answer from {CALLBACK}"
    )
    keep(here, with_pictures(full, [encoded()]), [encoded()])
    with zipfile.ZipFile(here.export(tmp_path / "runs.zip")) as archive:
        whole = b"".join(archive.read(name) for name in archive.namelist())
    assert b"hooks.example" not in whole
    assert b"secret-path" not in whole


def test_picture_that_is_missing_or_changed_is_left_out_and_named(
    here: Session, there: Session, tmp_path: Path
):
    gone, changed, well = (a_success(here, prompt) for prompt in ("gone", "changed", "well"))
    here.images.path(gone.images[0]).unlink()
    here.images.path(changed.images[0]).write_bytes(b"something else")
    with pytest.warns(UserWarning, match="2 picture.s. left out") as warned:
        path = here.export(tmp_path / "runs.zip")
    assert gone.files[0] in str(warned[0].message)
    assert changed.files[0] in str(warned[0].message)
    done = there.import_bundle(path)
    assert (done.added, done.pictures, len(done.problems)) == (3, 1, 2)
    assert there.run(well.run_id) == well
    assert [there.run(run.run_id).missing for run in (gone, changed)] == [1, 1]
    assert there.run(gone.run_id).images[0].error == "Not imported: it is not in there"


def test_bundle_that_cannot_be_finished_leaves_the_old_one(here: Session, tmp_path: Path):
    a_success(here)
    path = here.export(tmp_path / "runs.zip")
    before = path.read_bytes()
    [picture] = here.ledger.runs()[0].images
    place = here.images.path(picture)

    class Vanishing(type(here.images)):  # type: ignore[misc]
        def stored(self, runs: Any) -> Any:
            found = super().stored(runs)
            place.unlink()
            return found

    with pytest.raises(ApixoError, match="The bundle could not be written"):
        bundle.write_bundle(here.ledger.runs(), path, Vanishing(here.images.folder))
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["here", "runs.zip"]


MEASURE = """
import resource, sys
from pathlib import Path
from apixo_nb.export import bundle; from apixo_nb.export import importer as intake
from apixo_nb.core.settings import Apixo
from apixo_nb.session.session import Session
one, two = (Session(Apixo(home=home)) for home in sys.argv[1:3])
one.ledger.runs(), two.ledger.runs()
from PIL import Image
Image.new("RGB", (9, 9)).save(sys.argv[3] + ".png")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = one.export(sys.argv[3])
two.import_bundle(path)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_large_bundle_needs_little_memory(here: Session, there: Session, tmp_path: Path):
    """Four pictures of 40 MB each; kilobytes of memory on top of what is loaded."""
    padded = encoded() + bytes(40_000_000)  # a decoder stops at the end of the picture
    run = with_pictures(a_run("large", sandbox=False), [padded] * 4)
    keep(here, run, [padded] * 4)
    here.close()
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in ("here", "there", "x.zip"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert int(done.stdout) < 60_000
    assert there.run(run.run_id).files == run.files


# --- in: what is here already -----------------------------------------------------------------------


def test_twice_is_once(here: Session, there: Session, tmp_path: Path):
    fill(here)
    path = here.export(tmp_path / "runs.zip")
    there.import_bundle(path)
    before, rows = files(there.images.folder), there.ledger.runs()
    done = there.import_bundle(path)
    assert (done.added, done.gained, done.same, done.pictures, done.problems) == (0, 0, 6, 0, [])
    assert there.ledger.runs() == rows
    assert files(there.images.folder) == before


def test_own_bundle_changes_nothing_not_even_the_callback(here: Session, tmp_path: Path):
    runs = fill(here)
    done = here.import_bundle(here.export(tmp_path / "runs.zip"))
    assert (done.added, done.gained, done.same) == (0, 0, 6)
    assert here.ledger.runs() == runs


def test_known_run_gains_the_picture_and_the_choice_it_lacks(here: Session, there: Session, tmp_path: Path):
    run = a_success(here, count=2)
    choose(here, run.run_id, 0, rating=4)
    choose(here, run.run_id, 1, note="theirs")
    lacking = run.images[0].model_copy(update={"file": "", "sha256": "", "error": "The address had ended"})
    mine = run.images[1].model_copy(update={"rating": 2})
    keep(there, run.replace(images=(mine,)), [encoded(colour="green")])
    with contextlib.closing(sqlite3.connect(there.ledger_file())) as connection, connection:
        connection.execute('DELETE FROM images WHERE "index" = 0')
    there.ledger.put_image(run.run_id, lacking)
    done = there.import_bundle(here.export(tmp_path / "runs.zip"))
    assert (done.added, done.gained, done.pictures) == (0, 1, 1)
    now = there.run(run.run_id)
    assert now.images[0] == here.run(run.run_id).images[0]
    assert (now.images[1].rating, now.images[1].note) == (2, "")  # a choice that was made here stands
    assert (now.missing, now.rating) == (0, 4)
    assert maintenance.check(there).wrong == []
    facts = json.loads((there.images.folder / f"{run.run_id}-1.json").read_text())
    assert facts["image"]["rating"] == 4


def test_file_that_is_gone_here_comes_back(here: Session, there: Session, tmp_path: Path):
    run = a_success(here)
    path = here.export(tmp_path / "runs.zip")
    there.import_bundle(path)
    there.images.path(run.images[0]).unlink()
    done = there.import_bundle(path)
    assert (done.gained, done.pictures) == (1, 1)
    assert maintenance.check(there).wrong == []


def test_file_of_the_same_name_is_never_overwritten(here: Session, there: Session, tmp_path: Path):
    run = a_success(here)
    there.images.folder.mkdir(parents=True)
    place = there.images.path(run.images[0])
    place.write_bytes(b"mine")
    done = there.import_bundle(here.export(tmp_path / "runs.zip"))
    assert done.problems == [f"picture {run.files[0]}: another file of that name is here"]
    assert place.read_bytes() == b"mine"
    assert there.run(run.run_id).files == ()


def test_open_run_stays_open_and_its_task_is_asked_for(
    session: Session, sandbox: Sandbox, here: Session, tmp_path: Path
):
    mine = with_task(session, "[seconds:0] a fox")
    session.ledger.insert(mine)
    keep(here, with_pictures(mine, [encoded(colour="red")]), [encoded(colour="red")])
    done = session.import_bundle(here.export(tmp_path / "runs.zip"))
    assert (done.gained, done.pictures) == (0, 0)
    step = "bring it to its end with `%apixo resume`, then import it once more"
    assert done.problems == [f"run {mine.run_id}: it is open here; {step}"]
    assert session.run(mine.run_id) == mine
    [job] = session.resume()
    assert job.wait().images[0].sha256 != here.run(mine.run_id).images[0].sha256
    assert (sandbox.account.submits, sandbox.account.downloads) == (1, 1)


def test_run_that_has_ended_here_is_not_opened_again(here: Session, there: Session, tmp_path: Path):
    run = a_success(there)
    here.ledger.insert(run.replace(state="processing", images=(), result_urls=()))
    done = there.import_bundle(here.export(tmp_path / "runs.zip"))
    assert (done.gained, done.same) == (0, 1)
    assert there.run(run.run_id) == run


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "another"},
        {"task_id": "task_2"},
        {"sandbox": True},
        {"created_at": NOON.replace(microsecond=7)},
    ],
)
def test_another_run_of_the_same_id_is_refused(
    here: Session, there: Session, tmp_path: Path, changes: dict[str, Any]
):
    run = made_at(a_run("a fox", sandbox=False, state="processing", task_id="task_1"), NOON)
    there.ledger.insert(run)
    here.ledger.insert(run.replace(state="failed", fail_msg="made up", **changes))
    done = there.import_bundle(here.export(tmp_path / "runs.zip"))
    assert done.problems == [f"run {run.run_id}: another run of that id is here"]
    assert there.ledger.runs() == [run]


OPEN: list[dict[str, Any]] = [
    {"state": "planned"},
    {"state": "unknown"},
    {"state": "unknown", "cost_micros": 350_000},
    *({"state": state, "task_id": "TASK-1"} for state in ("submitted", "processing", "cancelled", "timeout")),
]
ENDS: list[dict[str, Any]] = [
    {"state": "failed", "cost_micros": 0},
    {"state": "failed", "task_id": "TASK-1"},
    {"state": "success", "task_id": "TASK-1"},
]


@pytest.mark.parametrize("end", range(len(ENDS)))
@pytest.mark.parametrize("mine", OPEN)
def test_run_that_is_open_here_is_ended_by_no_bundle_and_no_facts(
    here: Session, there: Session, tmp_path: Path, mine: dict[str, Any], end: int
):
    run = a_run("a fox", sandbox=False)
    there.ledger.insert(run.replace(**mine))
    here.ledger.insert(run.replace(**ENDS[end]))
    done = there.import_bundle(here.export(tmp_path / "runs.zip"))
    assert (done.gained, done.same, len(done.problems)) == (0, 0, 1)
    assert not there.ledger.catch_up(run.replace(**ENDS[end]))
    assert there.run(run.run_id) == run.replace(**mine)


def test_task_that_is_known_only_beside_the_ledger_is_not_lost(here: Session, there: Session, tmp_path: Path):
    run = a_run("a fox", sandbox=False)
    there.ledger.insert(run)
    here.ledger.insert(run.replace(state="failed", cost_micros=0))
    kept = {"run_id": run.run_id, "task_id": "TASK-1", "at": run.created_at.isoformat()}
    beside = there.settings.home_path / "ledger-tasks.jsonl"
    beside.write_text(json.dumps(kept) + "\n", "utf-8")
    there.import_bundle(here.export(tmp_path / "runs.zip"))
    now = there.run(run.run_id)
    assert (now.state, now.task_id, now.cost_micros) == ("submitted", "TASK-1", None)


def test_run_that_somebody_works_on_is_left_alone(here: Session, there: Session, tmp_path: Path):
    run = there.ledger.add(a_run("a fox", sandbox=False, state="processing", task_id="task_1"))
    pictures = [encoded()]
    keep(here, with_pictures(run, pictures), pictures)
    path = here.export(tmp_path / "runs.zip")
    with contextlib.closing(session_in(tmp_path / "there")) as other:  # another session on the same ledger
        for session in (there, other):
            done = session.import_bundle(path)
            assert done.problems == [
                f"run {run.run_id}: it is worked on here; import it once more afterwards"
            ]
            assert not session.ledger.catch_up(here.run(run.run_id))
    assert there.run(run.run_id) == run
    assert files(there.images.folder) == {}
    there.ledger.leases.release(run.run_id)
    ended = here.run(run.run_id)
    there.ledger.update(run.run_id, state="success", result_urls=ended.result_urls)
    assert there.import_bundle(path).gained == 1
    assert there.run(run.run_id).images == ended.images


def test_facts_of_another_task_change_no_row(here: Session):
    run = a_run("a fox", state="processing", task_id="TASK-1")
    here.ledger.insert(run)
    theirs = with_pictures(run.replace(task_id="TASK-2"), [encoded()])
    for other in (theirs, theirs.replace(task_id=None), theirs.replace(task_id="TASK-1", state="processing")):
        assert not here.ledger.catch_up(other)
    assert here.ledger.runs() == [run]
    here.ledger.update(run.run_id, state="success")
    assert not here.ledger.catch_up(theirs)
    assert here.ledger.catch_up(theirs.replace(task_id="TASK-1"))


def test_submit_without_an_answer_is_unknown_here_and_nobody_waits_for_it(
    here: Session, there: Session, tmp_path: Path
):
    run = here.ledger.add(a_run("on its way", sandbox=False, state="submitting"))
    there.import_bundle(here.export(tmp_path / "runs.zip"))
    found = there.run(run.run_id)
    assert (found.state, found.fail_msg) == ("unknown", "Imported before its submit was answered")


def test_imported_runs_count_towards_the_total_budget_and_it_is_said(
    here: Session, there: Session, tmp_path: Path
):
    a_success(here, count=2)
    set_budget(there, 5.0, "total")
    done = there.import_bundle(here.export(tmp_path / "runs.zip"))
    assert "The new runs stand for $0.70, which counts towards total budgets here." in done.lines()
    assert [cap.left_micros for cap in budgets(there)] == [4_300_000]


def test_runs_of_the_sandbox_stay_marked_and_cost_nothing(session: Session, sandbox: Sandbox, tmp_path: Path):
    run = session.begin("a fox", num_images=2).wait()
    path = session.export(tmp_path / "runs.zip")
    with contextlib.closing(session_in(tmp_path / "there")) as there:
        done = there.import_bundle(path)
        assert there.ledger.runs() == [run]
        assert there.run(run.run_id).sandbox
        assert done.cost_micros == 0
    assert sandbox.account.submits == 1


# --- in: folders ------------------------------------------------------------------------------------


def test_folder_of_pictures_and_facts_is_imported_as_a_bundle_is(
    here: Session, there: Session, tmp_path: Path
):
    fill(here)
    folder = tmp_path / "from a stick"
    shutil.copytree(here.images.folder, folder)
    done = there.import_bundle(folder)
    assert (done.added, done.pictures, done.problems) == (3, 4, [])
    wanted = [run.replace(raw="", callback_url=None) for run in here.ledger.runs() if run.images]
    assert there.ledger.runs() == wanted
    assert there.import_bundle(folder).same == 3


@pytest.mark.parametrize("kind", ["unpacked", "home"])
def test_unpacked_bundle_and_whole_home_are_folders_too(
    here: Session, there: Session, tmp_path: Path, kind: str
):
    fill(here)
    place = tmp_path / "here"
    if kind == "unpacked":
        place = tmp_path / "unpacked"
        with zipfile.ZipFile(here.export(tmp_path / "runs.zip")) as archive:
            archive.extractall(place)
    done = there.import_bundle(place)
    assert (done.pictures, done.problems) == (4, [])
    assert done.added == (6 if kind == "unpacked" else 3)


def test_links_in_a_folder_are_not_followed(here: Session, there: Session, tmp_path: Path):
    run = a_success(here)
    secret = tmp_path / "secret.png"
    here.images.path(run.images[0]).rename(secret)
    here.images.path(run.images[0]).symlink_to(secret)
    done = there.import_bundle(here.images.folder)
    assert done.problems == [f"picture {run.files[0]}: it is not in there"]
    assert there.run(run.run_id).files == ()


# --- in: hostile ------------------------------------------------------------------------------------


def crafted(path: Path, runs: list[Any], entries: dict[str, bytes] | None = None) -> Path:
    """A bundle as somebody may make it by hand."""
    lines = [run if isinstance(run, bytes) else json.dumps(run).encode() for run in runs]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(bundle.RUNS, b"\n".join(lines))
        for name, data in (entries or {}).items():
            archive.writestr(name, data)
    return path


def a_line(**changes: Any) -> dict[str, Any]:
    run = with_pictures(a_run("a fox", sandbox=False), [encoded()])
    return {**run.model_dump(mode="json"), **changes}


def a_picture(**changes: Any) -> list[dict[str, Any]]:
    run = Run.model_validate(a_line())
    return [{**run.images[0].model_dump(mode="json"), **changes}]


def with_picture(count: int = 1, **changes: Any) -> dict[str, Any]:
    """A run that is well, but for its picture."""
    line = a_line()
    line["images"] = [{**line["images"][0], **changes}] * count
    return line


def made(when: datetime) -> dict[str, Any]:
    return made_at(a_run("a fox", sandbox=False), when).model_dump(mode="json")


HOSTILE: dict[str, Callable[[], Any]] = {
    "no JSON": lambda: b"{",
    "no object": lambda: b"[1, 2]",
    "deep": lambda: b"[" * 100_000,
    "no UTF-8": lambda: b'{"run_id": "\xff"}',
    "path as id": lambda: a_line(run_id="../../../etc/20261123-120000-12345678"),
    "odd id": lambda: a_line(run_id="20261123-120000-12345678\n"),
    "path as file": lambda: a_line(images=a_picture(file="../../out.png")),
    "absolute file": lambda: a_line(images=a_picture(file="/tmp/out.png")),
    "another's file": lambda: a_line(images=a_picture(file="20261123-120000-12345678-1.png")),
    "program as file": lambda: a_line(images=a_picture(file="run.py")),
    "index": lambda: with_picture(index=-1),
    "huge index": lambda: with_picture(index=10**9),
    "twice": lambda: with_picture(2),
    "rating": lambda: with_picture(rating=99),
    "hash": lambda: with_picture(sha256="x" * 100),
    "huge cost": lambda: a_line(cost_micros=10**30),
    "negative cost": lambda: a_line(cost_micros=-1),
    "cost above all sense": lambda: a_line(cost_micros=10**12 + 1),
    "huge price": lambda: a_line(unit_price_micros=10**12 + 1),
    "huge price of all pictures": lambda: a_line(unit_price_micros=10**12, parameters={"num_images": 4}),
    "huge take": lambda: a_line(take=2**31 - 1),
    "huge width": lambda: with_picture(width=2**31),
    "huge height": lambda: with_picture(height=2**31),
    "negative size": lambda: with_picture(bytes=-1),
    "number of pictures": lambda: a_line(parameters={"num_images": 2**31}),
    "huge costTime": lambda: a_line(cost_time_ms=10**12),
    "huge wait": lambda: a_line(wait_ms=10**12),
    "rating of the run": lambda: a_line(rating=2**31),
    "long task id": lambda: a_line(task_id="x" * 3000),
    "long state": lambda: a_line(state="x" * 3000, images=[], result_urls=[]),
    "another day than its id": lambda: a_line(created_at="2026-01-02T12:00:00Z"),
    "no day": lambda: a_line(run_id="20269999-120000-12345678", images=[]),
    "made in the future": lambda: made(datetime.now(UTC) + timedelta(days=2)),
    "older than the hills": lambda: made(datetime(1999, 1, 1, tzinfo=UTC)),
    "submitted in the future": lambda: a_line(submitted_at="2999-01-01T00:00:00Z"),
    "finished in the future": lambda: a_line(finished_at="2999-01-01T00:00:00Z"),
    "there for ever": lambda: a_line(expires_at="2999-01-01T00:00:00Z"),
    "time out of range": lambda: a_line(finished_at="9999-12-31T23:59:59-12:00"),
    "huge parameter": lambda: a_line(parameters={"num_images": 10**30}),
    "odd parameter": lambda: a_line(parameters={"num_images": "many"}),
    "not a sandbox's": lambda: a_line(sandbox=True, result_urls=["http://169.254.169.254/latest"]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_run_is_left_out_and_the_others_come(there: Session, tmp_path: Path, name: str):
    well = a_line()
    picture = {f"pictures/{well['images'][0]['file']}": encoded()}
    path = crafted(tmp_path / "runs.zip", [HOSTILE[name](), well], picture)
    outside = sorted(tmp_path.rglob("*"))
    done = there.import_bundle(path)
    assert len(done.problems) == 1
    assert (done.added, done.pictures) == (1, 1)
    assert [run.run_id for run in there.ledger.runs()] == [well["run_id"]]
    new = {item.relative_to(tmp_path).as_posix() for item in set(tmp_path.rglob("*")) - set(outside)}
    assert all(item.startswith("there") for item in new)
    assert len(files(there.images.folder)) == 2


def test_as_much_as_is_let_in_leaves_budgets_standing(there: Session, tmp_path: Path):
    """Many runs of 2**53 micro-dollars would add up to more than a database can count."""
    most = {"cost_micros": 10**12, "unit_price_micros": 10**12, "take": 10**9}
    most |= {"cost_time_ms": 366 * 86_400_000, "wait_ms": 366 * 86_400_000}
    lines = [a_line(**most, images=[], result_urls=[]) for _ in range(20)]
    lines += [a_line(cost_micros=2**53, images=[], result_urls=[]) for _ in range(1100)]
    set_budget(there, 5.0, "total")
    done = there.import_bundle(crafted(tmp_path / "runs.zip", lines))
    assert (done.added, len(done.problems)) == (20, 1100)
    assert [cap.spent_micros for cap in budgets(there)] == [20 * 10**12]
    with pytest.raises(BudgetError):
        there.ledger.add(a_run("another fox", sandbox=False))


def test_texts_that_no_database_takes_are_made_such(there: Session, tmp_path: Path):
    odd = {"prompt": "a\0fox", "note": "x\0y", "created_at": "2026-11-23T12:00:00"}
    line = a_line(run_id="20261123-120000-0a1b2c3d", images=[], result_urls=[], **odd)
    done = there.import_bundle(crafted(tmp_path / "runs.zip", [line]))
    assert done.problems == []
    [run] = there.ledger.runs()
    assert (run.prompt, run.note, run.created_at) == ("a\ufffdfox", "x\ufffdy", NOON.replace(microsecond=0))
    assert run.digest == run.request.digest()


def test_what_follows_from_the_rest_is_worked_out_anew(there: Session, tmp_path: Path):
    line = a_line(digest="0" * 64, rating=5, callback_url=CALLBACK, images=[], result_urls=[])
    there.import_bundle(crafted(tmp_path / "runs.zip", [line]))
    [run] = there.ledger.runs()
    assert (run.digest, run.rating, run.callback_url) == (run.request.digest(), None, None)


WRONG_PICTURES = {
    "other bytes": (encoded(colour="blue"), {}, "its bytes are not those that its run tells of"),
    "no picture": (b"#!/bin/sh", {"sha256": hashlib.sha256(b"#!/bin/sh").hexdigest()}, "not a whole picture"),
    "another kind": (
        encoded("JPEG"),
        {"sha256": hashlib.sha256(encoded("JPEG")).hexdigest()},
        "it is a JPEG, and its name says something else",
    ),
    "half": (encoded()[:60], {"sha256": hashlib.sha256(encoded()[:60]).hexdigest()}, "not a whole picture"),
}


@pytest.mark.parametrize("name", WRONG_PICTURES)
def test_picture_that_is_not_what_its_run_tells_of_is_not_taken(there: Session, tmp_path: Path, name: str):
    data, changes, said = WRONG_PICTURES[name]
    line = a_line()
    line["images"][0] |= changes
    done = there.import_bundle(
        crafted(tmp_path / "runs.zip", [line], {f"pictures/{line['images'][0]['file']}": data})
    )
    assert len(done.problems) == 1
    assert said in done.problems[0]
    assert there.ledger.runs()[0].files == ()
    assert files(there.images.folder) == {}


def test_bomb_is_stopped(there: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundle_module, "_FLOOR", 1_000_000)
    line = a_line()
    bomb = {f"pictures/{line['images'][0]['file']}": bytes(30_000_000)}
    done = there.import_bundle(crafted(tmp_path / "runs.zip", [line], bomb))
    assert "it is damaged (ValueError)" in done.problems[0]
    assert files(there.images.folder) == {}


def test_picture_larger_than_any_is_stopped(there: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(intake, "_LIMITS", Limits(max_bytes=1_000_000))
    line = a_line()
    large = {f"pictures/{line['images'][0]['file']}": encoded() + bytes(3_000_000)}
    done = there.import_bundle(crafted(tmp_path / "runs.zip", [line], large))
    assert "it is larger than 1 MB" in done.problems[0]


def test_endless_line_is_stopped(there: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundle_module, "MOST_LINE", 10_000)
    done = there.import_bundle(
        crafted(tmp_path / "runs.zip", [a_line(images=[], result_urls=[]), b"x" * 20_000])
    )
    assert done.added == 1
    assert done.problems == ["line 2 and all after it: it is too long"]


def test_names_in_the_zip_lead_nowhere(there: Session, tmp_path: Path):
    line = a_line()
    name = line["images"][0]["file"]
    entries = {f"../{name}": encoded(), f"/tmp/{name}": encoded(), f"pictures/../{name}": encoded()}
    done = there.import_bundle(crafted(tmp_path / "runs.zip", [line], entries))
    assert done.problems == [f"picture {name}: it is not in there"]
    assert not any(path.name == name for path in tmp_path.rglob("*"))


def test_damaged_zip_gives_what_can_be_read(here: Session, there: Session, tmp_path: Path):
    one, two = a_success(here, "one"), a_success(here, "two")
    path = here.export(tmp_path / "runs.zip")
    whole = bytearray(path.read_bytes())
    at = whole.index(here.images.path(one.images[0]).read_bytes())
    whole[at + 40] ^= 0xFF
    path.write_bytes(whole)
    done = there.import_bundle(path)
    assert (done.added, done.pictures) == (2, 1)
    assert done.problems == [f"picture {one.files[0]}: it is damaged (BadZipFile)"]
    assert there.run(two.run_id).files == two.files


def test_newer_bundle_says_so(there: Session, tmp_path: Path):
    path = crafted(tmp_path / "runs.zip", [a_line(schema_version=SCHEMA_VERSION + 1)])
    with pytest.raises(ApixoError, match="A newer apixo_nb has written this"):
        there.import_bundle(path)
    assert there.ledger.runs() == []


def encrypted(path: Path) -> Path:
    whole = bytearray(crafted(path, [a_line()]).read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = whole.index(mark) + flags
        whole[at : at + 2] = struct.pack("<H", 1)
    path.write_bytes(whole)
    return path


def no_bundle(tmp_path: Path) -> list[tuple[Any, str]]:
    text = tmp_path / "text.zip"
    text.write_text("no ZIP")
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x.txt", "x")
    empty = tmp_path / "empty"
    empty.mkdir()
    return [
        (text, "it is no ZIP file"),
        (other, "there is no runs.jsonl in it"),
        (empty, "there is no run in it"),
        (tmp_path / "none.zip", "No such file"),
        ("nul\0.zip", "it is no file name"),
        (None, "it is no file name"),
        ("~nobody-at-all/x.zip", "it names a user that does not exist"),
    ]


@pytest.mark.parametrize("number", range(7))
def test_what_is_no_bundle_is_refused_in_two_lines(there: Session, tmp_path: Path, number: int):
    path, said = no_bundle(tmp_path)[number]
    with pytest.raises(ApixoError, match="Nothing could be imported from") as refused:
        there.import_bundle(path)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 2


def test_encrypted_zip_is_named(there: Session, tmp_path: Path):
    done = there.import_bundle(encrypted(tmp_path / "runs.zip"))
    assert done.problems == ["the rest of runs.jsonl: it is damaged (RuntimeError)"]


def test_import_that_is_cut_off_is_finished_by_the_next(here: Session, there: Session, tmp_path: Path):
    for prompt in ("one", "two", "three"):
        a_success(here, prompt)
    path = here.export(tmp_path / "runs.zip")
    inserts = 0

    def refuse(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        nonlocal inserts
        inserts += statement.startswith("INSERT INTO runs")
        if inserts == 2 and statement.startswith("INSERT INTO runs"):
            raise LedgerError("The disk is full")

    engine = there.ledger._database._engine
    event.listen(engine, "before_cursor_execute", refuse)
    with pytest.raises(LedgerError):
        there.import_bundle(path)
    event.remove(engine, "before_cursor_execute", refuse)
    assert len(there.ledger.runs()) == 1
    there.import_bundle(path)
    assert there.ledger.runs() == here.ledger.runs()
    assert maintenance.check(there).wrong == []


# --- the words --------------------------------------------------------------------------------------


def test_commands_write_and_read_a_bundle(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = session.begin("a fox").wait()
    monkeypatch.chdir(tmp_path)
    assert printed("export 'my runs.zip'") == "Written: my runs.zip\n"
    monkeypatch.setenv("APIXO_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("apixo_nb.core.settings._settings", None)
    shared.reset()
    assert printed("import 'my runs.zip'").startswith("1 run(s) and 1 picture(s) added;")
    assert shared.current().ledger.runs() == [run]


@pytest.mark.parametrize("name", ["two  blanks.zip", "it's.zip", " edge .zip"])
def test_name_in_quotes_is_taken_as_it_stands(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    session.begin("a fox").wait()
    monkeypatch.chdir(tmp_path)
    assert printed(f'export "{name}"') == f"Written: {name}\n"
    assert (tmp_path / name).is_file()
    assert printed(f'import "{name}"').startswith("0 run(s) and 0 picture(s) added;")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (r'"C:\My Runs\a  b.zip"', [r"C:\My Runs\a  b.zip"]),
        (r"'C:\My Runs\a b.zip'", [r"C:\My Runs\a b.zip"]),
        (r"C:\Runs\new.zip", [r"C:\Runs\new.zip"]),
        (r'"C:\My Runs" --site', [r"C:\My Runs", "--site"]),
        (r"it's.csv --excel", ["it's.csv", "--excel"]),
        ('"open end.zip', ['"open', "end.zip"]),
        ("", []),
    ],
)
def test_names_of_windows_keep_their_backslashes_and_lose_their_quotes(line: str, words: list[str]):
    assert split_words(line, posix=False) == words


@pytest.mark.parametrize("line", ["import", "import a.zip b.zip", "import --all"])
def test_import_without_one_name_says_what_it_takes(line: str):
    with pytest.raises(ApixoError) as refused:
        commands.carry_out(line, None)
    assert "%apixo import FILE.zip" in str(refused.value)
