"""The filters of a table: what people write is what they get, the same for runs and for pictures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import apixo_nb
from apixo_nb.analysis import frame
from apixo_nb.core.records import Image, Run
from apixo_nb.errors import InvalidRequestError
from apixo_nb.ledger import query as filters
from apixo_nb.session.session import Session
from tests.support.factories import a_run, a_session

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def session() -> Iterator[Session]:
    with contextlib.closing(a_session(base_url="http://127.0.0.1:9/api/v1")) as made:
        yield made


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine three hours ahead of UTC."""
    monkeypatch.setenv("TZ", "XYZ-3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def kept(session: Session, prompt: str, hours: float = 0, **changes: Any) -> Run:
    image = Image(index=0, url="u", tags=changes.pop("image_tags", ()))
    run = a_run(prompt).replace(created_at=NOON + timedelta(hours=hours), images=(image,), **changes)
    assert session.ledger.insert(run)
    return run


@pytest.fixture
def ledger(session: Session) -> Session:
    """One run for each thing to ask for."""
    kept(session, "a red fox", 0, name="foxes", tags=("draft", "red"), state="success")
    kept(session, "a grey fox", 1, name="foxes", tags=("draft",), state="failed", sandbox=False)
    kept(session, "a cat", 2, name="cats", image_tags=("red",), state="success")
    kept(session, "a dog", 3, state="submitted")
    return session


def prompts(session: Session, **asked: Any) -> list[str]:
    """Of history() and pictures() alike."""
    found = session.history(**asked)["prompt"].tolist()
    assert session.pictures(**asked)["prompt"].tolist() == found
    return found


def test_nothing_asked_is_the_whole_ledger_oldest_first_real_runs_and_sandbox(ledger: Session):
    assert prompts(ledger) == ["a red fox", "a grey fox", "a cat", "a dog"]
    assert_frame_equal(ledger.history(), frame.history_frame(ledger.ledger.runs(), ledger.shown_path))
    assert_frame_equal(ledger.pictures(), frame.images_frame(ledger.ledger.runs(), ledger.shown_path))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"name": "foxes"}, ["a red fox", "a grey fox"]),
        ({"name": "fox"}, []),
        ({"tag": "draft"}, ["a red fox", "a grey fox"]),
        ({"tag": ["draft", "red"]}, ["a red fox"]),
        ({"tag": "red"}, ["a red fox", "a cat"]),
        ({"state": "success"}, ["a red fox", "a cat"]),
        ({"state": ["failed", "submitted"]}, ["a grey fox", "a dog"]),
        ({"text": "FOX"}, ["a red fox", "a grey fox"]),
        ({"text": "fox draft", "state": "success"}, ["a red fox"]),
        ({"since": NOON + timedelta(hours=2)}, ["a cat", "a dog"]),
        (
            {"name": None, "tag": None, "since": None, "state": None, "text": None},
            ["a red fox", "a grey fox", "a cat", "a dog"],
        ),
        ({"name": "", "tag": [], "state": (), "text": " "}, ["a red fox", "a grey fox", "a cat", "a dog"]),
    ],
)
def test_all_that_is_given_must_fit(asked: dict[str, Any], expected: list[str], ledger: Session):
    assert prompts(ledger, **asked) == expected


def test_what_nothing_fits_is_an_empty_table_of_the_same_kind(ledger: Session):
    for asked, whole in ((ledger.history, frame.COLUMNS), (ledger.pictures, frame.IMAGE_COLUMNS)):
        found = asked(text="nothing of the kind")
        assert (len(found), found.dtypes.astype(str).to_dict()) == (0, whole)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (NOON, NOON),
        (NOON.astimezone(timezone(timedelta(hours=-7))), NOON),
        (datetime(2026, 11, 25, 15), NOON),  # noqa: DTZ001 - the time of this machine
        (date(2026, 11, 25), NOON - timedelta(hours=15)),
        ("2026-11-25", NOON - timedelta(hours=15)),
        (" 2026-11-25 15:00 ", NOON),
        ("2026-11-25T12:00:00Z", NOON),
        ("2026-11-25T14:00+02:00", NOON),
        (pd.Timestamp("2026-11-25 15:00"), NOON),
        (pd.Timestamp("2026-11-25 12:00", tz="UTC"), NOON),
    ],
)
def test_since_is_a_moment_or_a_day_of_this_machine(since: Any, expected: datetime):
    assert filters.moment(since) == expected
    assert filters.moment(since).tzinfo is UTC


@pytest.mark.parametrize("ago", [timedelta(hours=2), pd.Timedelta(hours=2)])
def test_timedelta_is_the_last_of_that_length(ago: timedelta, session: Session):
    hours = (datetime.now(UTC) - NOON) / timedelta(hours=1)
    kept(session, "long ago", hours - 3)
    kept(session, "just now", hours - 1)
    assert prompts(session, since=ago) == ["just now"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("since", "yesterday"),
        ("since", 20261125),
        ("since", timedelta.max),
        ("since", pd.NaT),
        ("since", ""),
        ("name", 3),
        ("tag", 3),
        ("tag", [3]),
        ("state", [None]),
        ("state", True),
        ("text", b"fox"),
    ],
)
def test_filter_that_makes_no_sense_is_refused_in_two_lines(field: str, value: Any, session: Session):
    for table in (session.history, session.pictures):
        with pytest.raises(InvalidRequestError) as refused:
            table(**{field: value})
        assert len(str(refused.value).splitlines()) == 2


def test_functions_of_the_package_take_the_same_filters(ledger: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("APIXO_HOME", str(ledger.settings.home_path))
    monkeypatch.setenv("APIXO_SANDBOX", "1")
    asked: dict[str, Any] = {
        "name": "foxes",
        "tag": "draft",
        "since": NOON,
        "state": "success",
        "text": "red",
    }
    assert apixo_nb.history(**asked)["prompt"].tolist() == ["a red fox"]
    assert apixo_nb.images(**asked)["prompt"].tolist() == ["a red fox"]


def test_paths_are_those_of_the_originals_wherever_they_lie(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = ("20261125-1.png", "../outside.png", ".hidden.png", "/abroad.png", "a b.png", "-1.webp", "ä.png")
    images = tuple(Image(index=index, url="u", file=name) for index, name in enumerate(names))
    assert session.ledger.insert(a_run().replace(images=images))
    for folder in (tmp_path, session.images.folder.parent, tmp_path.parent):
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        expected = [session.shown_path(name) for name in names]
        assert session.history()["files"][0] == expected
        assert session.pictures()["file"].tolist() == expected
    session.images.folder.mkdir(exist_ok=True)
    monkeypatch.chdir(session.images.folder)
    assert session.pictures()["file"][0] == names[0]
