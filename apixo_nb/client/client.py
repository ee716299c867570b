"""APIXO's HTTP API, for scripts and for everything above: `AsyncClient`, and `Client` for synchronous code.

No notebook, no ledger, no files but the pictures you download. The rules are in `protocol`, the
connections in `transport`.

    >>> client = Client()                                    # the key comes from APIXO_API_KEY
    >>> task_id = client.submit("a cozy cyberpunk cafe", aspect_ratio="3:2")
    >>> status = client.wait(task_id)
    >>> client.download(status.result_urls[0], "cafe.png")
"""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

from apixo_nb.core import checks
from apixo_nb.core.cadence import Cadence
from apixo_nb.core.credentials import ApiKey, usable_key
from apixo_nb.core.event_loop import run
from apixo_nb.core.files import Downloaded, Limits
from apixo_nb.core.models import DEFAULT_MODEL
from apixo_nb.core.request import Request, RequestType, known_model, make_request
from apixo_nb.core.settings import Apixo, checked_base_url
from apixo_nb.errors import ConfigurationError, ImageError, InvalidRequestError, remember
from apixo_nb.text import printable

from . import protocol
from .protocol import Clock, Quota, RetryPolicy
from .responses import TaskStatus
from .transport import Transport

Seen = Callable[[TaskStatus], None]
T = TypeVar("T")


def _nobody(_status: TaskStatus) -> None:
    """Hears of a status and does nothing."""


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
    cadence : Cadence or callable, optional
        When to poll, or a function of the model's id that says so; default: as the model's page advises, or
        as ``APIXO_FIRST_POLL`` and ``APIXO_POLL_INTERVAL`` say.
    retry, limits, clock
        How to retry, how large a picture may be, and (for tests) where time comes from.

    Raises
    ------
    MissingKeyError
        There is no key anywhere.
    """

    def __init__(
        self,
        api_key: str | ApiKey | None = None,
        *,
        base_url: str | None = None,
        request_timeout_s: float = 60.0,
        cadence: Cadence | Callable[[str], Cadence] | None = None,
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        key = usable_key(api_key)
        api_key = None  # no traceback of what follows can show it
        if isinstance(key, ConfigurationError):
            raise key
        checks.number(request_timeout_s, "request_timeout_s", "a number of seconds above 0", 1e-3)
        given = base_url is not None and base_url != ""
        self.base_url = checked_base_url(base_url) if given else Apixo().base_url
        self._transport = Transport(key, self.base_url, request_timeout_s, limits or Limits())
        settings = Apixo()  # read now: a bad variable must not come to light after the submit is paid
        self._first_poll_s, self._poll_interval_s = settings.first_poll, settings.poll_interval
        self._cadence = cadence
        self.retry = retry or RetryPolicy()
        self.clock = clock or Clock()
        self._quota = Quota()

    def __repr__(self) -> str:
        # getattr, as a traceback may show a client that is half made.
        return f"{type(self).__name__}(base_url={getattr(self, 'base_url', '')!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

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

    async def submit_request(self, request: Request) -> str:
        """Submit a checked request; as `submit`."""
        return await self._submit(protocol.submit(request, self.clock, self.retry, self._quota))

    async def submit_once(self, request: Request) -> str | protocol.TurnedAway:
        """One attempt to submit; for callers that have pauses of their own. Raises as `submit` does."""
        return await self._submit(protocol.submit_once(request, self.clock))

    async def _submit(self, flow: protocol.Flow[T]) -> T:
        try:
            return await self._transport.drive(flow)
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
        _check_task_id(task_id)
        return await self._transport.drive(
            protocol.status(known_model(model).id, task_id, self.clock, self.retry, self._quota)
        )

    async def wait(
        self,
        task_id: str,
        *,
        model: str = DEFAULT_MODEL,
        timeout_s: float = 900.0,
        age_s: float = 0.0,
        seen: Seen = _nobody,
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
        _check_task_id(task_id)
        checks.number(timeout_s, "timeout_s", "a number of seconds, 0 or more", 0.0)
        advised = known_model(model).cadence.override(self._first_poll_s, self._poll_interval_s)
        own = self._cadence(model) if callable(self._cadence) else self._cadence
        cadence = own or advised
        flow = protocol.wait(model, task_id, cadence, self.clock, timeout_s=timeout_s, age_s=age_s, seen=seen)
        try:
            status = await self._transport.drive(flow)
        except asyncio.CancelledError as cancelled:
            raise remember(cancelled, task_id=task_id) from None
        error = status.error() if check else None
        if error is not None:
            raise error
        return status

    async def carry_out(self, send: protocol.Send) -> protocol.Reply | protocol.Fault:
        """Send one request of a flow; for those who drive many flows at once."""
        return await self._transport.exchange(send)

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
        target = _file(path)
        return await self._transport.drive(
            protocol.fetch(str(url), target, self.clock, self.retry, self._quota)
        )

    async def balance(self) -> float:
        """US dollars left for this key.

        Raises
        ------
        AuthenticationError, PermissionDeniedError, RateLimitError, ServerError, APIConnectionError
        """
        return await self._transport.drive(protocol.balance(self.clock, self.retry, self._quota))


def _file(path: object) -> Path:
    if isinstance(path, (str, os.PathLike)):
        return Path(path)
    text = f"The picture has no file to go to: {printable(repr(path), 40)}"
    raise ImageError(text, retryable=False, next_step="Give a file name.")


def _check_task_id(task_id: object) -> None:
    text = task_id if isinstance(task_id, str) else ""
    if not text.strip() or any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        message = f"task_id cannot be {printable(repr(task_id), 80)}"
        allowed = "the taskId that a submit returned"
        raise InvalidRequestError(message, field="task_id", value=task_id, allowed=allowed)


class Client:
    """The synchronous client: `AsyncClient`, waited for. Safe to use in scripts, threads and notebook cells.

    Takes the same arguments and has the same calls; Stop (KeyboardInterrupt) ends any of them at once.
    """

    def __init__(self, api_key: str | ApiKey | None = None, **options: Any) -> None:
        key = usable_key(api_key)
        api_key = None  # as above
        if isinstance(key, ConfigurationError):
            raise key
        self._client = AsyncClient(key, **options)

    def __repr__(self) -> str:
        return f"Client({getattr(self, '_client', '')!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        run(self._client.aclose())

    def submit(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        image_urls: Iterable[str] = (),
        request_type: RequestType = "async",
        callback_url: str | None = None,
        **parameters: Any,
    ) -> str:
        """As `AsyncClient.submit`: returns the taskId."""
        given: dict[str, Any] = {"model": model, "image_urls": image_urls, "request_type": request_type}
        try:
            return run(self._client.submit(prompt, callback_url=callback_url, **given, **parameters))
        except KeyboardInterrupt as stop:
            raise remember(stop) from None

    def status(self, task_id: str, *, model: str = DEFAULT_MODEL) -> TaskStatus:
        """As `AsyncClient.status`."""
        return run(self._client.status(task_id, model=model))

    def wait(
        self,
        task_id: str,
        *,
        model: str = DEFAULT_MODEL,
        timeout_s: float = 900.0,
        age_s: float = 0.0,
        seen: Seen = _nobody,
        check: bool = True,
    ) -> TaskStatus:
        """As `AsyncClient.wait`."""
        given: dict[str, Any] = {"timeout_s": timeout_s, "age_s": age_s, "seen": seen, "check": check}
        try:
            return run(self._client.wait(task_id, model=model, **given))
        except KeyboardInterrupt as stop:
            raise remember(stop, task_id=task_id) from None

    def download(self, url: str, path: str | Path) -> Downloaded:
        """As `AsyncClient.download`."""
        return run(self._client.download(url, path))

    def balance(self) -> float:
        """As `AsyncClient.balance`."""
        return run(self._client.balance())
