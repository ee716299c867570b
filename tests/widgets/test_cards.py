"""Runs as the page shows them: every state has its words, nothing secret leaves, and all of it is JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apixo_nb.core.models import DEFAULT_MODEL, MODELS
from apixo_nb.core.records import Image, Run, new_run, utc_now
from apixo_nb.core.request import make_request
from apixo_nb.engine.job import Job
from apixo_nb.errors import ApixoError, BudgetError, TaskFailedError
from apixo_nb.widgets.cards import comparison, ended_card, history_row, live_card, retry_price
from apixo_nb.widgets.form import model_facts
from tests.support.factories import STATES, a_full_run, a_run
from tests.support.hostile import HOSTILE_HTML

PROPERTY = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=100
)
SPEC = MODELS[DEFAULT_MODEL]
CALLBACK = "https://hooks.example/secret-path-91x"
RAW = '{"raw": "answer-91x"}'
EVERY_STATE = [*STATES, "an invented word", ""]


def a_secret_run(state: str = "success", **changes: Any) -> Run:
    """A run that holds what no page is to see."""
    request = make_request("a fox", num_images=2, request_type="callback", callback_url=CALLBACK)
    run = new_run(request, unit_price_micros=350_000, sandbox=False, variables={"key": "variable-91x"})
    pictures = tuple(Image(index=index, url=f"https://pictures.example/{index}.png") for index in (0, 1))
    # What was answered to a submit of unknown end is shown, as the person has to judge by it.
    raw = '{"raw": "answer"}' if state == "unknown" else RAW
    facts: dict[str, Any] = {"task_id": "task_1", "images": pictures, "raw": raw}
    return run.replace(**facts | {"state": state, **changes})


def sent(answer: object) -> str:
    """What the page gets, as it gets it."""
    text = json.dumps(answer, allow_nan=False)
    text.encode()
    assert not [secret for secret in ("91x", "callback") if secret in text]
    return text


def job_of(run: Run) -> Job:
    job = Job(run)
    job.polls = 3
    return job


# --- states -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_id", [None, "task_1"])
@pytest.mark.parametrize("state", EVERY_STATE)
def test_every_state_has_a_card_in_flight_and_at_its_end(state: str, task_id: str | None):
    run = a_secret_run(state, task_id=task_id)
    live = live_card(job_of(run), utc_now(), SPEC.cadence)
    ended = ended_card(run, None)
    assert (live["kind"], live["polls"], live["stoppable"]) == ("live", 3, True)
    assert ended["kind"] in ("done", "failed", "unknown", "stopped", "unsent")
    assert live["phase"]
    assert ended["phase"]
    assert ended["state"] == live["state"] == history_row(run)["state"] == state
    for answer in (live, ended, history_row(run)):
        sent(answer)


@pytest.mark.parametrize(
    ("state", "task_id", "kind", "tried_again", "resumable"),
    [
        ("success", "t", "done", "", False),
        ("failed", "t", "failed", "$0.70", False),
        ("failed", None, "failed", "$0.70", False),
        ("planned", None, "unsent", "$0.70", False),
        ("submitting", None, "unknown", "", False),  # its POST may have left
        ("unknown", None, "unknown", "", False),
        ("cancelled", "t", "stopped", "", True),
        ("cancelled", None, "stopped", "", False),
        ("timeout", "t", "stopped", "", True),
        ("processing", "t", "stopped", "", True),
        ("an invented word", "t", "stopped", "", True),
    ],
)
def test_only_what_was_surely_not_paid_for_is_tried_again(
    state: str, task_id: str | None, kind: str, tried_again: str, *, resumable: bool
):
    run = a_secret_run(state, task_id=task_id)
    card = ended_card(run, None)
    assert (card["kind"], card["retry_price"], card["resumable"]) == (kind, tried_again, resumable)
    assert retry_price(run) == tried_again


def test_a_success_whose_pictures_are_missing_is_resumable_and_says_so():
    run = a_secret_run(result_urls=("https://pictures.example/0.png", "https://pictures.example/1.png"))
    card = ended_card(run, None)
    assert (card["phase"], card["resumable"]) == ("Done, but not all is on disk", True)
    assert card["remark"] == "2 not on disk yet"


def test_a_stopped_job_says_that_it_stops():
    job = job_of(a_secret_run("processing"))
    job.stopped = True
    card = live_card(job, utc_now(), SPEC.cadence)
    assert (card["phase"], card["stoppable"]) == ("Stopping", False)


def test_a_run_that_is_taken_up_again_waits():
    assert live_card(job_of(a_secret_run("timeout")), utc_now(), SPEC.cadence)["phase"] == "Waiting"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TaskFailedError("The task failed: SensitiveContent"), "The task failed: SensitiveContent"),
        (BudgetError("This would cost too much", next_step="Nothing was sent."), "This would cost too much"),
        (RuntimeError("secret-91x"), "Failed: "),
        (None, "Failed: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_reason_is_what_our_error_says_or_the_row(error: BaseException | None, text: str):
    card = ended_card(a_secret_run("failed"), error)
    sent(card)
    assert card["problem"]["text"] == text
    assert card["problem"]["advice"] == (error.advice if isinstance(error, ApixoError) else "")


# --- pictures and texts -----------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "alive"), [(1, True), (-1, False), (None, True)])
def test_a_picture_has_its_address_only_while_it_lives(days: int | None, *, alive: bool):
    ends = None if days is None else datetime.now(UTC) + timedelta(days=days)
    run = a_secret_run(expires_at=ends)
    pictures = ended_card(run, None)["pictures"]
    assert [picture["alive"] for picture in pictures] == [alive, alive]
    assert not any(image.url in str(pictures) for image in run.images)  # it may be signed


def test_a_picture_tells_what_was_said_of_it():
    image = Image(
        index=0, url="u", file="a.png", width=3, height=2, rating=4, starred=True, note="n", tags=("x",)
    )
    [picture] = history_row(a_secret_run(images=(image,)))["pictures"]
    wanted = {"rating": 4, "starred": True, "note": "n", "tags": ["x"], "file": "a.png", "missing": ""}
    assert {name: picture[name] for name in wanted} == wanted
    assert (picture["width"], picture["height"], picture["size"]) == (3, 2, "3 \u00d7 2")


def test_a_long_prompt_is_cut_and_says_so():
    card = ended_card(a_run("x" * 10_000), None)
    assert (len(card["prompt"]), card["cut"]) == (600, True)
    assert ended_card(a_run("x" * 600), None)["cut"] is False


@PROPERTY
@given(st.sampled_from(HOSTILE_HTML) | st.text(max_size=30), st.sampled_from(EVERY_STATE))
def test_whatever_people_and_servers_wrote_can_be_sent(text: str, state: str):
    storable = text.replace("\0", "\ufffd")
    labels: dict[str, Any] = {"name": storable, "note": storable, "tags": (storable,)}
    pictures = (Image(index=0, url="u", error=storable, note=storable),)
    run = a_full_run(prompt=storable or "x", fail_msg=storable, fail_code=storable, images=pictures).replace(
        **labels, state=state
    )
    for answer in (
        live_card(job_of(run), utc_now(), SPEC.cadence),
        ended_card(run, None, storable),
        history_row(run),
        comparison([run, run]),
    ):
        json.dumps(answer, allow_nan=False).encode()


# --- side by side -----------------------------------------------------------------------------------


def test_a_comparison_marks_what_differs_and_only_that():
    one = a_full_run()
    other = one.replace(
        run_id="other",
        prompt="a red fox",
        parameters={"aspect_ratio": "3:2", "num_images": 2},
        image_urls=(),
        tags=("red",),
        rating=None,
    )
    found = comparison([one, other])
    differing = {line["label"] for line in found["parameters"] if line["differs"]}
    assert differing == {"Aspect ratio", "References", "Rating", "Tags", "Run"}
    values = {line["label"]: line["values"] for line in found["parameters"]}
    assert values["Aspect ratio"] == ["1:1", "3:2"]
    assert values["References"] == ["https://example.com/ab.png", "none"]
    assert values["Rating"] == ["4", ""]
    assert found["prompts"] == [
        [("same", "a fox")],
        [("same", "a "), ("added", "red "), ("same", "fox")],
    ]


def test_a_comparison_holds_whole_prompts_and_no_secrets():
    runs = [a_secret_run().replace(prompt="x " * 2_000), a_secret_run("failed")]
    found = comparison(runs)
    assert [run["prompt"] for run in found["runs"]] == [run.prompt for run in runs]
    assert all(len(line["values"]) == 2 for line in found["parameters"])
    sent(found)


def test_a_run_of_a_model_that_is_not_known_can_be_compared():
    strange = a_full_run().replace(model="dall-e", parameters={"size": 1024})
    values = {line["label"]: line["values"] for line in comparison([strange, a_full_run()])["parameters"]}
    assert values["size"] == ["1024", ""]
    sent(comparison([strange, strange]))


def test_model_facts_are_those_of_the_spec():
    facts = model_facts(SPEC, 350_000)
    assert (facts["id"], facts["count"], facts["price_micros"]) == (DEFAULT_MODEL, "num_images", 350_000)
    assert [parameter["values"] for parameter in facts["parameters"]] == [["1:1", "2:3", "3:2"], [1, 2, 4]]
    sent(facts)
