"""The API key goes into one header of one host, and nowhere else, however a call ends."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apixo_nb.client.client import AsyncClient, Client
from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core import event_loop
from apixo_nb.core.cadence import Cadence
from apixo_nb.core.credentials import ApiKey
from apixo_nb.errors import ApixoError, ConfigurationError
from tests.support import fault_server as faults
from tests.support.factories import KEY
from tests.support.fault_server import FaultServer, Step, answer, envelope

ONCE = RetryPolicy(attempts=2, base_s=0.01, cap_s=0.01)
CADENCE = Cadence(expected_s=0.1, first_poll_s=0.0, interval_s=0.02, interval_bounds_s=(0.01, 0.03))
FAILED = {"taskId": "task_1", "state": "failed", "failCode": "X", "failMsg": f"who is {KEY}?"}

#: How each kind of request is answered; what is not named is well.
ENDINGS: dict[str, dict[str, Step]] = {
    "success": {},
    "refused-400": dict.fromkeys(["submit", "status", "balance", "picture"], envelope(400, status=400)),
    "refused-401": dict.fromkeys(["submit", "status", "balance"], envelope(401, status=401)),
    "refused-402": {"submit": envelope(402, status=402)},
    "refused-429": dict.fromkeys(["submit", "balance", "picture"], answer(429)),
    "500": dict.fromkeys(["submit", "balance", "picture"], answer(500)),
    "lost": dict.fromkeys(["submit", "balance", "picture"], faults.drop()),
    "reset": dict.fromkeys(["submit", "balance", "picture"], faults.drop(reset=True)),
    "unread": dict.fromkeys(["submit", "balance", "picture"], faults.drop(reads_body=False)),
    "timeout": dict.fromkeys(["submit", "balance"], faults.hang()),
    "never": {"status": envelope(200, {"taskId": "task_1", "state": "processing"})},
    "junk-json": dict.fromkeys(["submit", "status", "balance", "picture"], answer(200, '{"code": 2')),
    "junk-bytes": dict.fromkeys(["submit", "status", "balance", "picture"], faults.last_words(b"\x00\xff")),
    "redirect": dict.fromkeys(["submit", "status", "balance", "picture"], faults.redirect(307)),
    "quoted-401": dict.fromkeys(
        ["submit", "status", "balance"], envelope(401, status=401, text=f"bad {KEY}")
    ),
    "quoted-500": dict.fromkeys(["submit", "balance"], envelope(500, {"error": f"bad {KEY}"})),
    "quoted-fail": {"status": envelope(200, FAILED)},
}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def spoken(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Everything that was logged, at any level, or printed."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx2", "httpcore2", "asyncio", "apixo_nb"):
        caplog.set_level(logging.DEBUG, logger=name)

    def everything() -> str:
        records = [f"{vars(record)} {record.getMessage()}" for record in caplog.records]
        return "\n".join([*records, *capfd.readouterr()])

    return everything


def options(server: FaultServer) -> dict[str, Any]:
    return {
        "base_url": server.base_url,
        "retry": ONCE,
        "cadence": CADENCE,
        "request_timeout_s": 1.0,
    }


Calls = dict[str, Callable[[Any], Any]]


def calls(server: FaultServer, folder: Path) -> Calls:
    return {
        "submit": lambda client: client.submit("a fox"),
        "wait": lambda client: client.wait("task_1", timeout_s=0.2),
        "status": lambda client: client.status("task_1"),
        "balance": lambda client: client.balance(),
        "download": lambda client: client.download(f"{server.url}/picture.png", folder / "fox.png"),
    }


def with_client(server: FaultServer, folder: Path) -> tuple[list[ApixoError], list[str]]:
    """All calls of the synchronous client: the errors, and what could be found in the client."""
    errors: list[ApixoError] = []
    with Client(KEY, **options(server)) as client:
        for call in calls(server, folder).values():
            try:
                call(client)
            except ApixoError as error:
                errors.append(error)
        return errors, [repr(client), str(client), *texts_in(client)]


def with_async_client(server: FaultServer, folder: Path) -> tuple[list[ApixoError], list[str]]:
    """As `with_client`, for the asynchronous one."""

    async def main() -> tuple[list[ApixoError], list[str]]:
        errors: list[ApixoError] = []
        async with AsyncClient(KEY, **options(server)) as client:
            for call in calls(server, folder).values():
                try:
                    await call(client)
                except ApixoError as error:
                    errors.append(error)
            return errors, [repr(client), str(client), *texts_in(client)]

    return asyncio.run(main())


# --- where to look -----------------------------------------------------------------------------------

LEAVES = (type, types.ModuleType, types.FunctionType, types.MethodType, asyncio.AbstractEventLoop)


def texts_in(root: object) -> list[str]:
    """All text and bytes that attributes and containers lead to, but for what an `ApiKey` holds."""
    found, seen, open_ = [], set(), [(root, 0)]
    while open_:
        thing, depth = open_.pop()
        if isinstance(thing, (str, bytes, bytearray)):
            found.append(str(thing))
        elif id(thing) not in seen and depth < 25 and not isinstance(thing, (ApiKey, *LEAVES)):
            seen.add(id(thing))
            open_.extend((inner, depth + 1) for inner in inside(thing))
    return found


def inside(thing: object) -> Iterable[object]:
    if isinstance(thing, dict):
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, (list, tuple, set, frozenset)):
        return list(thing)
    slots = [slot for kind in type(thing).__mro__ for slot in getattr(kind, "__slots__", ())]
    named = [getattr(thing, slot, None) for slot in slots if slot not in ("__dict__", "__weakref__")]
    return [*named, *getattr(thing, "__dict__", {}).values()]


def traces(error: BaseException) -> list[str]:
    """The tracebacks of an error and of everything that led to it, with all local variables."""
    found, waiting, seen = [], [error], set()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            found += traceback.format_exception(one)
            for frame, _ in traceback.walk_tb(one.__traceback__):
                found += locals_of(frame)
            waiting += [linked for linked in (one.__context__, one.__cause__) if linked is not None]
    return found


def locals_of(frame: types.FrameType) -> Iterator[str]:
    """As a verbose traceback shows them, half-made objects included."""
    for name, value in frame.f_locals.items():
        try:
            yield f"{frame.f_code.co_qualname}: {name} = {value!r}"
        except AttributeError:
            yield "unprintable"


def told_by(error: BaseException) -> list[str]:
    """Everything an error says, prints or carries."""
    said = [str(error), repr(error), repr(vars(error)), *getattr(error, "__notes__", []), *traces(error)]
    render = getattr(error, "_render_traceback_", list)
    return [*said, *render(), *texts_in(error), repr(pickle.dumps(error))]


def sent_by(server: FaultServer) -> list[str]:
    """All that reached the server, but for the header that is meant to hold the key."""
    found = []
    for received in server.journal:
        others = {
            name: value
            for name, value in received.headers.items()
            if name != "authorization" or received.kind == "picture"
        }
        found += [received.target, repr(others), repr(received.body)]
    return found


def leaks(told: Iterable[str]) -> list[str]:
    return [text[max(0, text.find(KEY) - 300) :][:700] for text in told if KEY in text]


# --- the sweep ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [with_client, with_async_client], ids=["sync", "async"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_key_shows_nowhere_however_calls_end(server, tmp_path, spoken, ending, run):
    for kind, step in ENDINGS[ending].items():
        server.always(kind, step)
    errors, held = run(server, tmp_path)
    assert (len(errors) == 0) == (ending == "success")
    assert leaks(held) == []
    for error in errors:
        assert leaks(told_by(error)) == []
    assert leaks(sent_by(server)) == []
    assert leaks([spoken()]) == []


@pytest.mark.parametrize("run", [with_client, with_async_client], ids=["sync", "async"])
def test_key_shows_nowhere_when_nothing_can_be_sent(tmp_path, spoken, run):
    with FaultServer(listening=False) as server:
        errors, held = run(server, tmp_path)
    assert len(errors) == 5
    assert leaks([*held, spoken(), *(text for error in errors for text in told_by(error))]) == []


def test_key_is_in_the_header_of_the_api_alone(server, tmp_path):
    with_client(server, tmp_path)
    carried = {received.kind: received.headers.get("authorization") for received in server.journal}
    assert carried == dict.fromkeys(["submit", "status", "balance"], f"Bearer {KEY}") | {"picture": None}


@pytest.mark.parametrize("name", ["submit", "wait", "balance", "download"])
def test_key_shows_nowhere_in_a_cancelled_call(server, tmp_path, spoken, name):
    kind = {"wait": "status", "download": "picture"}.get(name, name)
    server.always(kind, faults.hang())

    async def cancel() -> BaseException:
        async with AsyncClient(KEY, **options(server) | {"request_timeout_s": 60.0}) as client:
            call = asyncio.ensure_future(calls(server, tmp_path)[name](client))
            await asyncio.to_thread(server.arrived, kind)
            call.cancel()
            try:
                await call
            except asyncio.CancelledError as error:
                server.released.set()
                return error
        raise AssertionError("it was not cancelled")

    error = asyncio.run(cancel())
    assert leaks([*traces(error), repr(vars(error)), repr(error.args), spoken()]) == []


@pytest.mark.parametrize("name", ["submit", "wait", "balance"])
def test_key_shows_nowhere_in_a_timeout_around_a_call(server, tmp_path, name):
    server.always({"wait": "status"}.get(name, name), faults.hang())

    async def hurry() -> None:
        async with AsyncClient(KEY, **options(server) | {"request_timeout_s": 60.0}) as client:
            async with asyncio.timeout(0.3):
                await calls(server, tmp_path)[name](client)

    with pytest.raises(TimeoutError) as caught:
        asyncio.run(hurry())
    assert leaks(traces(caught.value)) == []


def test_key_that_the_service_quotes_with_escaped_slashes_shows_nowhere(server):
    # As PHP's json_encode writes it.
    server.always("balance", answer(401, '{"code": 401, "message": "bad sk-a\\/very\\/long-and-odd-key"}'))
    with Client("sk-a/very/long-and-odd-key", **options(server)) as client:
        error = refusal_of(client.balance)
    assert "very" not in str(error)


@pytest.mark.parametrize("key", ["task", "a", "200", "d"])
def test_key_that_is_an_everyday_word_damages_no_answer(server, key):
    # The sandbox takes any key; what is taken out of answers must not take a taskId along.
    with Client(key, **options(server)) as client:
        assert client.submit("a fox").startswith("task_")
        assert client.wait("task_1").state == "success"


# --- the client and its key as objects ---------------------------------------------------------------


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_copy_of_a_client_is_refused_or_holds_no_key(server, act, used):
    with Client(KEY, **options(server)) as client:
        if used:
            client.balance()
        try:
            made = act(client)
        except TypeError:
            return
        assert leaks(texts_in(made)) == []


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_copy_of_a_key_is_refused(act):
    with pytest.raises(TypeError, match="not pickled") as caught:
        act(ApiKey(KEY))
    assert KEY not in str(caught.value)


def test_key_prints_as_dots():
    key = ApiKey(KEY, "in APIXO_API_KEY")
    assert leaks([str(key), repr(key), f"{key}", repr([key]), repr({"key": key})]) == []
    assert not hasattr(key, "__dict__")


# --- keys and settings that are refused --------------------------------------------------------------

BAD_KEYS = {
    "newline": f"{KEY}\nHost: elsewhere",
    "blank": f"{KEY} x",
    "accent": f"{KEY}é",
    "nul": f"{KEY}\0",
    "long": KEY * 100,
}


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_refused_key_shows_nowhere(bad, spoken):
    with pytest.raises(ConfigurationError) as caught:
        ApiKey(BAD_KEYS[bad])
    assert leaks([str(caught.value), repr(caught.value), repr(pickle.dumps(caught.value)), spoken()]) == []


def refusal_of(make: Callable[[], object]) -> BaseException:
    """The error alone: the frames of the test that made it are not what is looked at."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any will do
        make()
    return caught.value


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("bad", BAD_KEYS)
def test_refused_key_is_in_no_traceback(kind, bad):
    assert leaks(traces(refusal_of(lambda: kind(BAD_KEYS[bad])))) == []


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_refused_key_of_the_environment_is_in_no_traceback(kind, monkeypatch):
    monkeypatch.setenv("APIXO_API_KEY", BAD_KEYS["blank"])
    assert leaks(traces(refusal_of(kind))) == []


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_key_is_in_no_traceback_of_a_refused_address(kind):
    assert leaks(traces(refusal_of(lambda: kind(KEY, base_url="http://example.com")))) == []


def test_key_is_in_no_traceback_of_a_call_on_the_loop_thread(server):
    with Client(KEY, **options(server)) as client:

        async def on_the_loop() -> None:
            client.balance()

        assert leaks(traces(refusal_of(lambda: event_loop.run(on_the_loop())))) == []
