"""Nothing is paid twice and nothing paid is lost, whatever the network does.

What counts is the server's journal: how many POSTs reached it for one thing that was asked for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from apixo_nb.client.client import AsyncClient, Client
from apixo_nb.client.protocol import RetryPolicy, TurnedAway
from apixo_nb.core.cadence import Cadence
from apixo_nb.core.files import Downloaded, Limits
from apixo_nb.core.request import make_request
from apixo_nb.errors import (
    APIConnectionError,
    APITimeoutError,
    ApixoError,
    AuthenticationError,
    BadRequestError,
    ImageError,
    InsufficientBalanceError,
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SubmitUnknownError,
    WaitTimeoutError,
)
from tests.support import fault_server as faults
from tests.support.factories import KEY
from tests.support.fault_server import PICTURE, FaultServer, Step, answer, envelope

T = TypeVar("T")

QUICK = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.02, total_s=60.0)
CADENCE = Cadence(expected_s=0.1, first_poll_s=0.0, interval_s=0.02, interval_bounds_s=(0.01, 0.03))
JUNK = b"\x00\xffSSH-2.0-nobody\r\n\r\n"
WORDY = json.dumps({"code": 200, "message": "x" * 300, "data": {"taskId": "task_00000001"}})


def whole(body: str) -> bytes:
    return faults.message(200, body)


#: What can become of one request. None of them says whether the request was accepted.
SILENCES: dict[str, Step] = {
    "500": envelope(500, status=500),
    "502": answer(502, "<html>bad gateway</html>"),
    "503": answer(503),
    "504": envelope(504, status=504),
    "520": answer(520, "<html>a proxy's own number</html>"),
    "408": answer(408),
    "drop-before-body": faults.drop(reads_body=False),
    "drop-after-body": faults.drop(),
    "reset": faults.drop(reset=True),
    "hang": faults.hang(),
    "drip": faults.drip(whole(WORDY)),
    "code-500-in-200": envelope(500),
    "code-0-in-200": envelope(0),
    "empty": answer(200),
    "html": answer(200, "<html>please wait</html>"),
    "junk-json": answer(200, '{"code": 200, "data": {"task'),
    "nested-json": answer(200, "[" * 100_000),
    "junk-bytes": faults.last_words(JUNK),
    "truncated": faults.truncated(WORDY.encode()),
    "cut-chunked": faults.cut_chunked(WORDY[:50].encode()),
    "half-without-length": faults.close_delimited(WORDY[:50].encode()),
    "huge-header": faults.huge_header(),
    "10-MB": answer(200, bytes(10_000_000)),
    "bomb": faults.bomb(100),
    "gzip-lie": answer(200, WORDY, Content_Encoding="gzip"),
    "redirect-302": faults.redirect(302),
    "redirect-307": faults.redirect(307),
    "redirect-308": faults.redirect(308),
    "redirect-to-nonsense": faults.redirect(302, "http://[::1"),
}
PAUSES: dict[str, Step] = {
    "429": answer(429),
    "429-retry-after": envelope(429, status=429),
}
SLOW = ("hang", "drip")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def elsewhere(server: FaultServer) -> Iterator[FaultServer]:
    """Another host, to which the first one redirects."""
    with FaultServer() as other:
        server.elsewhere = f"{other.url}/elsewhere.png"
        yield other


def ask(server: FaultServer, call: Callable[[AsyncClient], Awaitable[T]], **options: Any) -> T:
    """One call of a new client, on a loop of its own."""

    async def main() -> T:
        settings: dict[str, Any] = {"retry": QUICK, "cadence": CADENCE, "base_url": server.base_url} | options
        async with AsyncClient(KEY, **settings) as client:
            return await call(client)

    return asyncio.run(main())


def patience(fault: str) -> float:
    """The deadline of one request: short only where it has to pass."""
    return 1.0 if fault in SLOW else 30.0


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- submits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", SILENCES)
def test_submit_without_a_clear_answer_is_unknown_and_never_sent_again(server, elsewhere, fault):
    server.script("submit", SILENCES[fault])
    with pytest.raises(SubmitUnknownError) as caught:
        ask(server, lambda client: client.submit("a fox", num_images=2), request_timeout_s=patience(fault))
    server.arrived("submit")
    assert (server.posts, elsewhere.journal) == (1, [])
    assert caught.value.maybe_billed
    assert not caught.value.retryable
    assert caught.value.at_stake_usd == pytest.approx(0.70)
    assert "May have cost up to $0.70" in str(caught.value)


@pytest.mark.parametrize("fault", ["504", "drop-after-body", "reset", "hang", "junk-json"])
def test_submit_of_the_synchronous_client_is_not_sent_again_either(server, fault):
    server.script("submit", SILENCES[fault])
    client = Client(KEY, base_url=server.base_url, retry=QUICK, request_timeout_s=patience(fault))
    with client, pytest.raises(SubmitUnknownError):
        client.submit("a fox")
    server.arrived("submit")
    assert server.posts == 1


@pytest.mark.parametrize("fault", PAUSES)
def test_submit_refused_with_429_is_sent_again(server, fault):
    server.script("submit", PAUSES[fault])
    assert ask(server, lambda client: client.submit("a fox")).startswith("task_")
    assert server.posts == 2


def test_submit_comes_back_no_earlier_than_told(server):
    server.script("submit", answer(429, Retry_After="1"))
    ask(server, lambda client: client.submit("a fox"))
    first, second = server.seen("submit")
    assert second.at - first.at >= 1.0


def test_submit_that_is_always_refused_with_429_ends_with_a_rate_limit(server):
    server.always("submit", answer(429))
    with pytest.raises(RateLimitError) as caught:
        ask(server, lambda client: client.submit("a fox"))
    assert server.posts == QUICK.attempts
    assert (caught.value.maybe_billed, caught.value.retryable) == (False, True)


@pytest.mark.parametrize("asked", ["86400", "Fri, 31 Dec 2150 23:59:59 GMT"], ids=["seconds", "date"])
def test_submit_told_to_wait_too_long_says_when_to_come_back(server, asked):
    server.always("submit", answer(429, Retry_After=asked))
    with pytest.raises(RateLimitError, match="It asked to wait") as caught:
        ask(server, lambda client: client.submit("a fox"))
    assert server.posts == 1
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 80_000


@pytest.mark.parametrize("asked", ["soon", "-1", "nan", "inf", "0", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_submit_told_nonsense_uses_its_own_pause(server, asked):
    server.script("submit", answer(429, Retry_After=asked))
    assert ask(server, lambda client: client.submit("a fox")).startswith("task_")
    assert server.posts == 2


REFUSALS = [
    (400, "wrong", BadRequestError),
    (400, "Insufficient credits", InsufficientBalanceError),
    (401, "no key", AuthenticationError),
    (402, "no money", InsufficientBalanceError),
    (403, "no right", PermissionDeniedError),
    (404, "no model", NotFoundError),
    (422, "no sense", BadRequestError),
]


@pytest.mark.parametrize("disguised", [False, True], ids=["status", "code-in-200"])
@pytest.mark.parametrize(("code", "text", "expected"), REFUSALS, ids=[f"{c}-{t}" for c, t, _ in REFUSALS])
def test_refused_submit_is_one_post_and_costs_nothing(server, disguised, code, text, expected):
    server.script("submit", envelope(code, status=200 if disguised else code, text=text))
    with pytest.raises(expected) as caught:
        ask(server, lambda client: client.submit("a fox"))
    assert type(caught.value) is expected
    assert server.posts == 1
    assert (caught.value.status, caught.value.code) == (200 if disguised else code, code)
    assert (caught.value.maybe_billed, caught.value.retryable) == (False, False)


def test_rate_limit_inside_http_200_is_not_sent_again(server):
    # A 200 is no plain refusal: something before the service may have answered in its place.
    server.script("submit", envelope(429))
    with pytest.raises(RateLimitError):
        ask(server, lambda client: client.submit("a fox"))
    assert server.posts == 1


IDLESS: list[Any] = [None, {}, [], "task_1", 7] + [
    {"taskId": value} for value in (None, 0, -7, 7.5, [7], "", " ", "x" * 10_000)
]


@pytest.mark.parametrize("data", IDLESS, ids=lambda data: repr(data)[:24])
def test_accepted_submit_without_a_usable_id_is_unknown(server, data):
    server.script("submit", envelope(200, data))
    with pytest.raises(SubmitUnknownError, match="names no task"):
        ask(server, lambda client: client.submit("a fox"))
    assert server.posts == 1


def test_accepted_submit_whose_id_is_a_number_is_sent_once_and_its_task_is_known(server):
    server.script("submit", envelope(200, {"taskId": 12345678}))
    assert ask(server, lambda client: client.submit("a fox")) == "12345678"
    assert server.posts == 1


@pytest.mark.parametrize(("status", "code"), [(500, 200), (200, 500), (201, 200), (504, 504), (429, 429)])
def test_task_id_is_kept_whatever_the_codes_say(server, status, code):
    server.script("submit", envelope(code, {"taskId": "task_kept"}, status=status))
    assert ask(server, lambda client: client.submit("a fox")) == "task_kept"
    assert server.posts == 1


# --- connections -------------------------------------------------------------------------------------


def test_submit_to_a_closed_port_is_tried_again_and_sent_once():
    with FaultServer(listening=False) as server:

        async def opens_before_the_second_try(client: AsyncClient) -> str:
            task = make_request("a fox")
            assert isinstance(await client.submit_once(task), TurnedAway)
            server.listen()
            return await client.submit_request(task)

        assert ask(server, opens_before_the_second_try)
        assert (server.posts, server.connections) == (1, 1)


def test_submit_to_a_port_that_stays_closed_says_it_was_not_sent():
    with (
        FaultServer(listening=False) as server,
        pytest.raises(APIConnectionError, match="not sent") as caught,
    ):
        ask(server, lambda client: client.submit("a fox"))
    assert (caught.value.maybe_billed, caught.value.retryable) == (False, True)


def test_submit_to_an_unknown_host_says_it_was_not_sent(server, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(APIConnectionError, match=r"not sent.*apixo\.invalid") as caught:
        ask(server, lambda client: client.submit("a fox"), base_url="https://apixo.invalid")
    assert not caught.value.maybe_billed


def test_each_submit_has_a_connection_of_its_own(server):
    async def submits(client: AsyncClient) -> list[str]:
        one_by_one = [await client.submit("a fox") for _ in range(2)]
        return [*one_by_one, *await asyncio.gather(*(client.submit("a fox") for _ in range(8)))]

    assert len(ask(server, submits)) == 10
    assert len({received.connection for received in server.seen("submit")}) == 10


def test_polls_share_a_connection(server):
    async def polls(client: AsyncClient) -> list[float]:
        return [await client.balance() for _ in range(3)]

    ask(server, polls)
    assert (len(server.seen("balance")), server.connections) == (3, 1)


def test_server_that_closes_idle_connections_sees_one_post(server):
    async def calls(client: AsyncClient) -> None:
        await client.balance()
        await client.submit("a fox")
        server.close_connections()
        await client.submit("a fox")
        await client.balance()

    ask(server, calls)
    assert server.posts == 2


# --- polls -------------------------------------------------------------------------------------------

POLL_FAULTS = (
    SILENCES
    | PAUSES
    | {
        "429-told": answer(429, Retry_After="1"),
        "503-told": answer(503, Retry_After="1"),
        "400": envelope(400, status=400),
        "401": envelope(401, status=401),
        "403": envelope(403, status=403),
        "404": envelope(404, status=404),
        "no-task": envelope(200),
        "other-task": envelope(200, faults.finished("task_of_somebody_else", "http://127.0.0.1/x.png")),
        "new-state": envelope(200, {"taskId": "task_1", "state": "processing_r2"}),
        "no-state": envelope(200, {"taskId": "task_1"}),
    }
)


@pytest.mark.parametrize("fault", POLL_FAULTS)
def test_wait_survives_any_single_bad_poll(server, elsewhere, fault):
    server.script("status", POLL_FAULTS[fault])
    status = ask(server, lambda client: client.wait("task_1"), request_timeout_s=patience(fault))
    assert (status.state, status.result_urls) == ("success", (f"{server.url}/picture.png",))
    assert (len(server.seen("status")), server.posts, elsewhere.journal) == (2, 0, [])


def test_wait_survives_many_kinds_of_bad_polls_in_a_row(server):
    names = (
        "500",
        "drop-after-body",
        "401",
        "junk-json",
        "429",
        "404",
        "redirect-302",
        "reset",
        "other-task",
    )
    server.script("status", *(POLL_FAULTS[name] for name in names))
    fast = Cadence(0.1, 0.0, 0.001, (0.001, 0.002))
    assert ask(server, lambda client: client.wait("task_1"), cadence=fast).state == "success"


@pytest.mark.parametrize(
    ("code", "expected"),
    [(401, AuthenticationError), (403, PermissionDeniedError), (400, BadRequestError)],
)
def test_wait_ends_after_three_lasting_refusals_and_keeps_the_task_id(server, code, expected):
    server.always("status", envelope(code, status=code))
    with pytest.raises(expected) as caught:
        ask(server, lambda client: client.wait("task_1"))
    assert (len(server.seen("status")), caught.value.task_id) == (3, "task_1")


@pytest.mark.parametrize(("age_s", "expected"), [(0.0, WaitTimeoutError), (1000.0, NotFoundError)])
def test_task_not_found_is_believed_only_once_it_is_old(server, age_s, expected):
    server.always("status", envelope(404, status=404))
    with pytest.raises(expected):
        ask(server, lambda client: client.wait("task_1", age_s=age_s, timeout_s=0.5))


def test_wait_for_a_task_of_a_hanging_server_ends_at_its_own_deadline(server):
    server.always("status", faults.hang())

    async def wait(client: AsyncClient) -> None:
        async with asyncio.timeout(20):  # far above the wait's own deadline, far below a request's
            await client.wait("task_1", timeout_s=0.5)

    with pytest.raises(WaitTimeoutError) as caught:
        ask(server, wait, request_timeout_s=300.0)
    assert (caught.value.task_id, caught.value.maybe_billed) == ("task_1", True)


STATUS_ERRORS: dict[str, type[ApixoError]] = {
    "429": RateLimitError,
    "500": ServerError,
    "502": ServerError,
    "503": ServerError,
    "504": ServerError,
    "code-500-in-200": ServerError,
    "drop-after-body": APIConnectionError,
    "reset": APIConnectionError,
    "hang": APITimeoutError,
    "drip": APITimeoutError,
    "empty": MalformedResponseError,
    "junk-json": MalformedResponseError,
    "redirect-302": MalformedResponseError,
    "junk-bytes": APIConnectionError,
    "bomb": MalformedResponseError,
}


@pytest.mark.parametrize("fault", STATUS_ERRORS)
def test_status_and_balance_that_always_fail_say_how(server, fault):
    for kind in ("status", "balance"):
        server.always(kind, (SILENCES | PAUSES)[fault])
    limit = 0.3 if fault in SLOW else 30.0
    with pytest.raises(STATUS_ERRORS[fault]) as caught:
        ask(server, lambda client: client.status("task_1"), request_timeout_s=limit)
    with pytest.raises(STATUS_ERRORS[fault]):
        ask(server, lambda client: client.balance(), request_timeout_s=limit)
    assert (caught.value.task_id, caught.value.retryable) == ("task_1", True)
    assert not caught.value.maybe_billed


@pytest.mark.parametrize("fault", [name for name in STATUS_ERRORS if name not in SLOW])
def test_status_that_fails_once_is_asked_again(server, fault):
    server.script("status", (SILENCES | PAUSES)[fault])
    assert ask(server, lambda client: client.status("task_1")).state == "success"
    assert len(server.seen("status")) == 2


def test_deadline_of_a_request_is_for_all_of_it(server):
    # Each byte comes in time; the whole answer does not.
    server.always("balance", faults.drip(faults.success(12.5), every_s=0.1))
    once = RetryPolicy(attempts=1)
    with pytest.raises(APITimeoutError):
        ask(server, lambda client: client.balance(), request_timeout_s=1.0, retry=once)
    assert server.drips_completed == 0


# --- downloads ---------------------------------------------------------------------------------------

PICTURE_FAULTS = {
    "429": answer(429),
    "429-told": answer(429, Retry_After="1"),
    "500": answer(500),
    "502": answer(502),
    "503": answer(503),
    "504": answer(504),
    "drop": faults.drop(),
    "reset": faults.drop(reset=True),
    "hang": faults.hang(),
    "drip": faults.drip(faults.message(200, PICTURE), size=4),
    "truncated": faults.truncated(PICTURE),
    "cut-chunked": faults.cut_chunked(PICTURE[:500]),
    "half-without-length": faults.close_delimited(PICTURE[:500]),
    "half-with-true-length": answer(200, PICTURE[:500]),
    "empty": answer(200),
    "html": answer(200, "<html>please wait</html>"),
    "junk-json": answer(200, '{"code": 200, "data"'),
    "junk-bytes": faults.last_words(JUNK),
    "gzip-lie": answer(200, PICTURE, Content_Encoding="gzip"),
    "huge-header": faults.huge_header(),
}


def download(server: FaultServer, folder: Path, fault: str, **options: Any) -> Downloaded:
    async def fetch(client: AsyncClient) -> Downloaded:
        try:
            async with asyncio.timeout(20):  # far above the limit of a slow one, far below a read's own
                return await client.download(f"{server.url}/picture.png", folder / "fox.png")
        finally:
            server.released.set()

    return ask(server, fetch, limits=Limits(total_s=1.0 if fault in SLOW else 60.0), **options)


@pytest.mark.parametrize("fault", PICTURE_FAULTS)
def test_download_recovers_from_one_fault(server, tmp_path, fault):
    server.script("picture", PICTURE_FAULTS[fault])
    found = download(server, tmp_path, fault)
    assert (found.path.read_bytes(), parts(tmp_path)) == (PICTURE, ["fox.png"])
    assert (len(server.seen("picture")), server.posts, server.drips_completed) == (2, 0, 0)


@pytest.mark.parametrize("fault", PICTURE_FAULTS)
def test_download_that_always_fails_says_so_and_leaves_no_file(server, tmp_path, fault):
    server.always("picture", PICTURE_FAULTS[fault])
    attempts = 1 if fault in SLOW else 2
    with pytest.raises(ApixoError) as caught:
        download(server, tmp_path, fault, retry=RetryPolicy(attempts=attempts, base_s=0.01))
    assert isinstance(caught.value, ImageError | APIConnectionError | ServerError | RateLimitError)
    assert (parts(tmp_path), server.posts) == ([], 0)
    assert (len(server.seen("picture")), server.drips_completed) == (attempts, 0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_download_follows_a_redirect(server, elsewhere, tmp_path, status):
    server.script("picture", faults.redirect(status))
    assert download(server, tmp_path, "redirect").path.read_bytes() == PICTURE
    assert len(elsewhere.seen("picture")) == 1


# --- the key -----------------------------------------------------------------------------------------


def secrets_of(server: FaultServer) -> list[str]:
    names = ("authorization", "cookie", "x-api-key", "proxy-authorization")
    return [name for received in server.journal for name in names if name in received.headers]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", ["submit", "status", "balance"])
def test_redirect_of_the_api_gets_neither_request_nor_key(server, elsewhere, kind, status):
    server.always(kind, faults.redirect(status))
    calls = {
        "submit": lambda client: client.submit("a fox"),
        "status": lambda client: client.status("task_1"),
        "balance": lambda client: client.balance(),
    }
    with pytest.raises(ApixoError):
        ask(server, calls[kind])
    assert elsewhere.connections == 0
    assert server.posts == (1 if kind == "submit" else 0)


def test_picture_hosts_get_no_key(server, elsewhere, tmp_path):
    server.script("picture", faults.redirect(302))
    download(server, tmp_path, "redirect")
    assert (secrets_of(server), secrets_of(elsewhere)) == ([], [])


def test_picture_hosts_get_no_cookie_back(server, tmp_path):
    # Cookies know no ports, so on one machine the API's would go to the picture host as well.
    server.always("balance", answer(200, {"code": 200, "data": 12.5}, Set_Cookie="api=1; Path=/"))
    server.always("picture", answer(200, PICTURE, Set_Cookie="visit=1; Path=/"))

    async def twice(client: AsyncClient) -> None:
        await client.balance()
        for name in ("a.png", "b.png"):
            await client.download(f"{server.url}/picture.png", tmp_path / name)

    ask(server, twice)
    assert ["cookie" in received.headers for received in server.seen("picture")] == [False, False]


def test_environment_proxy_is_not_used_for_this_machine(server, elsewhere, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, elsewhere.url)
    assert ask(server, lambda client: client.balance()) == 12.5
    assert elsewhere.connections == 0
