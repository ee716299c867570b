"""Errors: what each carries, how little it shows, and that none of it is lost on the way."""

from __future__ import annotations

import asyncio
import builtins
import copy
import inspect
import pickle
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apixo_nb import errors
from apixo_nb.errors import ApixoError, InvalidRequestError, RateLimitError, TaskFailedError
from apixo_nb.text import printable

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ApixoError)]
FACTS: dict[str, Any] = {
    "status": 500,
    "code": 501,
    "task_id": "task_12345678",
    "run_id": "20260109-133330-0badcafe",
    "retryable": True,
    "maybe_billed": True,
    "at_stake_usd": 0.7,
    "next_step": "Look out of the window.",
}
OWN_FACTS: dict[type, dict[str, Any]] = {
    InvalidRequestError: {"field": "num_images", "value": "3", "allowed": "1, 2, 4"},
    RateLimitError: {"retry_after_s": 2.5},
    TaskFailedError: {"fail_code": "SensitiveContent", "category": "content"},
}
HOSTILE = "\x1b[2J\u202egnp\u200b\ud800\x00\x9b31m\u2028\u2029\r\n" + "x" * 10_000


def full(kind):
    return kind("It went wrong", **FACTS, **OWN_FACTS.get(kind, {}))


def tree_drawn(text: str) -> dict[str, str]:
    """Class name to the name of the class it hangs from, as the docstring draws it."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for branch, name in re.findall(r"^ {4}((?:[│├└] ?.. )* *(?:[├└]── )?)(\w*Error)\b", text, re.MULTILINE):
        depth = len(branch) // 4
        path[depth:] = [name]
        if depth:
            parents[name] = path[depth - 1]
    return parents


def test_tree_in_the_docstring_is_the_real_one():
    real = {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES if kind is not ApixoError}
    assert tree_drawn(inspect.cleandoc(errors.__doc__ or "")) == real


def test_builtin_bases_in_the_docstring_are_real():
    drawn = re.findall(r"(\w+Error) .*\(also an? (\w+)\)", errors.__doc__ or "")
    assert len(drawn) == 4
    assert all(issubclass(getattr(errors, name), getattr(builtins, base)) for name, base in drawn)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_error_keeps_every_fact(kind, protocol):
    error = full(kind)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == str(error)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy])
def test_copied_error_keeps_every_fact(kind, clone):
    error = full(kind)
    again = clone(error)
    assert type(again) is kind
    assert (vars(again), again.args, str(again)) == (vars(error), error.args, str(error))


@pytest.mark.parametrize("kind", CLASSES)
def test_given_facts_win_over_those_of_the_class(kind):
    error = full(kind)
    assert {name: getattr(error, name) for name in FACTS} == FACTS
    own = OWN_FACTS.get(kind, {})
    assert {name: getattr(error, name) for name in own} == own


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("make", [full, lambda kind: kind("It went wrong"), lambda kind: kind()])
def test_error_shows_in_two_lines_at_most(kind, make):
    error = make(kind)
    assert len(str(error).splitlines()) <= 2
    shown = error._render_traceback_()
    assert 1 <= len(shown) <= 2
    assert all(len(line.splitlines()) == 1 for line in shown)


def test_task_id_of_a_hostile_server_adds_no_line():
    assert len(str(errors.WaitTimeoutError("It went wrong", task_id=HOSTILE)).splitlines()) <= 2


def test_traceback_names_the_class_the_facts_and_the_advice():
    first, second = full(errors.ServerError)._render_traceback_()
    assert first.endswith(
        "ServerError\x1b[0m: It went wrong (HTTP 500, code 501, run 20260109-133330-0badcafe)"
    )
    assert second == "→ May have cost up to $0.70. Look out of the window."


def test_error_outside_a_run_names_its_task():
    assert str(ApixoError("It went wrong", task_id="task_1")) == "It went wrong (task task_1)"


def test_error_without_advice_shows_one_line():
    assert len(ApixoError("It went wrong")._render_traceback_()) == 1
    assert str(ApixoError("It went wrong")) == "It went wrong"


def test_body_code_that_repeats_the_http_status_is_said_once():
    assert str(ApixoError("No", status=402, code=402)) == "No (HTTP 402)"


def test_unknown_stake_is_still_said():
    assert "may have been billed" in str(ApixoError("Lost", maybe_billed=True))


@pytest.mark.parametrize("kind", CLASSES)
def test_every_leaf_has_a_next_step_or_makes_its_own(kind):
    without = {
        "ApixoError",
        "ConfigurationError",
        "InvalidRequestError",
        "CostLimitError",
        "BudgetError",
        "StorageError",
        "APIError",
        "TaskFailedError",
        "LedgerError",
    }
    assert bool(kind.next_step) is (kind.__name__ not in without)


@pytest.mark.parametrize(
    "kind", [errors.SubmitUnknownError, errors.WaitTimeoutError, errors.RunCancelledError, errors.ResultError]
)
def test_error_after_a_submit_says_it_may_have_been_billed(kind):
    assert kind("It went wrong").maybe_billed
    assert "billed" in str(kind("It went wrong"))


@pytest.mark.parametrize(
    "kind", [errors.BadRequestError, errors.InsufficientBalanceError, errors.RateLimitError]
)
def test_plain_refusal_says_nothing_of_money_as_it_may_be_about_a_paid_task(kind):
    assert "made" not in str(kind("No"))


def test_refused_request_says_what_is_allowed_and_that_nothing_was_sent():
    error = full(InvalidRequestError)
    assert error.advice == "Allowed: 1, 2, 4. Look out of the window. Nothing was sent."
    assert isinstance(error, ValueError)


def test_refused_value_is_shortened_and_made_safe():
    assert InvalidRequestError("No", value=HOSTILE).value.startswith("\\u001b[2J\\u202e")
    assert len(InvalidRequestError("No", value="x" * 1000).value) == 81


def test_rate_limit_says_how_long_it_asked_to_wait():
    assert RateLimitError("No", retry_after_s=86_400).advice.startswith("It asked to wait 86400 s. ")
    assert "asked" not in RateLimitError("No").advice


def test_missing_key_names_the_three_ways_out():
    advice = errors.MissingKeyError("There is no key").advice
    assert all(way in advice for way in ("APIXO_API_KEY", "%apixo login", "%apixo sandbox"))


# --- foreign text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("\x1b[31mred", "\\u001b[31mred", id="ESC"),
        pytest.param("\x1b]52;c;eA==\x07", "\\u001b]52;c;eA==\\u0007", id="OSC 52, clipboard"),
        pytest.param("\x9b31m", "\\u009b31m", id="eight-bit CSI"),
        pytest.param("a\rb", "a\\u000db", id="carriage return"),
        pytest.param("a\nb\tc", "a b c", id="newline and tab"),
        pytest.param("\u202egnp.exe", "\\u202egnp.exe", id="right-to-left override"),
        pytest.param("\u2066x\u2069", "\\u2066x\\u2069", id="bidi isolate"),
        pytest.param("a\u200bb", "a\\u200bb", id="zero-width space"),
        pytest.param("\ufeffa", "\\ufeffa", id="BOM"),
        pytest.param("\ud800", "\\ud800", id="lone surrogate"),
        pytest.param("\x00", "\\u0000", id="NUL"),
        pytest.param("a\u2028b", "a\\u2028b", id="line separator"),
        pytest.param("a\u2029b", "a\\u2029b", id="paragraph separator"),
        pytest.param("👩‍🚀 日本語 é", "👩‍🚀 日本語 é", id="what people write stays"),
        pytest.param(None, "None", id="not text"),
    ],
)
def test_foreign_text_becomes_harmless(text, shown):
    assert printable(text) == shown


def test_long_text_is_cut_and_marked():
    assert printable("x" * 301) == "x" * 300 + "…"
    assert printable("x" * 300) == "x" * 300
    assert printable("abcdef", 3) == "abc…"


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(), max_size=400), st.integers(1, 400))
@example(HOSTILE, 300)
def test_any_text_becomes_one_harmless_line(text, limit):
    shown = printable(text, limit)
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(char) for char in shown if char != "\u200d"} & {"Cc", "Cf", "Cs"}
    shown.encode("utf-8")


# --- Stop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
def test_remembering_stop_keeps_its_class_and_adds_the_facts(kind):
    stop = kind()
    remembered = errors.remember(stop, run_id="run-1", task_id="task_1")
    assert remembered is stop
    assert type(remembered) is kind
    assert (vars(remembered)["run_id"], vars(remembered)["task_id"]) == ("run-1", "task_1")
    assert vars(remembered)["maybe_billed"]


@pytest.mark.parametrize(
    ("facts", "left", "step"),
    [
        ({"run_id": "run-1", "task_id": "task_1"}, "run run-1", "%apixo resume"),
        ({"task_id": "task_1"}, "task task_1", "%apixo resume"),
        ({}, "the submit", "%apixo balance"),  # no task is known that could be resumed
    ],
)
def test_remembered_stop_says_what_was_left_and_how_to_go_on(facts, left, step):
    stop = errors.remember(KeyboardInterrupt(), **facts)
    [note] = stop.__notes__
    first, second = vars(stop)["_render_traceback_"]()
    assert left in note
    assert step in note
    assert first.endswith(f"KeyboardInterrupt\x1b[0m: Stopped waiting for {left}")
    assert step in second


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
def test_remembered_stop_pickles(kind):
    again = pickle.loads(pickle.dumps(errors.remember(kind(), run_id="run-1", task_id="task_1")))
    assert type(again) is kind
    assert (vars(again)["run_id"], vars(again)["task_id"]) == ("run-1", "task_1")


def test_task_id_of_a_hostile_server_is_harmless_in_a_stop():
    stop = errors.remember(KeyboardInterrupt(), task_id=HOSTILE)
    assert "\x1b[2J" not in "".join(stop.__notes__)
    assert "\x1b[2J" not in "".join(vars(stop)["_render_traceback_"]())
