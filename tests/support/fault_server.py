"""A server that fails on demand, with real sockets: the account by which the client is judged.

It speaks just enough HTTP/1.1 to tell four kinds of request apart - submit, status, balance, picture - and
each kind has a script of steps, one for each request that comes. Where a script ends, the healthy answer
follows. Every request is in `journal` before anything is answered, so what never got an answer counts too.

    with FaultServer() as server:
        server.script("submit", drop(), answer(429))
        server.always("picture", hang())

Nothing of the package is imported here: a fault of its own must not hide its own fault.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from PIL import Image

PATIENCE_S = 60.0  # a guard against tests that never end, not a measure of anything


def picture(kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    """A whole picture, with noise in it so that it does not compress to nothing."""
    file = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(file, kind)
    return file.getvalue()


PICTURE = picture()


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it reached the server. Header names are lower-case; `at` is monotonic seconds."""

    kind: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    at: float


class Exchange:
    """What a step works with: one request, and the socket on which it came."""

    def __init__(self, server: FaultServer, sock: socket.socket, received: Received):
        self.server, self.sock, self.received = server, sock, received
        self.open = True

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hang_up(self, *, reset: bool = False) -> None:
        """Close with a FIN, or with a RST."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.open = False

    def client_left_within(self, seconds: float) -> bool:
        """Wait so long, or until the client has hung up or the server is to let go."""
        readable, _, _ = select.select([self.sock], [], [], seconds)
        return bool(readable) or self.server.released.is_set()


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one request. Without `reads_body`, it happens before the request's body is read."""

    act: Callable[[Exchange], None]
    reads_body: bool = True


# --- steps -------------------------------------------------------------------------------------------


def answer(status: int = 200, body: bytes | str | Mapping[str, Any] = b"", /, **headers: str) -> Step:
    """A whole answer; a mapping is sent as JSON. ``Retry_After="1"`` names a header."""
    return Step(lambda exchange: exchange.send(message(status, body, **headers)))


def envelope(code: int, data: object = None, *, status: int = 200, text: str = "") -> Step:
    """An answer of the API, whose code in the body may differ from the HTTP status."""
    return answer(status, {"code": code, "message": text or f"code {code}", "data": data})


def message(status: int, body: bytes | str | Mapping[str, Any] = b"", /, **headers: str) -> bytes:
    """The bytes of a whole answer."""
    content = _bytes(body)
    named = {"Content-Length": str(len(content))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return _head(status, named) + content


def drop(*, reset: bool = False, reads_body: bool = True) -> Step:
    """No answer: the connection is closed, by FIN or by RST, before or after the body was read."""
    return Step(lambda exchange: exchange.hang_up(reset=reset), reads_body)


def hang() -> Step:
    """Nothing at all, until the client leaves or the server is released."""

    def act(exchange: Exchange) -> None:
        while not exchange.client_left_within(0.05):
            pass
        exchange.hang_up()

    return Step(act)


def drip(data: bytes, *, size: int = 1, every_s: float = 0.05) -> Step:
    """`size` bytes every so many seconds: no single read is ever slow, the whole is."""

    def act(exchange: Exchange) -> None:
        for start in range(0, len(data), size):
            exchange.send(data[start : start + size])
            exchange.server.drips_completed += start + size >= len(data)
            if exchange.client_left_within(every_s):
                break
        exchange.hang_up()

    return Step(act)


def last_words(data: bytes) -> Step:
    """These bytes as they are, then FIN: half an answer, or none in HTTP's sense."""

    def act(exchange: Exchange) -> None:
        exchange.send(data)
        exchange.hang_up()

    return Step(act)


def truncated(body: bytes) -> Step:
    """Half the body that Content-Length promised."""
    return last_words(_head(200, {"Content-Length": str(len(body))}) + body[: len(body) // 2])


def cut_chunked(body: bytes) -> Step:
    """One chunk, and no end."""
    return last_words(_head(200, {"Transfer-Encoding": "chunked"}) + b"%x\r\n%b\r\n" % (len(body), body))


def close_delimited(body: bytes) -> Step:
    """A body that ends where the connection ends: HTTP cannot tell a half from a whole."""
    return last_words(_head(200, {"Connection": "close"}) + body)


def bomb(megabytes: int) -> Step:
    """A small gzip body that swells to so many megabytes of zeros."""
    return answer(200, gzip.compress(bytes(megabytes * 1_000_000)), Content_Encoding="gzip")


def huge_header() -> Step:
    """An answer with a header of 200 kB."""
    return answer(200, b"{}", X_Long="x" * 200_000)


def redirect(status: int, target: str | None = None) -> Step:
    """An answer that points to `target`, or to `FaultServer.elsewhere`."""
    return Step(lambda exchange: exchange.send(message(status, Location=target or exchange.server.elsewhere)))


def _bytes(body: bytes | str | Mapping[str, Any]) -> bytes:
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


# --- the server --------------------------------------------------------------------------------------


class FaultServer:
    """The server; use it as a context manager.

    Parameters
    ----------
    listening
        False keeps the port closed - connections are refused - until `listen` is called.

    Attributes
    ----------
    journal
        Every request that reached it, in order.
    connections
        How many were made.
    elsewhere
        Where `redirect` points to.
    drips_completed
        How many times `drip` came to its end: the client had all the patience in the world.
    released
        Set it, and what hangs lets go.
    """

    def __init__(self, *, listening: bool = True):
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.base_url = f"{self.url}/api/v1"
        self.elsewhere = f"{self.url}/elsewhere.png"
        self.journal: list[Received] = []
        self.connections = 0
        self.drips_completed = 0
        self.released = threading.Event()
        self._closing = threading.Event()
        self._scripts: dict[str, list[Step]] = {}
        self._always: dict[str, Step] = {}
        self._changed = threading.Condition()
        self._ended: list[str] = []
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        if listening:
            self.listen()

    def __repr__(self) -> str:
        return f"<FaultServer {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.released.set()
        for thread in tuple(self._threads[:1]):  # first the one that accepts, so that no more are added
            thread.join(PATIENCE_S)
        self._listener.close()
        self.close_connections()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def listen(self) -> None:
        """Open the port."""
        self._listener.listen(100)
        self._listener.settimeout(0.01)  # how late it notices the end
        self._start(self._accept)

    def script(self, kind: str, *steps: Step) -> None:
        """What happens to the next requests of this kind, one step each."""
        self._scripts.setdefault(kind, []).extend(steps)

    def always(self, kind: str, step: Step) -> None:
        """What happens to every request of this kind once its script has ended."""
        self._always[kind] = step

    def seen(self, kind: str) -> list[Received]:
        """The requests of this kind so far."""
        with self._changed:
            return [received for received in self.journal if received.kind == kind]

    @property
    def posts(self) -> int:
        """How many POSTs came, to whatever address: each might have been billed."""
        with self._changed:
            return sum(received.method == "POST" for received in self.journal)

    def arrived(self, kind: str, count: int = 1) -> list[Received]:
        """Wait until so many requests of this kind have come."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.seen(kind)) >= count, PATIENCE_S)
        assert came, f"no {kind} request came"
        return self.seen(kind)

    def over(self, kind: str, count: int = 1) -> None:
        """Wait until so many steps of this kind are over: answered, given up, or left by the client."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._ended.count(kind) >= count, PATIENCE_S)
        assert came, f"a {kind} request still goes on"

    def close_connections(self) -> None:
        """Hang up on all clients, as a server does with idle connections."""
        with self._changed:
            for sock in self._sockets:
                _shut(sock)

    # --- its threads ---

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            sock.settimeout(PATIENCE_S)
            with self._changed:
                self.connections += 1
                self._sockets.add(sock)
            self._start(self._converse, sock, self.connections)

    def _converse(self, sock: socket.socket, number: int) -> None:
        buffer = b""
        try:
            while True:
                head, buffer = _read_head(sock, buffer)
                received = _parse(head, number)
                step = self._next_step(received.kind)
                if step.reads_body:
                    received, buffer = self._whole(sock, received, buffer)
                self._note(received)
                exchange = Exchange(self, sock, received)
                try:
                    step.act(exchange)
                finally:
                    self._end(received.kind)
                if not exchange.open:
                    return
        except OSError:  # the client has left; that is its right
            pass
        finally:
            with self._changed:
                self._sockets.discard(sock)
                sock.close()

    def _whole(self, sock: socket.socket, received: Received, buffer: bytes) -> tuple[Received, bytes]:
        length = int(received.headers.get("content-length", 0))
        try:
            while len(buffer) < length:
                buffer += _receive(sock)
        except OSError:  # even half a request has reached the server
            self._note(received)
            raise
        return replace(received, body=buffer[:length]), buffer[length:]

    def _note(self, received: Received) -> None:
        with self._changed:
            self.journal.append(received)
            self._changed.notify_all()

    def _end(self, kind: str) -> None:
        with self._changed:
            self._ended.append(kind)
            self._changed.notify_all()

    def _next_step(self, kind: str) -> Step:
        with self._changed:
            if self._scripts.get(kind):
                return self._scripts[kind].pop(0)
            return self._always.get(kind, Step(_HEALTHY[kind]))


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client was faster
        sock.shutdown(socket.SHUT_RDWR)


def _receive(sock: socket.socket) -> bytes:
    more = sock.recv(65536)
    if not more:
        raise ConnectionError("the client has hung up")
    return more


def _read_head(sock: socket.socket, buffer: bytes) -> tuple[bytes, bytes]:
    while b"\r\n\r\n" not in buffer:
        buffer += _receive(sock)
    head, _, rest = buffer.partition(b"\r\n\r\n")
    return head, rest


def _parse(head: bytes, connection: int) -> Received:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Received(_kind(target), method, target, headers, b"", connection, time.monotonic())


def _kind(target: str) -> str:
    names = {"/generateTask/": "submit", "/statusTask/": "status", "/current-balance": "balance"}
    return next((kind for name, kind in names.items() if name in target), "picture")


# --- healthy answers ---------------------------------------------------------------------------------


def success(data: object) -> bytes:
    """The envelope of a good answer, as a whole HTTP message."""
    return message(200, {"code": 200, "message": "success", "data": data})


def finished(task_id: str, *urls: str) -> dict[str, Any]:
    """The data of a task that succeeded."""
    return {"taskId": task_id, "state": "success", "resultJson": json.dumps({"resultUrls": urls})}


def _accept_task(exchange: Exchange) -> None:
    exchange.send(success({"taskId": f"task_{exchange.received.connection:08d}"}))


def _finish_task(exchange: Exchange) -> None:
    asked = parse_qs(urlsplit(exchange.received.target).query)
    exchange.send(success(finished(asked["taskId"][0], f"{exchange.server.url}/picture.png")))


_HEALTHY: dict[str, Callable[[Exchange], None]] = {
    "submit": _accept_task,
    "status": _finish_task,
    "balance": lambda exchange: exchange.send(success(12.5)),
    "picture": lambda exchange: exchange.send(message(200, PICTURE, Content_Type="image/png")),
}
