"""What is asked of the ledger is what comes, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apixo_nb.core.records import Image, Run
from apixo_nb.errors import InvalidRequestError
from apixo_nb.ledger import database
from apixo_nb.ledger import search as lookup
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.ledger.query import SORTS, Query
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.session import Session
from tests.support import postgres, sandboxes
from tests.support.factories import a_run
from tests.support.hostile import HOSTILE_TEXTS
from tests.support.ledger_files import rows_on_disk

server = postgres.server
clock, sandbox, session = sandboxes.clock, sandboxes.sandbox, sandboxes.session

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "index", "postgres"])
def ledger(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ledger]:
    """An empty one, on each database; on SQLite with and without an index of its texts."""
    if request.param == "index":
        monkeypatch.setattr(lookup, "_FEW", 0)
    if request.param != "postgres":
        with contextlib.closing(Ledger(tmp_path / "ledger.db")) as opened:
            yield opened
        return
    server = request.getfixturevalue("server")
    postgres.execute(server.url("postgres"), "CREATE DATABASE searched")
    try:
        with contextlib.closing(Ledger(server.url("searched"))) as opened:
            yield opened
    finally:
        postgres.execute(server.url("postgres"), "DROP DATABASE searched WITH (FORCE)")


def kept(ledger: Ledger, *pictures: dict[str, Any], **changes: Any) -> Run:
    """A row with such pictures."""
    images = tuple(Image(index=index, url="u", **facts) for index, facts in enumerate(pictures))
    run = a_run().replace(**{"images": images, **changes})
    assert ledger.insert(run)
    found = ledger.get(run.run_id)
    assert found is not None
    return found


def found(ledger: Ledger, **asked: Any) -> list[str]:
    """The prompts of what is found, oldest first."""
    page = ledger.find(Query(**{"descending": False, **asked}))
    assert page.total == len(page.runs)
    return [run.prompt for run in page.runs]


# --- text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("a cozy cyberpunk cafe", "CAFE cozy"),
        ("a cozy cyberpunk cafe", "punk"),
        ("Élan vital", "élan"),
        ("élan vital", "ÉLAN"),
        ("STRASSE", "straße"),
        ("große Straße", "STRAẞE"),
        ("GROẞE", "große"),
        ("ΟΔΟΣ", "οδος"),
        ("οδος", "ΟΔΟΣ"),
        ("οδοσ·ις", "οδος"),
        ("赛博朋克咖啡馆", "咖"),
        ("夜の赛博朋克", "朋克 夜"),
        ("夜の赛博朋克", "朋克\u3000夜"),
        ("ночь в городе", "НОЧЬ"),
        ("100% wool", "100%"),
        ("snake_case", "e_c"),
        ("it's", "'"),
        ('a "quoted" word', '"quoted"'),
        ("back\\slash", "k\\s"),
        ("🦊👩‍🚀", "👩‍🚀"),
        ("x" * 30_000 + " end", "END"),
        ("; -- DROP TABLE runs", "--"),
        ("[a-z]*.?(b)", "]*.?("),
        (":name %s {0} ?", ":name %s {0} ?"),
    ],
    ids=range(24),
)
def test_words_are_found_in_any_case_and_as_they_are(ledger: Ledger, stored: str, asked: str):
    kept(ledger, prompt=stored)
    kept(ledger, prompt="another")
    assert found(ledger, text=asked) == [stored]


@pytest.mark.parametrize("asked", ["%", "_", "ca%fe", "caf_", "\\", "caffè", "cozy dog", "cozy\0", "\ud800"])
def test_what_is_not_there_is_not_found(ledger: Ledger, asked: str):
    kept(ledger, prompt="a cozy cafe")
    assert found(ledger, text=asked) == []


@pytest.mark.parametrize("asked", ["", " ", "\n\t\u3000"])
def test_no_word_asks_for_nothing(ledger: Ledger, asked: str):
    kept(ledger, prompt="a fox")
    assert found(ledger, text=asked) == ["a fox"]


@pytest.mark.parametrize(
    "place",
    [
        {"prompt": "here: Grün"},
        {"prompt_template": "{x} Grün"},
        {"name": "GRÜN"},
        {"note": "grün"},
        {"run_id": "20261123-000000-grün"},
        {"task_id": "task_grün"},
        {"fail_code": "Grün"},
        {"fail_msg": "it is grün"},
        {"tags": ("red", "hellgrün")},
    ],
    ids=lambda place: next(iter(place)),
)
def test_every_text_of_a_run_is_searched(ledger: Ledger, place: dict[str, Any]):
    kept(ledger, prompt_template="")
    run = kept(ledger, **place)
    assert [one.run_id for one in ledger.find(Query(text="grün")).runs] == [run.run_id]


@pytest.mark.parametrize("place", [{"note": "ein Grün"}, {"tags": ("rot", "GRÜN")}])
def test_notes_and_tags_of_pictures_are_searched(ledger: Ledger, place: dict[str, Any]):
    kept(ledger, {"note": "rot"})
    run = kept(ledger, {}, place)
    assert [one.run_id for one in ledger.find(Query(text="grün")).runs] == [run.run_id]


def test_words_may_stand_in_different_places(ledger: Ledger):
    kept(ledger, {"note": "blue"}, {"tags": ("green",)}, prompt="red", note="yellow")
    assert found(ledger, text="green yellow red blue") == ["red"]
    assert found(ledger, text="green yellow red black") == []


def test_no_word_is_found_across_two_places(ledger: Ledger):
    kept(ledger, {"tags": ("t", "u")}, {"note": "v"}, prompt="p", name="q", tags=("r", "s"))
    for across in ("pq", "qr", "rs", "st", "tu", "uv", "[", ",", '"'):
        assert found(ledger, text=across) == []


def test_text_of_thousands_of_words_is_only_slow(ledger: Ledger):
    long = " ".join(f"word{number}" for number in range(4000))
    kept(ledger, prompt=long)
    assert found(ledger, text=long) == [long]
    assert found(ledger, text=f"{long} more") == []


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_text_finds_itself(ledger: Ledger, text: str):
    run = kept(ledger, {"note": text, "tags": (text,)}, prompt=text, tags=(text,), name=text, state=text)
    kept(ledger)
    for asked in (
        Query(text=text),
        Query(tags=(text,)),
        Query(name=text),
        Query(states=(text,)),
    ):
        assert ledger.find(asked).runs == [run]


def test_list_that_is_none_is_passed_over(tmp_path: Path):
    with contextlib.closing(Ledger(tmp_path / "ledger.db")) as ledger:
        run = kept(ledger, prompt="a fox")
        for damage in ("null", "{}", "[[1], null, 3]", '"a fox"'):
            with ledger._database.writing() as connection:
                connection.exec_driver_sql("UPDATE runs SET tags = ?", (damage,))
                query = sa.text("SELECT list_has(tags, 'a fox') + (list_lines(tags) <> '') FROM runs")
                assert connection.execute(query).scalar() == 0
        assert rows_on_disk(tmp_path / "ledger.db") == [(run.run_id,)]


@pytest.mark.parametrize("ledger", ["postgres"], indirect=True)
def test_server_without_unicode_collations_knows_the_case_of_its_locale(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_ICU", "nowhere")
    kept(ledger, {"note": "grün"}, prompt="A Fox")
    assert found(ledger, text="fOX grün", sort="prompt") == ["A Fox"]
    assert found(ledger, text="cat") == []


# --- the other questions ----------------------------------------------------------------------------


def test_all_tags_must_be_there_exactly_of_the_run_or_of_its_pictures(ledger: Ledger):
    kept(ledger, {"tags": ("grün",)}, prompt="both", tags=("red",))
    kept(ledger, prompt="red", tags=("red",))
    kept(ledger, {}, {"tags": ("red",)}, {"tags": ("grün", "x")}, prompt="pictures")
    kept(ledger, prompt="near", tags=("Red", "redder", "re", "grü"))
    assert found(ledger, tags=["red"]) == ["both", "red", "pictures"]
    assert found(ledger, tags=["grün", "red"]) == ["both", "pictures"]
    assert found(ledger, tags=["gr\\u00fcn"]) == []


@pytest.mark.parametrize("tag", ["b", ", ", '"', '", "', "]", "[", "\\", 'a", "b', "", "a ", "\n"])
def test_no_tag_is_mistaken_for_the_way_it_is_written_down(ledger: Ledger, tag: str):
    kept(ledger, prompt="others", tags=('x", "b', "a , ", ' "', "]]", "\\\\", "a\n"))
    kept(ledger, prompt="it", tags=("other", tag))
    assert found(ledger, tags=(tag,)) == ["it"]


def test_one_of_the_states_is_enough(ledger: Ledger):
    for state in ("failed", "success", "a new word"):
        kept(ledger, prompt=state, state=state)
    assert found(ledger, states=("success", "a new word")) == ["success", "a new word"]


def test_name_is_exact(ledger: Ledger):
    for name in ("foxes", "Foxes", "foxes 2"):
        kept(ledger, prompt=name, name=name)
    assert found(ledger, name="foxes") == ["foxes"]


def test_rating_of_the_best_picture_counts_and_a_star_of_any(ledger: Ledger):
    kept(ledger, {"rating": 2}, {"rating": 4}, prompt="four")
    kept(ledger, {"rating": 3, "starred": True}, {}, prompt="three")
    kept(ledger, {}, prompt="none")
    assert found(ledger, rating_min=4) == ["four"]
    assert found(ledger, rating_min=3) == ["four", "three"]
    assert found(ledger, starred=True) == ["three"]


def test_days_meet_without_a_gap_or_an_overlap(ledger: Ledger):
    day = timedelta(days=1)
    for hours in (0, 12, 24, 47.999, 48):
        kept(ledger, prompt=str(hours), created_at=NOON + timedelta(hours=hours))
    tokyo = (NOON + day).astimezone(timezone(timedelta(hours=9)))
    assert found(ledger, since=tokyo, until=NOON + 2 * day) == ["24", "47.999"]


def test_cost_is_asked_in_dollars_and_what_is_unknown_fits_no_limit(ledger: Ledger):
    for micros in (0, 350_000, 700_000, None):
        kept(ledger, prompt=str(micros), cost_micros=micros)
    assert found(ledger, cost_min_usd=0.35) == ["350000", "700000"]
    assert found(ledger, cost_max_usd=0.35) == ["0", "350000"]
    assert found(ledger, cost_min_usd=0.1, cost_max_usd=0.5) == ["350000"]
    assert found(ledger, cost_max_usd=1e300) == ["0", "350000", "700000"]


def test_session_sees_its_own_service(session: Session, sandbox: Sandbox):
    session.ledger.insert(a_run("real", sandbox=False, tags=("t",), name="real"))
    session.ledger.insert(a_run("drawn", sandbox=True, tags=("t",), name="drawn"))
    assert [run.prompt for run in session.find(Query(sandbox=False)).runs] == ["drawn"]
    assert session.facets().names == [("drawn", 1)]
    assert [run.prompt for run in session.ledger.find(Query(sandbox=False)).runs] == ["real"]
    assert session.ledger.facets().tags == [("t", 2)]
    assert sandbox.account.submits == 0


# --- order and pages --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sort", "facts"),
    [
        ("created_at", [{"created_at": NOON + timedelta(seconds=number)} for number in range(3)]),
        ("prompt", [{"prompt": "Apple"}, {"prompt": "banana"}, {"prompt": "Éclair"}]),
        ("state", [{"state": "failed"}, {"state": "success"}]),
        ("aspect_ratio", [{"parameters": {"aspect_ratio": ratio}} for ratio in ("1:1", "2:3", "3:2")]),
        ("num_images", [{"parameters": {"num_images": number}} for number in (1, 2, 4)]),
        ("costTime", [{"cost_time_ms": ms} for ms in (9, 10, 2**40)]),
        ("cost_usd", [{"cost_micros": micros} for micros in (0, 350_000, 1_400_000)]),
        ("rating", [{"rating": rating} for rating in (1, 3, 5)]),
        ("name", [{"name": "a"}, {"name": "B"}, {"name": "c"}]),
    ],
)
def test_missing_values_come_last_in_both_directions(ledger: Ledger, sort: str, facts: list[dict[str, Any]]):
    ids = [kept(ledger, **{"created_at": NOON, **each}).run_id for each in reversed(facts)][::-1]
    empty = sort in ("aspect_ratio", "costTime", "cost_usd", "rating", "name")
    lacking = [kept(ledger, parameters={}, created_at=NOON).run_id] if empty else []
    for descending in (False, True):
        page = ledger.find(Query(sort=sort, descending=descending))
        assert [run.run_id for run in page.runs] == (ids[::-1] if descending else ids) + lacking


def test_every_run_is_on_one_page(ledger: Ledger):
    for _ in range(23):
        kept(ledger, prompt="the same", created_at=NOON)
    pages = [ledger.find(Query(sort="prompt", limit=5, offset=offset)) for offset in range(0, 30, 5)]
    assert [len(page.runs) for page in pages] == [5, 5, 5, 5, 3, 0]
    assert {page.total for page in pages} == {23}
    ids = [run.run_id for page in pages for run in page.runs]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 23


def test_page_of_nothing_still_counts(ledger: Ledger):
    kept(ledger)
    page = ledger.find(Query(limit=0))
    assert (page.runs, page.total) == ([], 1)


def test_what_can_be_asked_for_is_counted_by_runs(ledger: Ledger):
    twice: dict[str, Any] = {"state": "success", "name": "foxes", "tags": ("red", "red")}
    kept(ledger, {"tags": ("red", "x")}, {"tags": ("red",)}, **twice)
    kept(ledger, {"tags": ("grün",)}, state="failed", name="foxes")
    kept(ledger, state="success", tags=("red",), sandbox=False)
    facets = ledger.facets(True)  # noqa: FBT003 - there is nothing else to say
    assert facets.states == [("failed", 1), ("success", 1)]
    assert facets.tags == [("grün", 1), ("red", 1), ("x", 1)]
    assert facets.names == [("foxes", 2)]
    assert ledger.facets().tags == [("red", 2), ("grün", 1), ("x", 1)]
    assert ledger.facets().states == [("success", 2), ("failed", 1)]


# --- against a plain filter -------------------------------------------------------------------------

LETTERS = "aAbB éÉßẞſςσΣ狐日%_'\"\\[],{}🦊\nİŉ1"
texts = st.text(LETTERS, max_size=5)
word_lists = st.lists(texts, max_size=2).map(tuple)
pictures = st.fixed_dictionaries(
    {
        "rating": st.none() | st.integers(1, 5),
        "starred": st.booleans(),
        "note": texts,
        "tags": word_lists,
    }
)
rows = st.fixed_dictionaries(
    {
        "prompt": texts,
        "prompt_template": texts,
        "name": texts,
        "note": texts,
        "tags": word_lists,
        "state": st.sampled_from(["success", "failed", "processing"]),
        "task_id": st.none() | texts,
        "fail_code": texts,
        "fail_msg": texts,
        "created_at": st.integers(0, 3).map(lambda hours: NOON + timedelta(hours=hours)),
        "cost_micros": st.none() | st.sampled_from([0, 350_000, 700_000]),
        "cost_time_ms": st.none() | st.integers(0, 3),
        "sandbox": st.booleans(),
    }
)
queries = st.builds(
    Query,
    text=texts,
    states=st.lists(st.sampled_from(["success", "failed"]), max_size=2).map(tuple),
    tags=word_lists,
    name=st.just("") | texts,
    rating_min=st.none() | st.integers(1, 5),
    starred=st.booleans(),
    since=st.none() | st.integers(0, 3).map(lambda hours: NOON + timedelta(hours=hours)),
    until=st.none() | st.integers(0, 4).map(lambda hours: NOON + timedelta(hours=hours)),
    cost_min_usd=st.none() | st.sampled_from([0, 0.35]),
    cost_max_usd=st.none() | st.sampled_from([0, 0.35, 0.7]),
    sandbox=st.none() | st.booleans(),
    sort=st.sampled_from(SORTS),
    descending=st.booleans(),
    limit=st.none() | st.integers(0, 60),
    offset=st.integers(0, 5),
)


def all_text(run: Run) -> str:
    words = [run.prompt, run.prompt_template, run.name, run.note, *run.tags, run.run_id, run.task_id or ""]
    words += [run.fail_code, run.fail_msg]
    for image in run.images:
        words += [image.note, *image.tags]
    return "\n".join(words).casefold()


def fits(run: Run, query: Query) -> bool:
    whole = all_text(run)
    tags = {*run.tags, *(tag for image in run.images for tag in image.tags)}
    cost = None if run.cost_micros is None else run.cost_micros / 1e6
    best = max((image.rating for image in run.images if image.rating), default=None)
    return (
        all(word in whole for word in query.text.casefold().split())
        and (not query.states or run.state in query.states)
        and set(query.tags) <= tags
        and query.name in ("", run.name)
        and (query.rating_min is None or (best is not None and best >= query.rating_min))
        and (not query.starred or any(image.starred for image in run.images))
        and (query.since is None or run.created_at >= query.since)
        and (query.until is None or run.created_at < query.until)
        and (query.cost_min_usd is None or (cost is not None and cost >= query.cost_min_usd))
        and (query.cost_max_usd is None or (cost is not None and cost <= query.cost_max_usd))
        and query.sandbox in (None, run.sandbox)
    )


def ordered(runs: list[Run], query: Query) -> list[Run]:
    field = {"costTime": "cost_time_ms", "cost_usd": "cost_micros"}.get(query.sort, query.sort)

    def value(run: Run) -> Any:
        found = getattr(run, field)
        return found.casefold() if isinstance(found, str) else found

    lacking = [run for run in runs if value(run) in (None, "")]
    there = [run for run in runs if value(run) not in (None, "")]
    there.sort(key=lambda run: (value(run), run.created_at, run.run_id), reverse=query.descending)
    lacking.sort(key=lambda run: (run.created_at, run.run_id), reverse=query.descending)
    return there + lacking


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=rows, images=st.lists(pictures, max_size=2), query=queries, loose=st.sampled_from([*SORTS, ""]))
@example(row={"prompt": "ẞ"}, images=[], query=Query("SS"), loose="")
def test_find_is_a_filter_of_all_runs(
    ledger: Ledger, row: dict[str, Any], images: list[dict[str, Any]], query: Query, loose: str
):
    # Rows stay from one example to the next, so that a question meets many.
    run = kept(ledger, *images, **row)
    word = next(iter(all_text(run).split()), "")
    own = (Query(text=word, sort=loose or "name", limit=1000), Query(tags=run.tags, limit=1000))
    for asked in (query, *own):
        everything = ledger.runs()
        expected = ordered([run for run in everything if fits(run, asked)], asked)
        page = ledger.find(asked)
        assert page.total == len(expected)
        assert page.runs == [*ledger.each(asked)] == expected[asked.offset :][: asked.limit]
    facets = ledger.facets()
    tags = [{*run.tags, *(tag for image in run.images for tag in image.tags)} for run in ledger.runs()]
    assert dict(facets.tags) == Counter(tag for each in tags for tag in each)


# --- what makes no sense ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", None),
        ("text", b"fox"),
        ("states", "success"),
        ("states", [1]),
        ("tags", "red"),
        ("tags", 5),
        ("name", 5),
        ("rating_min", 0),
        ("rating_min", 6),
        ("rating_min", 2.5),
        ("rating_min", True),
        ("rating_min", "3"),
        ("starred", "no"),
        ("starred", None),
        ("since", "yesterday"),
        ("since", datetime(2026, 1, 1)),  # noqa: DTZ001 - that is what is refused
        ("until", datetime.min.replace(tzinfo=timezone(timedelta(hours=9)))),
        ("cost_min_usd", -1),
        ("cost_max_usd", float("nan")),
        ("cost_max_usd", "1"),
        ("sandbox", "yes"),
        ("sort", "colour"),
        ("sort", None),
        ("sort", "run_id; DROP TABLE runs"),
        ("descending", 1),
        ("limit", -1),
        ("limit", 10**12),
        ("limit", 1.5),
        ("offset", -1),
        ("offset", 10**30),
    ],
)
def test_question_that_makes_no_sense_is_refused_in_two_lines(field: str, value: object):
    with pytest.raises(InvalidRequestError) as refused:
        Query(**{field: value})  # type: ignore[arg-type]
    assert refused.value.field == field
    assert refused.value.allowed
    assert len(str(refused.value).splitlines()) == 2
