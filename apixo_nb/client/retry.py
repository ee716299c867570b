"""Time, chance, and how often to try again. No I/O: pauses are told, not slept."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


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
