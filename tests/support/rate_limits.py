"""A rate limit that is driven by hand, on a clock that only a test moves."""

from __future__ import annotations

from apixo_nb.client.protocol import Clock
from apixo_nb.engine.rate_limit import Permit, RateLimiter

LONG_S = 121.0  # so long without a refusal makes a new beginning


class Time:
    """A clock that stands still until a test moves it, and a chance that is chosen."""

    def __init__(self, chance: float = 0.5):
        self.now, self.chance = 1000.0, chance

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, random=lambda: self.chance)


def leave(limiter: RateLimiter) -> Permit:
    """A submit whose turn it is leaves at once."""
    limiter.reserve()
    return limiter.leave()


def accept(limiter: RateLimiter, time: Time, count: int, every_s: float = 0.0) -> None:
    """So many submits, each accepted at once."""
    for _ in range(count):
        leave(limiter)
        limiter.accepted()
        time.now += every_s


def refuse(limiter: RateLimiter, time: Time, retry_after_s: float | None = None) -> bool:
    """One submit at its time, refused a moment later."""
    time.now += limiter.wait_s() + 0.01
    sent = leave(limiter)
    time.now += 0.01
    return limiter.refused(sent, retry_after_s)
