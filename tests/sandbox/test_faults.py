"""Every fault of the sandbox: what it is on the wire, and what becomes of a run that meets it.

The first half asks over bare sockets and sees each byte, the second is one table from fault to outcome.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import gzip
import inspect
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core import settings
from apixo_nb.core.records import Run
from apixo_nb.errors import ApixoError
from apixo_nb.sandbox import KINDS, Fault, Sandbox, SandboxOptions, failures, faults
from apixo_nb.sandbox.fault_kinds import PLACES, REQUIRED, VARIANTS
from apixo_nb.session.session import Session

KEY = "sk-the-key-of-this-sandbox"
PATIENCE_S = 30  # a guard against what never ends, not a measure of anything
API = ("submit", "status", "balance")
NOWHERE = "http://127.0.0.1:9/elsewhere"


# --- asking over bare sockets ------------------------------------------------------------------------


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_767_965_610.5

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Got:
    """What came back: the bytes of an answer, and whether the connection ended by FIN or by RST."""

    raw: bytes
    reset: bool

    @property
    def head(self) -> str:
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin1")

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.head.split(" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        pairs = (line.partition(": ") for line in self.head.split("\r\n")[1:])
        return {name.lower(): value for name, _, value in pairs}

    @property
    def whole(self) -> bool:
        return not self.reset and int(self.headers["content-length"]) == len(self.body)

    @property
    def json(self) -> Any:
        assert self.whole
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Wire:
    """Asks a sandbox, one connection for each request."""

    def __init__(self, sandbox: Sandbox, clock: Clock) -> None:
        self.sandbox, self.clock = sandbox, clock
        self.task_id = ""

    @property
    def account(self) -> Any:
        return self.sandbox.account

    def script(self, *rules: Fault) -> None:
        self.sandbox.faults.add(*rules)

    def send(self, url: str, body: object = None, key: str = KEY) -> socket.socket:
        """A connection on which a request was sent; a body makes it a POST."""
        parts = urlsplit(url)
        content = b"" if body is None else json.dumps(body).encode()
        head = [
            f"{'GET' if body is None else 'POST'} {parts.path}?{parts.query} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Connection: close",
            f"Content-Length: {len(content)}",
            "Content-Type: application/json",
            f"Authorization: Bearer {key}",
        ]
        connection = socket.create_connection((str(parts.hostname), parts.port or 80), PATIENCE_S)
        connection.sendall("\r\n".join([*head, "", ""]).encode() + content)
        return connection

    def url(self, place: str) -> str:
        """The address of a kind of request, about the task made last."""
        if place == "picture":
            return str(self.account.tasks[self.task_id].result_urls(self.sandbox.picture_url)[0])
        paths = {
            "submit": "generateTask/gpt-image-1",
            "status": f"statusTask/gpt-image-1?taskId={self.task_id}",
            "balance": "apikeys/current-balance",
        }
        return f"{self.sandbox.base_url}/{paths[place]}"

    def open(self, place: str, prompt: str = "a fox", **changes: Any) -> socket.socket:
        given = {"mode": "gpt-image-1", "prompt": prompt, "aspect_ratio": "1:1", "num_images": 1} | changes
        body = {"request_type": "async", "input": given} if place == "submit" else None
        return self.send(self.url(place), body)

    def ask(self, place: str, prompt: str = "a fox", **changes: Any) -> Got:
        return received(self.open(place, prompt, **changes))

    def task(self, prompt: str = "a fox", **changes: Any) -> str:
        """A task that has ended."""
        self.task_id = self.ask("submit", prompt, **changes).json["data"]["taskId"]
        self.clock.now += 1
        return self.task_id

    def status(self) -> dict[str, Any]:
        return dict(self.ask("status").json["data"])

    def counters(self) -> tuple[int, int, int]:
        return self.account.submits, self.account.polls, self.account.downloads


def received(connection: socket.socket) -> Got:
    """All that comes, until the connection ends."""
    content = bytearray()
    with connection:
        try:
            while chunk := connection.recv(1 << 16):
                content += chunk
        except ConnectionResetError:
            return Got(bytes(content), reset=True)
    return Got(bytes(content), reset=False)


def until(fulfilled: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fulfilled():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A fault is the sandbox at work: it logs nothing."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wire(clock: Clock) -> Iterator[Wire]:
    options = SandboxOptions(seconds=0.1, key=KEY, picture_scale=0.1, balance_usd=10.0)
    with Sandbox(options, clock=clock) as sandbox:
        yield Wire(sandbox, clock)


@pytest.fixture
def told(wire: Wire) -> Wire:
    """A wire with a task of two pictures that has ended."""
    wire.task(num_images=2)
    return wire


# --- the list of faults ------------------------------------------------------------------------------


def test_every_kind_has_one_act_that_takes_its_arguments():
    tables: tuple[dict[str, Any], ...] = (
        failures.REPLACED,
        failures.BROKEN_DELIVERY,
        failures.CHANGED_STATUS,
    )
    for name, kind in KINDS.items():
        [act] = [table[name] for table in tables if name in table]
        taken = {
            parameter.name
            for parameter in inspect.signature(act).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        assert taken == set(kind.arguments) - {"accept"}, name
        assert ("accept" in kind.arguments) == (name in failures.REPLACED and "submit" in kind.on), name
    assert sum(len(table) for table in tables) == len(KINDS)


def test_help_has_a_line_for_every_kind(capsys: pytest.CaptureFixture[str]):
    from apixo_nb.cli import main

    with pytest.raises(SystemExit):
        main(["sandbox", "--help"])
    lines = capsys.readouterr().out.splitlines()
    for name, kind in KINDS.items():
        [line] = [line for line in lines if line.startswith(f"  {name}  {kind.does}")]
        assert all(re.search(rf"\b{argument}\b", line) for argument in kind.arguments), name


# --- in place of an answer ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 429, 500, 502, 503, 504, 520])
@pytest.mark.parametrize("place", API)
def test_refuse_is_the_status_with_the_envelope_and_charges_nothing(told: Wire, place: str, status: int):
    told.script(Fault(place, "refuse", status=status, message="words"))
    before, counted = told.account.balance_micros, sum(told.counters())
    answer = told.ask(place)
    assert (answer.status, answer.json["code"], answer.json["message"]) == (status, status, "words")
    assert "retry-after" not in answer.headers
    assert (told.account.balance_micros, len(told.account.accepted)) == (before, 1)
    assert sum(told.counters()) == counted + (place != "balance")
    assert told.account.requests[-1].kind == place
    assert told.ask(place).status == 200


@pytest.mark.parametrize("status", [403, 404, 410, 500])
def test_refuse_makes_a_dead_picture_url(told: Wire, status: int):
    told.script(Fault("picture", "refuse", status=status))
    answer = told.ask("picture")
    assert (answer.status, answer.whole) == (status, True)
    assert answer.headers["content-type"].startswith("text/html")
    assert told.ask("picture").status == 200
    assert told.account.downloads == 2


@pytest.mark.parametrize(
    ("asked", "header"),
    [
        ({}, None),
        ({"retry_after": 2}, "2"),
        ({"retry_after": 0.5}, "0.5"),
        ({"retry_after": 2, "as_date": True}, email.utils.formatdate(1_767_965_613, usegmt=True)),
        ({"retry_after": "soon"}, "soon"),
        ({"retry_after": "Thu, 01 Jan 1970 00:00:00 GMT"}, "Thu, 01 Jan 1970 00:00:00 GMT"),
    ],
    ids=["none", "seconds", "fraction", "date", "word", "old date"],
)
@pytest.mark.parametrize("place", ["submit", "picture"])
def test_refuse_asks_for_a_pause_as_told(wire: Wire, place: str, asked: dict[str, Any], header: str | None):
    if place == "picture":
        wire.task()
        wire.clock.now -= 1
        wire.account.tasks[wire.task_id] = dataclasses.replace(wire.account.tasks[wire.task_id], ready_ms=0)
    wire.script(Fault(place, "refuse", status=429, **asked))
    answer = wire.ask(place)
    assert (answer.status, answer.headers.get("retry-after")) == (429, header)


@pytest.mark.parametrize("place", PLACES)
def test_html_is_a_page(told: Wire, place: str):
    told.script(Fault(place, "html"), Fault(place, "html", status=503))
    first, second = told.ask(place), told.ask(place)
    assert first.status == (200 if place == "picture" else 502)
    assert second.status == 503
    for page in (first, second):
        assert page.headers["content-type"].startswith("text/html")
        assert page.body.startswith(b"<!doctype html>")
        assert page.whole
    assert len(told.account.accepted) == 1


@pytest.mark.parametrize("code", [0, 402, 429, 500])
@pytest.mark.parametrize("place", API)
def test_code_contradicts_its_http_200(told: Wire, place: str, code: int):
    told.script(Fault(place, "code", code=code))
    answer = told.ask(place)
    assert (answer.status, answer.json["code"]) == (200, code)
    assert len(told.account.accepted) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", PLACES)
def test_redirect_leads_anywhere(told: Wire, place: str, status: int):
    told.script(Fault(place, "redirect", location=NOWHERE, status=status))
    answer = told.ask(place)
    assert (answer.status, answer.headers["location"], answer.body) == (status, NOWHERE, b"")
    assert len(told.account.accepted) == 1


@pytest.mark.parametrize("place", PLACES)
def test_reset_is_a_reset_before_any_answer(told: Wire, place: str):
    told.script(Fault(place, "reset"))
    assert told.ask(place) == Got(b"", reset=True)
    assert len(told.account.accepted) == 1
    assert told.ask(place).status == 200


@pytest.mark.parametrize("place", PLACES)
def test_swell_is_small_on_the_wire_and_vast_when_decoded(told: Wire, place: str):
    told.script(Fault(place, "swell", megabytes=30))
    answer = told.ask(place)
    assert answer.whole
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"] == ("image/png" if place == "picture" else "application/json")
    assert len(answer.body) < 60_000
    decoded = gzip.decompress(answer.body)  # which looks at its checksum, too
    assert len(decoded) == 30_000_000
    assert not any(decoded)


ACCEPTING = [
    (Fault("submit", "refuse", status=504, accept=True), 504),
    (Fault("submit", "html", accept=True), 502),
    (Fault("submit", "code", accept=True), 200),
    (Fault("submit", "redirect", location=NOWHERE, accept=True), 302),
    (Fault("submit", "reset", accept=True), None),
    (Fault("submit", "swell", megabytes=1, accept=True), 200),
    (Fault("submit", "accept-then-drop"), None),
    (Fault("submit", "accept-then-hang", seconds=0.01), None),
    (Fault("submit", "delay", seconds=0.01), 200),
    (Fault("submit", "drip", bytes=10_000), 200),
    (Fault("submit", "truncated-json"), 200),
    (Fault("submit", "invalid-json"), 200),
]


@pytest.mark.parametrize(("rule", "status"), ACCEPTING, ids=[rule.kind for rule, _ in ACCEPTING])
def test_a_fault_after_acceptance_charges_as_ever(wire: Wire, rule: Fault, status: int | None):
    wire.script(rule)
    answer = wire.ask("submit", num_images=2)
    assert (answer.status if answer.raw else None) == status
    [task_id] = wire.account.accepted
    assert wire.account.balance_micros == 9_300_000
    assert wire.account.submits == 1
    wire.task_id = task_id
    wire.clock.now += 1
    assert wire.status()["state"] == "success"
    assert wire.sandbox.faults.hits == (rule,)


@pytest.mark.parametrize(("rule", "_status"), ACCEPTING, ids=[rule.kind for rule, _ in ACCEPTING])
def test_a_fault_after_acceptance_checks_as_ever(wire: Wire, rule: Fault, _status: int | None):
    wire.script(rule)
    assert wire.ask("submit", aspect_ratio="16:9").status == 400
    assert wire.ask("submit", prompt="[http:403]").status == 403
    assert received(wire.send(f"{wire.sandbox.base_url}/generateTask/gpt-9", {"input": {}})).status == 404
    for _ in range(7):
        wire.ask("submit", num_images=4)
    left = wire.account.balance_micros
    assert wire.ask("submit", num_images=4).status == 402
    assert (len(wire.account.accepted), wire.account.balance_micros) == (7, left)
    assert wire.sandbox.faults.hits == (rule,)  # by the first that was accepted


@pytest.mark.parametrize("pixels", [60_000, 2**31 - 1])
def test_bomb_is_a_few_bytes_that_claim_to_be_gigantic(told: Wire, pixels: int):
    told.script(Fault("picture", "bomb", pixels=pixels))
    answer = told.ask("picture")
    assert (answer.status, answer.headers["content-type"], answer.whole) == (200, "image/png", True)
    assert len(answer.body) < 200
    assert answer.body.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(answer.body[16:20]), int.from_bytes(answer.body[20:24])) == (pixels, pixels)


def test_huge_is_a_whole_picture_of_its_size(told: Wire):
    told.script(Fault("picture", "huge"))
    answer = told.ask("picture")
    assert (answer.status, answer.headers["content-type"], answer.whole) == (200, "image/png", True)
    assert 60_000_000 <= len(answer.body) < 61_000_000
    with Image.open(io.BytesIO(answer.body)) as picture:
        picture.verify()
    with Image.open(io.BytesIO(answer.body)) as picture:
        picture.load()
        assert picture.mode == "RGB"
        assert picture.getextrema()[0] == (0, 255)


def test_huge_has_every_checksum_right():
    body = failures.huge_png(2)
    content, data = io.BytesIO(b"".join(body.blocks)), b""
    assert content.read(8) == b"\x89PNG\r\n\x1a\n"
    while head := content.read(8):
        chunk = content.read(int.from_bytes(head[:4]))
        assert int.from_bytes(content.read(4)) == zlib.crc32(head[4:] + chunk)
        data += chunk if head[4:] == b"IDAT" else b""
    assert 2_000_000 <= len(zlib.decompress(data)) < 2_100_000
    assert content.tell() == body.length


@pytest.mark.parametrize("make", [failures.huge_png, failures.swollen])
def test_a_large_body_is_never_in_memory_in_one_piece(make: Callable[[int], failures.LargeBody]):
    tracemalloc.start()
    try:
        body = make(100)
        length = sum(len(block) for block in body.blocks)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length == body.length
    assert peak < 4_000_000


def test_a_client_that_leaves_in_the_middle_harms_nothing(told: Wire):
    told.script(*[Fault(place, "drip", bytes=1) for place in PLACES], Fault("picture", "huge"))
    for place in (*PLACES, "picture"):
        connection = told.open(place)
        assert connection.recv(1)
        connection.close()
    until(lambda: len(told.sandbox.faults.hits) == 5)
    assert [told.ask(place).status for place in PLACES] == [200] * 4


# --- the good answer, badly carried ------------------------------------------------------------------


@pytest.mark.parametrize("place", API)
def test_truncated_json_is_a_whole_answer_with_half_the_json(told: Wire, place: str):
    told.script(Fault(place, "truncated-json"))
    cut = told.ask(place)
    assert (cut.status, cut.whole) == (200, True)
    assert cut.body.startswith(b'{"code": 200, "message"')
    with pytest.raises(json.JSONDecodeError):
        _ = cut.json


@pytest.mark.parametrize("place", API)
def test_invalid_json_is_what_it_is_told(told: Wire, place: str):
    told.script(Fault(place, "invalid-json"), Fault(place, "invalid-json", body="\x00{]"))
    answers = [told.ask(place) for _ in range(2)]
    assert [answer.body for answer in answers] == [b"Please wait.", b"\x00{]"]
    assert all(answer.whole and answer.status == 200 for answer in answers)


@pytest.mark.parametrize("place", PLACES)
def test_delay_answers_as_ever_and_late(told: Wire, place: str):
    healthy = told.ask(place)
    told.script(Fault(place, "delay", seconds=0.2))
    asked = time.monotonic()
    answer = told.ask(place)
    assert time.monotonic() - asked >= 0.2
    assert (answer.status, answer.whole, len(answer.body)) == (200, True, len(healthy.body))


@pytest.mark.parametrize("place", PLACES)
def test_drip_sends_a_few_bytes_at_a_time(told: Wire, place: str):
    healthy = told.ask(place)
    told.script(Fault(place, "drip", bytes=5 * len(healthy.body)))
    asked = time.monotonic()
    answer = told.ask(place)
    assert time.monotonic() - asked >= 0.15
    assert (answer.status, answer.whole, len(answer.body)) == (200, True, len(healthy.body))


def test_drip_has_begun_long_before_it_ends(told: Wire):
    told.script(Fault("picture", "drip", bytes=1))
    with told.open("picture") as connection:
        content = b""
        while b"\r\n\r\n\x89" not in content:
            content += connection.recv(100)
        assert len(content.partition(b"\r\n\r\n")[2]) < 20
        assert told.ask("balance").status == 200


def test_accept_then_hang_lasts_as_long_as_it_is_told(wire: Wire):
    wire.script(Fault("submit", "accept-then-hang", seconds=0.2))
    asked = time.monotonic()
    assert wire.ask("submit") == Got(b"", reset=False)
    assert time.monotonic() - asked >= 0.2


def test_cut_is_half_a_picture_and_a_reset(told: Wire):
    healthy = told.ask("picture")
    told.script(Fault("picture", "cut"))
    answer = told.ask("picture")
    assert answer.reset
    assert answer.body == healthy.body[: len(healthy.body) // 2]
    assert int(answer.headers["content-length"]) == len(healthy.body)
    assert told.ask("picture").body == healthy.body


@pytest.mark.parametrize("length", ["true", "short"])
def test_half_a_picture_tells_its_length_truly_or_not(told: Wire, length: str):
    healthy = told.ask("picture")
    told.script(Fault("picture", "half", length=length))
    answer = told.ask("picture")
    assert (answer.reset, answer.whole) == (False, length == "short")
    assert answer.headers["content-type"] == "image/png"
    assert answer.body == healthy.body[: len(healthy.body) // 2]


# --- the status answer, changed ----------------------------------------------------------------------


def test_not_found_is_the_404_of_a_fresh_task(told: Wire):
    told.script(Fault("status", "not-found", times=2, per_task=True))
    answers = [told.ask("status") for _ in range(3)]
    assert [answer.status for answer in answers] == [404, 404, 200]
    assert answers[0].json == {"code": 404, "message": "Task not found", "data": None}
    told.task()
    assert [told.ask("status").status for _ in range(3)] == [404, 404, 200]
    assert told.account.polls == 6


def test_wrong_task_is_about_another(told: Wire):
    healthy = told.status()
    told.script(Fault("status", "wrong-task"), Fault("status", "wrong-task", task_id="task_x"))
    assert told.status() == healthy | {"taskId": "task_0000000000000000"}
    assert told.status() == healthy | {"taskId": "task_x"}


@pytest.mark.parametrize("state", ["pending", "processing_r2", "SUCCESS", ""])
def test_state_is_any_word_over_a_task_that_goes_on(told: Wire, state: str):
    created = told.status()["createTime"]
    told.script(Fault("status", "state", state=state))
    assert told.status() == {"taskId": told.task_id, "createTime": created, "state": state}
    assert told.status()["state"] == "success"


def test_backwards_takes_an_end_back_that_was_told(wire: Wire):
    wire.script(Fault("status", "backwards", times=2, per_task=True))
    wire.task_id = wire.ask("submit").json["data"]["taskId"]
    assert wire.status()["state"] == "processing"
    wire.clock.now += 1
    states = [wire.status()["state"] for _ in range(4)]
    assert states == ["success", "processing", "processing", "success"]


def test_no_cost_time_waits_for_the_end_and_leaves_the_other_times(wire: Wire):
    wire.script(Fault("status", "no-cost-time"))
    wire.task_id = wire.ask("submit").json["data"]["taskId"]
    assert wire.status()["state"] == "processing"
    wire.clock.now += 1
    changed, healthy = wire.status(), wire.status()
    assert changed == {name: value for name, value in healthy.items() if name != "costTime"}


RESULTS: dict[str, Callable[[list[str]], object]] = {
    "empty": lambda _urls: "",
    "null": lambda _urls: None,
    "not-json": lambda _urls: "{'resultUrls': oops",
    "object": lambda urls: {"resultUrls": urls},
    "double-encoded": lambda urls: json.dumps(json.dumps({"resultUrls": urls})),
    "empty-list": lambda _urls: "[]",
    "no-urls": lambda _urls: '{"pictures": []}',
    "url": lambda urls: json.dumps({"resultUrls": urls[0]}),
    "bare-url": lambda urls: urls[0],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_result_is_malformed_in_every_way(told: Wire, variant: str):
    healthy = told.status()
    urls = json.loads(healthy["resultJson"])["resultUrls"]
    told.script(Fault("status", "result", variant=variant))
    changed = told.status()
    expected = dict(healthy)
    if variant == "absent":
        del expected["resultJson"]
    else:
        expected["resultJson"] = RESULTS[variant](urls)
    assert changed == expected
    assert told.status() == healthy


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_urls_are_as_many_as_told_and_all_lead_to_pictures(told: Wire, count: int):
    told.script(Fault("status", "urls", count=count))
    urls = json.loads(told.status()["resultJson"])["resultUrls"]
    assert len(set(urls)) == len(urls) == count
    assert [received(told.send(url)).status for url in urls] == [200] * count


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\x1b[31m\u202e"]
)
def test_fail_says_what_it_is_told(told: Wire, text: str):
    healthy = told.status()
    told.script(Fault("status", "fail", message=text, fail_code=text))
    del healthy["resultJson"]
    assert told.status() == healthy | {"state": "failed", "failCode": text, "failMsg": text}


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.states])
def test_a_fault_of_the_end_waits_for_the_end(wire: Wire, kind: str):
    rule = Fault("status", kind, after=0)
    wire.script(rule)
    wire.task_id = wire.ask("submit", "[seconds:5]").json["data"]["taskId"]
    for _ in range(3):
        assert wire.status()["state"] == "processing"
    assert list(wire.sandbox.faults.hits) == []
    wire.clock.now += 5
    wire.status()
    assert wire.sandbox.faults.hits == (rule,)


# --- which requests are hit --------------------------------------------------------------------------


def codes(wire: Wire, place: str, times: int, prompt: str = "a fox") -> list[int]:
    return [wire.ask(place, prompt).status for _ in range(times)]


def test_a_fault_hits_once_unless_it_says_otherwise(wire: Wire):
    wire.script(Fault("balance", "refuse"))
    assert codes(wire, "balance", 3) == [503, 200, 200]


@pytest.mark.parametrize("times", [None, "always"])
def test_always_is_always(wire: Wire, times: Any):
    wire.script(Fault("balance", "refuse", times=times))
    assert codes(wire, "balance", 9) == [503] * 9


def test_after_lets_requests_pass_first(wire: Wire):
    wire.script(Fault("balance", "refuse", after=2, times=2))
    assert codes(wire, "balance", 6) == [200, 200, 503, 503, 200, 200]


def test_rules_for_the_same_requests_are_a_script(wire: Wire):
    wire.script(
        Fault("balance", "refuse", status=500, times=2),
        Fault("balance", "html", after=1),
        Fault("balance", "refuse", status=429, times="always"),
    )
    # While the second lets a request pass, the third takes it.
    assert codes(wire, "balance", 6) == [500, 500, 429, 502, 429, 429]


def test_match_is_about_the_prompt_of_the_task(wire: Wire):
    owl, fox = wire.task("an owl"), wire.task("a fox")
    wire.script(*(Fault(place, "refuse", match="owl", times="always") for place in PLACES))
    assert [wire.ask("submit", prompt).status for prompt in ("a fox", "two owls")] == [200, 503]
    for task_id, status in ((owl, 503), (fox, 200)):
        wire.task_id = task_id
        assert [wire.ask(place).status for place in ("status", "picture")] == [status] * 2
    assert wire.ask("balance").status == 200


def test_match_is_about_the_address_too(told: Wire):
    told.script(Fault("picture", "refuse", match="-2.png"), Fault("status", "refuse", match=told.task_id))
    first, second = told.account.tasks[told.task_id].result_urls(told.sandbox.picture_url)
    assert [received(told.send(url)).status for url in (first, second)] == [200, 503]
    assert told.ask("status").status == 503


def test_per_task_counts_for_each_task_by_itself(wire: Wire):
    wire.script(Fault("submit", "refuse", times=2, per_task=True))
    assert codes(wire, "submit", 3, "a fox") == [503, 503, 200]
    assert codes(wire, "submit", 3, "an owl") == [503, 503, 200]
    assert codes(wire, "submit", 1, "a fox") == [200]


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"input": 7}', b"[" * 100_000])
def test_a_submit_that_nobody_can_read_meets_faults_too(wire: Wire, body: bytes):
    wire.script(Fault("submit", "refuse", match="fox"), Fault("submit", "accept-then-drop"))
    parts = urlsplit(wire.url("submit"))
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Connection: close",
        "Content-Type: application/json",
        f"Authorization: Bearer {KEY}",
        f"Content-Length: {len(body)}",
    ]
    connection = socket.create_connection((str(parts.hostname), parts.port or 80), PATIENCE_S)
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    assert received(connection).status == 400
    assert wire.sandbox.faults.hits == ()


def test_without_the_key_there_is_a_401_and_no_fault(wire: Wire):
    wire.script(*(Fault(place, "reset", times="always") for place in API))
    for place in API:
        assert received(wire.send(wire.url(place), {} if place == "submit" else None, key="no")).status == 401
    assert wire.sandbox.faults.hits == ()


def test_other_methods_and_addresses_meet_no_fault(wire: Wire):
    wire.script(*(Fault(place, "reset", times="always") for place in PLACES))
    assert received(wire.send(wire.url("submit"))).status == 405
    assert received(wire.send(wire.url("balance"), {})).status == 405
    assert received(wire.send(f"{wire.sandbox.base_url}/elsewhere")).status == 404
    assert received(wire.send(f"{wire.sandbox.picture_url}/elsewhere.png")).status == 404
    assert wire.sandbox.faults.hits == ()
    assert wire.account.downloads == 1


def test_a_picture_that_is_not_there_is_no_hit_of_a_broken_one(told: Wire):
    told.script(Fault("picture", "half"))
    assert received(told.send(told.url("picture").replace("-1.png", "-9.png"))).status == 404
    assert told.sandbox.faults.hits == ()


def test_a_rule_shows_what_it_was_told():
    rule = Fault("submit", "refuse", status=429, times=3)
    assert repr(rule) == "Fault('submit', 'refuse', times=3, status=429)"
    assert rule == Fault("submit", "refuse", 3, status=429)


def test_clear_ends_all_faults_and_hits_stay(wire: Wire):
    first, second = Fault("balance", "refuse", times="always"), Fault("balance", "html")
    wire.script(first)
    assert codes(wire, "balance", 2) == [503, 503]
    wire.sandbox.faults.clear()
    assert codes(wire, "balance", 2) == [200, 200]
    wire.script(second)
    assert codes(wire, "balance", 2) == [502, 200]
    assert wire.sandbox.faults.hits == (first, first, second)


def test_faults_of_the_options_are_there_from_the_start_and_after_a_restart():
    rule = Fault("balance", "refuse", times=2)
    sandbox = Sandbox(SandboxOptions(key=KEY, faults=(rule,)))
    for expected in ([503], [503, 200]):
        with sandbox:
            assert codes(Wire(sandbox, Clock()), "balance", len(expected)) == expected
    assert sandbox.faults.hits == (rule, rule)


def test_faults_are_added_while_requests_come(wire: Wire):
    added = [Fault("balance", "refuse", status=500 + number) for number in range(60)]
    threads = [threading.Thread(target=wire.script, args=added[start::3]) for start in range(3)]
    for thread in threads:
        thread.start()
    statuses = codes(wire, "balance", 10)
    for thread in threads:
        thread.join()
    statuses += codes(wire, "balance", 70)
    assert sorted(statuses) == [200] * 20 + [500 + number for number in range(60)]
    assert sorted(wire.sandbox.faults.hits, key=lambda rule: rule.status or 0) == added


# --- what is held ------------------------------------------------------------------------------------


def held(wire: Wire) -> list[socket.socket]:
    """One connection for each way in which an answer can be kept waiting."""
    ways = [Fault(place, "delay", seconds=3600) for place in PLACES]
    ways += [Fault(place, "drip", bytes=1) for place in PLACES]
    ways += [Fault("submit", "accept-then-hang"), Fault("submit", "accept-then-hang", seconds=3600)]
    ways += [Fault("picture", "huge", megabytes=500)]  # whose client does not read
    wire.script(*ways)
    connections = [wire.open(way.on) for way in ways]
    until(lambda: len(wire.sandbox.faults.hits) == len(ways))
    return connections


def test_others_are_answered_while_requests_are_held(told: Wire):
    connections = held(told)
    for _ in range(3):
        assert [told.ask(place).status for place in PLACES] == [200] * 4
    until(lambda: len(told.account.accepted) == 1 + 4 + 3)
    for connection in connections:
        connection.close()


def test_stop_ends_what_is_held(told: Wire):
    connections = held(told)
    stopping = threading.Thread(target=told.sandbox.stop)
    stopping.start()
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()
    endings = [received(connection) for connection in connections]
    assert all(not ending.raw or not ending.whole for ending in endings)
    with pytest.raises(ConnectionRefusedError):
        told.ask("balance")


# --- the rules as data -------------------------------------------------------------------------------


WRONG: list[tuple[Any, str]] = [
    ({"kind": "reset"}, "on is null; allowed is submit, status, picture, balance"),
    ({"on": "submit"}, "kind is null; allowed is accept-then-drop, accept-then-hang, "),
    ({"on": "poll", "kind": "reset"}, 'on is "poll"; allowed is submit, status, picture, balance'),
    ({"on": ["submit"], "kind": "reset"}, 'on is ["submit"]; allowed is submit, '),
    ({"on": "submit", "kind": "refus"}, 'kind is "refus"; allowed is accept-then-drop, '),
    ({"on": "submit", "kind": "bomb"}, 'on of bomb is "submit"; allowed is picture'),
    ({"on": "submit", "kind": "reset", "tims": 2}, 'field is "tims"; allowed is on, kind, times, after, '),
    (
        {"on": "submit", "kind": "reset", "status": 500},
        'an argument of reset is "status"; allowed is times, after, match, per_task, accept',
    ),
    (
        {"on": "status", "kind": "reset", "accept": True},
        'on of a rule with accept is "status"; allowed is submit',
    ),
    (
        {"on": "submit", "kind": "reset", "times": 0},
        'times is 0; allowed is a whole number from 1 on, "always"',
    ),
    ({"on": "submit", "kind": "reset", "times": True}, "times is true; allowed is a whole number"),
    ({"on": "submit", "kind": "reset", "times": 1.5}, "times is 1.5; allowed is a whole number"),
    ({"on": "submit", "kind": "reset", "times": "ever"}, 'times is "ever"; allowed is a whole number'),
    (
        {"on": "submit", "kind": "reset", "after": -1},
        "after is -1; allowed is a whole number from 0 to 1000000",
    ),
    ({"on": "submit", "kind": "reset", "match": 7}, "match is 7; allowed is a text"),
    ({"on": "submit", "kind": "reset", "per_task": 1}, "per_task is 1; allowed is true or false"),
    (
        {"on": "submit", "kind": "refuse", "status": 200},
        "status is 200; allowed is a whole number from 400 to 599",
    ),
    ({"on": "submit", "kind": "refuse", "status": "500"}, 'status is "500"; allowed is a whole number'),
    (
        {"on": "submit", "kind": "redirect", "location": "/x", "status": 304},
        "status is 304; allowed is 301, 302, 303, 307, 308",
    ),
    ({"on": "submit", "kind": "redirect"}, "location is null; allowed is a printable ASCII text"),
    (
        {"on": "submit", "kind": "redirect", "location": "/\r\nX: y"},
        r'location is "/\r\nX: y"; allowed is a printable',
    ),
    (
        {"on": "submit", "kind": "refuse", "retry_after": -1},
        "retry_after is -1; allowed is a number of seconds",
    ),
    (
        {"on": "submit", "kind": "refuse", "retry_after": float("nan")},
        "retry_after is NaN; allowed is a number of",
    ),
    (
        {"on": "submit", "kind": "delay", "seconds": float("inf")},
        "seconds is Infinity; allowed is a number of",
    ),
    ({"on": "submit", "kind": "drip", "bytes": 0}, "bytes is 0; allowed is a whole number from 1 to"),
    ({"on": "picture", "kind": "half", "length": "long"}, 'length is "long"; allowed is true, short'),
    ({"on": "status", "kind": "result", "variant": []}, "variant is []; allowed is absent, empty, null, "),
    (
        {"on": "status", "kind": "urls", "count": "x" * 999},
        f'count is "{"x" * 56}...; allowed is a whole number',
    ),
    (["submit", "reset"], 'is ["submit", "reset"]; allowed is an object'),
    ("submit", 'is "submit"; allowed is an object'),
]


@pytest.mark.parametrize(("entry", "complaint"), WRONG, ids=[complaint[:50] for _, complaint in WRONG])
def test_a_bad_entry_is_named_with_its_field_and_value_and_what_is_allowed(
    tmp_path: Path, entry: Any, complaint: str
):
    file = tmp_path / "faults.json"
    file.write_text(json.dumps([{"on": "balance", "kind": "reset"}, entry]))
    with pytest.raises(ValueError, match="entry 2") as caught:
        faults.read(file)
    said = str(caught.value)
    assert said.startswith(f"{file}, entry 2")
    assert complaint in said
    assert "\n" not in said
    if isinstance(entry, dict) and {"on", "kind"} <= set(entry) and "tims" not in entry:
        with pytest.raises(ValueError, match=re.escape(complaint)):
            Fault(**entry)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not JSON: Expecting value"),
        (b"[{]", "is not JSON: Expecting property name"),
        (b"\xff\xfe", "is not JSON: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "is not JSON: "),
        (b'{"on": "submit"}', 'is {"on": "submit"}; allowed is a JSON list of objects'),
        (b"null", "is null; allowed is a JSON list of objects"),
        (None, "cannot be read: No such file or directory"),
    ],
    ids=["empty", "broken", "binary", "deep", "object", "null", "absent"],
)
def test_a_file_that_is_no_list_is_refused_in_one_line(tmp_path: Path, content: bytes | None, complaint: str):
    file = tmp_path / "faults.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="faults") as caught:
        faults.read(file)
    assert str(caught.value).startswith(f"{file} {complaint}")
    assert "\n" not in str(caught.value)


def test_a_file_of_faults_is_read_whole(tmp_path: Path):
    file = tmp_path / "faults.json"
    content = [
        {"on": "submit", "kind": "refuse", "status": 429, "retry_after": 2, "times": 3},
        {"on": "picture", "kind": "half", "match": "für Elise", "times": "always"},
        {"on": "status", "kind": "backwards", "times": None, "per_task": True},
    ]
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    assert faults.read(file) == (
        Fault("submit", "refuse", status=429, retry_after=2, times=3),
        Fault("picture", "half", match="für Elise", times="always"),
        Fault("status", "backwards", times=None, per_task=True),
    )
    file.write_text("[]")
    assert faults.read(file) == ()


def test_every_kind_can_be_written_with_all_its_arguments():
    for name, kind in KINDS.items():
        usual: dict[str, Any] = {"location": NOWHERE, "status": 303, "seconds": 1, "retry_after": 1}
        given: dict[str, Any] = {
            argument: usual.get(argument, default) if default in (None, REQUIRED) else default
            for argument, default in kind.arguments.items()
        }
        for place in kind.on:
            told = {argument: value for argument, value in given.items() if argument != "accept"}
            assert Fault(place, name, **told).arguments().items() >= told.items()


def program(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "apixo_nb", "sandbox", "--key", KEY, *options]
    environment = os.environ | {"PYTHONPATH": str(Path(settings.__file__).parents[2])}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_the_program_serves_the_faults_of_a_file(tmp_path: Path):
    file = tmp_path / "faults.json"
    file.write_text('[{"on": "balance", "kind": "refuse", "times": 2}, {"on": "submit", "kind": "reset"}]')
    with program("--faults", str(file)) as served:
        try:
            assert served.stdout is not None
            url = served.stdout.readline().strip().removeprefix("base_url=") + "/apikeys/current-balance"
            asker = Wire(Sandbox(), Clock())
            assert [received(asker.send(url)).status for _ in range(3)] == [503, 503, 200]
        finally:
            served.terminate()
        assert "2 faults are to come" in served.stdout.read()
    assert served.returncode == 0


def test_the_program_refuses_a_bad_file_in_one_line(tmp_path: Path):
    file = tmp_path / "faults.json"
    file.write_text('[{"on": "balance", "kind": "refuse", "status": 42}]')
    with program("--faults", str(file)) as refused:
        output, complaint = refused.communicate(timeout=PATIENCE_S)
    assert (refused.returncode, output) == (1, "")
    allowed = "a whole number from 400 to 599"
    assert complaint == f"The sandbox cannot start: {file}, entry 1: status is 42; allowed is {allowed}\n"


# --- what becomes of a run ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a run ends: the error and its first line, or neither; the bill; and the row.

    `posts` reached the account, `accepted` were charged, `files` are on disk.
    """

    error: str = ""
    says: str = ""
    state: str = "success"
    posts: int = 1
    accepted: int = 1
    files: int = 1


GOOD = Outcome()
TWICE = Outcome(posts=2)
LOST = "The submit's answer was lost: "
BROKEN = f"{LOST}the connection broke "
UNCLEAR = "The submit's answer does not say whether it was accepted: "
UNREADABLE = "The submit's answer cannot be read "
REFUSED = "The submit was refused: "
FINISHED = "The task succeeded, but "
PARTLY = "The picture did not arrive whole: "
NO_PICTURE = "What arrived is not a whole picture "


def refused(error: str, says: str, posts: int = 1) -> Outcome:
    return Outcome(error, REFUSED + says, "failed", posts, accepted=0, files=0)


def unknown(says: str, accepted: int = 0) -> Outcome:
    return Outcome("SubmitUnknownError", says, "unknown", accepted=accepted, files=0)


def paid(error: str, says: str, state: str = "success") -> Outcome:
    """Accepted and charged, and no picture."""
    return Outcome(error, says, state, files=0)


def on(place: str, kind: str, **arguments: Any) -> Fault:
    return Fault(place, kind, **arguments)


#: Fault -> outcome, for a run that asks for one picture. Where a row says GOOD, the fault is got over.
SUBMITS: list[tuple[Fault, Outcome]] = [
    (on("submit", "refuse", status=400), refused("BadRequestError", "Invalid request (HTTP 400)")),
    (
        on("submit", "refuse", status=400, message="Insufficient credits"),
        refused("InsufficientBalanceError", "Insufficient credits (HTTP 400)"),
    ),
    (
        on("submit", "refuse", status=401),
        refused("AuthenticationError", "Missing or invalid API key (HTTP 401)"),
    ),
    (
        on("submit", "refuse", status=402),
        refused("InsufficientBalanceError", "Insufficient credits (HTTP 402)"),
    ),
    (
        on("submit", "refuse", status=403),
        refused("PermissionDeniedError", "Key or route cannot access the model (HTTP 403)"),
    ),
    (on("submit", "refuse", status=404), refused("NotFoundError", "Not found (HTTP 404)")),
    (on("submit", "refuse", status=422, message="No"), refused("BadRequestError", "No (HTTP 422)")),
    (on("submit", "refuse", status=408, message="Cut"), unknown(f"{UNCLEAR}Cut (HTTP 408)")),
    (on("submit", "refuse", status=429), TWICE),
    (on("submit", "refuse", status=429, retry_after=0.1), TWICE),
    (on("submit", "refuse", status=429, retry_after=0, as_date=True), TWICE),
    (on("submit", "refuse", status=429, retry_after="soon"), TWICE),
    (
        on("submit", "refuse", status=429, times="always"),
        refused("RateLimitError", "Rate limit reached (HTTP 429)", posts=3),
    ),
    (
        on("submit", "refuse", status=429, retry_after=86400, times="always"),
        refused("RateLimitError", "Rate limit reached (HTTP 429)"),
    ),
    (on("submit", "refuse", status=500), unknown(f"{UNCLEAR}Server error (HTTP 500)")),
    (on("submit", "refuse", status=502), unknown(f"{UNCLEAR}Upstream provider error (HTTP 502)")),
    (on("submit", "refuse", status=503), unknown(f"{UNCLEAR}Service unavailable (HTTP 503)")),
    (on("submit", "refuse", status=504), unknown(f"{UNCLEAR}Upstream timeout (HTTP 504)")),
    (
        on("submit", "refuse", status=504, accept=True),
        unknown(f"{UNCLEAR}Upstream timeout (HTTP 504)", accepted=1),
    ),
    (on("submit", "html"), unknown(f"{UNREADABLE}(HTTP 502)")),
    (on("submit", "html", status=200), unknown(f"{UNREADABLE}(HTTP 200)")),
    (on("submit", "html", accept=True), unknown(f"{UNREADABLE}(HTTP 502)", accepted=1)),
    (on("submit", "truncated-json"), unknown(f"{UNREADABLE}(HTTP 200)", accepted=1)),
    (on("submit", "invalid-json"), unknown(f"{UNREADABLE}(HTTP 200)", accepted=1)),
    (on("submit", "code"), unknown(f"{UNCLEAR}Server error (HTTP 200, code 500)")),
    (on("submit", "code", accept=True), unknown(f"{UNCLEAR}Server error (HTTP 200, code 500)", accepted=1)),
    (
        on("submit", "code", code=402),
        refused("InsufficientBalanceError", "Insufficient credits (HTTP 200, code 402)"),
    ),
    (on("submit", "code", code=429), refused("RateLimitError", "Rate limit reached (HTTP 200, code 429)")),
    (on("submit", "accept-then-drop"), unknown(f"{BROKEN}(RemoteProtocolError)", accepted=1)),
    (on("submit", "accept-then-hang", seconds=0.1), unknown(f"{BROKEN}(RemoteProtocolError)", accepted=1)),
    (on("submit", "accept-then-hang"), unknown(f"{LOST}no answer in time", accepted=1)),
    (on("submit", "drip", bytes=1), unknown(f"{LOST}no answer in time", accepted=1)),
    (on("submit", "reset"), unknown(f"{BROKEN}(ReadError)")),
    (on("submit", "reset", accept=True), unknown(f"{BROKEN}(ReadError)", accepted=1)),
    (on("submit", "redirect", location=NOWHERE), unknown(f"{UNREADABLE}(HTTP 302)")),
    (on("submit", "redirect", location=NOWHERE, status=307), unknown(f"{UNREADABLE}(HTTP 307)")),
    (on("submit", "swell"), unknown(f"{UNREADABLE}(HTTP 200)")),
    (on("submit", "delay", seconds=0.1), GOOD),
    (on("submit", "drip", bytes=1000), GOOD),
]

POLLS: list[tuple[Fault, Outcome]] = [
    (on("status", "refuse", status=400, times=2), GOOD),
    (on("status", "refuse", status=401, times=2), GOOD),
    (
        on("status", "refuse", status=401, times="always"),
        paid(
            "AuthenticationError",
            "The task's status could not be read: Missing or invalid API key (HTTP 401)",
            "submitted",
        ),
    ),
    (on("status", "refuse", status=429), GOOD),
    (on("status", "refuse", status=429, retry_after=0.1), GOOD),
    (on("status", "refuse", status=500), GOOD),
    (on("status", "refuse", status=503, times=2), GOOD),
    (on("status", "html", times=2), GOOD),
    (on("status", "truncated-json"), GOOD),
    (on("status", "invalid-json"), GOOD),
    (on("status", "code"), GOOD),
    (on("status", "reset"), GOOD),
    (on("status", "redirect", location=NOWHERE), GOOD),
    (on("status", "swell", megabytes=20), GOOD),
    (on("status", "delay", seconds=0.1), GOOD),
    (on("status", "delay", seconds=3600), GOOD),
    (on("status", "drip", bytes=1000), GOOD),
    (on("status", "wrong-task"), GOOD),
    (on("status", "not-found", times=5), GOOD),
    (
        on("status", "not-found", times="always"),
        paid("WaitTimeoutError", "The task has not ended within 2 s", "timeout"),
    ),
    (on("status", "state"), GOOD),
    (on("status", "state", state="processing_r2"), GOOD),
    (on("status", "state", state=""), GOOD),
    (
        on("status", "state", times="always"),
        paid("WaitTimeoutError", "The task has not ended within 2 s", "timeout"),
    ),
    (on("status", "backwards", after=0, times=2), GOOD),
    (on("status", "no-cost-time"), GOOD),
    (on("status", "result", variant="absent"), paid("ResultError", f"{FINISHED}it names no result")),
    (on("status", "result", variant="empty"), paid("ResultError", f"{FINISHED}it names no result")),
    (on("status", "result", variant="null"), paid("ResultError", f"{FINISHED}it names no result")),
    (
        on("status", "result", variant="not-json"),
        paid("ResultError", f"{FINISHED}its result cannot be read"),
    ),
    (on("status", "result", variant="object"), GOOD),
    (on("status", "result", variant="double-encoded"), GOOD),
    (
        on("status", "result", variant="empty-list"),
        paid("ResultError", f"{FINISHED}its result has no picture URL"),
    ),
    (
        on("status", "result", variant="no-urls"),
        paid("ResultError", f"{FINISHED}its result cannot be read"),
    ),
    (on("status", "result", variant="url"), GOOD),
    (
        on("status", "result", variant="bare-url"),
        paid("ResultError", f"{FINISHED}its result cannot be read"),
    ),
    (on("status", "urls", count=0), paid("ResultError", f"{FINISHED}its result has no picture URL")),
    (on("status", "urls", count=2), Outcome(files=2)),
    (on("status", "urls", count=200), Outcome(files=2)),  # twice as many as were asked for, and no more
    (
        on("status", "fail", message="<script>alert(1)</script>"),
        paid("TaskFailedError", "The task failed, Unknown error: <script>alert(1)</script>", "failed"),
    ),
    (
        on("status", "fail", message="<img src=x onerror=alert(1)>", fail_code="NSFW\x1b[31m"),
        paid("TaskFailedError", "The task failed, NSFW\\u001b[31m: <img src=x onerror=alert(1)>", "failed"),
    ),
]

DOWNLOADS: list[tuple[Fault, Outcome]] = [
    *(
        (
            on("picture", "refuse", status=status),
            paid("ImageError", f"The picture is gone from its address (HTTP {status})"),
        )
        for status in (403, 404, 410)
    ),
    (on("picture", "refuse", status=400), paid("ImageError", "The picture host refused (HTTP 400)")),
    (on("picture", "refuse", status=429, retry_after=0.1), GOOD),
    (on("picture", "refuse", status=500, times=2), GOOD),
    (
        on("picture", "refuse", status=500, times="always"),
        paid("ImageError", "The picture host is in trouble (HTTP 500)"),
    ),
    (on("picture", "html"), GOOD),
    (on("picture", "html", times="always"), paid("ImageError", f"{NO_PICTURE}(UnidentifiedImageError)")),
    (on("picture", "reset"), GOOD),
    (on("picture", "reset", times="always"), paid("ImageError", f"{PARTLY}ReadError")),
    (on("picture", "cut"), GOOD),
    (on("picture", "cut", times="always"), paid("ImageError", f"{PARTLY}ReadError")),
    (on("picture", "half"), GOOD),
    (on("picture", "half", times="always"), paid("ImageError", f"{PARTLY}RemoteProtocolError")),
    (on("picture", "half", length="short"), GOOD),
    (
        on("picture", "half", length="short", times="always"),
        paid("ImageError", f"{NO_PICTURE}(OSError)"),
    ),
    (on("picture", "bomb"), paid("ImageError", "The picture has more than 40 million pixels")),
    (on("picture", "swell"), paid("ImageError", "The picture is larger than 100 MB")),
    (on("picture", "huge", megabytes=110), paid("ImageError", "The picture is larger than 100 MB")),
    (on("picture", "huge"), GOOD),
    (
        on("picture", "redirect", location="file:///etc/passwd"),
        paid(
            "ImageError",
            "The picture's address 'file:///etc/passwd' is no http(s) address, so it was not followed",
        ),
    ),
    (on("picture", "delay", seconds=0.1), GOOD),
    (on("picture", "drip", bytes=100_000), GOOD),
]

#: What `balance` says. It costs nothing, so it is asked again.
BALANCES: list[tuple[Fault, str]] = [
    (on("balance", "refuse", status=401), "Missing or invalid API key (HTTP 401)"),
    (on("balance", "refuse", status=403), "Key or route cannot access the model (HTTP 403)"),
    (on("balance", "refuse", status=429), ""),
    (on("balance", "refuse", status=500), ""),
    (on("balance", "refuse", times="always"), "Service unavailable (HTTP 503)"),
    (on("balance", "html"), ""),
    (on("balance", "html", times="always"), "no reason was given (HTTP 502)"),
    (on("balance", "code"), ""),
    (on("balance", "code", times="always"), "Server error (HTTP 200, code 500)"),
    (on("balance", "redirect", location=NOWHERE), ""),
    (on("balance", "redirect", location=NOWHERE, times="always"), "no reason was given (HTTP 302)"),
    (on("balance", "reset"), ""),
    (on("balance", "reset", times="always"), "the connection broke (ReadError)"),
    (on("balance", "swell", megabytes=20), ""),
    (on("balance", "swell", megabytes=20, times="always"), "the answer is not APIXO's JSON (HTTP 200)"),
    (on("balance", "truncated-json"), ""),
    (on("balance", "truncated-json", times="always"), "the answer is not APIXO's JSON (HTTP 200)"),
    (on("balance", "invalid-json"), ""),
    (on("balance", "invalid-json", times="always"), "the answer is not APIXO's JSON (HTTP 200)"),
    (on("balance", "delay", seconds=0.1), ""),
    (on("balance", "drip", bytes=1000), ""),
]


def named(rule: Fault) -> str:
    """A fault in a few words, for the name of its test."""
    given = {name: value for name, value in rule.arguments().items() if getattr(rule, name) is not None}
    words = [
        rule.kind,
        *(ascii(value).strip("'") for value in given.values()),
        "" if rule.times == 1 else str(rule.times),
    ]
    return f"{rule.on}-{'-'.join(word for word in words if word)}"[:60]


def deadline_s(rule: Fault) -> float:
    """Of one request: short where nothing else ends it."""
    hangs = rule.kind == "accept-then-hang" and rule.seconds is None
    if hangs or (rule.kind == "drip" and rule.bytes == 1):
        return 1.0
    return 5.0 if rule.seconds == 3600 else 30.0


def headline(error: ApixoError) -> str:
    """The first line, without the run's id."""
    return re.sub(r", run [-0-9a-f]+|( \()run [-0-9a-f]+\)", "", error.headline)


@pytest.fixture
def make_session(sandbox: Sandbox, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    opened: list[Session] = []

    def make(**traits: Any) -> Session:
        pace = {"first_poll": 0.05, "poll_interval": 0.05}
        usual = {"base_url": sandbox.base_url, "home": str(tmp_path / "home"), "timeout": 60.0}
        session = Session(settings.Apixo(**(usual | pace | traits)), key=KEY)
        session.client.retry = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.02)
        opened.append(session)
        return session

    yield make
    for session in opened:
        session.close()


def ended(job: Any) -> Run:
    """The row of a job when all is written."""
    job.ended.result(PATIENCE_S)
    return job.run


def outcome(session: Session, sandbox: Sandbox, accepted: int = 1, **request: Any) -> Outcome:
    """What becomes of one run, once so many tasks are accepted: its client may be gone before."""
    error = says = ""
    job = session.begin("a fox", **request)
    try:
        job.wait()
    except ApixoError as problem:
        error, says = type(problem).__name__, headline(problem)
    ended(job)
    [run] = session.ledger.runs()
    account = sandbox.account
    until(lambda: account.submits and len(account.accepted) >= accepted)
    covered = {str(run.task_id)} if run.state != "unknown" else set(account.accepted)
    assert (
        set(account.accepted) <= covered
    )  # what was charged is in the row, or is what the row may stand for
    return Outcome(error, says, run.state, account.submits, len(account.accepted), len(run.files))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [pytest.param(*row, id=named(row[0])) for row in [*SUBMITS, *POLLS, *DOWNLOADS]],
)
def test_fault_has_its_outcome(
    make_session: Callable[..., Session], sandbox: Sandbox, rule: Fault, expected: Outcome
):
    sandbox.faults.add(rule)
    endless = rule.times == "always" and "WaitTimeoutError" in expected.error
    session = make_session(request_timeout=deadline_s(rule), timeout=2.0 if endless else 60.0)
    assert outcome(session, sandbox, expected.accepted) == expected
    assert rule in sandbox.faults.hits


@pytest.mark.parametrize(("rule", "says"), [pytest.param(*row, id=named(row[0])) for row in BALANCES])
def test_fault_of_the_balance_is_got_over_or_named(
    make_session: Callable[..., Session], sandbox: Sandbox, rule: Fault, says: str
):
    sandbox.faults.add(rule)
    session = make_session()
    if says:
        with pytest.raises(ApixoError) as caught:
            session.balance()
        assert caught.value.headline == f"The balance could not be read: {says}"
    else:
        assert session.balance() == 100.0
    assert (rule in sandbox.faults.hits, sandbox.account.submits) == (True, 0)


def test_every_fault_has_an_outcome_wherever_it_can_happen():
    tried = {(rule.on, rule.kind) for rule, *_ in [*SUBMITS, *POLLS, *DOWNLOADS, *BALANCES]}
    assert tried == {(place, name) for name, kind in KINDS.items() for place in kind.on}
    assert {rule.variant for rule, _ in POLLS if rule.kind == "result"} == set(VARIANTS)


def test_fewer_pictures_than_asked_for_are_taken_and_told(
    make_session: Callable[..., Session], sandbox: Sandbox
):
    sandbox.faults.add(Fault("status", "urls", count=1))
    session = make_session()
    assert outcome(session, sandbox, num_images=2) == GOOD
    [run] = session.ledger.runs()
    assert run.remark == "2 pictures asked for, 1 came"


@pytest.mark.parametrize(
    "first",
    [
        Fault("status", "result", variant="empty"),
        Fault("picture", "refuse", status=404),
        Fault("picture", "swell"),
        Fault("picture", "half", times=3),
    ],
    ids=named,
)
def test_what_was_lost_is_fetched_by_resume_and_not_bought_again(
    make_session: Callable[..., Session], sandbox: Sandbox, first: Fault
):
    sandbox.faults.add(first)
    session = make_session()
    assert outcome(session, sandbox).files == 0
    [job] = session.resume()
    job.wait()
    assert (ended(job).state, len(job.run.files)) == ("success", 1)
    assert (sandbox.account.submits, len(sandbox.account.accepted)) == (1, 1)


@pytest.mark.parametrize("then", ["backwards", "fail"])
def test_what_was_told_of_an_end_is_not_taken_back(
    make_session: Callable[..., Session], sandbox: Sandbox, then: str
):
    # A success whose pictures are gone is asked for again, and the service contradicts itself.
    sandbox.faults.add(
        Fault("picture", "refuse", status=410, times=2),
        Fault("status", then, after=1),
    )
    session = make_session()
    assert outcome(session, sandbox) == paid("ImageError", "The picture is gone from its address (HTTP 410)")
    [job] = session.resume()
    with pytest.raises(ApixoError) if then == "fail" else contextlib.nullcontext():
        job.wait()
    run = ended(job)
    assert (run.state, len(run.result_urls), run.cost_micros) == ("success", 1, 350_000)
    if then == "fail":
        [job] = session.resume()
        job.wait()
    assert len(ended(job).files) == 1
    assert sandbox.account.submits == 1


@pytest.fixture
def elsewhere() -> Iterator[Sandbox]:
    """Another host."""
    with Sandbox(SandboxOptions(seconds=0.0, picture_scale=0.1)) as other:
        yield other


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", API)
def test_no_redirect_takes_the_key_to_another_host(
    make_session: Callable[..., Session], sandbox: Sandbox, elsewhere: Sandbox, place: str, status: int
):
    address = f"{elsewhere.base_url}/generateTask/gpt-image-1"
    sandbox.faults.add(Fault(place, "redirect", location=address, status=status))
    session = make_session()
    if place == "balance":
        assert session.balance() == 100.0
    else:
        outcome(session, sandbox, accepted=int(place == "status"))
    assert sandbox.faults.hits
    assert not elsewhere.account.requests


def test_picture_is_fetched_from_another_host_without_the_key(
    make_session: Callable[..., Session], sandbox: Sandbox, elsewhere: Sandbox
):
    other = Wire(elsewhere, Clock())
    task_id = other.ask("submit", aspect_ratio="3:2").json["data"]["taskId"]
    [url] = elsewhere.account.tasks[task_id].result_urls(elsewhere.picture_url)
    sandbox.faults.add(Fault("picture", "redirect", location=url))
    session = make_session()
    assert outcome(session, sandbox) == GOOD
    [run] = session.ledger.runs()
    assert (run.images[0].width, run.images[0].height) == (154, 102)
    [fetched] = [seen for seen in elsewhere.account.requests if seen.kind == "picture"]
    assert (fetched.has_authorization, fetched.has_cookie) == (False, False)


def test_one_run_that_hangs_holds_up_no_other(make_session: Callable[..., Session], sandbox: Sandbox):
    sandbox.faults.add(
        Fault("submit", "accept-then-hang", match="slow"),
        Fault("picture", "drip", match="poor", bytes=1),
    )
    session = make_session(request_timeout=30.0)
    held = [session.begin(prompt) for prompt in ("a slow fox", "a poor fox")]
    until(lambda: len(sandbox.faults.hits) == 2)
    runs = [session.begin(f"fox {number}").wait() for number in range(3)]
    assert [len(run.files) for run in runs] == [1, 1, 1]
    assert not any(job.done for job in held)
    sandbox.stop()  # which lets go of them
    for job in held:
        with pytest.raises(ApixoError):
            job.wait()
    assert [ended(job).state for job in held] == ["unknown", "success"]
