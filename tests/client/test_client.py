"""The two clients against the sandbox, over real HTTP; what the sandbox cannot show, a fault server does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import inspect
import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from apixo_nb.client import transport
from apixo_nb.client.client import AsyncClient, Client
from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.client.responses import TaskStatus
from apixo_nb.core.cadence import Cadence
from apixo_nb.errors import (
    ApixoError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ImageError,
    InsufficientBalanceError,
    InvalidRequestError,
    MissingKeyError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ResultError,
    SubmitUnknownError,
    TaskFailedError,
    WaitTimeoutError,
)
from apixo_nb.sandbox import Sandbox, SandboxOptions
from tests.support import fault_server as faults
from tests.support.factories import KEY
from tests.support.fault_server import PATIENCE_S, FaultServer, envelope

T = TypeVar("T")
Call = Callable[[AsyncClient], Awaitable[T]]

QUICK = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.02)
CADENCE = Cadence(expected_s=0.1, first_poll_s=0.02, interval_s=0.02, interval_bounds_s=(0.01, 0.03))
REFERENCES = ["https://example.com/ref1.jpg", "https://example.com/ref2.png"]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[Client]:
    with Client(KEY, base_url=sandbox.base_url, cadence=CADENCE, retry=QUICK) as made:
        yield made


def ask(base_url: str, call: Call[T], **options: Any) -> T:
    """One call of a new asynchronous client, on a loop of its own."""
    settings: dict[str, Any] = {"cadence": CADENCE, "retry": QUICK} | options

    async def main() -> T:
        async with AsyncClient(KEY, base_url=base_url, **settings) as client:
            return await call(client)

    return asyncio.run(main())


# --- the straight way --------------------------------------------------------------------------------


def test_text_becomes_pictures_on_disk(client, sandbox, tmp_path):
    task_id = client.submit("a cozy cyberpunk cafe", aspect_ratio="3:2", num_images=2)
    status = client.wait(task_id)
    pictures = [client.download(url, tmp_path / str(n)) for n, url in enumerate(status.result_urls)]
    assert (status.state, status.task_id, sandbox.account.accepted) == ("success", task_id, [task_id])
    assert [picture.path.name for picture in pictures] == ["0.png", "1.png"]
    assert all(picture.width > picture.height for picture in pictures)
    assert isinstance(status.cost_time_ms, int)


def test_asynchronous_client_goes_the_same_way(sandbox, tmp_path):
    async def way(client: AsyncClient) -> Any:
        status = await client.wait(await client.submit("a fox"))
        return await client.download(status.result_urls[0], tmp_path / "fox")

    assert ask(sandbox.base_url, way).path.read_bytes().startswith(b"\x89PNG")


def test_references_reach_the_service(client, sandbox):
    task_id = client.submit("a city", image_urls=REFERENCES, aspect_ratio="3:2", num_images=2)
    assert sandbox.account.tasks[task_id].request["input"]["image_urls"] == REFERENCES
    assert len(client.wait(task_id).result_urls) == 2


def test_callback_request_reaches_the_service_and_can_be_polled_too(client, sandbox):
    url = "https://127.0.0.1:9/hook"
    task_id = client.submit("earbuds", request_type="callback", callback_url=url)
    assert sandbox.account.tasks[task_id].callback_url == url
    assert client.wait(task_id).state == "success"


def test_status_before_and_after_the_end(client):
    task_id = client.submit("[seconds:0.3] a fox")
    assert client.status(task_id).state == "processing"
    client.wait(task_id)
    assert client.status(task_id).final


def test_balance_goes_down_by_the_price(client):
    before = client.balance()
    client.submit("a fox", num_images=4)
    assert before - client.balance() == pytest.approx(4 * 0.35)


# --- what goes over the wire -------------------------------------------------------------------------

SAMPLES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"prompt": "a cozy cyberpunk cafe with neon lights", "aspect_ratio": "3:2", "num_images": 1},
        {
            "request_type": "async",
            "input": {
                "mode": "gpt-image-1",
                "prompt": "a cozy cyberpunk cafe with neon lights",
                "aspect_ratio": "3:2",
                "num_images": 1,
            },
        },
    ),
    (
        {
            "prompt": "turn these references into a futuristic cityscape at sunset",
            "image_urls": REFERENCES,
            "aspect_ratio": "3:2",
            "num_images": 2,
        },
        {
            "request_type": "async",
            "input": {
                "mode": "gpt-image-1",
                "prompt": "turn these references into a futuristic cityscape at sunset",
                "image_urls": REFERENCES,
                "aspect_ratio": "3:2",
                "num_images": 2,
            },
        },
    ),
    (
        {
            "prompt": "a clean product photo of wireless earbuds on soft stone",
            "request_type": "callback",
            "callback_url": "https://your-server.com/webhooks/apixo",
        },
        {
            "request_type": "callback",
            "callback_url": "https://your-server.com/webhooks/apixo",
            "input": {
                "mode": "gpt-image-1",
                "prompt": "a clean product photo of wireless earbuds on soft stone",
                "aspect_ratio": "1:1",
                "num_images": 1,
            },
        },
    ),
]


@pytest.mark.parametrize(("asked", "body"), SAMPLES, ids=["text", "references", "callback"])
def test_request_body_is_the_one_of_the_api_page(server, asked, body):
    ask(server.base_url, lambda client: client.submit(**asked))
    (received,) = server.journal
    assert (received.method, received.target) == ("POST", "/api/v1/generateTask/gpt-image-1")
    assert json.loads(received.body) == body
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.headers["content-type"] == "application/json"


def test_prompt_arrives_as_it_was_typed(server):
    prompt = 'line one\n\t"quoted" \\ {x} é 木 🦊\u200d ' + "x" * 9000
    ask(server.base_url, lambda client: client.submit(prompt))
    assert json.loads(server.journal[0].body)["input"]["prompt"] == prompt


def test_status_asks_for_the_task_whatever_its_id_holds(server):
    ask(server.base_url, lambda client: client.status("a b&c=/d?é"))
    (received,) = server.journal
    address = urlsplit(received.target)
    assert (received.method, address.path) == ("GET", "/api/v1/statusTask/gpt-image-1")
    assert parse_qs(address.query) == {"taskId": ["a b&c=/d?é"]}


@pytest.mark.parametrize("asked", [{"prompt": " "}, {"num_images": 3}, {"image_urls": ["a.png"]}])
def test_invalid_request_sends_nothing(server, asked):
    with pytest.raises(InvalidRequestError):
        ask(server.base_url, lambda client: client.submit(**{"prompt": "a fox"} | asked))
    assert server.connections == 0


@pytest.mark.parametrize("suffix", ["", "/", "/api/v1", "/api/v1/"])
def test_base_url_is_taken_in_each_of_its_forms(server, suffix):
    assert ask(server.url + suffix, lambda client: client.balance()) == 12.5


def test_base_url_and_key_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("APIXO_BASE_URL", server.url)
    monkeypatch.setenv("APIXO_API_KEY", f" 'Bearer {KEY}'\n")
    with Client() as client:
        assert client.balance() == 12.5
    assert server.journal[0].headers["authorization"] == f"Bearer {KEY}"


def test_poll_cadence_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("APIXO_FIRST_POLL", "0")
    monkeypatch.setenv("APIXO_POLL_INTERVAL", "0.05")
    server.script("status", envelope(200, {"taskId": "task_1", "state": "processing"}))
    with Client(KEY, base_url=server.base_url) as client:
        assert client.wait("task_1", timeout_s=10).state == "success"
    first, second = server.seen("status")
    assert second.at - first.at < 3  # APIXO's own interval is never below 3 s


def test_no_key_names_three_ways_on():
    with pytest.raises(MissingKeyError) as caught:
        Client()
    for way in ("APIXO_API_KEY", "%apixo login", "%apixo sandbox"):
        assert way in str(caught.value)


BASE_URLS = [
    "http://example.com",
    "ftp://x",
    "api.apixo.ai",
    "https://u:p@x",
    "https://x/v2",
    "https://x:99999",
]


@pytest.mark.parametrize("base_url", BASE_URLS)
def test_base_url_that_cannot_be_used_is_a_configuration_error(base_url):
    with pytest.raises(ConfigurationError, match="base_url"):
        Client(KEY, base_url=base_url)


def test_proxy_that_cannot_be_used_is_our_own_error(monkeypatch):
    # Needs a package that is not installed; httpx2 says so with an ImportError.
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(ApixoError):
        ask("https://apixo.invalid", lambda client: client.balance())


# --- waiting -----------------------------------------------------------------------------------------


def test_seen_hears_of_every_status(client):
    heard: list[TaskStatus] = []
    last = client.wait(client.submit("[seconds:0.3] a fox"), seen=heard.append)
    assert heard[-1] == last
    assert {status.state for status in heard[:-1]} == {"processing"}


@pytest.mark.parametrize("code", ["SensitiveContent", "RateLimited", "Some New Code"])
def test_failed_task_raises_or_with_check_off_is_returned(client, code):
    task_id = client.submit(f"[fail:{code}] a fox")
    with pytest.raises(TaskFailedError) as caught:
        client.wait(task_id)
    assert (caught.value.fail_code, caught.value.task_id) == (code, task_id)
    status = client.wait(task_id, check=False)
    assert (status.state, status.fail_code, status.result_urls) == ("failed", code, ())


def test_success_without_pictures_raises_or_with_check_off_is_returned(client):
    task_id = client.submit("[pictures:0] a fox")
    with pytest.raises(ResultError) as caught:
        client.wait(task_id)
    assert caught.value.maybe_billed
    assert client.wait(task_id, check=False).result_problem


def test_fewer_pictures_than_asked_are_handed_on(client):
    assert len(client.wait(client.submit("[pictures:1] a fox", num_images=4)).result_urls) == 1


def test_missing_cost_time_is_reckoned_from_the_other_times(client):
    assert client.wait(client.submit("[no-cost-time] a fox")).cost_time_ms is not None


def test_wait_ends_at_its_deadline_and_the_task_goes_on(client):
    task_id = client.submit("[never] a fox")
    with pytest.raises(WaitTimeoutError, match=r"within 0\.1 s") as caught:
        client.wait(task_id, timeout_s=0.1)
    assert (caught.value.task_id, caught.value.maybe_billed) == (task_id, True)
    assert isinstance(caught.value, TimeoutError)
    assert client.status(task_id).state == "processing"


def test_wait_asks_at_least_once(client):
    task_id = client.submit("[seconds:0] a fox")
    assert client.wait(task_id, timeout_s=0.0).state == "success"


def test_old_task_is_asked_for_at_once(server):
    patient = Cadence(expected_s=300, first_poll_s=200, interval_s=50, interval_bounds_s=(40, 60))
    assert ask(server.base_url, lambda client: client.wait("task_1", age_s=200), cadence=patient).final


@pytest.mark.parametrize("name", ["submit", "wait", "status"])
def test_unknown_model_is_our_own_error(sandbox, name):
    with Client(KEY, base_url=sandbox.base_url) as client, pytest.raises(ApixoError):
        getattr(client, name)("a fox", model="gpt-image-9")


# --- refusals ----------------------------------------------------------------------------------------

SUBMIT_ERRORS = [
    ("[http:400]", BadRequestError, 400),
    ("[http:401]", AuthenticationError, 401),
    ("[http:402]", InsufficientBalanceError, 402),
    ("[http:403]", PermissionDeniedError, 403),
    ("[http:404]", NotFoundError, 404),
    ("[http:500]", SubmitUnknownError, 500),
    ("[http:502]", SubmitUnknownError, 502),
    ("[http:504]", SubmitUnknownError, 504),
    ("[lost:503]", SubmitUnknownError, 503),
    ("[lost]", SubmitUnknownError, None),
]


@pytest.mark.parametrize(
    ("marker", "expected", "status"), SUBMIT_ERRORS, ids=[row[0] for row in SUBMIT_ERRORS]
)
def test_submit_that_goes_wrong_has_its_own_class_and_facts(client, sandbox, marker, expected, status):
    with pytest.raises(expected) as caught:
        client.submit(f"{marker} a fox")
    error = caught.value
    assert type(error) is expected
    assert (error.status, error.code, error.task_id) == (status, status, None)
    assert (error.retryable, error.maybe_billed) == (False, expected is SubmitUnknownError)
    assert error.next_step
    assert sandbox.account.submits == 1
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == str(copy.copy(error))


def test_rate_limit_that_stays_is_told(sandbox):
    once = RetryPolicy(attempts=1)
    with pytest.raises(RateLimitError) as caught:
        ask(sandbox.base_url, lambda client: client.submit("[http:429] a fox"), retry=once)
    assert (caught.value.status, caught.value.retry_after_s, caught.value.retryable) == (429, 1.0, True)


def test_busy_service_is_asked_again(client, sandbox):
    assert client.submit("[busy:1] a fox") in sandbox.account.tasks
    assert (sandbox.account.submits, len(sandbox.account.accepted)) == (2, 1)


def test_submit_that_was_lost_after_acceptance_is_charged_once(client, sandbox):
    with pytest.raises(SubmitUnknownError, match=r"up to \$1\.40"):
        client.submit("[lost] a fox", num_images=4)
    assert len(sandbox.account.accepted) == 1


def test_wrong_key_is_told_by_every_call():
    with Sandbox(SandboxOptions(key="another")) as strict, Client(KEY, base_url=strict.base_url) as client:
        for call in (client.balance, lambda: client.submit("a fox"), lambda: client.status("task_1")):
            with pytest.raises(AuthenticationError, match="401") as caught:
                call()
            assert "login" in caught.value.next_step


def test_balance_that_does_not_suffice_is_told():
    poor = Sandbox(SandboxOptions(balance_usd=0.5))
    with (
        poor,
        Client(KEY, base_url=poor.base_url) as client,
        pytest.raises(InsufficientBalanceError) as caught,
    ):
        client.submit("a fox", num_images=2)
    assert not caught.value.maybe_billed


def test_task_nobody_knows_is_not_found(client):
    with pytest.raises(NotFoundError) as caught:
        client.status("task_of_nobody")
    assert (caught.value.status, caught.value.task_id) == (404, "task_of_nobody")


@pytest.mark.parametrize("marker", ["gone", "broken", "html"])
def test_picture_that_does_not_arrive_is_told_and_leaves_nothing(client, tmp_path, marker):
    status = client.wait(client.submit(f"[{marker}] a fox"))
    with pytest.raises(ApixoError) as caught:
        client.download(status.result_urls[0], tmp_path / "fox.png")
    assert caught.value.retryable == (marker != "gone")
    assert isinstance(caught.value, ImageError) or marker == "broken"
    assert list(tmp_path.glob("*fox*")) == []


def test_picture_host_of_the_sandbox_sees_no_key_and_no_cookie(client, sandbox, tmp_path):
    status = client.wait(client.submit("a fox", num_images=2))
    for number, url in enumerate(status.result_urls):
        client.download(url, tmp_path / str(number))
    seen = [request for request in sandbox.account.requests if request.kind == "picture"]
    assert [(request.has_authorization, request.has_cookie) for request in seen] == [(False, False)] * 2


# --- the two clients are one -------------------------------------------------------------------------


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_both_clients_have_the_same_calls():
    # Only the way to close differs, and what the layers above call: checked requests, one step at a time.
    inner = {"submit_request", "submit_once", "carry_out"}
    assert public(AsyncClient) - {"aclose"} - inner == public(Client) - {"close"}


@pytest.mark.parametrize("name", sorted(public(Client) - {"close"}))
def test_both_clients_name_their_arguments_alike(name):
    def named(kind: type) -> dict[str, Any]:
        parameters = inspect.signature(getattr(kind, name)).parameters.values()
        return {each.name: (each.kind, repr(each.default)) for each in parameters}

    here, there = named(Client), named(AsyncClient)
    here.pop("options", None)  # **options: whatever the other one takes
    assert here == {argument: there.get(argument) for argument in here}


def test_client_works_inside_a_running_loop(client):
    async def cell() -> str:
        return client.wait(client.submit("a fox")).state

    assert asyncio.run(cell()) == "success"


def test_client_works_from_several_threads_at_once(client, sandbox, tmp_path):
    def draw(number: int) -> str:
        status = client.wait(client.submit(f"fox {number}"))
        return client.download(status.result_urls[0], tmp_path / f"{number}").format

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(draw, range(12))) == ["PNG"] * 12
    assert len(sandbox.account.accepted) == 12


def test_many_waits_share_one_asynchronous_client(sandbox):
    async def crowd(client: AsyncClient) -> list[TaskStatus]:
        task_ids = await asyncio.gather(*(client.submit(f"fox {n}") for n in range(40)))
        return await asyncio.gather(*(client.wait(task_id) for task_id in task_ids))

    assert {status.state for status in ask(sandbox.base_url, crowd)} == {"success"}


def test_submit_that_stands_in_line_is_no_lost_answer(server, monkeypatch):
    # The first is never answered. The second waits behind it for as long as a request may take, and is sent.
    monkeypatch.setattr(transport, "_SUBMITS_AT_ONCE", 1)
    server.script("submit", faults.hang())

    async def both(client: AsyncClient) -> tuple[str | BaseException, str | BaseException]:
        return await asyncio.gather(client.submit("a fox"), client.submit("a hare"), return_exceptions=True)

    first, second = ask(server.base_url, both, request_timeout_s=1.0)
    assert isinstance(first, SubmitUnknownError)
    assert isinstance(second, str)
    assert [json.loads(post.body)["input"]["prompt"] for post in server.seen("submit")] == ["a fox", "a hare"]


def test_submits_in_line_open_no_connection(server, monkeypatch):
    monkeypatch.setattr(transport, "_SUBMITS_AT_ONCE", 3)
    server.always("submit", faults.hang())

    async def crowd(client: AsyncClient) -> int:
        calls = [asyncio.ensure_future(client.submit(f"fox {number}")) for number in range(12)]
        await asyncio.to_thread(server.arrived, "submit", 3)
        opened = server.connections
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return opened

    assert ask(server.base_url, crowd) == 3
    assert server.posts == 3


def test_asynchronous_client_may_move_to_another_loop(server):
    # A script calls asyncio.run() twice; the connections of the first loop died with it.
    printed = script(
        server,
        "import asyncio\n"
        "from apixo_nb import AsyncClient\n"
        "from apixo_nb.client.protocol import RetryPolicy\n"
        f"client = AsyncClient('{KEY}', base_url=sys.argv[1], retry=RetryPolicy(attempts=1))\n"
        "print(asyncio.run(client.balance()), asyncio.run(client.balance()))\n",
    )
    assert printed == "12.5 12.5\n"


def test_closed_client_opens_again_when_used(server):
    with Client(KEY, base_url=server.base_url) as client:
        client.close()
        client.close()
        assert client.balance() == 12.5


def test_forked_child_does_not_touch_the_parents_connections(server):
    printed = script(
        server,
        "import os\n"
        "from apixo_nb import Client\n"
        f"client = Client('{KEY}', base_url=sys.argv[1])\n"
        "client.balance()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    client.balance()\n"
        "    os._exit(0)\n"
        "_, status = os.waitpid(child, 0)\n"
        "client.balance()\n"
        "print(status)\n",
    )
    assert printed == "0\n"
    parent, child, again = (received.connection for received in server.journal)
    assert parent == again != child


def script(server: FaultServer, code: str) -> str:
    """What a fresh interpreter prints when it runs `code` with the server's address as its argument."""
    command = [sys.executable, "-c", f"import sys\n{code}", server.base_url]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


# --- Stop --------------------------------------------------------------------------------------------


def stopped(server: FaultServer, kind: str, call: str) -> tuple[int, str]:
    """Interrupt a script inside `call`; it must end while the server still keeps it waiting."""
    server.always(kind, faults.hang())
    code = (
        "import sys\n"
        "from apixo_nb import Client\n"
        "from apixo_nb.core.cadence import Cadence\n"
        "cadence = Cadence(1, 0, 1, (1, 1))\n"
        f"client = Client('{KEY}', base_url=sys.argv[1], cadence=cadence, request_timeout_s=300)\n"
        f"client.{call}\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, server.base_url], stderr=subprocess.PIPE, text=True
    ) as run:
        server.arrived(kind)
        run.send_signal(signal.SIGINT)
        try:
            _, printed = run.communicate(timeout=20)  # a download's own patience is 30 s
        finally:
            run.kill()
    return run.returncode, printed


def test_stop_ends_a_wait_and_says_how_to_resume(server):
    code, printed = stopped(server, "status", "wait('task_12345678')")
    assert code == -signal.SIGINT
    assert "KeyboardInterrupt" in printed
    assert "Stopped waiting for task task_12345678" in printed
    assert "resume" in printed
    assert KEY not in printed


def test_stop_ends_a_submit_and_says_what_is_at_stake(server):
    code, printed = stopped(server, "submit", "submit('a fox')")
    assert code == -signal.SIGINT
    assert "balance" in printed  # there is no task id that could be resumed
    assert server.posts == 1


def test_stop_ends_a_download_and_its_process(server, tmp_path):
    target = tmp_path / "fox.png"
    code, _ = stopped(server, "picture", f"download('{server.url}/picture', {str(target)!r})")
    assert (code, target.exists()) == (-signal.SIGINT, False)


def test_cancelled_wait_is_the_same_cancelled_error_and_knows_its_task(server):
    server.always("status", faults.hang())

    async def cancel(client: AsyncClient) -> Any:
        wait = asyncio.ensure_future(client.wait("task_1"))
        await asyncio.to_thread(server.arrived, "status")
        wait.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await wait
        return caught.value

    error = ask(server.base_url, cancel)
    assert type(error) is asyncio.CancelledError
    assert vars(error)["task_id"] == "task_1"
    assert vars(error)["maybe_billed"]
    assert "resume" in "".join(error.__notes__)


@pytest.mark.parametrize("marker", ["[never]", "[seconds:60]"])
def test_timeout_around_a_wait_is_a_plain_timeout(sandbox, marker):
    async def hurry(client: AsyncClient) -> None:
        task_id = await client.submit(f"{marker} a fox")
        async with asyncio.timeout(0.1):
            await client.wait(task_id)

    with pytest.raises(TimeoutError) as caught:
        ask(sandbox.base_url, hurry)
    assert not isinstance(caught.value, ApixoError)
    assert getattr(caught.value.__cause__, "task_id", None)


def test_one_wait_can_end_without_the_others(sandbox):
    async def race(client: AsyncClient) -> tuple[str, bool]:
        never = asyncio.ensure_future(client.wait(await client.submit("[never] a fox")))
        done = await client.wait(await client.submit("a fox"))
        never.cancel()
        await asyncio.wait([never])
        return done.state, never.cancelled()

    assert ask(sandbox.base_url, race) == ("success", True)


def test_download_target_may_be_text_or_path(client, tmp_path):
    url = client.wait(client.submit("a fox")).result_urls[0]
    for target in (str(tmp_path / "a"), Path(tmp_path / "b")):
        assert client.download(url, target).path.suffix == ".png"
