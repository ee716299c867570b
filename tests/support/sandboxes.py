"""A sandbox whose clock a test moves and whose requests it holds, and a session that uses it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.sandbox import Sandbox, SandboxOptions
from apixo_nb.session import session as shared
from apixo_nb.session.session import Session
from tests.support.waiting import PATIENCE_S


class Clock:
    """The sandbox's clock: real time, and whatever a test adds to it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class Gate:
    """Holds requests of one kind at the server until it is opened; `arrived` says that one is there."""

    def __init__(self) -> None:
        self.arrived, self.open = threading.Event(), threading.Event()

    def holds(self, handler: type, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(handler, verb)

        async def held(request: Any, *arguments: str) -> None:
            self.arrived.set()
            await asyncio.to_thread(self.open.wait, PATIENCE_S)
            answer = original(request, *arguments)
            if answer is not None:
                await answer

        monkeypatch.setattr(handler, verb, held)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sandbox(clock: Clock) -> Iterator[Sandbox]:
    with Sandbox(SandboxOptions(seconds=0.1, picture_scale=0.1), clock=clock) as running:
        yield running


@pytest.fixture
def gate(sandbox: Sandbox) -> Iterator[Gate]:  # noqa: ARG001 - a gate is open before its sandbox stops
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def session(service: Sandbox) -> Session:  # noqa: ARG001 - it is where the environment says
    """The session of this process, which `told` uses as well; closed at the end of each test."""
    shared.current().client.retry = RetryPolicy(attempts=2, base_s=0.01, cap_s=0.02)
    return shared.current()


def downloads(sandbox: Sandbox) -> Counter[str]:
    """How many times each picture was asked for."""
    return Counter(seen.path for seen in tuple(sandbox.account.requests) if seen.kind == "picture")
