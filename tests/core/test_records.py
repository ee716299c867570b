"""The records: what a run says of itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

import apixo_nb
from apixo_nb.core.records import Image, Run, checked_runs, expiry, new_run, utc_now
from apixo_nb.core.request import make_request
from apixo_nb.errors import InvalidRequestError


def a_run(prompt: str = "a fox", *, num_images: int = 1, **changes: Any) -> Run:
    request = make_request(prompt, num_images=num_images)
    return new_run(request, unit_price_micros=350_000, sandbox=True).replace(**changes)


URLS = ("https://pictures.example/1.png", "https://pictures.example/2.png")


def test_new_run_takes_over_the_whole_request():
    request = make_request(
        "a fox", aspect_ratio="3:2", num_images=4, image_urls=["https://example.com/a.png"]
    )
    run = new_run(request, unit_price_micros=1, sandbox=False)
    assert run.request == request
    assert run.digest == request.digest()
    assert (run.aspect_ratio, run.num_images, run.mode) == ("3:2", 4, "gpt-image-1")


def test_new_run_has_no_task_no_cost_and_an_aware_time():
    run = a_run()
    assert (run.task_id, run.cost_micros, run.images, run.result_urls) == (None, None, (), ())
    assert run.created_at.tzinfo is UTC


def test_run_ids_are_safe_file_names_and_differ():
    ids = {a_run().run_id for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{8}", run_id) for run_id in ids)


def test_template_is_the_prompt_where_none_was_given():
    request = make_request("a red fox")
    plain = new_run(request, unit_price_micros=1, sandbox=True)
    filled = new_run(request, unit_price_micros=1, sandbox=True, prompt_template="a {colour} fox")
    assert (plain.prompt_template, filled.prompt_template) == ("a red fox", "a {colour} fox")


def test_run_cannot_be_changed_in_place():
    run = a_run()
    with pytest.raises(ValidationError):
        run.state = "success"


def test_but_returns_another_record():
    run = a_run()
    assert run.replace(state="processing").state == "processing"
    assert run.state == "planned"


@pytest.mark.parametrize(("pictures", "micros"), [(1, 350_000), (2, 700_000), (4, 1_400_000)])
def test_price_is_that_of_all_pictures(pictures: int, micros: int):
    assert a_run(num_images=pictures).price_micros == micros


@pytest.mark.parametrize("state", ["submitted", "processing", "cancelled", "timeout", "pending", "SUCCESS?"])
def test_run_with_a_task_is_open_in_every_state_that_is_not_final(state: str):
    assert a_run(state=state, task_id="t").is_open
    assert not a_run(state=state).is_open


@pytest.mark.parametrize("state", ["success", "failed"])
def test_final_run_is_not_open(state: str):
    assert not a_run(state=state, task_id="t").is_open


def test_missing_counts_result_pictures_that_are_not_on_disk():
    there = Image(index=0, url=URLS[0], file="a.png")
    gone = Image(index=1, url=URLS[1], error="gone")
    run = a_run(num_images=2, state="success", result_urls=URLS, images=(there, gone))
    assert (run.missing, run.files) == (1, ("a.png",))


@pytest.mark.parametrize(
    ("asked", "came", "remark"),
    [
        (2, 2, ""),
        (1, 2, "1 picture asked for, 2 came"),
        (4, 1, "4 pictures asked for, 1 came"),
        (1, 0, "1 picture asked for, 0 came"),
    ],
)
def test_other_number_of_pictures_than_asked_is_remarked(asked: int, came: int, remark: str):
    assert a_run(num_images=asked, state="success", result_urls=URLS[:came]).remark == remark


def test_repr_names_the_run_and_not_the_prompt():
    run = a_run("a secret prompt", state="success")
    assert repr(run) == f"<Run {run.run_id}: success, 0 of 1 pictures on disk>"


def test_model_of_another_version_still_reads():
    run = a_run().replace(model="gpt-image-9")
    assert (run.spec, run.mode, run.num_images) == (None, "gpt-image-9", 1)


def test_result_urls_expire_after_15_days():
    now = utc_now()
    assert expiry(now) - now == timedelta(days=15)


# --- runs that somebody gives ---


def test_runs_are_given_one_by_one_together_or_by_what_has_them():
    runs = [a_run("a fox"), a_run("a cat")]

    class Sweep:
        runs = tuple(a_run(prompt) for prompt in "ab")

    class Rows:
        def runs(self) -> list[Run]:
            return runs

    assert checked_runs(runs[0]) == runs[:1]
    assert checked_runs(iter(runs)) == checked_runs(Rows()) == runs
    assert checked_runs(Sweep()) == list(Sweep.runs)
    assert checked_runs([]) == []


@pytest.mark.parametrize("wrong", [["x"], [a_run(), None], 7, None, "20261125-1", {"a": 1}, a_run])
def test_what_is_no_run_is_named(wrong: Any):
    with pytest.raises(InvalidRequestError, match="This is no run"):
        checked_runs(wrong)


@pytest.mark.parametrize("ask", [apixo_nb.vote, apixo_nb.grid])
def test_who_asks_for_runs_refuses_what_is_none(ask: Callable[[Any], Any]):
    with pytest.raises(InvalidRequestError, match="This is no run: '20261125-1'"):
        ask("20261125-1")
