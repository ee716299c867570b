"""The rules of submitting, polling and retrying, on a clock that only sleeps can move."""

from __future__ import annotations

import email.utils
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apixo_nb import errors
from apixo_nb.client import protocol as flows
from apixo_nb.client.protocol import Clock, Fault, Fetch, Reply, RetryPolicy, Send, Sleep
from apixo_nb.client.responses import TaskStatus
from apixo_nb.core.models import MODELS
from apixo_nb.core.request import make_request
from apixo_nb.errors import ApixoError
from tests.support.replies import BUSY, DONE, MODEL, TASK, refused, reply, said, state

PROPERTY = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=300
)
POLICY = RetryPolicy()
CADENCE = MODELS["gpt-image-1"].cadence
REQUEST = make_request("a fox", aspect_ratio="3:2", num_images=2)
NOW = 1_767_965_610.0  # Fri, 09 Jan 2026 13:33:30 GMT


class Time:
    """A clock that moves when a flow sleeps, and a chance that is chosen."""

    def __init__(self, chance: float = 0.5, exchange_s: float = 0.0):
        self.now, self.chance, self.exchange_s = 0.0, chance, exchange_s

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, wall=lambda: NOW + self.now, random=lambda: self.chance)


@dataclass
class Story:
    """What a flow did, and how it ended."""

    sends: list[Send] = field(default_factory=list)
    sent_at: list[float] = field(default_factory=list)
    fetches: list[Fetch] = field(default_factory=list)
    sleeps: list[float] = field(default_factory=list)
    result: Any = None
    error: Any = None


def play(flow: Any, answers: Iterable[Any], time: Time) -> Story:
    """Drive a flow with scripted answers; an `Exception` of ours is kept, any other is the test's failure."""
    story, answers, came = Story(), iter(answers), None
    try:
        while True:
            came = _carry_out(flow.send(came), story, answers, time)
    except StopIteration as done:
        story.result = done.value
    except ApixoError as error:
        story.error = error
    return story


def _carry_out(command: Any, story: Story, answers: Iterator[Any], time: Time) -> Any:
    if isinstance(command, Sleep):
        assert command.seconds >= 0
        story.sleeps.append(command.seconds)
        time.now += command.seconds
        return None
    if isinstance(command, Fetch):
        story.fetches.append(command)
    else:
        story.sends.append(command)
        story.sent_at.append(time.now)
    time.now += time.exchange_s
    try:
        return next(answers)
    except StopIteration:
        raise AssertionError(f"one request too many: {command}") from None


def accepted(task_id: object = TASK) -> Reply:
    return said(200, {"taskId": task_id})


UNSENT, LOST, SLOW = Fault("unsent", "no route"), Fault("lost", "cut"), Fault("timeout", "no answer in time")


def submit(*answers: Any, time: Time | None = None, policy: RetryPolicy = POLICY) -> Story:
    time = time or Time()
    return play(flows.submit(REQUEST, time.clock, policy), answers, time)


# --- submit: what is sent ---------------------------------------------------------------------------


def test_submit_posts_the_body_once_and_returns_the_task_id():
    story = submit(accepted())
    assert story.result == TASK
    assert story.sends == [Send("generateTask/gpt-image-1", body=REQUEST.body())]
    assert story.sleeps == []


# --- submit: the matrix -----------------------------------------------------------------------------

UNKNOWN = {
    "lost": LOST,
    "timeout": SLOW,
    "500": refused(500),
    "502": refused(502),
    "503": refused(503),
    "504": refused(504),
    "503 with Retry-After": refused(503, retry_after="1"),
    "500 in the body": said(500),
    "502 HTML": reply(502, b"<html>Bad Gateway</html>"),
    "520": reply(520),
    "408": refused(408),
    "408 in the body": said(408),
    "499": reply(499),
    "200 empty": reply(200),
    "200 HTML": reply(200, b"<html>Welcome to our Wi-Fi</html>"),
    "200 junk": reply(200, b"\xff\x00{"),
    "200 cut": reply(200, b'{"code": 200, "data": {"taskId": "task_'),
    "200 a list": reply(200, b"[]"),
    "200 without data": said(200),
    "200 without taskId": said(200, {}),
    "200 without code": reply(200, {"message": "ok"}),
    "200 code 0": said(0),
    "200 code 201": said(201),
    "200 taskId null": accepted(None),
    "200 taskId 0": accepted(0),
    "200 taskId below 0": accepted(-12345678),
    "200 taskId true": said(200, {"taskId": True}),
    "200 task_id": said(200, {"task_id": "task_7"}),
    "200 id": said(200, {"id": "task_7"}),
    "200 taskId at the top": reply(200, {"code": 200, "taskId": "task_7"}),
    "200 data is the id": said(200, "task_7"),
    "200 data is a list": said(200, [{"taskId": "task_7"}]),
    "200 taskId empty": accepted(""),
    "200 taskId blank": accepted(" "),
    "200 taskId of 10 kB": accepted("x" * 10_000),
    "201": said(200, None, 201),
    "204": reply(204),
    "302": reply(302, b"", location="https://elsewhere.example/generateTask"),
    "304": reply(304),
    "307": reply(307, b"", location="https://elsewhere.example/generateTask"),
    "500 with body code 400": said(400, None, 500),
    # Whoever counts requests said 429; the service itself says that it took the task.
    "429 with body code 200": said(200, None, 429),
    "429 with a taskId in a list": said(200, {"taskId": [12345678]}, 429),
    "429 with a taskId that is too long": said(429, {"taskId": "x" * 10_000}, 429),
    "400 with body code 200": said(200, None, 400),
}


@pytest.mark.parametrize("answer", UNKNOWN.values(), ids=UNKNOWN)
def test_submit_that_may_have_been_accepted_is_never_sent_again(answer):
    story = submit(answer)
    assert len(story.sends) == 1
    assert type(story.error) is errors.SubmitUnknownError
    assert (story.error.maybe_billed, story.error.at_stake_usd) == (True, 0.7)
    assert not story.error.retryable
    assert "$0.70" in str(story.error)
    assert len(story.error.answer.encode()) <= 4096
    body = answer.body.decode("utf-8", "replace") if isinstance(answer, Reply) else ""
    assert ("task_7" in story.error.answer, "12345678" in story.error.answer) == (
        "task_7" in body,
        "12345678" in body,
    )
    assert bool(story.error.answer) == bool(body)


@pytest.mark.parametrize("given", [12345678, 10**400, "x" * 2000])
@pytest.mark.parametrize(("status", "code"), [(200, 200), (429, 200), (500, 500)])
def test_task_id_may_be_a_number_and_long(given, status, code):
    story = submit(said(code, {"taskId": given}, status))
    assert (len(story.sends), story.result) == (1, str(given))


REFUSED = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    402: errors.InsufficientBalanceError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    413: errors.BadRequestError,
    422: errors.BadRequestError,
}


@pytest.mark.parametrize("answer_of", [refused, said], ids=["HTTP", "body"])
@pytest.mark.parametrize("code", REFUSED)
def test_plain_refusal_is_sent_once_and_costs_nothing(code, answer_of):
    story = submit(answer_of(code))
    assert len(story.sends) == 1
    assert type(story.error) is REFUSED[code]
    assert (story.error.maybe_billed, story.error.retryable, story.error.at_stake_usd) == (False, False, None)
    assert story.error.next_step


def test_refusal_without_money_in_disguise_reads_as_money():
    story = submit(reply(400, {"code": 400, "message": "Insufficient credits", "data": None}))
    assert (len(story.sends), type(story.error)) == (1, errors.InsufficientBalanceError)


def test_429_for_lack_of_money_is_not_sent_again():
    story = submit(reply(429, {"code": 429, "failCode": "INSUFFICIENT_CREDITS"}))
    assert (len(story.sends), type(story.error)) == (1, errors.InsufficientBalanceError)


@pytest.mark.parametrize("answer", [refused(429), reply(429), reply(429, b"<html>slow down</html>")])
def test_429_is_sent_again_until_it_is_taken(answer):
    story = submit(answer, answer, accepted())
    assert (story.result, len(story.sends)) == (TASK, 3)


def test_429_for_ever_ends_after_the_attempts_of_the_policy():
    story = submit(*repeat(refused(429), POLICY.attempts))
    assert len(story.sends) == POLICY.attempts
    assert type(story.error) is errors.RateLimitError
    assert (story.error.retryable, story.error.maybe_billed) == (True, False)


def test_429_in_the_body_of_a_200_is_not_sent_again():
    story = submit(said(429))
    assert (len(story.sends), type(story.error)) == (1, errors.RateLimitError)
    assert not story.error.maybe_billed


def test_no_connection_is_tried_again_and_then_says_not_sent():
    story = submit(*repeat(UNSENT, POLICY.attempts))
    assert len(story.sends) == POLICY.attempts
    assert type(story.error) is errors.APIConnectionError
    assert (story.error.retryable, story.error.maybe_billed) == (True, False)
    assert "was not sent" in story.error.message


@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 403, 408, 429, 500, 503])
@pytest.mark.parametrize("code", [200, 429, 500, None])
def test_task_id_is_kept_whatever_the_codes_say(status, code):
    story = submit(said(code, {"taskId": TASK}, status))
    assert (story.result, len(story.sends)) == (TASK, 1)


def test_unknown_after_a_refusal_is_not_sent_again():
    story = submit(refused(429), UNSENT, LOST)
    assert (len(story.sends), type(story.error)) == (3, errors.SubmitUnknownError)


def test_unknown_answer_keeps_both_codes_and_harmless_words():
    story = submit(reply(503, {"code": 500, "message": "\x1b[2J busy"}))
    assert (story.error.status, story.error.code) == (503, 500)
    assert "\\u001b[2J busy" in story.error.message


# --- submit: pauses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "at_least"),
    [("2", 2.0), ("1.5", 1.5), ("119", 119.0), (email.utils.formatdate(NOW + 30, usegmt=True), 30.0)],
)
@pytest.mark.parametrize("chance", [0.0, 0.999])
def test_submit_waits_as_long_as_it_was_told_and_a_little_more(header, at_least, chance):
    story = submit(refused(429, retry_after=header), accepted(), time=Time(chance))
    assert story.result == TASK
    assert at_least <= story.sleeps[0] <= at_least + 1.0


@pytest.mark.parametrize(
    "header", ["0", "-1", "NaN", "inf", "soon", "", email.utils.formatdate(NOW - 60, usegmt=True)]
)
def test_useless_retry_after_falls_back_to_backoff(header):
    story = submit(refused(429, retry_after=header), accepted(), time=Time(0.5))
    assert story.sleeps == [POLICY.base_s / 2]


@pytest.mark.parametrize("header", ["121", "86400", email.utils.formatdate(NOW + 86400, usegmt=True)])
def test_retry_after_beyond_the_limit_stops_and_says_when_to_come_back(header):
    story = submit(refused(429, retry_after=header))
    assert (len(story.sends), story.sleeps) == (1, [])
    assert type(story.error) is errors.RateLimitError
    assert story.error.retry_after_s in (121.0, 86400.0)
    assert f"wait {story.error.retry_after_s:.0f} s" in story.error.advice


@pytest.mark.parametrize("answer", [refused(429), UNSENT])
def test_backoff_doubles_to_its_cap(answer):
    story = submit(*repeat(answer, 8), time=Time(1.0), policy=RetryPolicy(attempts=8, total_s=1000.0))
    assert story.sleeps == [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]


def test_full_jitter_may_also_be_no_pause_at_all():
    story = submit(*repeat(refused(429), POLICY.attempts), time=Time(0.0))
    assert story.sleeps == [0.0] * (POLICY.attempts - 1)


def test_pauses_together_stay_within_the_time_of_the_policy():
    story = submit(*repeat(refused(429), 50), time=Time(1.0), policy=RetryPolicy(attempts=50))
    assert sum(story.sleeps) <= POLICY.total_s
    assert len(story.sends) == len(story.sleeps) + 1


def test_pauses_that_were_asked_for_count_as_time_too():
    story = submit(*repeat(refused(429, retry_after="50"), 6), time=Time(0.0))
    assert (len(story.sends), story.sleeps) == (3, [50.0, 50.0])


# --- submit: any sequence ---------------------------------------------------------------------------

CODES = st.sampled_from(
    [200, 201, 204, 302, 400, 401, 402, 403, 404, 408, 409, 422, 429, 429, 429, 500, 502, 503]
)
BODIES = (
    st.binary(max_size=20)
    | st.just(b"")
    | st.builds(
        lambda code, data: json.dumps({"code": code, "message": "m", "data": data}).encode(),
        CODES | st.none() | st.text(max_size=3),
        st.none()
        | st.fixed_dictionaries({}, optional={"taskId": st.text(max_size=3) | st.integers() | st.none()}),
    )
)
HEADERS = st.fixed_dictionaries(
    {}, optional={"retry-after": st.sampled_from(["0", "1", "30", "9999", "x", "-1"])}
)
OUTCOMES = (
    st.builds(Reply, CODES, HEADERS, BODIES)
    | st.sampled_from([UNSENT, LOST, SLOW])
    | st.just(refused(429))
    | st.just(UNSENT)
)
POLICIES = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 8),
    base_s=st.floats(0.1, 5),
    cap_s=st.floats(1, 60),
    total_s=st.floats(0, 300),
)


def envelope(outcome: Reply) -> dict[str, Any]:
    try:
        body = json.loads(outcome.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def said_no(outcome: Reply | Fault) -> bool:
    """Whether nothing can have been made; written without the code under test."""
    if isinstance(outcome, Fault):
        return outcome.kind == "unsent"
    body = envelope(outcome)
    task = isinstance(body.get("data"), dict) and body["data"].get("taskId")
    number = outcome.status if outcome.status != 200 else body.get("code")
    return isinstance(number, int) and 400 <= number < 500 and body.get("code") != 200 and not task


def may_be_repeated(outcome: Reply | Fault) -> bool:
    """The only two things after which a POST may leave once more."""
    return said_no(outcome) and (isinstance(outcome, Fault) or outcome.status == 429)


@settings(PROPERTY, max_examples=1000)
@given(st.lists(OUTCOMES, max_size=8), POLICIES, st.floats(0, 0.999))
@example([refused(429), UNSENT, refused(429), accepted()], POLICY, 0.5)
def test_post_is_repeated_only_after_a_sure_refusal(outcomes, policy, chance):
    answers, time = [*outcomes, *repeat(LOST, 9)], Time(chance)
    story = submit(*answers, time=time, policy=policy)
    posts = len(story.sends)
    assert posts == len(story.sleeps) + 1 or (
        posts == len(story.sleeps) and isinstance(story.error, ApixoError)
    )
    assert 1 <= posts <= policy.attempts
    assert all(may_be_repeated(outcome) for outcome in answers[: posts - 1])
    assert all(send == story.sends[0] for send in story.sends)
    assert sum(story.sleeps) <= policy.total_s
    assert (story.result is None) == (story.error is not None)


@PROPERTY
@given(st.lists(OUTCOMES, max_size=8))
def test_submit_says_it_may_be_billed_unless_it_was_refused(outcomes):
    answers = [*outcomes, *repeat(LOST, 9)]
    story = submit(*answers)
    last = answers[len(story.sends) - 1]
    assert story.result is not None or story.error.maybe_billed or said_no(last)


# --- wait -------------------------------------------------------------------------------------------


def wait(*answers: Any, time: Time | None = None, timeout_s: float = 900.0, **options: Any) -> Story:
    time = time or Time()
    flow = flows.wait(
        MODEL, TASK, options.pop("cadence", CADENCE), time.clock, timeout_s=timeout_s, **options
    )
    return play(flow, answers, time)


def test_wait_polls_first_at_20_s_then_every_5_s():
    story = wait(BUSY, BUSY, DONE)
    assert story.sent_at == [20.0, 25.0, 30.0]
    assert [(send.path, send.query) for send in story.sends] == [
        ("statusTask/gpt-image-1", {"taskId": TASK})
    ] * 3
    assert story.result.state == "success"


@pytest.mark.parametrize(("age_s", "first"), [(0, 20.0), (5, 15.0), (20, 0.0), (3600, 0.0)])
def test_first_poll_counts_from_the_creation_of_the_task(age_s, first):
    assert wait(DONE, age_s=age_s).sent_at == [first]


def test_age_below_zero_of_a_clock_that_was_set_back_is_no_longer_wait_than_the_first_poll():
    assert wait(DONE, age_s=-7200.0).sent_at == [20.0]


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.5, 0.75, 0.999999])
def test_interval_is_jittered_within_what_the_page_allows(chance):
    story = wait(*repeat(BUSY, 10), DONE, time=Time(chance))
    assert all(4.0 <= pause <= 6.0 for pause in story.sleeps[1:])
    assert all(3.0 <= pause <= 10.0 for pause in story.sleeps[1:])


def test_jitter_uses_the_whole_spread():
    assert [wait(BUSY, DONE, time=Time(chance)).sleeps[1] for chance in (0.0, 1.0)] == [4.0, 6.0]


def test_own_rhythm_is_kept():
    story = wait(BUSY, BUSY, DONE, cadence=CADENCE.override(0.0, 1.0))
    assert story.sent_at == pytest.approx([0.0, 1.0, 2.0])


BAD_POLLS = {
    **{
        str(status): refused(status)
        for status in (400, 401, 402, 403, 404, 408, 422, 429, 500, 502, 503, 504)
    },
    **{f"{code} in the body": said(code) for code in (401, 404, 429, 500)},
    "lost": LOST,
    "timeout": SLOW,
    "unsent": UNSENT,
    "empty": reply(200),
    "HTML": reply(200, b"<html>"),
    "no task": said(200),
    "an error": said(200, {}),
    "another task": said(
        200, {"taskId": "task_other", "state": "success", "resultJson": {"resultUrls": ["https://x.y"]}}
    ),
    "another task failed": said(200, {"taskId": "task_other", "state": "failed"}),
    "302": reply(302, b"", location="https://elsewhere.example/"),
}


@pytest.mark.parametrize("bad", BAD_POLLS.values(), ids=BAD_POLLS)
def test_single_bad_poll_never_ends_a_wait(bad):
    story = wait(BUSY, bad, BUSY, bad, bad, DONE, age_s=1000.0)
    assert story.error is None
    assert (story.result.state, len(story.sends)) == ("success", 6)


PASSING = {
    name: bad for name, bad in BAD_POLLS.items() if not name.startswith(("400", "401", "403", "404", "422"))
}


@pytest.mark.parametrize("bad", PASSING.values(), ids=PASSING)
def test_trouble_that_may_pass_never_ends_a_wait(bad):
    story = wait(*repeat(bad, 12), DONE, age_s=1000.0)
    assert story.error is None
    assert story.result.state == "success"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequestError),
        (401, errors.AuthenticationError),
        (403, errors.PermissionDeniedError),
        (404, errors.NotFoundError),
    ],
)
@pytest.mark.parametrize("answer_of", [refused, said], ids=["HTTP", "body"])
def test_three_lasting_refusals_in_a_row_end_a_wait(status, kind, answer_of):
    bad = answer_of(status)
    story = wait(BUSY, bad, bad, BUSY, bad, bad, bad, age_s=1000.0)
    assert len(story.sends) == 7
    assert type(story.error) is kind
    assert story.error.task_id == TASK


def test_lasting_refusals_parted_by_other_trouble_do_not_end_a_wait():
    story = wait(refused(401), refused(401), LOST, refused(401), refused(401), DONE)
    assert story.result.state == "success"


def test_fresh_task_that_is_not_found_yet_is_waited_for():
    story = wait(*repeat(refused(404), 4), DONE)
    assert story.result.state == "success"
    assert story.sent_at[3] < 90.0


def test_task_still_not_found_after_the_grace_ends_the_wait():
    story = wait(*repeat(refused(404), 20))
    assert type(story.error) is errors.NotFoundError
    assert sum(at >= 90.0 for at in story.sent_at) == 3


def test_grace_counts_from_the_creation_of_the_task():
    story = wait(*repeat(refused(404), 20), age_s=89.0)
    assert (len(story.sends), story.sent_at[0]) == (4, 0.0)


def test_pauses_grow_with_failures_and_are_flat_again_after_a_success():
    story = wait(*repeat(LOST, 4), BUSY, BUSY, DONE)
    assert story.sleeps[1:] == [5.0, 10.0, 20.0, 40.0, 5.0, 5.0]


def test_task_that_is_very_late_is_polled_as_seldom_as_the_page_allows():
    story = wait(*repeat(BUSY, 24), DONE)
    assert story.sleeps[1:21] == [5.0] * 20
    assert story.sleeps[-3:] == [10.0, 10.0, 10.0]


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_retry_after_of_a_poll_is_respected(chance):
    story = wait(refused(429, retry_after="33"), refused(429, retry_after="1"), DONE, time=Time(chance))
    assert story.sleeps[1] >= 33.0
    assert story.sleeps[2] >= 4.0


@pytest.mark.parametrize("header", ["61", "1e9", "1e300", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_retry_after_of_a_poll_never_holds_a_finished_task_back_for_long(header):
    story = wait(refused(429, retry_after=header), DONE)
    assert story.result.final
    assert story.sleeps[1] <= 60.0


@pytest.mark.parametrize("timeout_s", [0.0, 1.0, 19.0, 20.0, 60.0, 900.0])
@pytest.mark.parametrize("answer", [BUSY, LOST, refused(429, retry_after="86400"), state("processing_r2")])
@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_wait_ends_at_its_deadline_and_not_before(timeout_s, answer, chance):
    time = Time(chance)
    story = wait(*repeat(answer, 1000), time=time, timeout_s=timeout_s)
    assert type(story.error) is errors.WaitTimeoutError
    assert time.now == pytest.approx(timeout_s)
    assert (story.error.task_id, story.error.maybe_billed) == (TASK, True)
    assert f"{timeout_s:g} s" in story.error.message
    assert "%apixo resume" in story.error.advice


def test_task_that_ends_at_the_deadline_is_not_lost():
    story = wait(BUSY, DONE, timeout_s=22.0)
    assert (story.result.state, story.sent_at) == ("success", [20.0, 22.0])


def test_slow_exchanges_count_against_the_deadline():
    time = Time(exchange_s=60.0)
    story = wait(*repeat(LOST, 100), time=time, timeout_s=100.0)
    assert type(story.error) is errors.WaitTimeoutError
    assert time.now <= 160.0


def test_seen_hears_of_every_status_and_of_nothing_else():
    heard: list[TaskStatus] = []
    wait(state("pending"), LOST, BAD_POLLS["another task"], state("processing_r2"), DONE, seen=heard.append)
    assert [status.state for status in heard] == ["pending", "processing_r2", "success"]
    assert {status.task_id for status in heard} == {TASK}


def test_status_without_a_task_id_is_taken_for_ours():
    assert wait(said(200, {"state": "failed"})).result.task_id == TASK


@pytest.mark.parametrize("word", ["success", "failed", "SUCCESS", "Failed"])
def test_final_state_ends_the_wait_at_once(word):
    assert wait(state(word)).result.state == word.casefold()


@pytest.mark.parametrize("word", ["pending", "processing_r2", "done", "", None, 7, [], "succes"])
def test_unknown_state_does_not_end_the_wait(word):
    assert len(wait(state(word), state(word), DONE).sends) == 3


def test_failed_task_is_a_result_and_no_new_task():
    story = wait(state("failed", failCode="RateLimited"))
    assert (story.error, story.result.state, len(story.sends)) == (None, "failed", 1)


@settings(PROPERTY, max_examples=200)
@given(
    st.lists(
        st.sampled_from(list(BAD_POLLS.values())) | OUTCOMES | st.sampled_from([BUSY, DONE]), max_size=30
    ),
    st.floats(0, 0.999),
    st.floats(0, 2000),
    st.floats(0, 4000),
)
def test_wait_only_reads_and_ends_within_its_time(outcomes, chance, timeout_s, age_s):
    time = Time(chance)
    story = wait(*outcomes, *repeat(BUSY, 2000), time=time, timeout_s=timeout_s, age_s=age_s)
    assert all(send.body is None for send in story.sends)
    assert time.now <= timeout_s + 1e-6
    assert story.result is None or story.result.task_id == TASK
    assert story.result is not None or isinstance(story.error, (errors.WaitTimeoutError, *flows._LASTING))


@pytest.mark.parametrize("task_id", ["a/b?c#d&e=f", "任务 1", "../../x"])
def test_odd_task_id_stays_in_the_query(task_id):
    [send] = play(
        flows.status(MODEL, task_id, Time().clock, POLICY), [said(200, {"state": "failed"})], Time()
    ).sends
    assert (send.path, send.query) == ("statusTask/gpt-image-1", {"taskId": task_id})


# --- status, balance, fetch -------------------------------------------------------------------------


def read_status(answers: Iterable[Any], time: Time, policy: RetryPolicy = POLICY) -> Story:
    return play(flows.status(MODEL, TASK, time.clock, policy), answers, time)


def read_balance(answers: Iterable[Any], time: Time, policy: RetryPolicy = POLICY) -> Story:
    return play(flows.balance(time.clock, policy), answers, time)


READS = pytest.mark.parametrize(("read", "good"), [(read_status, DONE), (read_balance, said(200, 74.87))])
TROUBLE = {
    **{str(status): refused(status) for status in (408, 429, 500, 502, 503, 504)},
    "503 in the body": said(503),
    "lost": LOST,
    "timeout": SLOW,
    "unsent": UNSENT,
    "junk": reply(200, b"<html>"),
    "another shape": said(200, "text"),
}


@READS
@pytest.mark.parametrize("bad", TROUBLE.values(), ids=TROUBLE)
def test_read_is_tried_again_after_trouble(read, good, bad):
    story = read([bad, bad, good], Time())
    assert story.error is None
    assert (len(story.sends), len(story.sleeps)) == (3, 2)


@READS
@pytest.mark.parametrize("bad", TROUBLE.values(), ids=TROUBLE)
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_read_gives_up_by_count_and_by_time(read, good, bad, chance):
    policy = RetryPolicy(attempts=40)
    story = read(chain(repeat(bad, 40), [good]), Time(chance), policy)
    assert isinstance(story.error, ApixoError)
    assert story.error.retryable
    assert not story.error.maybe_billed
    assert len(story.sends) <= policy.attempts
    assert sum(story.sleeps) <= policy.total_s


@READS
@pytest.mark.parametrize("status", REFUSED)
def test_read_that_is_refused_is_not_tried_again(read, good, status):
    story = read([refused(status), good], Time())
    assert (len(story.sends), type(story.error)) == (1, REFUSED[status])


@READS
@pytest.mark.parametrize("status", [429, 503])
def test_read_waits_as_long_as_it_was_told(read, good, status):
    story = read([refused(status, retry_after="9"), good], Time(0.0))
    assert story.error is None
    assert story.sleeps[0] >= 9.0


@pytest.mark.parametrize("read", [read_status, read_balance])
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_read_backs_off_with_full_jitter(read, chance):
    story = read(repeat(refused(500), 6), Time(chance))
    assert story.sleeps == [chance * pause for pause in (1.0, 2.0, 4.0, 8.0, 16.0)]


def test_status_is_read_once():
    story = read_status([DONE], Time())
    assert (story.result.state, story.result.task_id) == ("success", TASK)
    assert story.sends == [Send("statusTask/gpt-image-1", query={"taskId": TASK})]


def test_status_of_another_task_is_not_ours():
    story = read_status(repeat(BAD_POLLS["another task"], POLICY.attempts), Time())
    assert type(story.error) is errors.MalformedResponseError
    assert story.error.task_id == TASK


def test_balance_is_a_number_of_dollars():
    story = read_balance([said(200, 74.87)], Time())
    assert (story.result, story.sends) == (74.87, [Send("apikeys/current-balance")])


@pytest.mark.parametrize("number", [0, -1.5, 3])
def test_balance_may_be_nothing_or_less(number):
    assert read_balance([said(200, number)], Time()).result == number


def fetch(*answers: Any, time: Time | None = None) -> Story:
    time = time or Time()
    return play(flows.fetch("https://r2.apixo.ai/a.png", Path("a"), time.clock, POLICY), answers, time)


def test_fetch_asks_for_the_picture_and_returns_what_came():
    story = fetch("what came")
    assert (story.result, story.fetches) == ("what came", [Fetch("https://r2.apixo.ai/a.png", Path("a"))])


@pytest.mark.parametrize("kind", [errors.ImageError, errors.APIConnectionError, errors.ServerError])
def test_broken_picture_is_fetched_again(kind):
    story = fetch(kind("half"), kind("half"), "what came")
    assert (story.result, len(story.fetches)) == ("what came", 3)


def test_picture_that_stays_broken_is_given_up():
    story = fetch(*repeat(errors.ImageError("half"), POLICY.attempts), time=Time(1.0))
    assert (len(story.fetches), type(story.error)) == (POLICY.attempts, errors.ImageError)
    assert sum(story.sleeps) <= POLICY.total_s


def test_picture_that_is_gone_is_not_fetched_again():
    story = fetch(errors.ImageError("gone", retryable=False))
    assert (len(story.fetches), story.sleeps) == (1, [])


def test_picture_host_that_asks_to_wait_is_obeyed():
    story = fetch(errors.RateLimitError("slow down", retry_after_s=9.0), "what came", time=Time(0.0))
    assert story.sleeps == [9.0]


# --- the real clock ---------------------------------------------------------------------------------


@PROPERTY
@given(st.floats(0, 0.999999), st.floats(0, 1000), st.floats(0, 1000))
def test_draw_lies_between_its_bounds(chance, low, width):
    assert low <= Clock(random=lambda: chance).between(low, low + width) <= low + width
