"""A service that limits concurrent tasks and submits a period, without network and clock."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rules:
    """What the service allows, in seconds of its own time.

    `retry_after_s`: what it says when all places are taken; None: nothing.
    """

    places: int = 50
    submits: int = 40
    per_s: float = 10.0
    retry_after_s: float | None = 1.0

    def scaled(self, factor: float) -> Rules:
        """The same, faster."""
        asked = None if self.retry_after_s is None else self.retry_after_s * factor
        return Rules(self.places, self.submits, self.per_s * factor, asked)


@dataclass(slots=True)
class Counts:
    """What the service saw."""

    accepted: int = 0
    refused: int = 0
    wasted: int = 0


@dataclass(slots=True)
class LimitedService:
    """Accepts submits or refuses them; uses no network. The caller passes the times, in their order."""

    rules: Rules
    told_after_s: float
    counts: Counts = field(default_factory=Counts)
    ends: list[float] = field(default_factory=list)
    recent: deque[float] = field(default_factory=deque)
    closed: tuple[float, float] = (math.inf, -math.inf)  # known from, until

    def refusal(self, now: float, sent_at: float) -> float | None:
        """Seconds to wait, 0 if that is not said; None if the submit is accepted."""
        while self.ends and self.ends[0] <= now:
            heapq.heappop(self.ends)
        while self.recent and self.recent[0] <= now - self.rules.per_s:
            self.recent.popleft()
        known, until = self.closed
        self.counts.wasted += known <= sent_at < until
        if len(self.recent) >= self.rules.submits:
            pause = self.recent[0] + self.rules.per_s - now
        elif len(self.ends) >= self.rules.places:
            pause = self.rules.retry_after_s or 0.0
        else:
            self.recent.append(now)
            self.counts.accepted += 1
            return None
        self.counts.refused += 1
        if now + pause > until:
            self.closed = (now + self.told_after_s if now >= until else known, now + pause)
        return pause


def bound(durations: Sequence[float], rules: Rules) -> float:
    """The makespan of a client that knows everything at once, in the same order."""
    free = [0.0] * rules.places
    began: list[float] = []
    for number, duration in enumerate(durations):
        at = free[0]
        if number >= rules.submits:
            at = max(at, began[number - rules.submits] + rules.per_s)
        began.append(at)
        heapq.heapreplace(free, at + duration)
    return max(free)
