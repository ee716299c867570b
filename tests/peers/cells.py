"""One cell of a table: a fault, a fresh server that has it, and one call in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.peers.peer import Peer
from tests.peers.peers import load
from tests.support.fault_server import (
    PICTURE,
    Exchange,
    FaultServer,
    Step,
    answer,
    drip,
    drop,
    hang,
    last_words,
    message,
)

ROOT = Path(__file__).parents[2]
KINDS = ("submit", "status", "balance", "picture")  # what the server tells apart; here it need not

What = Literal["submit", "wait", "download"]

_TROUBLE = {"message": "something is wrong", "detail": "something is wrong"}
_NGINX = "<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"
_OTHER = {"code": 500, "message": "provider error", "data": None}
_DRIP_S, _PIECES = 6.0, 24


@dataclass(frozen=True, slots=True)
class Fault:
    """`step` makes what happens from the bytes of the healthy answer."""

    name: str
    step: Callable[[bytes], Step]


def _drip(healthy: bytes) -> Step:
    return drip(healthy, size=-(-len(healthy) // _PIECES), every_s=_DRIP_S / _PIECES)


FAULTS = (
    Fault("429, Retry-After: 1", lambda _: answer(429, _TROUBLE, Retry_After="1")),
    Fault("429", lambda _: answer(429, _TROUBLE)),
    Fault("500", lambda _: answer(500, _TROUBLE)),
    Fault("502", lambda _: answer(502, _TROUBLE)),
    Fault("502, page of a proxy", lambda _: answer(502, _NGINX, Content_Type="text/html")),
    Fault("503", lambda _: answer(503, _TROUBLE)),
    Fault("504", lambda _: answer(504, _TROUBLE)),
    Fault("dropped, body not read", lambda _: drop(reads_body=False)),
    Fault("dropped, body read", lambda _: drop()),
    Fault("dropped in the answer", lambda healthy: last_words(healthy[: -len(healthy) // 3])),
    Fault("hang", lambda _: hang()),
    Fault("slow drip, 6 s", _drip),
    Fault("200, another code", lambda _: answer(200, _OTHER, Content_Type="application/json")),
    Fault("200, junk", lambda _: answer(200, "<html>welcome</html>", Content_Type="text/html")),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one call.

    Attributes
    ----------
    posts : int
        POSTs that reached the server.
    keys : int
        Different idempotency keys among them; 0 where none was sent.
    met : str
        What the caller met: an exception's class, or words; "" for a good end.
    """

    peer: str
    what: What
    fault: str
    posts: int
    keys: int
    met: str
    details: str
    seconds: float


class _Service:
    """The peer's own service, healthy but for one fault: of all POSTs, or of one poll or download."""

    def __init__(self, peer: Peer, what: What, fault: Fault, server: FaultServer) -> None:
        self._peer, self._what, self._fault, self._server = peer, what, fault, server
        self._polls = self._pictures = 0
        reads_body = fault.step(b"").reads_body or what != "submit"
        for kind in KINDS:
            server.always(kind, Step(self._serve, reads_body))

    def _serve(self, exchange: Exchange) -> None:
        method, target = exchange.received.method, exchange.received.target
        poll, picture = method == "GET" and self._peer.is_poll(target), target.endswith(".png")
        self._polls += poll
        self._pictures += picture
        hit = {
            "submit": method == "POST",
            "wait": poll and self._polls == 2,
            "download": picture and self._pictures == 1,
        }
        healthy = self._healthy(exchange)
        act = self._fault.step(healthy).act if hit[self._what] else lambda asked: asked.send(healthy)
        act(exchange)

    def _healthy(self, exchange: Exchange) -> bytes:
        if exchange.received.target.endswith(".png"):
            return message(200, PICTURE, Content_Type="image/png")
        facts = self._peer.answer(exchange.received, self._server.url, self._polls)
        return message(200, facts, Content_Type="application/json")


def measure(name: str, what: What, fault: Fault, limit_s: float) -> Cell:
    """Make one call against a fresh server; it is ended after `limit_s` seconds."""
    with FaultServer() as server:
        _Service(load(name), what, fault, server)
        found = _call(name, what, server.url, limit_s)
        posts = [received for received in server.journal if received.method == "POST"]
    keys = {received.headers.get("idempotency-key") for received in posts} - {None}
    return Cell(name, what, fault.name, len(posts), len(keys), **found)


def _call(name: str, what: What, url: str, limit_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.peers.call", name, what, url]
    with tempfile.TemporaryDirectory() as home:
        kept = {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}
        environment = kept | {"HOME": home, "PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(
                command,
                cwd=home,
                env=environment,
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=True,
            )
        except subprocess.TimeoutExpired:
            return {"met": f"waits on after {limit_s:g} s", "details": "", "seconds": limit_s}
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{name} could not be called: {error.stderr[-2000:]}") from None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
