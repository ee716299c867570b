"""Answers: the page's samples are read exactly, and nothing a server can send raises anything but our own."""

from __future__ import annotations

import email.utils
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apixo_nb import errors
from apixo_nb.client.responses import (
    Answer,
    TaskStatus,
    evidence,
    problem_of,
    read_answer,
    read_task,
    retry_after_s,
)
from apixo_nb.core.credentials import ApiKey
from apixo_nb.errors import ApixoError, ResultError, TaskFailedError
from apixo_nb.text import storable
from tests.support.factories import KEY

PROPERTY = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=300
)

ACCEPTED = b'{"code": 200, "message": "success", "data": {"taskId": "task_12345678"}}'
PROCESSING = b"""{"code": 200, "message": "success", "data": {"taskId": "task_12345678",
    "state": "processing", "createTime": 1767965610929}}"""
SUCCESS = rb"""{"code": 200, "message": "success", "data": {"taskId": "task_12345678", "state": "success",
    "resultJson": "{\"resultUrls\":[\"https://r2.apixo.ai/xxx.png\"]}",
    "createTime": 1767965610929, "completeTime": 1767965652317, "costTime": 41388}}"""
FAILED = b"""{"code": 200, "message": "success", "data": {"taskId": "task_12345678", "state": "failed",
    "failCode": "SensitiveContent", "failMsg": "Content violates provider policy, please adjust the prompt",
    "createTime": 1767965610929, "completeTime": 1767965620132, "costTime": 9040}}"""


def answered(body: object, status: int = 200, **headers: str) -> Answer:
    return read_answer(status, headers, body if isinstance(body, bytes) else json.dumps(body).encode())


def task(**data: Any) -> TaskStatus:
    found = read_task(answered({"code": 200, "message": "success", "data": {"taskId": "task_1", **data}}))
    assert found is not None
    return found


def succeeded(result: object) -> TaskStatus:
    return task(state="success", resultJson=result)


# --- the samples of the page ------------------------------------------------------------------------


def test_accepted_submit_is_read():
    answer = answered(ACCEPTED)
    assert (answer.accepted, answer.verdict, answer.task_id) == (True, 200, "task_12345678")


def test_processing_task_is_read():
    status = read_task(answered(PROCESSING))
    assert status is not None
    assert (status.task_id, status.state, status.final) == ("task_12345678", "processing", False)
    assert (status.created_ms, status.completed_ms, status.cost_time_ms) == (1767965610929, None, None)
    assert (status.result_urls, status.result_problem, status.error()) == ((), "", None)


def test_successful_task_is_read():
    status = read_task(answered(SUCCESS))
    assert status is not None
    assert (status.task_id, status.state, status.final) == ("task_12345678", "success", True)
    assert status.result_urls == ("https://r2.apixo.ai/xxx.png",)
    assert (status.created_ms, status.completed_ms) == (1767965610929, 1767965652317)
    assert (status.cost_time_ms, status.result_problem, status.error()) == (41388, "", None)
    assert json.loads(status.raw) == json.loads(SUCCESS)["data"]


def test_failed_task_is_read_and_keeps_apixos_cost_time():
    status = read_task(answered(FAILED))
    assert status is not None
    assert (status.state, status.final, status.fail_code) == ("failed", True, "SensitiveContent")
    assert status.cost_time_ms == 9040  # the span between the page's two times is 9203
    error = status.error()
    assert isinstance(error, TaskFailedError)
    assert (error.fail_code, error.category, error.task_id) == (
        "SensitiveContent",
        "content",
        "task_12345678",
    )
    assert "Content violates provider policy" in str(error)
    assert "Change the prompt" in error.advice


def test_balance_is_read():
    assert answered({"code": 200, "message": "success", "data": 74.87}).number == 74.87


# --- five shapes of data ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "data", "message"),
    [
        ({"code": 200, "message": "success", "data": {"taskId": "x"}}, {"taskId": "x"}, "success"),
        ({"code": 200, "message": "success", "data": 74.87}, 74.87, "success"),
        ({"code": 400, "message": "Insufficient credits", "data": None}, None, "Insufficient credits"),
        (
            {"code": 400, "message": "error", "data": {"error": "bad ratio"}},
            {"error": "bad ratio"},
            "bad ratio",
        ),
        ({"code": 401, "message": "Invalid API key"}, None, "Invalid API key"),
    ],
    ids=["object", "number", "null", "object with error", "absent"],
)
def test_each_shape_of_data_is_read(body, data, message):
    answer = answered(body)
    assert (answer.readable, answer.code, answer.data, answer.message) == (True, body["code"], data, message)


@pytest.mark.parametrize("data", [None, [], "text", True, 7, {}])
def test_data_that_is_no_task_is_no_task(data):
    assert read_task(answered({"code": 200, "message": "success", "data": data})) is None


@pytest.mark.parametrize(("status", "code"), [(500, 200), (200, 500), (201, 200), (200, None), (429, 429)])
def test_task_is_read_only_where_both_codes_are_200(status, code):
    answer = answered({"code": code, "data": {"taskId": "task_1", "state": "success"}}, status)
    assert not answer.accepted
    assert read_task(answer) is None


@pytest.mark.parametrize("code", [True, None, "x", [], {}, -1, "nan", 10**30, 1e400])
def test_code_that_is_no_number_is_no_code(code):
    body = json.dumps({"code": code, "data": {"taskId": "task_1"}}).encode()
    assert (answered(body).code, answered(body).accepted) == (None, False)


@pytest.mark.parametrize("code", [200, "200", 200.0])
def test_code_may_come_as_text(code):
    assert answered({"code": code, "data": 1}).accepted


@pytest.mark.parametrize(
    "number", [True, None, "74.87", [], {}, float("nan"), float("inf"), 10**400, 1e300, -1e300, 10**9]
)
def test_balance_that_is_no_number_is_none(number):
    assert answered({"code": 200, "data": number}).number is None


@pytest.mark.parametrize("task_id", [None, 0, -7, 7.5, "", "  ", [], {}, True, False, "x" * 2001])
def test_unusable_task_id_is_none(task_id):
    assert answered({"code": 200, "data": {"taskId": task_id}}).task_id == ""


@pytest.mark.parametrize(
    "task_id", ["task_12345678", "0123456789abcdef" * 2, "任务-1", "a/b?c#d", "x" * 200, "x" * 2000]
)
def test_task_id_is_opaque(task_id):
    assert answered({"code": 200, "data": {"taskId": task_id}}).task_id == task_id


@pytest.mark.parametrize("number", [7, 12345678, 12345678.0, 2**64, 10**300])
def test_number_is_a_task_id_too_in_a_submit_and_in_a_status(number):
    answer = answered({"code": 200, "data": {"taskId": number, "state": "processing"}})
    status = read_task(answer)
    assert status is not None
    assert answer.task_id == status.task_id == str(int(number))


def test_task_id_that_quotes_the_key_is_none():
    body = json.dumps({"code": 200, "data": {"taskId": f"task_{KEY}"}}).encode()
    answer = read_answer(200, {}, body, ApiKey(KEY).hide)
    assert answer.task_id == ""
    assert KEY not in answer.model_dump_json()


@pytest.mark.parametrize(
    "body",
    [
        {"code": 200, "data": {"task_id": "task_7"}},
        {"code": 200, "data": {"id": "task_7"}},
        {"code": 200, "taskId": "task_7"},
        {"code": 200, "data": "task_7"},
        {"code": 200, "data": ["task_7"]},
        b"task_7",
        b"\xff task_7",
    ],
)
def test_evidence_of_an_answer_holds_what_was_not_understood(body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert read_answer(200, {}, data).task_id == ""
    assert "task_7" in evidence(data)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"\x00", b"[" * 100_000, "\U0001f98a".encode() * 5000, b'"\\ud800"']
)
def test_evidence_of_any_bytes_is_text_that_a_row_takes(body):
    text = evidence(body)
    assert len(text.encode()) <= 4096
    assert storable(text) == text


@pytest.mark.parametrize("before", [0, 4080, 4090, 4095, 5000])
@pytest.mark.parametrize("form", [KEY, json.dumps({"x": KEY}), json.dumps(json.dumps({"x": KEY}))])
def test_evidence_never_holds_the_key_nor_a_part_of_it(before, form):
    text = evidence(b"." * before + form.encode(), ApiKey(KEY).hide)
    assert KEY[:6] not in text


# --- the key in an answer ---------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, "sk-a/b+c=d%e/fghi", 'sk-"quoted"-\\key', "1234567890123"])
@pytest.mark.parametrize("field", ["taskId", "state", "failCode", "failMsg", "other", "createTime"])
def test_key_that_an_answer_quotes_reaches_no_field_of_a_status(field, key):
    value = int(key) if key.isdigit() else f"before {key} after"
    body = json.dumps({"code": 200, "message": key, "data": {"x": 1, key: [key], field: value}}).encode()
    answer = read_answer(200, {}, body, ApiKey(key).hide)
    status = read_task(answer, ApiKey(key).hide)
    assert status is not None
    quoted = json.dumps(key)[1:-1]
    told = [repr(answer), repr(status), answer.model_dump_json(), status.model_dump_json(), status.raw]
    assert not [text for text in told if key in text or quoted in text]


@pytest.mark.parametrize("key", [KEY, "sk-a/b+c=d%e/fghi"])
@pytest.mark.parametrize("as_text", [True, False])
def test_result_url_that_quotes_the_key_is_unusable_and_that_is_said(key, as_text):
    urls = [f"https://r2.apixo.ai/a.png?key={written}" for written in (key, quote(key, safe=""), quote(key))]
    result: Any = {"resultUrls": [*urls, "https://r2.apixo.ai/b.png"]}
    data = {"taskId": "t", "state": "success", "resultJson": json.dumps(result) if as_text else result}
    hide = ApiKey(key).hide
    status = read_task(read_answer(200, {}, json.dumps({"code": 200, "data": data}).encode(), hide), hide)
    assert status is not None
    assert status.result_urls == ("https://r2.apixo.ai/b.png",)
    assert "quote the API key" in status.result_problem
    assert not [each for each in (key, quote(key, safe=""), quote(key)) if each in status.model_dump_json()]


# --- the result -------------------------------------------------------------------------------------

A, B = "https://r2.apixo.ai/a.png", "https://cdn.apixo.ai/b.jpg"
WHOLE = {"resultUrls": [A, B]}


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(json.dumps(WHOLE), id="JSON text"),
        pytest.param(WHOLE, id="object"),
        pytest.param(json.dumps(json.dumps(WHOLE)), id="encoded twice"),
        pytest.param([A, B], id="list"),
        pytest.param(json.dumps([A, B]), id="list as text"),
        pytest.param({**WHOLE, "other": 1}, id="with more"),
    ],
)
def test_result_is_read_in_each_of_its_forms(result):
    assert (succeeded(result).result_urls, succeeded(result).result_problem) == ((A, B), "")


def test_single_url_in_place_of_a_list_is_read():
    assert succeeded({"resultUrls": A}).result_urls == (A,)


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(None, id="null"),
        pytest.param("", id="empty"),
        pytest.param("not JSON", id="not JSON"),
        pytest.param('{"resultUrls":[', id="cut"),
        pytest.param({}, id="no resultUrls"),
        pytest.param({"resultUrls": []}, id="no URL"),
        pytest.param({"resultUrls": None}, id="null URLs"),
        pytest.param({"resultUrls": 7}, id="number"),
        pytest.param([], id="empty list"),
        pytest.param(True, id="bool"),
        pytest.param(7, id="number as a result"),
        pytest.param(float("nan"), id="NaN"),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param({"resultUrls": ["file:///etc/passwd", 7, None]}, id="no web URL"),
    ],
)
def test_success_without_a_usable_result_is_final_and_says_so(result):
    status = succeeded(result)
    error = status.error()
    assert status.final
    assert (status.result_urls, bool(status.result_problem)) == ((), True)
    assert isinstance(error, ResultError)
    assert (error.maybe_billed, error.task_id) == (True, "task_1")


def test_success_without_result_json_is_a_result_error():
    assert isinstance(task(state="success").error(), ResultError)


def test_result_of_a_task_that_has_not_ended_is_not_taken():
    assert task(state="processing", resultJson=WHOLE).result_urls == ()


@pytest.mark.parametrize(
    "bad",
    [
        *(
            "file:///etc/passwd",
            "data:image/png;base64,AAAA",
            "ftp://r2.apixo.ai/a.png",
            "//r2.apixo.ai/a.png",
        ),
        *("javascript:alert(1)", "https:///a.png", "https://me:secret@r2.apixo.ai/a.png", "a.png", ""),
        *("https://r2.apixo.ai:99999/a.png", "https://r2.apixo.ai\\@evil.example/a.png", "https://[::1"),
        *("https://r2.apixo.ai/a b.png", "https://r2.apixo.ai/a.png\n", "https://r2.apixo.ai/\x00.png"),
        *("https://r2.apixo.ai/\x1b[2J.png", "https://r2.apixo.ai/\ud800.png", None, 7, [A], {"url": A}),
    ],
    ids=ascii,
)
def test_unusable_result_url_is_left_out_and_told(bad):
    status = succeeded({"resultUrls": [A, bad]})
    assert status.result_urls == (A,)
    assert "cannot be used" in status.result_problem


def test_result_url_given_twice_is_taken_once():
    assert succeeded({"resultUrls": [A, B, A]}).result_urls == (A, B)


def test_thousands_of_result_urls_are_read():
    urls = [f"https://r2.apixo.ai/{index}.png" for index in range(10_000)]
    assert succeeded({"resultUrls": urls}).result_urls == tuple(urls)


# --- states and times -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "state", "final"),
    [
        ("SUCCESS", "success", True),
        ("Failed", "failed", True),
        (" success\n", "success", True),
        ("PROCESSING", "processing", False),
        ("Pending", "pending", False),
    ],
)
def test_known_state_is_known_in_any_case(word, state, final):
    assert (task(state=word).state, task(state=word).final) == (state, final)


@pytest.mark.parametrize("word", ["processing_r2", "Processing_R2", "SUCCEEDED", "fail", "done", " Queued "])
def test_unknown_state_is_kept_verbatim_and_is_not_final(word):
    assert (task(state=word).state, task(state=word).final, task(state=word).error()) == (word, False, None)


@pytest.mark.parametrize(
    ("value", "state"), [("", ""), (None, ""), (7, "7"), (True, ""), (["success"], ""), ({"success": 1}, "")]
)
def test_odd_state_is_not_final(value, state):
    assert (task(state=value).state, task(state=value).final) == (state, False)


def test_missing_state_is_not_final():
    assert (task().state, task().final) == ("", False)


@pytest.mark.parametrize("state", ["success", "failed"])
@pytest.mark.parametrize("cost", [{}, {"costTime": None}, {"costTime": -1}, {"costTime": "soon"}])
def test_missing_cost_time_is_the_span_between_the_times(state, cost):
    assert task(state=state, createTime=1000, completeTime=9203, **cost).cost_time_ms == 8203


@pytest.mark.parametrize(
    "times",
    [
        {},
        {"createTime": 5},
        {"completeTime": 5},
        {"createTime": 9, "completeTime": 5},
        {"createTime": "x", "completeTime": 5},
        {"createTime": None, "completeTime": 5},
    ],
)
def test_cost_time_that_cannot_be_known_is_none(times):
    assert task(state="success", **times).cost_time_ms is None


def test_task_on_its_way_has_no_cost_time():
    assert task(state="processing", createTime=1, completeTime=5).cost_time_ms is None


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (41388, 41388),
        ("41388", 41388),
        (41388.9, 41388),
        (0, 0),
        (30 * 86_400_000 - 1, 30 * 86_400_000 - 1),
        (30 * 86_400_000, None),
        (2**53 - 1, None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**30, None),
        (10**400, None),
        (2**53, None),
        ("", None),
        ("x", None),
        (True, None),
        ([1], None),
        ({"ms": 1}, None),
        (None, None),
    ],
)
def test_odd_time_is_absent(value, milliseconds):
    assert task(costTime=value).cost_time_ms == milliseconds


@pytest.mark.parametrize("value", [2**53 - 1, 10**15, -1, float("nan"), True, "9" * 400, [1]])
def test_moment_that_cannot_be_is_absent(value):
    status = task(state="success", createTime=value, completeTime=value)
    assert (status.created_ms, status.completed_ms, status.cost_time_ms) == (None, None, None)


def test_span_that_no_task_takes_is_no_cost_time():
    assert task(state="success", createTime=0, completeTime=1767965652317).cost_time_ms is None


def test_failed_task_without_code_or_message_is_still_told():
    error = task(state="failed").error()
    assert isinstance(error, TaskFailedError)
    assert "no failCode" in str(error)
    assert (error.fail_code, error.category) == ("", "unknown")


def test_hostile_failure_is_harmless_on_screen_and_verbatim_in_the_facts():
    error = task(state="failed", failCode="\x1b]52;x\x07", failMsg="\u202e" + "x" * 10**6).error()
    assert isinstance(error, TaskFailedError)
    assert error.fail_code == "\x1b]52;x\x07"
    assert "\x1b" not in str(error)
    assert "\u202e" not in str(error)
    assert len(str(error)) < 1000


@pytest.mark.parametrize(
    ("text", "kept"),
    [("a\x00b", "a\ufffdb"), ("a\ud800b", "a\ufffdb"), ("\udfff", "\ufffd"), ("é🦊", "é🦊")],
)
def test_stored_text_is_one_that_databases_take(text, kept):
    assert storable(text) == kept


# --- problems ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind", "retryable"),
    [
        (400, errors.BadRequestError, False),
        (401, errors.AuthenticationError, False),
        (402, errors.InsufficientBalanceError, False),
        (403, errors.PermissionDeniedError, False),
        (404, errors.NotFoundError, False),
        (413, errors.BadRequestError, False),
        (422, errors.BadRequestError, False),
        (429, errors.RateLimitError, True),
        (500, errors.ServerError, True),
        (502, errors.ServerError, True),
        (503, errors.ServerError, True),
        (504, errors.ServerError, True),
        (599, errors.ServerError, True),
    ],
)
@pytest.mark.parametrize("where", ["HTTP", "body"])
def test_each_code_has_its_class_as_http_status_and_in_the_body(number, kind, retryable, where):
    status = number if where == "HTTP" else 200
    error = problem_of(answered({"code": number, "message": "no"}, status), "Reading")
    assert type(error) is kind
    assert (error.status, error.code, error.retryable) == (status, number, retryable)
    assert error.message == "Reading: no"
    assert not error.maybe_billed


@pytest.mark.parametrize("body", [b"", b"<html>502 Bad Gateway</html>", b"null", b"[]", b'"ok"', b"7"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, errors.MalformedResponseError),
        (302, errors.MalformedResponseError),
        (204, errors.MalformedResponseError),
        (401, errors.AuthenticationError),
        (429, errors.RateLimitError),
        (502, errors.ServerError),
    ],
)
def test_unreadable_answer_is_judged_by_its_status(status, kind, body):
    answer = answered(body, status)
    assert not answer.readable
    assert type(problem_of(answer, "Reading")) is kind


@pytest.mark.parametrize("status", [408, 499])
def test_cut_off_request_is_worth_another_try(status):
    assert problem_of(answered(b"", status), "Reading").retryable


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, {"code": 402, "message": "Payment required"}),
        (402, b""),
        (200, {"code": 402, "message": "quota"}),
        (400, {"code": 400, "message": "Insufficient credits", "data": None}),
        (400, {"code": 400, "message": "INSUFFICIENT BALANCE"}),
        (400, {"code": 400, "message": "insufficient_credits"}),
        (400, {"code": 400, "message": "Not enough credits to run this model"}),
        (400, {"code": 400, "message": "error", "data": {"error": "Insufficient account balance"}}),
        (200, {"code": 400, "message": "Insufficient credits", "data": None}),
        (400, {"code": 400, "message": "no", "failCode": "INSUFFICIENT_CREDITS"}),
        (403, {"code": 403, "message": "no", "data": {"failCode": "InsufficientCredits"}}),
        (429, {"code": 429, "message": "no", "data": {"failCode": "INSUFFICIENT_CREDITS"}}),
    ],
)
def test_lack_of_money_is_known_in_its_disguises(status, body):
    assert type(problem_of(answered(body, status), "Reading")) is errors.InsufficientBalanceError


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "num_images must be 1, 2 or 4"),
        (400, "insufficient detail in prompt"),
        (500, "no credit"),
        (401, "Insufficient credits"),
        (403, "not enough permissions"),
    ],
)
def test_other_problem_is_not_taken_for_a_lack_of_money(status, message):
    error = problem_of(answered({"code": status, "message": message}, status), "Reading")
    assert not isinstance(error, errors.InsufficientBalanceError)


@pytest.mark.parametrize(
    "body",
    [
        {"code": 400, "message": "no", "data": {"failCode": "SensitiveContent", "failMsg": "too rude"}},
        {"code": 400, "message": "no", "failCode": "SensitiveContent", "failMsg": "too rude"},
        {"code": 400, "message": "too rude", "data": {"failCode": "SensitiveContent"}},
    ],
)
def test_fail_code_in_an_immediate_answer_gives_its_own_advice(body):
    error = problem_of(answered(body, 400), "The submit was refused")
    assert error.message == "The submit was refused: SensitiveContent: too rude"
    assert error.next_step == "Change the prompt or the reference picture."


def test_problem_without_a_reason_says_that():
    assert problem_of(answered(b"{}", 403), "Reading").message == "Reading: no reason was given"


def test_reason_of_a_hostile_server_is_harmless():
    error = problem_of(answered({"message": "\x1b[2J\u202e\n" + "x" * 10**6}, 400), "Reading")
    assert str(error).startswith("Reading: \\u001b[2J\\u202e ")
    assert len(str(error)) < 1000


# --- Retry-After ------------------------------------------------------------------------------------

NOW = 1_767_965_610.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0),
        (" 2 ", 2.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("86400", 86400.0),
        ("86401", 86400.0),
        ("1e9", 86400.0),
        ("1e300", 86400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400.0),
        ("Fri, 09 Jan 2026 13:34:30 GMT", 60.0),
        ("Fri, 09 Jan 2026 13:33:30 GMT", 0.0),
        ("Fri, 09 Jan 2026 13:33:29 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("-1", None),
        ("NaN", None),
        ("inf", None),
        ("-inf", None),
        ("1e999", None),
        ("9" * 400, None),
        ("", None),
        ("  ", None),
        ("soon", None),
        ("2 s", None),
        ("2, 3", None),
        ("Fri, 99 Jan 2026", None),
    ],
)
def test_retry_after_is_seconds_from_now_or_nothing(header, seconds):
    assert retry_after_s(header, NOW) == seconds


def test_retry_after_of_an_answer_is_kept_verbatim():
    assert answered(b"", 429, **{"retry-after": "soon"}).retry_after == "soon"
    assert answered(b"", 429).retry_after == ""


@PROPERTY
@given(st.integers(0, 10**6))
def test_retry_after_date_is_as_far_as_it_is_and_at_most_a_day(seconds):
    assert retry_after_s(email.utils.formatdate(NOW + seconds, usegmt=True), NOW) == min(seconds, 86_400)


@PROPERTY
@given(
    st.text(st.characters())
    | st.text("0123456789eE+-. ,:", max_size=20)
    | st.from_regex(r"\A\w{3}, \d{1,3} \w{3} \d{1,5} \d{1,3}:\d{1,3}:\d{1,3} ([A-Z]{1,5}|[+-]\d{1,12})\Z")
)
@example("Mon, 01 Jan 0001 00:00:00 -0000")
def test_no_retry_after_raises_or_is_below_zero(header):
    seconds = retry_after_s(header, NOW)
    assert seconds is None or 0 <= seconds <= 86_400


# --- anything at all --------------------------------------------------------------------------------

ODD_NUMBERS = st.sampled_from([10**30, -(10**30), 10**4000, 1e308, -0.0, 2**53, 2**63])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | ODD_NUMBERS
)
NAMES = st.sampled_from(
    ["taskId", "state", "resultJson", "resultUrls", "error", "failCode", "failMsg", "costTime", "createTime"]
) | st.text(st.characters(), max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
STATES = st.sampled_from(["success", "failed", "processing", "SUCCESS", "pending"]) | JSON
RESULTS = JSON | JSON.map(lambda value: json.dumps({"resultUrls": value})) | st.just({"resultUrls": [A]})
TIMES = JSON | st.integers(0, 10**14)
DATA = JSON | st.fixed_dictionaries(
    {},
    optional={
        "taskId": JSON | st.just("task_1"),
        "state": STATES,
        "resultJson": RESULTS,
        "failCode": JSON,
        "failMsg": JSON,
        "createTime": TIMES,
        "completeTime": TIMES,
        "costTime": TIMES,
        "error": JSON,
    },
)
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={"code": st.just(200) | JSON, "message": JSON, "data": DATA, "failCode": JSON, "failMsg": JSON},
)
STATUSES = st.sampled_from(
    [200, 200, 200, 201, 204, 302, 400, 401, 402, 403, 404, 408, 422, 429, 500, 503, 599]
)


def check_all(status: int, body: bytes):
    """Whatever was answered: our own types, bounded text that can be shown and stored."""
    answer = read_answer(status, {"retry-after": "soon"}, body)
    assert isinstance(answer, Answer)
    assert isinstance(answer.task_id, str)
    problem = problem_of(answer, "Reading")
    assert isinstance(problem, ApixoError)
    check_shown(problem)
    found = read_task(answer)
    if found is not None:
        check_task(found)


def check_shown(problem: ApixoError):
    assert len(str(problem).splitlines()) <= 2
    assert len(str(problem)) < 3000
    str(problem).encode("utf-8")


def check_task(found: TaskStatus):
    for text in (found.task_id, found.state, found.fail_code, found.fail_msg, found.raw, *found.result_urls):
        assert "\x00" not in text
        text.encode("utf-8")
    for number in (found.created_ms, found.completed_ms, found.cost_time_ms):
        assert number is None or 0 <= number < 2**53
    assert found.final == (found.state in ("success", "failed"))
    assert all(url.casefold().startswith(("http://", "https://")) for url in found.result_urls)
    assert (found.error() is not None) == (found.final and not found.result_urls)
    if error := found.error():
        check_shown(error)


@PROPERTY
@given(STATUSES, st.binary(max_size=200))
def test_any_bytes_become_our_own_types(status, body):
    check_all(status, body)


@PROPERTY
@given(STATUSES, JSON)
def test_any_json_becomes_our_own_types(status, value):
    check_all(status, json.dumps(value).encode())


@settings(PROPERTY, max_examples=800)
@given(STATUSES, ENVELOPES)
def test_any_envelope_becomes_our_own_types(status, envelope):
    check_all(status, json.dumps(envelope).encode())


@pytest.mark.parametrize("status", [200, 400, 429, 500])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xef\xbb\xbf" + SUCCESS, id="BOM"),
        pytest.param(SUCCESS.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"code": 200, "data": {"taskId": "\xff"}}', id="not UTF-8"),
        pytest.param(b'{"code": NaN, "data": -Infinity}', id="NaN"),
        pytest.param(b'{"code": 1e400, "data": 1e400}', id="1e400"),
        pytest.param(b'{"code": 200, "data": ' + b"9" * 5000 + b"}", id="5,000 digits"),
        pytest.param(b'{"code": 200, "data": {"taskId": ' + b"9" * 4000 + b"}}", id="4,000 digits"),
        pytest.param(b'{"code": 500, "code": 200, "data": {"taskId": "a", "taskId": "b"}}', id="names twice"),
        pytest.param(
            rb'{"code": 200, "message": "\ud800", "data": {"taskId": "\udc00\u0000"}}', id="surrogates"
        ),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="100,000 brackets"),
        pytest.param(b'{"data":' * 100_000 + b"1" + b"}" * 100_000, id="100,000 braces"),
        pytest.param(b'{"code": 200, "data": {"x": "' + b"x" * 4_000_000 + b'"}}', id="4 MB"),
        pytest.param(SUCCESS[:-1], id="cut"),
        pytest.param(SUCCESS + SUCCESS, id="two answers"),
    ],
)
def test_hostile_body_becomes_our_own_types(status, body):
    check_all(status, body)


@pytest.mark.parametrize("depth", range(900, 1010, 5))
def test_nesting_near_the_recursion_limit_becomes_our_own_types(depth):
    check_all(200, b'{"code": 200, "data": {"state": "success", "x": ' + b"[" * depth + b"]" * depth + b"}}")


def test_byte_order_mark_does_not_hide_an_answer():
    assert answered(b"\xef\xbb\xbf" + ACCEPTED).task_id == "task_12345678"
