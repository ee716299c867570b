"""The sandbox as a server: two hosts on one loop in one background thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack
from socket import create_server, socket
from threading import Thread
from typing import Self

from tornado.httpserver import HTTPServer
from tornado.web import Application

from apixo_nb.sandbox import handlers
from apixo_nb.sandbox.account import Account, SandboxOptions
from apixo_nb.sandbox.callbacks import CallbackSender
from apixo_nb.sandbox.faults import Faults
from apixo_nb.sandbox.service import Service

HOST = "127.0.0.1"
# Bodies a little too long deserve an envelope from the checks; only absurd ones are cut off by the server.
MAX_BUFFER_BYTES = 16_000_000


class Sandbox:
    """A complete APIXO on this machine: real HTTP, real waiting, real errors, drawn pictures.

    Use it as a context manager, or between `start` and `stop`. It listens on the loopback interface only,
    and the only network it uses is that of callbacks, to this machine as well.

    Attributes
    ----------
    base_url
        The address for a client, ``http://127.0.0.1:PORT/api/v1``; empty before the start.
    picture_url
        The host of the result URLs, on another port; empty before the start.
    account
        What the sandbox knows: tasks, balance, counters. It outlives a stop.
    faults
        The rules by which requests meet trouble: add some or clear them, at any time, from any thread.
    """

    def __init__(
        self, options: SandboxOptions | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.options = options or SandboxOptions()
        self.account = Account(self.options, clock)
        self.faults = Faults(self.options.faults)
        self.base_url = ""
        self.picture_url = ""
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<Sandbox {self.base_url or 'not started'}, {len(self.account.accepted)} tasks>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start listening, and return when it does; OSError if a port is taken."""
        if self._thread is None:
            listening: Future[None] = Future()
            thread = Thread(target=self._main, args=(listening,), name="apixo-sandbox", daemon=True)
            thread.start()
            listening.result()
            self._thread = thread
        return self

    def stop(self) -> None:
        """Close both hosts, and what is held by a fault, and end the thread; the account stays readable."""
        if self._thread is not None and self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    def _main(self, listening: Future[None]) -> None:
        try:
            asyncio.run(self._serve(listening))
        except BaseException as error:  # it belongs to whoever waits in start()
            if listening.done():
                raise
            listening.set_exception(error)

    async def _serve(self, listening: Future[None]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with AsyncExitStack() as stack:
            api_socket, picture_socket = (
                stack.enter_context(create_server((HOST, port)))
                for port in (self.options.port, self.options.picture_port)
            )
            self.base_url = f"{_address(api_socket)}/api/v1"
            self.picture_url = _address(picture_socket)
            service = self._service(stack)
            _listen(stack, handlers.api(service), api_socket)
            _listen(stack, handlers.picture_host(service), picture_socket)
            listening.set_result(None)
            await self._stopping.wait()

    def _service(self, stack: AsyncExitStack) -> Service:
        callbacks = CallbackSender(self.options, self.account, self.picture_url)
        stack.callback(callbacks.close)
        for task in self.account.tasks.values():
            if task.state(self.account.now_ms()) == "processing":  # from the journal, or from before a stop
                callbacks.schedule(task)
        return Service(self.options, self.account, callbacks, self.picture_url, self.faults)


def _address(listener: socket) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}"


def _listen(stack: AsyncExitStack, application: Application, listener: socket) -> None:
    application.settings["port"] = listener.getsockname()[1]
    server = HTTPServer(application, max_buffer_size=MAX_BUFFER_BYTES)
    listener.settimeout(0)  # as Tornado wants it
    server.add_socket(listener)
    stack.push_async_callback(server.close_all_connections)
    stack.callback(server.stop)
