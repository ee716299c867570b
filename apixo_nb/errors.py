"""Everything that can go wrong, one class for each thing a person can do about it.

::

    ApixoError                        catch this one to catch them all
    ├── ConfigurationError            a setting, an environment variable
    │   └── MissingKeyError           no API key, and three ways to get on
    ├── InvalidRequestError           refused here; nothing was sent       (also a ValueError)
    ├── CostLimitError                refused here; above your --max-cost
    │   └── BudgetError               refused here; above a budget of the ledger
    ├── StorageError                  refused here; no room for the pictures, or no right to write
    ├── APIError                      APIXO answered, and said no
    │   ├── BadRequestError           400, 422
    │   ├── AuthenticationError       401
    │   ├── InsufficientBalanceError  402, and its disguises
    │   ├── PermissionDeniedError     403: the key's permission, or the content
    │   ├── NotFoundError             404
    │   ├── RateLimitError            429
    │   ├── ServerError               500, 502, 503, 504
    │   └── MalformedResponseError    an answer nobody can read
    ├── APIConnectionError            no answer: no connection             (also a ConnectionError)
    │   └── APITimeoutError           no answer in time                    (also a TimeoutError)
    ├── SubmitUnknownError            the submit's answer was lost: maybe billed, never re-sent
    ├── TaskFailedError               the task ran and failed, with its failCode
    ├── ResultError                   the task succeeded, its result cannot be used
    ├── WaitTimeoutError              we stopped waiting; the task did not (also a TimeoutError)
    ├── RunCancelledError             you stopped waiting; the task did not
    ├── ImageError                    a picture did not arrive whole
    └── LedgerError                   the ledger cannot be read or written

A KeyboardInterrupt or an asyncio.CancelledError that ends a wait keeps its class, as event loops compare it,
and carries ``run_id`` and ``task_id`` (see `remember`).

An error carries facts, not only text. It pickles, it holds no request, no header and no API key,
and in IPython it shows as two lines: what happened, then what it cost and what to do next.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from apixo_nb.text import to_micros

from .text import dollars, printable


class ApixoError(Exception):
    """Base class of all errors raised by apixo_nb.

    Parameters
    ----------
    message : str
        What happened, in one line.
    status, code : int, optional
        The HTTP status, and the ``code`` in the body's envelope.
    task_id, run_id : str, optional
        APIXO's task and our row about it, as far as they are known.
    retryable : bool
        Whether the same request may succeed later, unchanged.
    maybe_billed : bool
        Whether APIXO may have charged, or may still charge, for this request.
    at_stake_usd : float, optional
        The price of what may have been charged, in US dollars.
    next_step : str
        What to do now.
    """

    retryable: bool = False
    maybe_billed: bool = False
    next_step: str = ""

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        code: int | None = None,
        task_id: str | None = None,
        run_id: str | None = None,
        retryable: bool | None = None,
        maybe_billed: bool | None = None,
        at_stake_usd: float | None = None,
        next_step: str | None = None,
    ) -> None:
        super().__init__(message)  # args stay (message,), so pickle can rebuild any subclass
        self.message = message
        self.status = status
        self.code = code
        self.task_id = task_id
        self.run_id = run_id
        self.at_stake_usd = at_stake_usd
        if retryable is not None:
            self.retryable = retryable
        if maybe_billed is not None:
            self.maybe_billed = maybe_billed
        if next_step is not None:
            self.next_step = next_step

    @property
    def headline(self) -> str:
        """The first line, which is the message with the codes and ids that belong to it."""
        facts = [
            f"HTTP {self.status}" if self.status is not None else "",
            f"code {self.code}" if self.code not in (None, self.status) else "",
            f"run {self.run_id}" if self.run_id else "",
            # A run knows its task; two ids would make the line too long to read.
            f"task {printable(self.task_id, 80)}" if self.task_id and not self.run_id else "",
        ]
        known = ", ".join(fact for fact in facts if fact)
        return f"{self.message} ({known})" if known else self.message

    @property
    def advice(self) -> str:
        """The second line, of what it cost and what to do next."""
        return " ".join(part for part in (self._cost(), self.next_step) if part)

    def _cost(self) -> str:
        if not self.maybe_billed:
            return ""
        stake = "" if self.at_stake_usd is None else f" up to {dollars(to_micros(self.at_stake_usd))}"
        return f"May have cost{stake}." if stake else "It may have been billed."

    def __str__(self) -> str:
        return f"{self.headline}\n{self.advice}" if self.advice else self.headline

    def _render_traceback_(self) -> list[str]:
        """Two lines in place of a traceback; IPython honours this name."""
        return _two_lines(type(self).__name__, self.headline, self.advice)


def _two_lines(name: str, headline: str, advice: str) -> list[str]:
    red, plain = "\x1b[31m", "\x1b[0m"
    lines = [f"{red}{name}{plain}: {headline}"]
    return [*lines, f"→ {advice}"] if advice else lines


class ConfigurationError(ApixoError):
    """A setting or an environment variable cannot be used; the message names it."""


class MissingKeyError(ConfigurationError):
    """There is no API key."""

    next_step = (
        "Run `%apixo login`, or set APIXO_API_KEY in the environment beforehand, "
        "or try everything without a key and at no cost: `%apixo sandbox`."
    )


class InvalidRequestError(ApixoError, ValueError):
    """The request was refused on this machine, before anything was sent.

    Attributes
    ----------
    field : str
        The parameter or option at fault.
    value : str
        What was given, shortened.
    allowed : str
        What may be given.
    """

    def __init__(
        self, message: str = "", *, field: str = "", value: object = "", allowed: str = "", **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.field = field
        self.value = printable(value, 80)
        self.allowed = allowed

    @property
    def advice(self) -> str:
        """What is allowed, and that nothing was sent."""
        allowed = f"Allowed: {self.allowed}." if self.allowed else ""
        return " ".join(part for part in (allowed, self.next_step, "Nothing was sent.") if part)


class CostLimitError(ApixoError):
    """Starting would cost more than the limit that was set; nothing was sent."""


class BudgetError(CostLimitError):
    """It would pass a budget that is kept in the ledger; nothing was sent."""


class StorageError(ApixoError):
    """The folder of the pictures cannot take what would be bought; nothing was sent."""


class APIError(ApixoError):
    """APIXO answered, and the answer was not what was asked for.

    Attributes
    ----------
    retry_after_s : float or None
        How long APIXO asked to wait, in seconds, if it said so.
    """

    def __init__(self, message: str = "", *, retry_after_s: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after_s = retry_after_s


class BadRequestError(APIError):
    """400 or 422: the body, mode, prompt, parameter or picture URL is wrong."""

    next_step = "Fix the request before trying again."


class AuthenticationError(APIError):
    """401: the key is missing or invalid."""

    next_step = "Check the key: APIXO_API_KEY, or `%apixo login` to store another one."


class InsufficientBalanceError(APIError):
    """402, or a 400 or failCode that speaks of credits: balance or quota is too low."""

    next_step = "Add balance, or switch to another account or key."


class PermissionDeniedError(APIError):
    """403: the key or route may not use this model, or the content was refused (pages differ)."""

    next_step = (
        "APIXO uses this answer both for a key or route without permission and for refused content: "
        "check the key's permissions and route, then the prompt."
    )


class NotFoundError(APIError):
    """404: no such model or task."""

    next_step = "Check the model and the task id; APIXO may have forgotten an old task."


class RateLimitError(APIError):
    """429: a rate limit, a daily quota or the provider's limit."""

    retryable = True
    next_step = "Slow down and try again later; a daily quota clears only the next day."

    @property
    def advice(self) -> str:
        """The general advice, and the pause that was asked for."""
        asked = f"It asked to wait {self.retry_after_s:.0f} s." if self.retry_after_s else ""
        return " ".join(part for part in (asked, super().advice) if part)


class ServerError(APIError):
    """500, 502, 503 or 504 on a request that is safe to repeat (a submit raises `SubmitUnknownError`)."""

    retryable = True
    next_step = "The service or its provider is in trouble. Try again in a while."


class MalformedResponseError(APIError):
    """The answer is not the JSON that APIXO's pages promise."""

    retryable = True
    next_step = "Something between here and APIXO may have answered in its place. Try again in a while."


class APIConnectionError(ApixoError, ConnectionError):
    """No connection: the name does not resolve, it was refused, TLS failed, or it broke."""

    retryable = True
    next_step = "Check the network, a proxy and APIXO_BASE_URL, then try again."


class APITimeoutError(APIConnectionError, TimeoutError):
    """One HTTP request had no answer by its deadline (waiting for a task is `WaitTimeoutError`)."""


class SubmitUnknownError(ApixoError):
    """The submit left, its answer was lost or unreadable: a task may exist and may be billed.

    APIXO has no idempotency key, so a second POST could buy a second task. It is never sent by itself,
    although APIXO's page advises to retry 500, 502 and 504 with backoff.

    Attributes
    ----------
    answer : str
        The body of the answer, if one came: without the key, at most 4 kB of UTF-8. It may name the task in a
        way that is not known here.
    """

    maybe_billed = True
    answer: str = ""
    next_step = (
        "It is not sent again by itself, as that could pay twice. "
        "Compare `%apixo balance`, then say how it ended: `%apixo settle RUN paid`, or `free`."
    )


class TaskFailedError(ApixoError):
    """The task ended in state ``failed``.

    Attributes
    ----------
    fail_code : str
        APIXO's failCode, verbatim.
    category : str
        One of content, prompt, reference, funds, rate, timeout, provider, unknown.
    """

    maybe_billed = True

    def __init__(
        self, message: str = "", *, fail_code: str = "", category: str = "unknown", **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.fail_code = fail_code
        self.category = category

    def _cost(self) -> str:
        return "APIXO's pages do not say whether a failed task is charged."  # model page, "Billing"


class ResultError(ApixoError):
    """The task succeeded, but its result names no picture that can be fetched."""

    maybe_billed = True
    next_step = "The task and its raw result are kept. `%apixo resume` asks once more."


class WaitTimeoutError(ApixoError, TimeoutError):
    """Waiting ended at its deadline. The task goes on at APIXO and can be resumed."""

    maybe_billed = True
    next_step = (
        "The task goes on at APIXO and is kept: `%apixo resume` waits for it again, at no further cost."
    )


class RunCancelledError(ApixoError):
    """You stopped waiting. APIXO has no cancel call, so the task may still finish and be billed."""

    maybe_billed = True
    next_step = "APIXO cannot cancel a task. `%apixo resume` fetches what it made, at no further cost."


class ImageError(ApixoError):
    """A picture did not arrive whole, or is not a picture; its URL is kept.

    Attributes
    ----------
    unsaved : bool
        It may have arrived, but this machine's disk did not take it.
    """

    retryable = True
    next_step = "The task is paid and its URLs are kept: `%apixo resume` downloads again, at no further cost."

    def __init__(self, message: str = "", *, unsaved: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.unsaved = unsaved


class LedgerError(ApixoError):
    """The ledger cannot be opened, read or written.

    Attributes
    ----------
    damaged : bool
        Its file is no longer what was written.
    """

    def __init__(self, message: str = "", *, damaged: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.damaged = damaged

    def about(self, run_id: str, task_id: str | None) -> LedgerError:
        """The same trouble, met after a run was paid for: its pictures are shown, its row is behind."""
        text = f"The run is not kept in full: {self.message}"
        step = (
            f"{self.next_step} Then `%apixo doctor --rebuild` and `%apixo resume` bring its row up to date."
        )
        return LedgerError(text, run_id=run_id, task_id=task_id, maybe_billed=True, next_step=step)


_NO_TASK_YET = (
    "No task is known yet; if its answer comes, it is kept: see `%apixo history`. Nothing is sent again."
)

Interrupt = TypeVar("Interrupt", bound=BaseException)


def remember(interrupt: Interrupt, *, run_id: str | None = None, task_id: str | None = None) -> Interrupt:
    """Let a KeyboardInterrupt or CancelledError say which run or task was left, and how to take it up again.

    The exception keeps its class: ``asyncio.timeout`` of Python 3.11 and 3.12 compares it by identity.
    """
    left = f"run {run_id}" if run_id else f"task {printable(task_id, 80)}" if task_id else "the submit"
    headline = f"Stopped waiting for {left}"
    step = (
        RunCancelledError.next_step if task_id else _NO_TASK_YET if run_id else SubmitUnknownError.next_step
    )
    facts: dict[str, Any] = {"run_id": run_id, "task_id": task_id, "maybe_billed": True}
    # No lambda, so that it pickles.
    facts["_render_traceback_"] = functools.partial(_two_lines, type(interrupt).__name__, headline, step)
    vars(interrupt).update(facts)
    interrupt.add_note(f"{headline}. {step}")
    return interrupt
