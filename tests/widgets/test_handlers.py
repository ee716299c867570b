"""What the page may ask: answered as JSON, or refused in our words, whatever it sends."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apixo_nb.core.records import Image, Run
from apixo_nb.errors import ApixoError, BudgetError, InvalidRequestError, LedgerError
from apixo_nb.session.session import Session
from apixo_nb.widgets import controller
from apixo_nb.widgets.controller import Handler, dispatch, error_reply
from apixo_nb.widgets.panel import budget_facts, unfinished_text
from tests.support import sandboxes
from tests.support.factories import a_full_run, a_run

clock, sandbox, session = sandboxes.clock, sandboxes.sandbox, sandboxes.session

PROPERTY = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    max_examples=150,
)
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, -1, 10**30, -(10**400), 0.5, float("nan"), float("inf"), -float("inf")),
        *(
            "",
            "../../etc/passwd",
            "/etc/passwd",
            "a\0b",
            "\ud800",
            "x" * 5_000,
            "'; DROP TABLE runs; --",
            "%",
            "_",
        ),
        *(
            "0001-01-01",
            "9999-12-31",
            "2026-11-25",
            "2026-13-45",
            "\u0662\u0660",
            "csv",
            "html",
            "excel",
            "full",
        ),
        *([], [[]], {}, [None], ["a"] * 3, ["../x", "y"], {"a": {}}),
    ]
)
QUERY = ["text", "states", "tags", "rating_min", "starred", "since", "until", "cost_min_usd", "cost_max_usd"]
QUERIES = st.dictionaries(st.sampled_from([*QUERY, "sort", "descending", "offset", "limit"]), ODD)
REQUESTS = st.dictionaries(
    st.sampled_from(["run_id", "run_ids", "kind", "index", "wanted", "query"]), ODD | QUERIES
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own, with nothing in it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(call: Callable[[], object]) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        call()
    return caught.value


def with_pictures(session: Session, count: int = 2, **changes: Any) -> Run:
    """A row with pictures that are not on disk."""
    pictures = tuple(
        Image(index=index, url=f"https://pictures.example/{index}.png") for index in range(count)
    )
    run = a_full_run(sandbox=True, **changes)
    session.ledger.insert(run)
    for picture in pictures:
        session.ledger.put_image(run.run_id, picture)
    return session.run(run.run_id)


def all_handlers(session: Session) -> dict[str, Handler]:
    return {method: functools.partial(handle, session) for method, handle in controller.HANDLERS.items()}


# --- whatever the page sends ------------------------------------------------------------------------


@PROPERTY
@given(st.sampled_from(["find", "facets", "compare", "form", "prompt", "export", "nonsense", ""]), REQUESTS)
@example("find", {"query": {"offset": float("inf")}})
@example("find", {"query": {"rating_min": float("nan")}})
@example("find", {"query": {"since": "0001-01-01"}})
@example("find", {"query": {"until": "9999-12-31"}})
@example("find", {"query": {"states": ["x"] * 40_000}})
@example("find", {"query": {"text": "a b c d " * 2_000}})
@example("prompt", {"run_id": "\ud800"})
@example("compare", {"run_ids": ["\ud800", "\0"]})
@example("export", {"kind": "x" * 5_000})
@example("export", {"kind": "/../../../tmp/x"})
def test_a_request_is_answered_or_refused_in_our_words(
    session: Session, here: Path, name: str, request: dict[str, Any]
):
    try:
        answer = dispatch(all_handlers(session), {**request, "method": name})
    except ApixoError as error:
        answer = error_reply(error)
    json.dumps(answer, allow_nan=False).encode()
    assert all(path.parent == here and path.name.startswith("apixo-") for path in here.iterdir())
    for path in here.iterdir():
        path.unlink()


@PROPERTY
@given(
    st.dictionaries(st.sampled_from(["run_id", "index", "rating", "starred", "note", "tags", "more"]), ODD)
)
@example({"run_id": "\ud800", "index": 0})
def test_what_is_said_of_a_picture_is_kept_or_refused(session: Session, said: dict[str, Any]):
    run = session.ledger.get("known") or with_pictures(session, run_id="known")
    try:
        controller.review_picture(session, {"run_id": run.run_id, "index": 0, **said})
    except ApixoError as error:
        json.dumps(error_reply(error), allow_nan=False).encode()


@PROPERTY
@given(ODD | st.lists(ODD | st.dictionaries(st.sampled_from(["run_id", "index", "size"]), ODD), max_size=3))
def test_wanted_pictures_that_cannot_be_are_left_out(session: Session, wanted: Any):
    run = session.ledger.get("known") or with_pictures(session, run_id="known")
    good = {"run_id": run.run_id, "index": 0, "size": "row"}
    found = list(
        controller.wanted_pictures(
            session, {"wanted": [*wanted, good] if isinstance(wanted, list) else wanted}
        )
    )
    assert found == ([(run, 0, "row")] if isinstance(wanted, list) else [])


# --- the history ------------------------------------------------------------------------------------


def test_find_gives_a_page_of_rows_and_the_whole_count(session: Session):
    for number in range(30):
        session.ledger.insert(a_run(f"fox {number}", state="planned"))
    first = controller.find_runs(session, {"query": {"text": "fox"}})
    second = controller.find_runs(session, {"query": {"text": "fox", "offset": 25}})
    assert (len(first["rows"]), first["total"], first["page"]) == (25, 30, 25)
    assert [row["prompt"] for row in second["rows"]] == [f"fox {number}" for number in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, 3),
        (None, 3),
        ({"text": "RED hou"}, 1),
        ({"states": ["planned"]}, 1),
        ({"tags": ["grün"]}, 1),
        ({"rating_min": 4}, 1),
        ({"rating_min": 5}, 0),
        ({"cost_min_usd": 0.5, "cost_max_usd": 0.8}, 1),
        ({"since": "2026-11-24"}, 2),
        ({"until": "2026-11-24"}, 1),
        ({"since": "", "until": ""}, 3),
        ({"starred": "yes"}, 3),
    ],
    ids=str,
)
def test_filters_are_those_of_the_form(session: Session, query: Any, found: int):
    later = datetime(2026, 11, 26, 12, tzinfo=UTC)
    with_pictures(session)  # made on 2026-11-23, at noon, for $0.70
    session.ledger.insert(a_run("a red house", state="planned", created_at=later))
    session.ledger.insert(a_run("a house", state="failed", created_at=later + timedelta(hours=1)))
    assert controller.find_runs(session, {"query": query})["total"] == found


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"sort": "secret"}, "sort"),
        ({"rating_min": 9}, "rating_min"),
        ({"offset": -1}, "offset"),
        ({"offset": 10**30}, "offset"),
        ({"cost_min_usd": -1}, "cost_min_usd"),
        ({"since": "yesterday"}, "date"),
        ({"until": "2026-02-30"}, "date"),
    ],
    ids=str,
)
def test_a_filter_that_makes_no_sense_is_named(session: Session, query: dict[str, Any], field: str):
    assert refused(lambda: controller.find_runs(session, {"query": query})).field == field


def test_facets_are_the_words_that_are_there(session: Session):
    with_pictures(session)
    session.ledger.insert(a_run(state="planned", tags=("red",)))
    assert controller.list_facets(session, {}) == {"states": ["planned", "success"], "tags": ["red", "grün"]}


@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_two_to_four_runs_are_compared(session: Session, count: int):
    run = with_pictures(session)
    error = refused(lambda: controller.compare_runs(session, {"run_ids": [run.run_id] * count}))
    assert (error.field, error.allowed) == ("compare", "2 to 4 runs")
    assert len(controller.compare_runs(session, {"run_ids": [run.run_id] * 3})["runs"]) == 3


def test_a_past_run_comes_back_as_a_form_and_its_whole_prompt(session: Session):
    run = a_run("x " * 2_000, state="planned", name="foxes", tags=("red",))
    session.ledger.insert(run)
    form = controller.fill_form(session, {"run_id": run.run_id})["form"]
    assert (form["prompt"], form["name"], form["tags"], form["repeat"]) == (run.prompt, "foxes", ["red"], 1)
    assert controller.full_prompt(session, {"run_id": run.run_id}) == {"prompt": run.prompt}
    for ask in (controller.fill_form, controller.full_prompt):
        assert refused(functools.partial(ask, session, {"run_id": "nobody"})).field == "run_id"


def test_what_nobody_knows_is_refused(session: Session):
    assert refused(lambda: dispatch(all_handlers(session), {"method": "__class__"})).field == "method"


# --- files and pictures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("csv", ".csv"),
        ("excel", "-excel.csv"),
        ("jsonl", ".jsonl"),
        ("parquet", ".parquet"),
        ("html", ".html"),
    ],
)
def test_an_export_is_a_new_file_in_the_working_folder(session: Session, here: Path, kind: str, ending: str):
    run = with_pictures(session)
    session.ledger.insert(a_run(state="planned"))
    answers = [controller.export_runs(session, {"kind": kind, "run_ids": [run.run_id]}) for _ in range(3)]
    written = {here / answer["file"] for answer in answers}
    assert written == set(here.iterdir()) == {Path(answer["place"]) for answer in answers}
    assert len(written) == 3
    assert all(path.name.endswith(ending) or f"-2{ending}"[-4:] in path.name for path in written)


@pytest.mark.parametrize("kind", ["", "xlsx", "../csv", "csv/../../x", "x" * 5_000, "CSV", None, 7, ["csv"]])
def test_another_kind_of_export_writes_nothing(session: Session, here: Path, kind: Any):
    assert refused(lambda: controller.export_runs(session, {"kind": kind})).field == "kind"
    assert list(here.iterdir()) == []


def test_an_export_of_all_is_of_all_that_is_found(session: Session, here: Path):
    for number in range(60):
        session.ledger.insert(a_run(f"fox-{number}", state="planned"))
    answer = controller.export_runs(session, {"kind": "jsonl", "query": {"text": "fox-1"}})
    assert len((here / answer["file"]).read_text("utf-8").splitlines()) == 11


def test_pictures_are_the_original_or_small_and_say_what_is_missing(session: Session):
    run = session.begin("a fox", num_images=2).wait()
    original = session.images.path(run.images[0]).read_bytes()
    facts, data = controller.picture_bytes(session, run, 0, "full")
    assert (facts, data) == ({"mime": "image/png", "file": run.images[0].file}, original)
    facts, data = controller.picture_bytes(session, run, 0, "card")
    assert (facts["mime"], data[8:12]) == ("image/webp", b"WEBP")
    session.images.path(run.images[1]).unlink()
    for size in ("full", "card", "row"):
        facts, data = controller.picture_bytes(session, run, 1, size)
        assert (facts["gone"], data) == ("Its file is not in the folder of the pictures.", b"")
    assert controller.picture_bytes(session, run, 9, "row") == ({"gone": "There is no such picture."}, b"")


def test_a_row_of_others_leads_to_no_file_outside_the_folder(session: Session, tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    for file in ("../../secret.png", str(tmp_path / "secret.png")):
        run = a_full_run(images=(Image(index=0, url="u", file=file),))
        for size in ("full", "card"):
            assert controller.picture_bytes(session, run, 0, size)[1] == b""


# --- what stands beside the form, and problems ------------------------------------------------------


def test_money_is_what_the_budgets_leave(session: Session):
    assert budget_facts(session) == {"budgets": []}
    session.ledger.set_budget("total", sandbox=True, limit_micros=1_000_000)
    with_pictures(session)
    [cap] = budget_facts(session)["budgets"]
    assert cap == {"name": "in total", "limit_micros": 1_000_000, "left_micros": 300_000}


def test_what_is_unfinished_is_said_with_what_is_at_stake(session: Session):
    assert unfinished_text(session) == ""
    session.ledger.insert(a_run(state="processing", task_id="t1"))
    session.ledger.insert(a_run(state="unknown"))
    told = unfinished_text(session)
    assert told.startswith(
        "1 earlier run is not finished; to resume costs nothing. 1 submit was never answered"
    )
    assert "$0.35 at stake" in told


def test_a_ledger_that_cannot_be_read_keeps_the_form_alive(session: Session):
    session.ledger.leases.mark_abandoned()
    session.close()
    session.ledger_file().write_bytes(b"no ledger " * 1_000)
    assert (budget_facts(session), unfinished_text(session)) == ({"budgets": []}, "")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            InvalidRequestError("No", field="prompt", allowed="text"),
            {"text": "No", "advice": "Allowed: text. Nothing was sent.", "field": "prompt"},
        ),
        (
            BudgetError("Too much", next_step="Less."),
            {"text": "Too much", "advice": "Less.", "field": "budget"},
        ),
        (LedgerError("Broken", next_step="Mend."), {"text": "Broken", "advice": "Mend.", "field": ""}),
        (
            RuntimeError("sk-secret"),
            {"text": "Something went wrong: RuntimeError", "advice": "", "field": ""},
        ),
        (KeyError("sk-secret"), {"text": "Something went wrong: KeyError", "advice": "", "field": ""}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_problem_says_what_our_errors_say_and_nothing_of_others(error: Exception, told: dict[str, str]):
    assert error_reply(error) == {"problem": told}
