"""A person's choice of pictures: in the ledger, beside the picture, and through all that happens to it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from apixo_nb.core.records import Image, Run
from apixo_nb.errors import InvalidRequestError, LedgerError
from apixo_nb.experiments.review import UNCHANGED, choose
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.ledger.unfinished import pending_line
from apixo_nb.sandbox import Sandbox
from apixo_nb.session import session as shared
from apixo_nb.session.session import Session
from tests.support import postgres, sandboxes
from tests.support.commands import printed
from tests.support.factories import a_run
from tests.support.ledger_files import PAGE, damaged, patch, root_page

server, url = postgres.server, postgres.url
clock, sandbox, session = sandboxes.clock, sandboxes.sandbox, sandboxes.session

CHOICE: dict[str, Any] = {"rating": 4, "starred": True, "note": "the one 🦊", "tags": ("grün", "keep")}


def beside(session: Session, run: Run, index: int = 0) -> dict[str, Any]:
    """The facts beside a picture."""
    path = session.images.path(run.images[index]).with_suffix(".json")
    facts = json.loads(path.read_text("utf-8"))
    assert isinstance(facts, dict)
    return facts


def without_ledger(session: Session) -> None:
    """The ledger is gone."""
    session.close()
    session.ledger_file().unlink()


def stored(session: Session, run: Run) -> Run:
    found = session.ledger.get(run.run_id)
    assert found is not None
    return found


# --- choosing ---------------------------------------------------------------------------------------


def test_choice_is_in_the_ledger_and_beside_the_picture(session: Session):
    run = session.begin("a fox", num_images=2).wait()
    chosen = choose(session, run.run_id, 1, **CHOICE)
    assert chosen == stored(session, run)
    assert [image.choice for image in chosen.images] == [Image(index=0, url="").choice, CHOICE]
    assert Image.model_validate(beside(session, run, 1)["image"]) == chosen.images[1]
    assert chosen.replace(images=run.images, rating=None) == run


def test_what_is_not_given_stays(session: Session):
    run = session.begin("a fox").wait()
    choose(session, run.run_id, 0, **CHOICE)
    changes: list[dict[str, Any]] = [{"rating": 2}, {"starred": False}, {"note": ""}, {"rating": None}, {}]
    for change in [*changes, {"tags": ("x",)}]:
        before = stored(session, run).images[0].choice
        assert choose(session, run.run_id, 0, **change).images[0].choice == before | change
    assert choose(session, run.run_id, 0, rating=UNCHANGED).images[0].rating is None


def test_rating_of_the_run_is_that_of_its_best_picture(session: Session):
    run = session.begin("a fox", num_images=4).wait()
    best = [
        choose(session, run.run_id, index, rating=rating).rating for index, rating in enumerate((2, 5, 3))
    ]
    assert best == [2, 5, 5]
    assert choose(session, run.run_id, 1, rating=None).rating == 3
    assert choose(session, run.run_id, 3, starred=True).rating == 3
    [row] = session.history().to_dict("records")
    assert row["rating"] == 3
    assert [choose(session, run.run_id, index, rating=None).rating for index in (0, 2)] == [3, None]


def test_originals_are_never_touched(session: Session):
    run = session.begin("a fox", num_images=2).wait()
    choose(session, run.run_id, 0, **CHOICE)
    for image in run.images:
        assert hashlib.sha256(session.images.path(image).read_bytes()).hexdigest() == image.sha256
    assert printed("doctor").endswith("Nothing is wrong.\n")


def test_choice_is_kept_where_the_facts_beside_cannot_be_written(session: Session):
    run = session.begin("a fox").wait()
    path = session.images.path(run.images[0]).with_suffix(".json")
    path.unlink()
    path.mkdir()
    assert choose(session, run.run_id, 0, **CHOICE).images[0].choice == CHOICE


def test_picture_that_is_gone_gets_no_facts_but_keeps_its_choice(session: Session):
    run = session.begin("a fox").wait()
    for path in session.images.folder.iterdir():
        path.unlink()
    assert choose(session, run.run_id, 0, **CHOICE).images[0].choice == CHOICE
    assert list(session.images.folder.iterdir()) == []


def test_name_of_a_file_that_leads_elsewhere_is_not_followed(session: Session, tmp_path: Path):
    (tmp_path / "victim.png").write_bytes(b"x")
    for file in (f"{tmp_path}/victim.png", "../../victim.png"):
        run = a_run(state="success", images=(Image(index=0, url="u", file=file),))
        session.ledger.insert(run)
        choose(session, run.run_id, 0, rating=1)
    assert list(tmp_path.glob("victim*")) == [tmp_path / "victim.png"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rating", 0),
        ("rating", 6),
        ("rating", 3.5),
        ("rating", True),
        ("rating", "5"),
        ("starred", None),
        ("starred", "yes"),
        ("starred", 1),
        ("note", None),
        ("note", 5),
        ("tags", "red"),
        ("tags", None),
        ("tags", ["red", 5]),
        ("index", 1),
        ("index", -1),
        ("index", "0"),
        ("index", True),
        ("index", None),
        ("run_id", "nobody"),
    ],
)
def test_choice_that_makes_no_sense_is_refused_and_changes_nothing(
    session: Session, field: str, value: object
):
    run = session.begin("a fox").wait()
    chosen = choose(session, run.run_id, 0, **CHOICE)
    given: dict[str, Any] = {"run_id": run.run_id, "index": 0, "rating": 1, "note": "other", field: value}
    with pytest.raises(InvalidRequestError) as refused:
        choose(session, **given)
    assert refused.value.field == field
    assert refused.value.allowed or refused.value.next_step
    assert len(str(refused.value).splitlines()) == 2
    assert stored(session, run) == chosen


def test_text_that_no_database_takes_is_made_storable(session: Session):
    run = session.begin("a fox").wait()
    image = choose(session, run.run_id, 0, note="a\0b", tags=["\ud800"]).images[0]
    assert (image.note, image.tags) == ("a\ufffdb", ("\ufffd",))


def test_refusal_of_the_ledger_leaves_the_facts_alone(session: Session):
    run = session.begin("a fox").wait()
    before = beside(session, run)
    with contextlib.closing(sqlite3.connect(session.ledger_file())) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    session.close()
    with pytest.raises(LedgerError, match="newer apixo_nb"):
        choose(session, run.run_id, 0, rating=5)
    assert beside(session, run) == before


# --- what else writes pictures ----------------------------------------------------------------------


def test_later_word_of_a_picture_leaves_its_choice_alone(session: Session):
    run = session.begin("a fox", num_images=2).wait()
    chosen = choose(session, run.run_id, 0, **CHOICE)
    for image in (*run.images, Image(index=0, url="u", error="gone"), run.images[0]):
        session.ledger.put_image(run.run_id, image)
        assert stored(session, run).images[0].choice == CHOICE
        assert stored(session, run).rating == 4
    assert stored(session, run) == chosen


def test_run_in_flight_does_not_wipe_what_was_chosen_meanwhile(session: Session, sandbox: Sandbox):
    run = session.begin("a fox", num_images=2).wait()
    session.images.path(run.images[1]).unlink()
    lost = Image(index=1, url=run.images[1].url, error="gone")
    session.ledger.put_image(run.run_id, lost)
    old = stored(session, run)  # what the runner holds
    choose(session, run.run_id, 0, **CHOICE)
    choose(session, run.run_id, 1, rating=5)
    session.follow(old).wait()
    assert [image.choice for image in stored(session, run).images] == [
        CHOICE,
        old.images[1].choice | {"rating": 5},
    ]
    assert stored(session, run).rating == 5
    assert sandbox.account.submits == 1


@pytest.mark.parametrize("facts", ["kept", "gone", "unreadable"])
def test_picture_that_is_downloaded_again_keeps_its_choice_in_both_places(session: Session, facts: str):
    run = session.begin("a fox").wait()
    chosen = choose(session, run.run_id, 0, **CHOICE)
    path = session.images.path(run.images[0])
    path.unlink()
    if facts != "kept":
        path.with_suffix(".json").write_text("{", "utf-8")
    if facts == "gone":
        path.with_suffix(".json").unlink()
    printed("rescue")
    assert stored(session, run) == chosen
    assert Image.model_validate(beside(session, run)["image"]) == chosen.images[0]


# --- a ledger made anew -----------------------------------------------------------------------------


def test_rebuilt_ledger_has_the_choices(session: Session):
    run = session.begin("a fox", num_images=4).wait()
    choose(session, run.run_id, 1, rating=5)
    choose(session, run.run_id, 2, **CHOICE)
    chosen = choose(session, run.run_id, 1, rating=2)  # the facts beside the other one are of before
    without_ledger(session)
    printed("doctor --rebuild")
    again = stored(shared.current(), run)
    assert again.images == chosen.images
    assert again.rating == 4


def test_rating_that_was_taken_away_does_not_come_back(session: Session):
    run = session.begin("a fox", num_images=2).wait()
    choose(session, run.run_id, 0, rating=5)
    choose(session, run.run_id, 1, starred=True)
    choose(session, run.run_id, 0, rating=None)
    without_ledger(session)
    printed("doctor --rebuild")
    assert stored(shared.current(), run).rating is None


def test_damaged_ledger_gives_its_choices_to_the_new_one(session: Session):
    run = session.begin("a fox", num_images=2).wait()
    chosen = choose(session, run.run_id, 1, **CHOICE)
    for path in session.images.folder.glob("*.json"):
        path.unlink()  # from the old ledger alone
    page = root_page(session.ledger_file(), "ix_runs_state")
    damaged(session, lambda place: patch(place, (page - 1) * PAGE, b"\xff" * PAGE))
    assert "1 rows of it could be read" in printed("doctor --rebuild")
    assert stored(shared.current(), run) == chosen


def test_pictures_and_choices_that_a_row_lacks_are_brought_back(session: Session):
    run = session.begin("a fox", num_images=2).wait()
    chosen = choose(session, run.run_id, 1, **CHOICE)
    with contextlib.closing(sqlite3.connect(session.ledger_file())) as connection, connection:
        connection.execute('DELETE FROM images WHERE "index" = 0')
        connection.execute("UPDATE images SET rating = NULL, starred = 0, note = '', tags = '[]'")
        connection.execute("UPDATE runs SET rating = NULL")
    assert "1 rows brought up to date" in printed("doctor --rebuild")
    assert stored(session, run) == chosen
    assert "brought up to date" not in printed("doctor --rebuild")


def test_choice_in_the_ledger_stands_against_older_facts(session: Session):
    run = session.begin("a fox").wait()
    choose(session, run.run_id, 0, rating=1)
    session.ledger.choose(run.run_id, 0, rating=5)
    printed("doctor --rebuild")
    assert stored(session, run).rating == 5


# --- other databases and versions -------------------------------------------------------------------


def test_choice_on_a_shared_ledger(url: str):
    with contextlib.closing(Ledger(url)) as ledger:
        pictures = tuple(Image(index=index, url="u", file=f"{index}.png") for index in range(2))
        run = a_run(state="success", result_urls=("u", "u"), images=pictures)
        ledger.insert(run)
        assert ledger.choose(run.run_id, 1, **CHOICE)
        assert not ledger.choose(run.run_id, 2, rating=5)
        ledger.put_image(run.run_id, Image(index=1, url="u", file="again.png"))
        [found] = ledger.runs()
    assert (found.images[1].choice, found.images[1].file, found.rating) == (CHOICE, "again.png", 4)


def test_unfinished_runs_are_told_whatever_was_chosen(session: Session):
    waiting = a_run(state="processing", task_id="t")
    session.ledger.insert(waiting)
    run = session.begin("a fox").wait()
    before = pending_line(session.ledger_file(), sandbox=True)
    choose(session, run.run_id, 0, **CHOICE)
    assert "1 run unfinished" in before
    assert pending_line(session.ledger_file(), sandbox=True) == before
