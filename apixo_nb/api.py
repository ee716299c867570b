"""APIXO's HTTP API, for scripts and for everything above: `AsyncClient`, and `Client` for synchronous code.

No notebook, no ledger, no files but the pictures you download. The rules are in `flows.py`; here they meet
the network. Submits go out on a connection of their own, because on a kept-alive one that the server has
just closed a lost answer and an unsent request look the same.

    >>> client = Client()                                    # the key comes from APIXO_API_KEY
    >>> task_id = client.submit("a cozy cyberpunk cafe", aspect_ratio="3:2")
    >>> status = client.wait(task_id)
    >>> client.download(status.result_urls[0], "cafe.png")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx2

from . import config, flows, loop
from .download import Downloaded, Limits, download_client, download_once
from .errors import ApixoError, MissingKeyError, remember
from .request import Request, RequestType, make_request
from .spec import DEFAULT_MODEL, MODELS, Cadence
from .wire import TaskStatus

T = TypeVar("T")

_MAX_ANSWER_BYTES = 4_000_000  # decoded; real answers have a few hundred bytes
_NEVER_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)

Seen = Callable[[TaskStatus], None]


class _BearerAuth(httpx2.Auth):
    """Writes the key into the request; tracebacks and reprs of a client then never hold it."""

    def __init__(self, key: config.ApiKey) -> None:
        self._key = key

    def auth_flow(self, request: httpx2.Request) -> Any:
        request.headers["Authorization"] = self._key.bearer()
        yield request


class AsyncClient:
    """The asynchronous client; use one on one event loop.

    Parameters
    ----------
    api_key : str or ApiKey, optional
        Default: ``APIXO_API_KEY``, the system keyring, or the key stored by ``%apixo login``.
    base_url : str, optional
        Default: ``APIXO_BASE_URL`` or APIXO's own.
    request_timeout_s : float
        Deadline of one HTTP request, all of it. Not the time to wait for a task: that is `wait`'s.
    cadence : Cadence, optional
        When to poll; default: as the model's page advises.
    retry, limits, clock
        How to retry, how large a picture may be, and (for tests) where time comes from.

    Raises
    ------
    MissingKeyError
        There is no key anywhere.
    """

    def __init__(
        self,
        api_key: str | config.ApiKey | None = None,
        *,
        base_url: str | None = None,
        request_timeout_s: float = 60.0,
        cadence: Cadence | None = None,
        retry: flows.RetryPolicy | None = None,
        limits: Limits | None = None,
        clock: flows.Clock | None = None,
    ) -> None:
        self.base_url = config.normal_base_url(base_url) if base_url else config.Apixo().base_url
        self._auth = _BearerAuth(_key(api_key))
        self._request_timeout_s = request_timeout_s
        self._cadence = cadence
        self._retry = retry or flows.RetryPolicy()
        self._limits = limits or Limits()
        self._clock = clock or flows.Clock()
        # A proxy from the environment serves https only: over plain http, which is allowed to this machine
        # alone, it would be handed the key.
        self._trust_env = urlsplit(self.base_url).scheme == "https"
        self._clients: tuple[httpx2.AsyncClient, httpx2.AsyncClient, httpx2.Client] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._clients is not None:
            submits, polls, pictures = self._clients
            self._clients = None
            await submits.aclose()
            await polls.aclose()
            pictures.close()

    # --- the five calls ---

    async def submit(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        image_urls: Iterable[str] = (),
        request_type: RequestType = "async",
        callback_url: str | None = None,
        **parameters: Any,
    ) -> str:
        """Submit a task and return its taskId. This is the call that costs money.

        Parameters
        ----------
        prompt : str
            1 to 10,000 characters.
        image_urls : iterable of str
            Up to 5 public http(s) URLs of reference pictures (JPG, PNG, WebP, 10 MB each).
        request_type, callback_url
            ``"callback"`` and a public https URL: APIXO posts the result there as well.
        **parameters
            The model's own: ``aspect_ratio`` ("1:1", "2:3", "3:2") and ``num_images`` (1, 2, 4).

        Raises
        ------
        InvalidRequestError
            Nothing was sent.
        SubmitUnknownError
            The answer was lost: maybe billed, and never sent again by itself.
        BadRequestError, AuthenticationError, InsufficientBalanceError, PermissionDeniedError, \
        NotFoundError, RateLimitError, APIConnectionError
            Nothing was made.
        """
        request = make_request(
            prompt,
            model=model,
            image_urls=image_urls,
            request_type=request_type,
            callback_url=callback_url,
            **parameters,
        )
        return await self.submit_request(request)

    async def submit_request(self, request: Request, stopped: Callable[[], bool] = lambda: False) -> str:
        """Submit a checked request; as `submit`. Once `stopped` says so, it is not tried again."""
        try:
            return await self._drive(flows.submit(request, self._clock, self._retry, stopped))
        except asyncio.CancelledError as cancelled:
            raise remember(cancelled) from None

    async def status(self, task_id: str, *, model: str = DEFAULT_MODEL) -> TaskStatus:
        """What APIXO says of a task now. Costs nothing, so it is retried.

        Raises
        ------
        NotFoundError
            APIXO does not know the task (a fresh one may need a moment).
        APIError, APIConnectionError
            It could not be read.
        """
        return await self._drive(flows.status(model, task_id, self._clock, self._retry))

    async def wait(
        self,
        task_id: str,
        *,
        model: str = DEFAULT_MODEL,
        timeout_s: float = 900.0,
        age_s: float = 0.0,
        seen: Seen = lambda _status: None,
        check: bool = True,
    ) -> TaskStatus:
        """Poll a task to its end: first after 20 s, then every 5 s (model page, "Latency and polling").

        Parameters
        ----------
        timeout_s : float
            How long to wait for the task; unlike `request_timeout_s`, the deadline of one request.
        age_s : float
            How long ago the task was made, where that is known.
        seen : callable
            Called with each `TaskStatus`.
        check : bool
            Raise for a task that failed or has no usable result; else return its status.

        Raises
        ------
        TaskFailedError, ResultError
            With `check`: the task ended without pictures.
        WaitTimeoutError
            The task goes on.
        AuthenticationError, PermissionDeniedError, NotFoundError, BadRequestError
            After three such answers in a row.
        """
        cadence = self._cadence or MODELS[model].cadence
        flow = flows.wait(model, task_id, cadence, self._clock, timeout_s=timeout_s, age_s=age_s, seen=seen)
        try:
            status = await self._drive(flow)
        except asyncio.CancelledError as cancelled:
            raise remember(cancelled, task_id=task_id) from None
        error = status.error() if check else None
        if error is not None:
            raise error
        return status

    async def download(self, url: str, path: str | Path) -> Downloaded:
        """Download one result picture to `path`, verified; a file already there is replaced.

        Without a suffix, `path` gets the one of the picture's real format. No API key is sent.

        Raises
        ------
        ImageError
            It is gone, too large, not a picture, or cannot be saved.
        APIConnectionError, ServerError, RateLimitError
            The host could not be reached, after retries.
        """
        return await self._drive(flows.fetch(url, Path(path), self._clock, self._retry))

    async def balance(self) -> float:
        """US dollars left for this key.

        Raises
        ------
        AuthenticationError, PermissionDeniedError, RateLimitError, ServerError, APIConnectionError
        """
        return await self._drive(flows.balance(self._clock, self._retry))

    # --- the driver ---

    async def _drive(self, flow: flows.Flow[T]) -> T:
        answer: Any = None
        try:
            while True:
                answer = await self._carry_out(flow.send(answer))
        except StopIteration as done:
            result: T = done.value
            return result
        except asyncio.CancelledError as cancelled:
            # Without its traceback: the frames below hold the request's headers.
            raise cancelled.with_traceback(None) from None

    async def _carry_out(self, command: flows.Command) -> Any:
        if isinstance(command, flows.Sleep):
            return await asyncio.sleep(command.seconds)
        if isinstance(command, flows.Fetch):
            return await self._fetch(command)
        return await self._exchange(command)

    async def _exchange(self, send: flows.Send) -> flows.Reply | flows.Fault:
        submits, polls, _ = self._open()
        client, method = (polls, "GET") if send.body is None else (submits, "POST")
        try:
            async with asyncio.timeout(send.timeout_s or self._request_timeout_s):
                return await _request(client, method, f"{self.base_url}/{send.path}", send)
        except _NEVER_CONNECTED as error:
            return flows.Fault(
                "unsent", f"no connection to {urlsplit(self.base_url).netloc} ({type(error).__name__})"
            )
        except (TimeoutError, httpx2.TimeoutException):
            return flows.Fault("timeout", "no answer in time")
        except Exception as error:  # noqa: BLE001 - whatever it is: for a POST the answer is lost, and that is said
            return flows.Fault("lost", f"the connection broke ({type(error).__name__})")

    async def _fetch(self, fetch: flows.Fetch) -> Downloaded | ApixoError:
        # Streaming, hashing and decoding run on a worker thread, where they do not hold up other polls.
        _, _, pictures = self._open()
        abandoned = threading.Event()
        try:
            return await asyncio.to_thread(
                download_once, pictures, fetch.url, fetch.target, self._limits, abandoned
            )
        finally:
            abandoned.set()

    def _open(self) -> tuple[httpx2.AsyncClient, httpx2.AsyncClient, httpx2.Client]:
        if self._clients is None:
            common: dict[str, Any] = {
                "auth": self._auth,
                "trust_env": self._trust_env,
                "headers": {"Accept": "application/json", "Accept-Encoding": "identity"},
                "timeout": httpx2.Timeout(
                    self._request_timeout_s, connect=min(15.0, self._request_timeout_s)
                ),
            }
            if self._trust_env:
                common["verify"] = httpx2.create_ssl_context(verify=True)  # made once: it takes 20 ms
            fresh = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
            pool = httpx2.Limits(max_connections=20, max_keepalive_connections=20)
            self._clients = (
                httpx2.AsyncClient(**common, limits=fresh),
                httpx2.AsyncClient(**common, limits=pool),
                download_client(trust_env=self._trust_env),
            )
        return self._clients


async def _request(client: httpx2.AsyncClient, method: str, url: str, send: flows.Send) -> flows.Reply:
    body = {"json": dict(send.body)} if send.body is not None else {}
    async with client.stream(method, url, params=dict(send.query), **body) as response:  # type: ignore[arg-type]
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > _MAX_ANSWER_BYTES:  # no answer of APIXO's; what is cut off cannot be parsed
                break
        headers = {name.lower(): value for name, value in response.headers.items()}
        return flows.Reply(response.status_code, headers, bytes(content))


def _key(given: str | config.ApiKey | None) -> config.ApiKey:
    if isinstance(given, str):
        return config.ApiKey(given)
    found = given or config.find_key()
    if found is None:
        raise MissingKeyError("There is no APIXO API key")
    return found


class Client:
    """The synchronous client: `AsyncClient`, waited for. Safe to use in scripts, threads and notebook cells.

    Takes the same arguments and has the same calls; Stop (KeyboardInterrupt) ends any of them at once.
    """

    def __init__(self, api_key: str | config.ApiKey | None = None, **options: Any) -> None:
        self._client = AsyncClient(api_key, **options)

    def __repr__(self) -> str:
        return f"Client(base_url={self._client.base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        loop.run(self._client.aclose())

    def submit(self, prompt: str, **options: Any) -> str:
        """As `AsyncClient.submit`: returns the taskId."""
        try:
            return loop.run(self._client.submit(prompt, **options))
        except KeyboardInterrupt as stop:
            raise remember(stop) from None

    def status(self, task_id: str, *, model: str = DEFAULT_MODEL) -> TaskStatus:
        """As `AsyncClient.status`."""
        return loop.run(self._client.status(task_id, model=model))

    def wait(self, task_id: str, **options: Any) -> TaskStatus:
        """As `AsyncClient.wait`."""
        try:
            return loop.run(self._client.wait(task_id, **options))
        except KeyboardInterrupt as stop:
            raise remember(stop, task_id=task_id) from None

    def download(self, url: str, path: str | Path) -> Downloaded:
        """As `AsyncClient.download`."""
        return loop.run(self._client.download(url, path))

    def balance(self) -> float:
        """As `AsyncClient.balance`."""
        return loop.run(self._client.balance())
