"""What the API and the picture host share: the service, and the handler that both derive from."""

# ruff: noqa: D102 - Tornado's own verbs: initialize, prepare, on_connection_close

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Awaitable, Collection, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler

from apixo_nb.sandbox.account import Account, SandboxOptions, Seen
from apixo_nb.sandbox.callbacks import CallbackSender
from apixo_nb.sandbox.faults import Faults
from apixo_nb.sandbox.tasks import Task
from apixo_nb.sandbox.validation import RefusedError

_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # SO_LINGER, on, 0 s: close with a RST


@dataclass(frozen=True, slots=True)
class Service:
    """What the handlers share: the account they serve, and how."""

    options: SandboxOptions
    account: Account
    callbacks: CallbackSender
    picture_url: str
    faults: Faults


class Handler(RequestHandler):
    """What both hosts have in common: every request is noted, and errors stay off the log."""

    kind = "other"
    allow = "GET"
    content_type = "application/json"

    def initialize(self, service: Service) -> None:
        self.service = service
        self._over = asyncio.Event()

    def prepare(self) -> Awaitable[None] | None:
        self.service.account.note(self.seen(authorised=False))
        return None

    def seen(self, *, authorised: bool) -> Seen:
        """The request without its secrets."""
        headers = self.request.headers
        return Seen(
            kind=self.kind,
            method=str(self.request.method),
            path=self.request.path,
            authorised=authorised,
            has_authorization="Authorization" in headers,
            has_cookie="Cookie" in headers,
        )

    # --- what a fault looks at, and works with ---

    def task(self) -> Task | None:
        """The task that the request is about, if it is about one."""
        return None

    def prompt(self) -> str:
        """The prompt of that task, or of the task that is asked for; "" if there is none."""
        task = self.task()
        return "" if task is None else task.prompt

    async def respond(self) -> bytes:
        """Handle the request as ever, and return the body of the good answer; raises what refuses it."""
        raise HTTPError(404)

    async def pour(self, blocks: Iterable[bytes], length: int, pause_s: float = 0.0) -> None:
        """Send a body of `length` bytes block by block, each after the client has taken the one before."""
        self.set_header("Content-Length", length)
        try:
            for block in blocks:
                self.write(block)
                await self.flush()
                if pause_s and not await self.hold(pause_s):
                    break
            else:
                self.finish()
                return
        except StreamClosedError:
            pass
        self.hang_up()

    async def hold(self, seconds: float | None) -> bool:
        """Wait so long, or for ever; False if the connection ends before, by the client or by a stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return True
        return False

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection as it is, in the middle of everything; with a FIN, or with a RST."""
        stream = self.detach()
        if reset and not stream.closed():
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        stream.close()

    def on_connection_close(self) -> None:
        self._over.set()

    # --- errors ---

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        refused = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(refused, RefusedError) and refused.retry_after_s is not None:
            self.set_header("Retry-After", refused.retry_after_s)
        self.write_refusal(status_code, refused)

    def write_refusal(self, status_code: int, _refused: BaseException | None) -> None:
        """The body of an error; on the picture host a page."""
        super().write_error(status_code)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        # A refusal is the sandbox at work, a vanished client its own affair; only our own bugs are news.
        if not isinstance(value, HTTPError | StreamClosedError):
            super().log_exception(typ, value, tb)


class _MisdirectedHandler(RequestHandler):
    """The answer to a request under a name that is not ours."""

    def prepare(self) -> None:
        self.set_status(421)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("The sandbox answers under 127.0.0.1, localhost and [::1] only; see its option hosts.\n")


class _LocalApplication(Application):
    """An application that answers under the names of this machine only.

    A page of the web can let its own name point to 127.0.0.1 (DNS rebinding): its scripts would then read the
    balance, and make tasks.
    """

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        service, port = self.settings["service"], self.settings["port"]
        if _is_own(request.headers.get("Host"), port, service.options.hosts):
            return super().find_handler(request, **options)
        return self.get_handler_delegate(request, _MisdirectedHandler)


def _is_own(host: str | None, port: int, others: Collection[str]) -> bool:
    if host is None:  # HTTP/1.0; every browser sends one
        return True
    try:
        parts = urlsplit(f"//{host}")
        name, given_port = parts.hostname or "", parts.port or 80
    except ValueError:
        return False
    if parts.netloc != host or "@" in host:
        return False
    named = name in ("127.0.0.1", "localhost", "::1") and given_port == port
    return named or name in {other.casefold() for other in others}


def application(
    service: Service, otherwise: type[Handler], *routes: tuple[str, type[Handler]]
) -> Application:
    """A host with these routes, and `otherwise` for every other address."""
    shared = {"service": service}
    return _LocalApplication(
        [(pattern, handler, shared) for pattern, handler in routes],
        default_handler_class=otherwise,
        default_handler_args=shared,
        log_function=lambda _: None,  # an access log would be noise in a notebook
        service=service,
    )
