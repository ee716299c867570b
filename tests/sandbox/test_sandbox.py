"""What the sandbox promises, asked over real HTTP; the clock is a test's own wherever nothing has to wait."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from PIL import Image

import apixo_nb.sandbox
from apixo_nb.core import models
from apixo_nb.sandbox import MARKERS, Delivery, Sandbox, SandboxOptions

KEY = "sk-the-key-nobody-may-keep"
SUBMIT = "/generateTask/gpt-image-1"
STATUS = "/statusTask/gpt-image-1"
BALANCE = "/apikeys/current-balance"
QUICK = SandboxOptions(seconds=0.1, key=KEY, picture_scale=0.25)


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 1_767_965_610.929

    def __call__(self):
        return self.now


class Caller:
    """A client without opinions: what is asked is what is sent."""

    def __init__(self, sandbox: Sandbox, http: httpx2.Client):
        self.sandbox, self.http = sandbox, http

    def get(self, path: str, **options: Any):
        return self.http.get(self.sandbox.base_url + path, headers=bearer(KEY), **options)

    def submit(self, prompt: str = "a fox", **changes: Any):
        return self.http.post(
            self.sandbox.base_url + SUBMIT, headers=bearer(KEY), json=body(prompt, **changes)
        )

    def task(self, prompt: str = "a fox", **changes: Any) -> str:
        return self.submit(prompt, **changes).json()["data"]["taskId"]

    def status(self, task_id: str) -> dict[str, Any]:
        return self.get(STATUS, params={"taskId": task_id}).json()["data"]

    def balance(self) -> float:
        return self.get(BALANCE).json()["data"]

    def urls(self, task_id: str) -> list[str]:
        return json.loads(self.status(task_id)["resultJson"])["resultUrls"]

    def picture(self, url: str):
        return self.http.get(url)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def body(prompt: str = "a fox", **changes: Any) -> dict[str, Any]:
    """The page's own request; keywords change its input, or, for request_type and callback_url, the top."""
    top = {name: changes.pop(name) for name in ("request_type", "callback_url") if name in changes}
    request_input = {
        "mode": "gpt-image-1",
        "prompt": prompt,
        "aspect_ratio": "1:1",
        "num_images": 1,
    } | changes
    return {"request_type": "async", "input": request_input} | top


def until(fulfilled: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := fulfilled()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return result


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(trust_env=False, verify=False, timeout=20) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sandbox(clock: Clock) -> Iterator[Sandbox]:
    with Sandbox(QUICK, clock=clock) as sandbox:
        yield sandbox


@pytest.fixture
def caller(sandbox: Sandbox, http: httpx2.Client) -> Caller:
    return Caller(sandbox, http)


# The page, step by step.


def test_a_submit_is_answered_with_a_task_id(caller: Caller):
    answer = caller.submit()
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    task_id = answer.json()["data"]["taskId"]
    assert re.fullmatch(r"task_[0-9a-f]{16}", task_id)
    assert answer.json() == {"code": 200, "message": "success", "data": {"taskId": task_id}}
    assert caller.sandbox.account.accepted == [task_id]


def test_a_task_is_processing_until_its_time_has_come(caller: Caller, clock: Clock):
    task_id = caller.task("[seconds:30]")
    clock.now += 29.9
    assert caller.status(task_id) == {"taskId": task_id, "state": "processing", "createTime": 1767965610929}


def test_a_finished_task_names_its_pictures_and_its_times(caller: Caller, clock: Clock):
    task_id = caller.task("[seconds:30]", num_images=2)
    clock.now += 31
    status = caller.status(task_id)
    urls = json.loads(status.pop("resultJson"))["resultUrls"]
    assert len(set(urls)) == 2
    times = {"createTime": 1767965610929, "completeTime": 1767965640929, "costTime": 30000}
    assert status == {"taskId": task_id, "state": "success"} | times


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("SensitiveContent", "Content violates provider policy, please adjust the prompt"),
        ("Unknown error", "Unmapped provider-side failure"),
        ("Brand_New", "The task failed: Brand_New"),
    ],
)
def test_a_failed_task_says_why(caller: Caller, clock: Clock, code: str, message: str):
    task_id = caller.task(f"[fail:{code}] [seconds:2]")
    assert caller.status(task_id)["state"] == "processing"
    clock.now += 2
    status = caller.status(task_id)
    assert (status["state"], status["failCode"], status["failMsg"]) == ("failed", code, message)
    assert status["costTime"] == 2000
    assert "resultJson" not in status


def test_tasks_take_about_the_time_set(caller: Caller):
    took_ms = set()
    for _ in range(9):
        task = caller.sandbox.account.tasks[caller.task()]
        assert task.ready_ms is not None
        took_ms.add(task.ready_ms - task.created_ms)
    assert len(took_ms) > 1
    assert 70 <= min(took_ms) <= max(took_ms) <= 130


def test_a_model_added_to_the_spec_is_on_offer(caller: Caller, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    sizes = models.Parameter("size", "--size", ("small", "large"), "small", "size")
    plain = replace(
        models.MODELS["gpt-image-1"], id="plain-2", mode="draw", parameters=(sizes,), prompt_max=5
    )
    monkeypatch.setitem(models.MODELS, "plain-2", plain)

    def submit(**given: Any):
        request = {"request_type": "async", "input": given}
        url = f"{caller.sandbox.base_url}/generateTask/plain-2"
        return caller.http.post(url, headers=bearer(KEY), json=request)

    assert submit(mode="draw", prompt="a fox", size="huge").status_code == 400
    assert submit(mode="draw", prompt="a foxx", size="large").status_code == 400
    task_id = submit(mode="draw", prompt="a fox", size="large").json()["data"]["taskId"]
    clock.now += 1
    status = caller.get("/statusTask/plain-2", params={"taskId": task_id}).json()["data"]
    (url,) = json.loads(status["resultJson"])["resultUrls"]
    assert Image.open(io.BytesIO(caller.picture(url).content)).size == (256, 256)
    assert caller.get(STATUS, params={"taskId": task_id}).status_code == 404


# What is refused, and how.


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", KEY, f"Basic {KEY}"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", SUBMIT), ("GET", STATUS), ("GET", BALANCE), ("GET", "/x")]
)
def test_without_the_key_nothing_is_answered(
    caller: Caller, authorization: str | None, method: str, path: str
):
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = caller.http.request(method, caller.sandbox.base_url + path, headers=headers, json=body())
    assert answer.status_code == 401
    assert answer.json() == {"code": 401, "message": "Missing or invalid API key"}
    assert caller.sandbox.account.accepted == []


def test_any_key_will_do_where_none_was_set(http: httpx2.Client):
    with Sandbox() as sandbox:
        assert http.get(sandbox.base_url + BALANCE, headers=bearer("whatever")).status_code == 200
        assert http.get(sandbox.base_url + BALANCE, headers={"Authorization": "Bearer"}).status_code == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"request_type": "sync"},
        {"request_type": None},
        {"request_type": "callback"},
        {"callback_url": "http://127.0.0.1/hook"},
        {"request_type": "callback", "callback_url": "https://example.com/hook"},
        {"request_type": "callback", "callback_url": "http://127.0.0.1.example.com/hook"},
        {"request_type": "callback", "callback_url": "http://127.0.0.1\\@example.com/hook"},
        {"request_type": "callback", "callback_url": "ftp://127.0.0.1/hook"},
        {"request_type": "callback", "callback_url": 7},
        {"mode": "text-to-image"},
        {"prompt": ""},
        {"prompt": " \n\t"},
        {"prompt": 7},
        {"prompt": None},
        {"prompt": "x" * 10_001},
        {"aspect_ratio": "16:9"},
        {"aspect_ratio": None},
        {"num_images": 3},
        {"num_images": "1"},
        {"num_images": True},
        {"num_images": 1.0},
        {"image_urls": "https://example.com/a.png"},
        {"image_urls": None},
        {"image_urls": ["https://example.com/a.png"] * 6},
        {"image_urls": ["a.png"]},
        {"image_urls": ["file:///etc/passwd"]},
        {"image_urls": ["data:image/png;base64,AAAA"]},
        {"image_urls": ["https://"]},
        {"image_urls": ["https://[::1"]},
        {"image_urls": ["https://example.com/a b.png"]},
        {"image_urls": [7]},
    ],
    ids=str,
)
def test_a_request_against_the_page_is_a_400_that_says_why(caller: Caller, wrong: dict[str, Any]):
    answer = caller.submit(**wrong)
    assert answer.status_code == answer.json()["code"] == 400
    assert answer.json()["message"] == "Invalid request"
    assert answer.json()["data"]["error"]
    assert caller.sandbox.account.accepted == []


@pytest.mark.parametrize("missing", ["mode", "prompt", "aspect_ratio", "num_images"])
def test_every_input_of_the_page_is_required(caller: Caller, missing: str):
    request = body()
    del request["input"][missing]
    answer = caller.http.post(caller.sandbox.base_url + SUBMIT, headers=bearer(KEY), json=request)
    assert answer.status_code == 400
    assert missing in answer.json()["data"]["error"]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "application/json"),
        (b"not json", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"[]", "application/json"),
        (b'{"request_type": "async", "input": "a fox"}', "application/json"),
        (json.dumps(body()).encode(), "text/plain"),
        (json.dumps(body("x" * 1_000_001)).encode(), "application/json"),
    ],
    ids=["empty", "no JSON", "no UTF-8", "too deep", "no object", "no input", "wrong type", "too long"],
)
def test_a_body_that_is_no_request_is_a_400(caller: Caller, content: bytes, content_type: str):
    headers = bearer(KEY) | {"Content-Type": content_type}
    answer = caller.http.post(caller.sandbox.base_url + SUBMIT, headers=headers, content=content)
    assert answer.json()["code"] == answer.status_code == 400
    assert answer.json()["data"]["error"]


@pytest.mark.parametrize(
    "allowed",
    [
        {"prompt": "x" * 10_000},
        {"prompt": "🌆" * 10_000},
        {"prompt": "[sic] an unknown marker is plain text"},
        {"aspect_ratio": "2:3"},
        {"num_images": 4},
        {"image_urls": []},
        {"image_urls": ["https://example.com/a.png", "http://example.com/b"] * 2},
        {"seed": 7},
        {"request_type": "callback", "callback_url": "http://127.0.0.1:9/hook"},
        {"request_type": "callback", "callback_url": "https://localhost:9/hook"},
        {"request_type": "callback", "callback_url": "http://[::1]:9/hook"},
    ],
    ids=lambda allowed: str(allowed)[:60],
)
def test_what_the_page_allows_is_accepted(caller: Caller, allowed: dict[str, Any]):
    assert caller.submit(**allowed).status_code == 200


def test_content_types_may_name_their_charset(caller: Caller):
    headers = bearer(KEY) | {"Content-Type": "Application/JSON; charset=utf-8"}
    content = json.dumps(body())
    answer = caller.http.post(caller.sandbox.base_url + SUBMIT, headers=headers, content=content)
    assert answer.status_code == 200


def test_a_result_of_the_sandbox_is_a_good_reference(caller: Caller, clock: Clock):
    task_id = caller.task()
    clock.now += 1
    assert caller.submit(image_urls=caller.urls(task_id)).status_code == 200


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/generateTask/gpt-image-9", "Model not found"),
        ("/statusTask/gpt-image-9?taskId=task_0", "Model not found"),
        ("/statusTask/gpt-image-1?taskId=task_0", "Task not found"),
        ("/elsewhere", "Not found"),
    ],
)
def test_what_does_not_exist_is_a_404(caller: Caller, path: str, message: str):
    method = "POST" if path.startswith("/generate") else "GET"
    answer = caller.http.request(method, caller.sandbox.base_url + path, headers=bearer(KEY))
    assert answer.status_code == 404
    assert answer.json() == {"code": 404, "message": message, "data": None}


def test_a_status_request_needs_a_task_id(caller: Caller):
    answer = caller.get(STATUS)
    assert answer.status_code == 400
    assert "taskId" in answer.json()["data"]["error"]


@pytest.mark.parametrize(("method", "path", "allow"), [("GET", SUBMIT, "POST"), ("POST", STATUS, "GET")])
def test_a_wrong_method_is_a_405_that_names_the_right_one(caller: Caller, method: str, path: str, allow: str):
    answer = caller.http.request(method, caller.sandbox.base_url + path, headers=bearer(KEY))
    assert answer.status_code == 405
    assert answer.headers["Allow"] == allow
    assert answer.json() == {"code": 405, "message": "Method not allowed", "data": None}
    assert caller.sandbox.account.submits == 0


# Money.


def test_a_task_is_charged_for_the_pictures_asked_for(caller: Caller):
    caller.task(num_images=4)
    caller.task(num_images=1)
    assert caller.sandbox.account.balance_micros == 98_250_000
    assert caller.balance() == 98.25


def test_a_failed_task_is_refunded_when_it_fails(caller: Caller, clock: Clock):
    caller.task("[fail:Timeout] [seconds:5]", num_images=2)
    assert caller.balance() == 99.3
    clock.now += 5
    assert caller.balance() == 100.0


def test_an_empty_account_is_refused(http: httpx2.Client):
    with Sandbox(replace(QUICK, balance_usd=0.7)) as sandbox:
        caller = Caller(sandbox, http)
        answer = caller.submit(num_images=4)
        assert answer.status_code == 402
        assert answer.json() == {"code": 402, "message": "Insufficient credits", "data": None}
        assert caller.submit(num_images=2).status_code == 200
        assert caller.balance() == 0.0
        assert caller.submit().status_code == 402


# Markers.


def test_every_marker_is_in_the_handbook():
    assert apixo_nb.sandbox.__doc__ is not None
    for name, meaning in MARKERS.items():
        assert re.search(rf"``\[{re.escape(name)}\]`` +{re.escape(meaning)}", apixo_nb.sandbox.__doc__)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 502, 503, 504])
def test_http_refuses_a_submit_without_accepting_it(caller: Caller, status: int):
    answer = caller.submit(f"[http:{status}]")
    assert answer.status_code == answer.json()["code"] == status
    assert answer.headers.get("Retry-After") == ("1" if status == 429 else None)
    assert caller.sandbox.account.accepted == []
    assert caller.balance() == 100.0


def test_busy_refuses_the_first_submits_of_a_prompt(caller: Caller):
    prompts = ["[busy:2] a fox"] * 3 + ["[busy:1] an owl", "[busy:2] a fox", "[busy:1] an owl"]
    answers = [caller.submit(prompt) for prompt in prompts]
    assert [answer.status_code for answer in answers] == [429, 429, 200, 429, 200, 200]
    assert answers[0].headers["Retry-After"] == "1"
    assert len(caller.sandbox.account.accepted) == 3
    assert caller.sandbox.account.submits == 6


def test_lost_accepts_and_charges_and_hangs_up(caller: Caller, clock: Clock):
    with pytest.raises(httpx2.RemoteProtocolError):
        caller.submit("[lost]")
    (task_id,) = caller.sandbox.account.accepted
    clock.now += 1
    assert caller.status(task_id)["state"] == "success"
    assert caller.balance() == 99.65


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_lost_with_a_status_accepts_and_says_it_did_not(caller: Caller, status: int):
    answer = caller.submit(f"[lost:{status}]")
    assert answer.status_code == status
    assert len(caller.sandbox.account.accepted) == 1
    assert caller.balance() == 99.65


def test_never_is_never(caller: Caller, clock: Clock):
    task_id = caller.task("[never]")
    clock.now += 1e9
    assert caller.status(task_id)["state"] == "processing"


@pytest.mark.parametrize("number", [0, 1, 7])
def test_pictures_sets_their_number_but_not_the_price(caller: Caller, clock: Clock, number: int):
    task_id = caller.task(f"[pictures:{number}]", num_images=2)
    clock.now += 1
    urls = caller.urls(task_id)
    assert len(urls) == number
    assert [caller.picture(url).status_code for url in urls] == [200] * number
    assert caller.balance() == 99.3


def test_gone_leaves_urls_that_lead_nowhere(caller: Caller, clock: Clock):
    task_id = caller.task("[gone]")
    clock.now += 1
    assert caller.picture(caller.urls(task_id)[0]).status_code == 404


def test_broken_promises_more_than_it_sends(caller: Caller, clock: Clock):
    task_id = caller.task("[broken]")
    clock.now += 1
    received = bytearray()
    (url,) = caller.urls(task_id)
    with caller.http.stream("GET", url) as answer, pytest.raises(httpx2.RemoteProtocolError):
        collect(answer.iter_raw(), received)
    assert received.startswith(b"\x89PNG")
    assert len(received) == int(answer.headers["Content-Length"]) // 2


def collect(chunks: Iterator[bytes], received: bytearray):
    for chunk in chunks:
        received += chunk


def test_html_is_a_page_in_place_of_a_picture(caller: Caller, clock: Clock):
    task_id = caller.task("[html]")
    clock.now += 1
    answer = caller.picture(caller.urls(task_id)[0])
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.text.startswith("<!doctype html>")


def test_no_cost_time_leaves_the_other_times(caller: Caller, clock: Clock):
    task_id = caller.task("[no-cost-time]")
    clock.now += 1
    status = caller.status(task_id)
    assert "costTime" not in status
    assert status["completeTime"] > status["createTime"]


@pytest.mark.parametrize(
    "marker", ["[http:200]", "[http]", "[busy:many]", "[seconds:-1]", "[lost:404]", "[fail: ]"]
)
def test_a_mistyped_marker_is_refused(caller: Caller, marker: str):
    answer = caller.submit(marker)
    assert answer.status_code == 400
    assert "marker" in answer.json()["data"]["error"]


# Pictures.


@pytest.mark.parametrize(("ratio", "size"), [("1:1", (256, 256)), ("2:3", (256, 384)), ("3:2", (384, 256))])
def test_pictures_have_the_shape_asked_for(caller: Caller, clock: Clock, ratio: str, size: tuple[int, int]):
    task_id = caller.task(aspect_ratio=ratio)
    clock.now += 1
    answer = caller.picture(caller.urls(task_id)[0])
    assert answer.headers["Content-Type"] == "image/png"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.format, picture.size) == ("PNG", size)


def test_pictures_have_the_real_size_unless_scaled(http: httpx2.Client, clock: Clock):
    with Sandbox(SandboxOptions(key=KEY), clock=clock) as sandbox:
        caller = Caller(sandbox, http)
        task_id = caller.task("a long prompt, " * 600, aspect_ratio="3:2")
        clock.now += 4
        content = caller.picture(caller.urls(task_id)[0]).content
    assert Image.open(io.BytesIO(content)).size == (1536, 1024)
    assert len(content) < 600_000


def test_each_picture_of_a_task_is_another_and_stays_the_same(caller: Caller, clock: Clock):
    task_id = caller.task(num_images=4)
    clock.now += 1
    first, again = ([caller.picture(url).content for url in caller.urls(task_id)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 4


@pytest.mark.parametrize(
    "prompt",
    [
        "x" * 10_000,
        "黄昏の東京 🌆",
        "👩‍🚀\ufe0f\u200d",
        "a\n\n\r\nb\tc",
        "\x00\x1b[31m",
        "مرحبا",
        "\ud800",
        "é" * 50,
        "[]{}",
    ],
    ids=["long", "CJK", "emoji", "lines", "control", "right to left", "surrogate", "accents", "brackets"],
)
def test_any_prompt_can_be_drawn(caller: Caller, clock: Clock, prompt: str):
    # Written as ASCII by hand, as a lone surrogate travels in JSON but not in UTF-8.
    headers = bearer(KEY) | {"Content-Type": "application/json"}
    url = caller.sandbox.base_url + SUBMIT
    answer = caller.http.post(url, headers=headers, content=json.dumps(body(prompt)))
    clock.now += 1
    assert caller.picture(caller.urls(answer.json()["data"]["taskId"])[0]).status_code == 200


def test_a_picture_exists_once_its_task_has_succeeded_and_only_at_its_own_address(
    caller: Caller, clock: Clock
):
    task_id = caller.task()
    clock.now += 1
    (url,) = caller.urls(task_id)
    assert caller.picture(url).status_code == 200
    token = url.split("/")[-2]
    for elsewhere in (
        url.replace(token, "0" * 16),
        url.replace("-1.png", "-2.png"),
        caller.sandbox.picture_url,
    ):
        answer = caller.picture(elsewhere)
        assert answer.status_code == 404
        assert answer.headers["Content-Type"].startswith("text/html")
    clock.now -= 1
    assert caller.picture(url).status_code == 404


def test_pictures_come_from_another_host_that_needs_no_key(caller: Caller, clock: Clock):
    task_id = caller.task()
    clock.now += 1
    (url,) = caller.urls(task_id)
    assert url.startswith(caller.sandbox.picture_url + "/")
    assert not caller.sandbox.base_url.startswith(caller.sandbox.picture_url)
    assert caller.picture(url).status_code == 200


# What the account remembers.


def test_the_account_knows_whether_secrets_came_along(caller: Caller, clock: Clock):
    task_id = caller.task()
    clock.now += 1
    (url,) = caller.urls(task_id)
    caller.picture(url)
    caller.http.get(url, headers=bearer(KEY) | {"Cookie": "a=b"})
    account = caller.sandbox.account
    assert [seen.kind for seen in account.requests] == ["submit", "status", "picture", "picture"]
    assert [seen.authorised for seen in account.requests] == [True, True, False, False]
    assert [seen.has_authorization for seen in account.requests] == [True, True, False, True]
    assert [seen.has_cookie for seen in account.requests] == [False, False, False, True]
    assert (account.submits, account.polls, account.downloads) == (1, 1, 2)


def test_the_key_is_kept_nowhere(http: httpx2.Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    journal = tmp_path / "journal.jsonl"
    with Sandbox(replace(QUICK, key=None, journal=journal)) as sandbox:
        caller = Caller(sandbox, http)
        task_id = caller.task()
        caller.submit("[http:500]")
        caller.get("/elsewhere")
        caller.status(task_id)
    account = sandbox.account
    kept = f"{list(account.requests)} {account.tasks} {journal.read_text()} {vars(account)} {sandbox!r}"
    assert KEY not in kept + "".join(capfd.readouterr())


def test_nothing_is_printed(caller: Caller, clock: Clock, capfd: pytest.CaptureFixture[str]):
    task_id = caller.task()
    clock.now += 1
    caller.picture(caller.urls(task_id)[0])
    caller.submit("[http:500]")
    caller.submit("[http:400]")
    caller.get("/elsewhere")
    with pytest.raises(httpx2.RemoteProtocolError):
        caller.submit("[lost]")
    caller.sandbox.stop()
    assert capfd.readouterr() == ("", "")


# The journal.


def test_a_restarted_sandbox_knows_its_tasks(http: httpx2.Client, clock: Clock, tmp_path: Path):
    options = replace(QUICK, journal=tmp_path / "journal.jsonl")
    with Sandbox(options, clock=clock) as sandbox:
        caller = Caller(sandbox, http)
        task_ids = [caller.task(), caller.task("[fail:NSFW]"), caller.task("[never]")]
        with pytest.raises(httpx2.RemoteProtocolError):
            caller.submit("[lost]")
        lost = sandbox.account.accepted[-1]
    clock.now += 1
    with Sandbox(options, clock=clock) as sandbox:
        caller = Caller(sandbox, http)
        states = [caller.status(task_id)["state"] for task_id in [*task_ids, lost]]
        assert states == ["success", "failed", "processing", "success"]
        assert sandbox.account.accepted == [*task_ids, lost]
        (url,) = caller.urls(task_ids[0])
        assert url.startswith(sandbox.picture_url)
        assert caller.picture(url).status_code == 200
        assert caller.balance() == 98.95


def test_a_journal_cut_off_by_a_crash_is_read_up_to_there(http: httpx2.Client, tmp_path: Path):
    journal = tmp_path / "journal.jsonl"
    options = replace(QUICK, journal=journal)
    for wound in ('{"task_id": "task_0', ""):
        with Sandbox(options) as sandbox:
            Caller(sandbox, http).task()
        with journal.open("a") as file:
            file.write(wound)
    assert len(Sandbox(options).account.accepted) == 2


def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "precious.json"
    path.write_text('{"my": "data"}\n')
    with pytest.raises(ValueError, match=r"precious\.json is not the journal"):
        Sandbox(replace(QUICK, journal=path))
    assert path.read_text() == '{"my": "data"}\n'


# Callbacks.


class Receiver(ThreadingHTTPServer):
    """Somebody's webhook: keeps what comes, and answers with the statuses given, the last one for good."""

    daemon_threads = True

    def __init__(self, *statuses: int):
        super().__init__(("127.0.0.1", 0), Hook)
        self.statuses = list(statuses)
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object):
        self.shutdown()
        self.server_close()


class Hook(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.headers["Content-Type"], json.loads(content)))
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Location", self.server.url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object):
        pass


@pytest.fixture
def live(http: httpx2.Client) -> Iterator[Caller]:
    """A caller of a sandbox on the real clock, which callbacks go by."""
    with Sandbox(replace(QUICK, seconds=0.02)) as sandbox:
        yield Caller(sandbox, http)


@pytest.mark.parametrize("prompt", ["a fox", "[fail:Timeout]"])
def test_a_callback_brings_what_a_status_request_would(live: Caller, prompt: str):
    with Receiver(200) as receiver:
        task_id = live.task(prompt, request_type="callback", callback_url=receiver.url)
        until(lambda: live.sandbox.account.deliveries)
        status = live.get(STATUS, params={"taskId": task_id}).json()
    assert receiver.received == [("application/json", status)]
    assert live.sandbox.account.deliveries == [Delivery(task_id, 200)]


def test_a_callback_is_repeated_until_it_meets_a_200(live: Caller):
    with Receiver(500, 204, 200) as receiver:
        task_id = live.task(request_type="callback", callback_url=receiver.url)
        until(lambda: Delivery(task_id, 200) in live.sandbox.account.deliveries)
    assert [delivery.status for delivery in live.sandbox.account.deliveries] == [500, 204, 200]
    assert len({json.dumps(payload) for _, payload in receiver.received}) == 1


def test_a_callback_is_given_up_after_three_repetitions_and_never_redirected(live: Caller):
    with Receiver(302) as receiver:
        live.task(request_type="callback", callback_url=receiver.url)
        until(lambda: len(live.sandbox.account.deliveries) == 4)
        after = live.task(request_type="callback", callback_url=receiver.url)
        until(lambda: sum(delivery.task_id == after for delivery in live.sandbox.account.deliveries) == 4)
    assert len(receiver.received) == 8


def test_a_callback_nobody_takes_is_noted(live: Caller):
    with Receiver(200) as receiver:
        url = receiver.url
    live.task(request_type="callback", callback_url=url)
    until(lambda: len(live.sandbox.account.deliveries) == 4)
    assert {delivery.status for delivery in live.sandbox.account.deliveries} == {None}


def test_a_callback_outlives_a_restart(http: httpx2.Client, tmp_path: Path):
    options = replace(QUICK, journal=tmp_path / "journal.jsonl")
    with Receiver(200) as receiver:
        with Sandbox(options) as sandbox:
            task_id = Caller(sandbox, http).task(
                "[seconds:0.5]", request_type="callback", callback_url=receiver.url
            )
        with Sandbox(options):
            until(lambda: receiver.received)
    assert [payload["data"]["taskId"] for _, payload in receiver.received] == [task_id]


def test_a_callback_of_an_edited_journal_never_leaves_this_machine(http: httpx2.Client, tmp_path: Path):
    journal = tmp_path / "journal.jsonl"
    with Receiver(200) as receiver:
        port = receiver.url.partition("://")[2].partition("/")[0].rpartition(":")[2]
        with Sandbox(replace(QUICK, journal=journal)) as sandbox:
            asked = {"request_type": "callback", "callback_url": receiver.url}
            Caller(sandbox, http).task("[seconds:0.5]", **asked)
        # 0.0.0.0 leads to the receiver, and is no loopback address.
        text = journal.read_text().replace(receiver.url, f"http://0.0.0.0:{port}/")
        assert "0.0.0.0" in text
        journal.write_text(text)
        with Sandbox(replace(QUICK, journal=journal)) as sandbox:
            until(lambda: sandbox.account.deliveries)
            assert sandbox.account.deliveries[0].status is None
        assert not receiver.received


# The server itself.


def asked_as(base_url: str, host: str | None, path: str = "") -> int:
    """The HTTP status of a GET of `base_url` with this Host header, sent as it is."""
    parts = urlsplit(base_url + path)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        named = f"Host: {host}\r\n" if host is not None else ""
        version = "1.0" if host is None else "1.1"
        head = f"GET {parts.path or '/'} HTTP/{version}\r\n{named}Authorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "localhost:PORT", "LOCALHOST:PORT", "[::1]:PORT", None])
def test_it_answers_under_the_names_of_this_machine(sandbox: Sandbox, host: str | None):
    port = str(urlsplit(sandbox.base_url).port)
    assert asked_as(sandbox.base_url, host and host.replace("PORT", port), BALANCE) == 200


REBOUND = [
    *("evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "localhost", "localhost.:PORT"),
    *(
        "127.0.0.1.evil.example:PORT",
        "evil.example@127.0.0.1:PORT",
        "127.0.0.1:PORT@evil.example",
        "0.0.0.0:PORT",
    ),
    *("[::1", "127.0.0.1:x", "127.0.0.1:PORT/", "2130706433:PORT"),
]


@pytest.mark.parametrize("host", REBOUND)
def test_it_does_not_answer_under_any_other_name(sandbox: Sandbox, host: str):
    for url, path in ((sandbox.base_url, BALANCE), (sandbox.picture_url, "/x.png")):
        port = str(urlsplit(url).port)
        assert asked_as(url, host.replace("PORT", port), path) in (400, 421)
    assert not sandbox.account.requests


def test_it_answers_under_a_name_that_is_given_as_an_option(http: httpx2.Client):
    with Sandbox(replace(QUICK, hosts=("sandbox.internal",))) as sandbox:
        assert asked_as(sandbox.base_url, "sandbox.internal:8080", BALANCE) == 200
        assert asked_as(sandbox.base_url, "evil.example", BALANCE) == 421
        asked = {"request_type": "callback", "callback_url": "http://sandbox.internal:9/hook"}
        assert Caller(sandbox, http).submit("[never]", **asked).status_code == 200


def test_start_and_stop_can_be_repeated(http: httpx2.Client):
    sandbox = Sandbox(QUICK)
    sandbox.stop()
    assert sandbox.start() is sandbox.start()
    Caller(sandbox, http).task()
    sandbox.stop()
    sandbox.stop()
    with pytest.raises(httpx2.ConnectError):
        Caller(sandbox, http).balance()
    with sandbox:
        assert Caller(sandbox, http).balance() == 99.65


def test_it_stops_with_work_in_hand(http: httpx2.Client):
    with Receiver(500) as receiver, Sandbox(replace(QUICK, seconds=5)) as sandbox:
        Caller(sandbox, http).task("[seconds:0]", request_type="callback", callback_url=receiver.url)
        until(lambda: receiver.received)


def test_a_taken_port_is_an_error_where_it_is_started(sandbox: Sandbox):
    port = int(sandbox.picture_url.rpartition(":")[2])
    second = Sandbox(replace(QUICK, picture_port=port))
    with pytest.raises(OSError, match="in use"):
        second.start()
    second.stop()


def test_it_listens_on_this_machine_only(sandbox: Sandbox):
    assert sandbox.base_url.startswith("http://127.0.0.1:")
    assert sandbox.base_url.endswith("/api/v1")
    assert sandbox.picture_url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_is_a_program_too(http: httpx2.Client, tmp_path: Path, end: signal.Signals):
    command = [sys.executable, "-m", "apixo_nb.sandbox", "--key", KEY, "--balance", "7"]
    root = str(Path(apixo_nb.sandbox.__file__).parents[2])
    with subprocess.Popen(
        [*command, "--journal", str(tmp_path / "journal.jsonl")],
        env=os.environ | {"PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        name, _, base_url = program.stdout.readline().strip().partition("=")
        assert name == "base_url"
        assert http.get(base_url + BALANCE, headers=bearer(KEY)).json()["data"] == 7.0
        program.send_signal(end)
        output, errors = program.stdout.read(), program.stderr.read()
    assert (program.returncode, errors) == (0, "")
    assert all(marker in output for marker in MARKERS)
    assert KEY not in output
