"""The Sweep of a script: planned, agreed to, bought, counted; and how its progress is told."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import apixo_nb
from apixo_nb.core.records import Run, new_run
from apixo_nb.core.request import make_request
from apixo_nb.engine.job import Job
from apixo_nb.errors import (
    ApixoError,
    ConfigurationError,
    CostLimitError,
    InvalidRequestError,
    RunCancelledError,
)
from apixo_nb.experiments import progress, sweep_view
from apixo_nb.experiments import sweep as sweeps
from apixo_nb.experiments.progress import Forecast, about
from apixo_nb.experiments.sweep_view import _GALLERY_CHARACTERS, Tile, _that_fit
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.session import current
from apixo_nb.storage import originals


@pytest.fixture(autouse=True)
def script(service: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a plain script, whatever shell another test has left in this process."""
    monkeypatch.setattr(sweeps, "current_shell", lambda: None)
    yield
    assert service.account.submits <= 100


def prompts(runs: Any) -> list[str]:
    return [run.prompt for run in runs]


# --- buying ------------------------------------------------------------------------------------------


def test_a_sweep_returns_at_once_and_is_waited_for(service: Sandbox):
    made = apixo_nb.sweep(
        "a {style} fox",
        style=["oil", "ink"],
        aspect_ratio=["1:1", "3:2"],
        num_images=2,
        repeat=2,
        tags=["t"],
        yes=True,
    )
    assert "under way" in repr(made) or made.done
    assert made.wait() is made
    assert len(made) == len(made.runs) == 8
    assert [(run.prompt, run.aspect_ratio, run.take) for run in made] == [
        (f"a {style} fox", ratio, take)
        for style in ("oil", "ink")
        for ratio in ("1:1", "3:2")
        for take in (1, 2)
    ]
    assert {(run.num_images, run.tags, len(run.files)) for run in made} == {(2, ("t",), 2)}
    assert made[0].prompt_template == "a {style} fox"
    assert made.failed == made.unknown == []
    assert list(made.frame()["run_id"]) == [run.run_id for run in made]
    assert service.account.submits == 8


def test_one_bad_cell_does_not_stop_the_others():
    made = apixo_nb.sweep("a {x} fox", x=["red", "[fail:SensitiveContent]", "[http:402]", "[gone]", "[lost]"])
    made.wait()
    assert prompts(made.failed) == ["a [fail:SensitiveContent] fox", "a [http:402] fox", "a [gone] fox"]
    assert prompts(made.unknown) == ["a [lost] fox"]
    text = made._repr_mimebundle_()["text/plain"]
    assert "1 of 5 done · 3 failed · 1 unknown" in text
    assert "SensitiveContent" in text
    assert f"x=[lost]: run {made.unknown[0].run_id}" in text


def test_a_sweep_of_which_nothing_came_raises_the_first_error():
    made = apixo_nb.sweep("{x}", x=["[http:402]", "[fail:Timeout]"])
    with pytest.raises(ApixoError, match="credits"):
        made.wait()
    assert len(made.failed) == 2


def test_await_waits_as_well():
    async def awaited() -> sweeps.Sweep:
        return await apixo_nb.sweep("{x}", x=["a", "b"])

    assert [run.state for run in asyncio.run(awaited())] == ["success", "success"]


def test_cancel_stops_the_waiting_and_keeps_what_is_there():
    made = apixo_nb.sweep("{x}", x=["[never] a", "[never] b"])
    made.cancel()
    with pytest.raises(RunCancelledError):
        made.wait()
    assert made.done


def test_a_script_buys_anew_unless_it_asks_for_replay(service: Sandbox):
    for replay in (None, True, False):
        made = apixo_nb.sweep("{x}", x=["a", "b"], replay=replay).wait()
    assert [run.take for run in made] == [2, 2]
    assert service.account.submits == 4


def test_templates_may_be_several_and_rows_of_a_csv(tmp_path: Path):
    made = apixo_nb.sweep(["a {x} fox", "a cat"], x=["red", "blue"]).wait()
    assert prompts(made) == ["a red fox", "a blue fox", "a cat"]
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,animal,num_images,tags\na {animal},dog,2,a b\na {animal} {y},owl,,\n", "utf-8")
    made = apixo_nb.sweep(path, y=["flies", "sits"], tags=["all"]).wait()
    assert prompts(made) == ["a dog", "a owl flies", "a owl sits"]
    assert [(run.num_images, run.tags) for run in made] == [
        (2, ("all", "a", "b")),
        (1, ("all",)),
        (1, ("all",)),
    ]


def test_a_csv_needs_no_pandas(tmp_path: Path):
    (tmp_path / "p.csv").write_text("prompt\na fox\n", "utf-8")
    code = "import apixo_nb, sys; print(len(apixo_nb.sweep('p.csv', dry_run=True)), 'pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "False"]


@pytest.mark.parametrize("replay", [True, False])
def test_a_plan_is_bought_once_however_often_it_is_started(service: Sandbox, *, replay: bool):
    made = apixo_nb.sweep("{x}", x=["a", "b"], replay=replay, dry_run=True)
    made.start().wait()
    with pytest.raises(ConfigurationError, match="started before") as refused:
        made.start()
    assert "Nothing more was sent" in refused.value.advice
    assert (service.account.submits, len(made.jobs)) == (2, 2)


def test_what_was_started_in_part_keeps_its_jobs_and_is_not_started_again(
    service: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    made = apixo_nb.sweep("{x}", x=["[never] a", "b", "c"], dry_run=True)
    session, carry_out, begun = current(), current().carry_out, itertools.count()

    def stopped(*args: Any, **options: Any) -> Job:
        if next(begun) == 2:
            raise KeyboardInterrupt
        return carry_out(*args, **options)

    monkeypatch.setattr(session, "carry_out", stopped)
    with pytest.raises(KeyboardInterrupt):
        made.start()
    for job in made.jobs:
        job.ended.result(20)
    submits = service.account.submits
    with pytest.raises(ConfigurationError, match="started before"):
        made.start()
    assert (len(made.jobs), service.account.submits) == (2, submits)


def test_what_could_not_begin_can_be_started_later(service: Sandbox, monkeypatch: pytest.MonkeyPatch):
    made = apixo_nb.sweep("{x}", x=["a"], max_cost_usd=0.1, dry_run=True)
    with pytest.raises(CostLimitError):
        made.start()
    with pytest.raises(InvalidRequestError):
        made.agree(1.0).start(timeout_s=-1)
    made.start().wait()
    assert service.account.submits == 1
    monkeypatch.setattr("builtins.input", lambda _question: "n")
    with pytest.raises(CostLimitError, match="Not started"):
        apixo_nb.sweep("{x}", x=range(15), dry_run=True).start()
    assert service.account.submits == 1


def test_a_sweep_that_was_not_started_is_not_waited_for():
    made = apixo_nb.sweep("{x}", x=["a"], dry_run=True)
    with pytest.raises(ConfigurationError, match="not started") as told:
        made.wait()
    assert "start()" in told.value.advice

    async def awaited() -> None:
        await made

    with pytest.raises(ConfigurationError, match="not started"):
        asyncio.run(awaited())


def test_any_iterable_reaches_all_cells():
    url = "https://example.com/a.png"
    made = apixo_nb.sweep(
        (text for text in ["a {x}", "b {x}"]),
        x=(x for x in "12"),
        image_urls=(each for each in [url]),
        tags=(tag for tag in ["t"]),
        dry_run=True,
    )
    assert [(run.prompt, run.image_urls, run.tags) for run in made] == [
        (prompt, (url,), ("t",)) for prompt in ("a 1", "a 2", "b 1", "b 2")
    ]


# --- before it is bought -----------------------------------------------------------------------------


def test_a_dry_run_counts_what_is_stored_and_sends_nothing(service: Sandbox):
    apixo_nb.sweep("{x}", x=["a", "b"]).wait()
    made = apixo_nb.sweep("{x}", x=["a", "b", "c"], repeat=2, replay=True, dry_run=True)
    assert "3 x × 2 takes = 6 tasks, 6 pictures. 2 stored ($0), 4 to buy: $1.40" in made.plan.summary  # noqa: RUF001
    assert "not started" in repr(made)
    assert made._repr_mimebundle_()["text/plain"].count("POST ") == 2
    assert service.account.submits == 2


def test_limits_and_questions_come_before_anything_is_sent(service: Sandbox, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CostLimitError, match=r"above the limit of \$0\.50"):
        apixo_nb.sweep("{x}", x=["a", "b"], max_cost_usd=0.5)
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "n"

    monkeypatch.setattr("builtins.input", answer)
    with pytest.raises(CostLimitError, match="Not started"):
        apixo_nb.sweep("{x}", x=range(15))
    assert "15 x = 15 tasks, 15 pictures. 15 to buy: $5.25" in asked[0]

    def nobody(_question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    with pytest.raises(CostLimitError, match="nobody to ask") as refused:
        apixo_nb.sweep("{x}", x=range(15))
    assert "yes=True" in refused.value.advice
    assert service.account.submits == 0
    assert len(apixo_nb.sweep("{x}", x=range(15), yes=True).wait()) == 15
    # Only what would be newly paid for counts.
    assert len(apixo_nb.sweep("{x}", x=range(16), replay=True).wait()) == 16


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"x": ["a"], "aspect_ratio": ["1:1", "5:4"]}, "cannot be '5:4', with x=a"),
        ({"x": ["a", "\0"]}, "unusable character"),
        ({"x": ["a", " " * 3]}, None),
        ({"x": ["a"], "repeat": 0}, "repeat cannot be 0"),
        ({"x": ["a"], "repeat": True}, "repeat cannot be True"),
        ({"x": ["a"], "yes": "no"}, "yes cannot be"),
        ({"x": ["a"], "model": "other"}, "Unknown model"),
        ({"x": ["a"], "image_urls": "http"}, "not a list of URLs"),
        ({"x": ["a"], "aspect_ration": ["1:1"]}, "No prompt uses {aspect_ration}"),
        ({"x": []}, "is empty"),
        ({}, "Give it as x="),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    service: Sandbox, values: dict[str, Any], told: str | None
):
    if told is None:
        assert len(apixo_nb.sweep("a {x}", **values, dry_run=True)) == 2
        return
    with pytest.raises(InvalidRequestError) as caught:
        apixo_nb.sweep("a {x}", **values)
    assert told in str(caught.value)
    assert service.account.submits == 0


def test_a_default_that_is_said_is_the_same_request(service: Sandbox, tmp_path: Path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,aspect_ratio\na fox,1:1\na fox,\n", "utf-8")
    with pytest.raises(InvalidRequestError, match=r"Two cells ask for the same \(row") as caught:
        apixo_nb.sweep(path)
    assert "repeat" in caught.value.advice
    assert service.account.submits == 0


# --- counting and telling ----------------------------------------------------------------------------


def a_job(state: str = "planned", **facts: Any) -> Job:
    run: Run = new_run(make_request("a fox"), unit_price_micros=350_000, sandbox=True)
    return Job(run.replace(state=state, **facts))


def test_jobs_are_counted_by_how_they_stand():
    jobs = [
        a_job(),
        a_job("submitting"),
        a_job("processing", task_id="t"),
        a_job("success", cost_micros=350_000),
    ]
    jobs[3].succeed()
    failed, stopped = a_job("failed"), a_job("cancelled")
    failed.fail(ApixoError("no"))
    stopped.fail(RunCancelledError("stopped"))
    found = progress.progress_of([*jobs, failed, stopped], jobs)
    assert found.words() == ["1 of 6 done", "1 failed", "1 stopped", "2 running", "1 waiting"]
    assert found.money() == "$0.35 of $1.40, not paid"
    assert found.ended == 3


def test_failures_are_grouped_by_their_words():
    jobs = [a_job("failed") for _ in range(7)]
    for job in jobs[:6]:
        job.fail(ApixoError("too much", next_step="Less."))
    jobs[6].fail(ApixoError("<b>other</b>"))
    first, second = progress.failures(jobs, ["model"], take=False)
    assert (len(first.cells), second.text) == (6, "<b>other</b>")
    assert str(first).startswith("6 failed: too much (model=gpt-image-1; ")
    assert str(first).endswith("and 2 more). Less.")


class Ends:
    """A sweep at work in made-up time: tasks begin at a pace, and last for a while."""

    def __init__(self, count: int, every_s: float, lasts_s: float) -> None:
        self.jobs = [a_job() for _ in range(count)]
        self.every_s, self.lasts_s = every_s, lasts_s

    def at(self, now: float) -> list[Job]:
        for number, job in enumerate(self.jobs):
            begins = number * self.every_s
            if now >= begins and not job.done:
                job.run = job.run.replace(state="processing", task_id="t")
            if now >= begins + self.lasts_s:
                job.succeed()
        return self.jobs


@pytest.mark.parametrize(
    ("count", "every_s", "lasts_s"), [(40, 1.0, 30.0), (12, 0.05, 30.0), (100, 0.5, 45.0)]
)
def test_the_expected_end_comes_nearer_and_does_not_jump(count: int, every_s: float, lasts_s: float):
    world, forecast = Ends(count, every_s, lasts_s), Forecast(lasts_s, None)
    ends_at, told = (count - 1) * every_s + lasts_s, []
    share = 0.0
    for step in range(math.ceil(ends_at / 0.5)):
        now = step * 0.5
        left = forecast.left_s(world.at(now), now)
        told.append(now + left)
        assert forecast.share(world.jobs, now) >= share - 1e-9
        share = forecast.share(world.jobs, now)
    jumps = [abs(after - before) for before, after in itertools.pairwise(told)]
    assert max(jumps[10:]) < 0.15 * ends_at
    assert abs(told[len(told) // 2] - ends_at) < 0.35 * ends_at


@pytest.mark.parametrize(
    ("left_s", "words"),
    [(0.2, "any moment now"), (3, "about 5 s left"), (41, "about 50 s left"), (170, "about 3 min left")],
)
def test_the_time_that_is_left_is_told_in_steps(left_s: float, words: str):
    assert about(left_s) == words


def test_the_gallery_ends_where_it_would_grow_too_heavy():
    tile = Tile("a.png", "data:," + "x" * 30_000, 160, 160, "c", "t", "a")
    shown = _that_fit([tile] * 100)
    assert 20 < len(shown) < 100
    assert sum(len(each.data_uri) for each in shown) < _GALLERY_CHARACTERS


def test_only_what_the_gallery_shows_is_made_small_and_kept(monkeypatch: pytest.MonkeyPatch):
    made = apixo_nb.sweep("{x}", x=range(12), yes=True).wait()
    monkeypatch.setattr(sweep_view, "_GALLERY_CHARACTERS", 6_000)
    opened: list[Path] = []
    small = originals.small_webp

    def counted(path: Path, px: int) -> bytes:
        opened.append(path)
        return small(path, px)

    monkeypatch.setattr(originals, "small_webp", counted)
    for _look in range(2):
        html = made._repr_mimebundle_()["text/html"]
    shown = html.count("data:image/webp")
    assert 0 < shown < 12
    assert f"{12 - shown} more pictures" in html
    assert len(made.shown._small) == shown
    assert len(opened) <= shown + 2  # each look makes the first one that has no room
    for _redraw in range(12):
        made.shown.line(1.0)
    assert sum(map(len, made.shown._small.values())) < 6_000 + 4 * 20_000
    assert len(made.shown._small) < 12


def test_a_sweep_is_laid_out_as_a_grid():
    made = apixo_nb.sweep("a {style} fox", style=["oil", "ink"], aspect_ratio=["1:1", "3:2"]).wait()
    html = made.grid(x="style", y="aspect_ratio")._repr_mimebundle_()["text/html"]
    assert html.count("data:image/webp") == 4
