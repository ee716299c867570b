"""The rules of talking to APIXO, as generators without I/O: what is sent, when again, when to stop.

A flow yields what it wants done - `Send` this, `Fetch` that, `Sleep` so long - and is sent what came of it.
`transport.Transport.drive` runs them on a real network; tests run them with scripted answers, in no time.

The money rule lives here, in `submit`: a POST is repeated only when it surely was not accepted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

from apixo_nb.core import models
from apixo_nb.core.cadence import Cadence
from apixo_nb.core.request import Request
from apixo_nb.errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    ApixoError,
    AuthenticationError,
    BadRequestError,
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SubmitUnknownError,
    WaitTimeoutError,
)
from apixo_nb.text import printable, to_usd

from .responses import Answer, TaskStatus, evidence, problem_of, read_answer, read_task, retry_after_s

if TYPE_CHECKING:
    from apixo_nb.core.files import Downloaded


# --- what a flow asks for, and what it gets ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """One HTTP exchange with the API. `body` makes it a POST, sent on a fresh connection."""

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    """One attempt to download a picture; answered by `Downloaded` or an `ApixoError`."""

    url: str
    target: Path


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer arrived; header names are lower-case. `hide` takes the API key out of quoted text."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    hide: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Fault:
    """No answer arrived. `unsent`: no connection was ever made, so the request surely was not accepted."""

    kind: Literal["unsent", "lost", "timeout"]
    text: str


Command = Send | Fetch | Sleep
T = TypeVar("T")
Flow = Generator[Command, Any, T]


# --- flows ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A submit that surely was not accepted and may be sent again, after the pause asked for, if any."""

    problem: ApixoError
    retry_after_s: float | None = None


def submit(request: Request, clock: Clock, policy: RetryPolicy, quota: Quota | None = None) -> Flow[str]:
    """Submit a task; returns its taskId.

    Sent again only after a plain refusal (HTTP 429) or when no connection was made. Any other lost, broken or
    5xx answer raises `SubmitUnknownError`: APIXO has no idempotency key, so nobody can know whether a second
    POST would buy a second task.
    """
    backoff = Backoff(policy, clock, quota)
    while True:
        outcome = yield from submit_once(request, clock)
        if isinstance(outcome, str):
            backoff.success()
            return outcome
        pause = backoff.pause(outcome.retry_after_s)
        if pause is None:
            raise outcome.problem
        yield Sleep(pause)


def submit_once(request: Request, clock: Clock) -> Flow[str | TurnedAway]:
    """One attempt to submit: the taskId, or that it was turned away; raises in every other case."""
    send = Send(f"generateTask/{quote(request.model, safe='')}", body=request.body())
    return _verdict((yield send), request, clock)


def _verdict(outcome: Reply | Fault, request: Request, clock: Clock) -> str | TurnedAway:
    if isinstance(outcome, Fault):
        if outcome.kind == "unsent":
            return TurnedAway(_no_connection("Submit was not sent", outcome))
        raise _unknown(f"The submit's answer was lost: {outcome.text}", request)
    answer = _read(outcome)
    if answer.task_id:  # whatever the codes say: a task that has an id is never let go
        return answer.task_id
    if not _is_refusal(answer):
        error = _unknown(_why_unknown(answer), request, status=answer.status, code=answer.code)
        error.answer = evidence(outcome.body, outcome.hide)
        raise error
    problem = problem_of(answer, "The submit was refused")
    problem.next_step = f"Nothing was made. {problem.next_step}"
    problem.retry_after_s = retry_after_s(answer.retry_after, clock.wall())
    if isinstance(problem, RateLimitError) and answer.status == 429:
        return TurnedAway(problem, problem.retry_after_s or None)
    raise problem


def _is_refusal(answer: Answer) -> bool:
    """Whether the service said no. 408 is a proxy's word for "something was cut off": it says nothing.

    A body that claims success contradicts its status: a proxy's 429 over the service's acceptance.
    """
    client_side = 400 <= answer.verdict < 500 and answer.verdict not in (408, 499)
    return client_side and not answer.speaks_of_success


def _why_unknown(answer: Answer) -> str:
    if not answer.readable:
        return "The submit's answer cannot be read"
    if answer.accepted:
        return "The submit's answer names no task"
    return f"The submit's answer does not say whether it was accepted: {printable(answer.message)}"


def _unknown(message: str, request: Request, **facts: Any) -> SubmitUnknownError:
    price_usd = to_usd(request.num_images * request.spec.unit_price_micros)
    return SubmitUnknownError(message, at_stake_usd=price_usd, **facts)


def status(
    model: str, task_id: str, clock: Clock, policy: RetryPolicy, quota: Quota | None = None
) -> Flow[TaskStatus]:
    """Read a task's status once; retried, as reading costs nothing."""
    backoff = Backoff(policy, clock, quota)
    while True:
        outcome = _status_of((yield _poll(model, task_id)), task_id, clock)
        if isinstance(outcome, TaskStatus):
            backoff.success()
            return outcome
        yield from _pause_or_raise(outcome, backoff)


def balance(clock: Clock, policy: RetryPolicy, quota: Quota | None = None) -> Flow[float]:
    """US dollars left for this key (system page: a bare number)."""
    backoff = Backoff(policy, clock, quota)
    while True:
        outcome: float | ApixoError = _balance_of((yield Send("apikeys/current-balance")), clock)
        if isinstance(outcome, float):
            backoff.success()
            return outcome
        yield from _pause_or_raise(outcome, backoff)


def _balance_of(outcome: Reply | Fault, clock: Clock) -> float | ApixoError:
    if isinstance(outcome, Fault):
        return _no_connection("The balance could not be read", outcome)
    answer = _read(outcome)
    if answer.accepted and answer.number is not None:
        return answer.number
    return _not_ok(answer, "The balance could not be read", clock)


def fetch(
    url: str, target: Path, clock: Clock, policy: RetryPolicy, quota: Quota | None = None
) -> Flow[Downloaded]:
    """Download one picture, verified, to `target`; a broken transfer is repeated, not a slow one."""
    backoff = Backoff(policy, clock, quota)
    started = clock.monotonic()
    while True:
        outcome: Downloaded | ApixoError = yield Fetch(url, target)
        if not isinstance(outcome, ApixoError):
            backoff.success()
            return outcome
        if clock.monotonic() - started > policy.total_s:
            raise outcome
        yield from _pause_or_raise(outcome, backoff)


def _pause_or_raise(problem: ApixoError, backoff: Backoff) -> Flow[None]:
    asked = problem.retry_after_s if isinstance(problem, APIError) else None
    pause = backoff.pause(asked) if problem.retryable else None
    if pause is None:
        raise problem
    yield Sleep(pause)


#: Refusals that will not pass by waiting; three in a row end a wait, one alone does not.
_LASTING = (AuthenticationError, PermissionDeniedError, NotFoundError, BadRequestError)
_LASTING_IN_A_ROW = 3

_LONGEST_POLL_PAUSE_S = 60.0  # that a poll waits where it is asked to; the page's longest interval is 10 s
_LEAST_POLL_S = 1.0  # the last poll of a wait has at least this long, though the deadline is near


def wait(
    model: str,
    task_id: str,
    cadence: Cadence,
    clock: Clock,
    *,
    timeout_s: float,
    age_s: float = 0.0,
    seen: Callable[[TaskStatus], None] = lambda _status: None,
) -> Flow[TaskStatus]:
    """Poll a task to its end.

    First poll `cadence.first_poll_s` after creation (`age_s` ago), then by `cadence.pause_s`, jittered within
    its bounds. One failed poll never ends the wait; after failures the pauses grow. "Not found" is no
    refusal within `NOT_FOUND_GRACE_S` of creation. Times are measured with our own clock, never APIXO's.

    Raises
    ------
    WaitTimeoutError
        After `timeout_s`; the task goes on.
    AuthenticationError, PermissionDeniedError, NotFoundError, BadRequestError
        After three such answers in a row: the key was revoked or the task is not known.
    """
    age_s = max(0.0, age_s)  # below zero where the wall clock was set back since
    started = clock.monotonic()
    deadline = started + timeout_s
    failures = refusals = 0
    yield Sleep(min(max(0.0, cadence.first_poll_s - age_s), timeout_s))
    while True:
        left_s = max(_LEAST_POLL_S, deadline - clock.monotonic())
        outcome = _status_of((yield _poll(model, task_id, left_s)), task_id, clock)
        now = clock.monotonic()
        if isinstance(outcome, TaskStatus):
            seen(outcome)
            if outcome.final:
                return outcome
            failures = refusals = 0
        else:
            failures += 1
            young = isinstance(outcome, NotFoundError) and age_s + now - started < models.NOT_FOUND_GRACE_S
            refusals = refusals + 1 if isinstance(outcome, _LASTING) and not young else 0
            if refusals >= _LASTING_IN_A_ROW:
                raise _of_a_paid_task(outcome)
        if now >= deadline:
            raise _waited_too_long(task_id, timeout_s)
        pause = _next_poll(cadence, clock, age_s + now - started, failures, outcome)
        yield Sleep(min(pause, deadline - now))


def _of_a_paid_task(problem: ApixoError) -> ApixoError:
    """The error that ends a wait: whatever the answers say, the task was accepted."""
    problem.maybe_billed = True
    problem.next_step = f"The task is kept: `%apixo resume` waits for it again. {problem.next_step}"
    return problem


def _next_poll(cadence: Cadence, clock: Clock, age_s: float, failures: int, outcome: object) -> float:
    low, high = cadence.interval_bounds_s
    middle = cadence.pause_s(age_s)
    spread = max(0.0, min(middle - low, high - middle, middle * 0.2))
    pause = clock.between(middle - spread, middle + spread)
    grown = pause * 2.0 ** min(max(failures - 1, 0), 3)
    asked = outcome.retry_after_s if isinstance(outcome, APIError) else None
    return max(grown, min(asked or 0.0, max(_LONGEST_POLL_PAUSE_S, high)))


def _waited_too_long(task_id: str, timeout_s: float) -> WaitTimeoutError:
    return WaitTimeoutError(f"The task has not ended within {timeout_s:g} s", task_id=task_id)


def _poll(model: str, task_id: str, timeout_s: float | None = None) -> Send:
    return Send(f"statusTask/{quote(model, safe='')}", query={"taskId": task_id}, timeout_s=timeout_s)


def _status_of(outcome: Reply | Fault, task_id: str, clock: Clock) -> TaskStatus | ApixoError:
    doing = "The task's status could not be read"
    if isinstance(outcome, Fault):
        return _no_connection(doing, outcome, task_id=task_id)
    answer = _read(outcome)
    found = read_task(answer, outcome.hide)
    if found is None:
        return _not_ok(answer, doing, clock, task_id=task_id)
    if found.task_id not in ("", task_id):
        return MalformedResponseError("The status answer is about another task", task_id=task_id)
    return found.model_copy(update={"task_id": task_id})


def _read(reply: Reply) -> Answer:
    return read_answer(reply.status, reply.headers, reply.body, reply.hide)


def _not_ok(answer: Answer, doing: str, clock: Clock, **facts: Any) -> APIError:
    if answer.accepted:
        return MalformedResponseError(
            f"{doing}: the answer holds nothing usable", status=answer.status, **facts
        )
    problem = problem_of(answer, doing)
    problem.task_id = facts.get("task_id")
    problem.retry_after_s = retry_after_s(answer.retry_after, clock.wall())
    return problem


def _no_connection(doing: str, fault: Fault, **facts: Any) -> APIConnectionError:
    kind = APITimeoutError if fault.kind == "timeout" else APIConnectionError
    return kind(f"{doing}: {fault.text}", **facts)


# --- clock, pauses and quotas -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, injected so that tests need neither.

    `monotonic` orders and measures, `wall` is Unix seconds, `random` is uniform in [0, 1).
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    random: Callable[[], float] = random.random

    def between(self, low: float, high: float) -> float:
        """A uniform draw from [low, high)."""
        return low + (high - low) * self.random()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long to try again.

    Exponential backoff with full jitter: after try k a uniform draw from [0, min(cap, base * 2**(k-1))],
    never earlier than a Retry-After asked for. `attempts` counts the first try; `total_s` bounds the pauses
    of one call together, and the time in which a download is begun again.
    """

    attempts: int = 6
    base_s: float = 1.0
    cap_s: float = 20.0
    total_s: float = 120.0


class Quota:
    """How many retries all calls of a client may make together: a bucket of tokens.

    A retry takes some, a success gives one back. One call never empties it; five hundred downloads from a
    host that is gone do, and then fail at once, in place of asking six times each.
    """

    def __init__(self, tokens: int = 500, cost: int = 10) -> None:
        self._most = self._tokens = tokens
        self._cost = cost

    def take(self) -> bool:
        """Pay for a retry; False if it cannot be afforded."""
        if self._tokens < self._cost:
            return False
        self._tokens -= self._cost
        return True

    def give_back(self) -> None:
        """A call has succeeded."""
        self._tokens = min(self._most, self._tokens + 1)


class Backoff:
    """The pauses of one call under a `RetryPolicy`, and the `Quota` that it shares with others."""

    def __init__(self, policy: RetryPolicy, clock: Clock, quota: Quota | None = None) -> None:
        self._policy = policy
        self._clock = clock
        self._quota = quota or Quota()
        self._tried = 0
        self._spent_s = 0.0

    def pause(self, retry_after_s: float | None) -> float | None:
        """Seconds to wait before the next try, or None when count or time is used up."""
        self._tried += 1
        ceiling = min(self._policy.cap_s, self._policy.base_s * 2 ** min(self._tried - 1, 60))
        seconds = self._clock.between(0.0, ceiling)
        if retry_after_s is not None:
            # A little on top, so that clients told the same time do not come back together.
            seconds = retry_after_s + self._clock.between(0.0, self._policy.base_s / 2)
        if self._tried >= self._policy.attempts or self._spent_s + seconds > self._policy.total_s:
            return None
        if not self._quota.take():
            return None
        self._spent_s += seconds
        return seconds

    def success(self) -> None:
        """It worked."""
        self._quota.give_back()
