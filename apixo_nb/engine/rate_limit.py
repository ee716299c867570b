"""When the next submit may leave: one gate for all submits of a process, which learns from refusals.

Additive increase, multiplicative decrease, as in TCP: each refusal halves the rate and the number of submits
that may be on their way at once, each acceptance adds a little of it back. Refusals that come at one pace
again tell that pace: from then on the rate stays close below it. A pause that APIXO asks for (Retry-After)
holds for everybody. Refusals at the same count of tasks at work tell of a limit on that count: then it is
that which is kept, see `places`. When things go on evenly the one looks like the other; the limit is on what
is the steadier from refusal to refusal. What never clears, though no task is at work, is a quota: then the
gate gives up, and says so, in place of hammering on.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .places import Places
from .retry import Clock, RetryPolicy

MOST_AT_ONCE = 8  # submits on their way together; each needs a connection of its own
_FRESH_S = 120.0  # after so long without a refusal, the next one is a new beginning
_FORGOTTEN_S = 900.0  # and after so long, what was learned of the pace is out of date
_LOOK_BACK_S = (10.0, 60.0)  # the times in which a service may count submits
_TELLING = 6  # refusals, after which what they have in common is looked at
_STEADIER = 3.0  # times; of two counts that differ by chance, neither is so much steadier than the other
_ALIKE = 0.75  # two paces are alike if the slower is at least so much of the faster
_BELOW, _ABOVE = 0.96, 1.05  # of the pace that was found: so much is kept, and so much tells of a new one
# What an acceptance adds to the rate, as a share of the rate after the last cut.
_SEARCHING, _KEEPING = 0.1, 0.0005


@dataclass(frozen=True, slots=True)
class Pass:
    """One submit on its way: when it left, by the monotonic clock."""

    left_at: float


class Gate:
    """Lets submits out. Knows no network and never sleeps: it tells how long to wait.

    Parameters
    ----------
    policy : RetryPolicy
        How patient to be: so many refusals in a row, and so many seconds of pauses together.
    clock : Clock
    """

    def __init__(self, policy: RetryPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._window = float(MOST_AT_ONCE)
        self._rate = math.inf  # submits a second
        self._step = 0.0  # what an acceptance adds to the rate
        self._growth = _SEARCHING  # the same as a share of the rate
        self._found = math.inf  # the pace at which the last row of refusals began
        self._ground = 0.0  # the rate after the first refusal of a row
        self._accepted: deque[float] = deque()  # when the last ones were, to know the rate that went well
        self._next_at = -math.inf  # no submit leaves earlier
        self._refused_at = -math.inf
        self._slowed_at = -math.inf
        self._held_until = -math.inf  # a pause after a refusal, which may end early with a task
        self._asked_until = -math.inf  # a pause that APIXO asked for; no submit leaves earlier, come what may
        self._in_a_row = 0
        self._in_vain = 0  # of these, while no task was at work whose end could make room
        self._paused_s = 0.0
        # Refusals, for each time to look back: when, tasks at work, and submits accepted in that time before.
        self._refusals: dict[float, deque[tuple[float, int, int]]] = {
            time_s: deque(maxlen=_TELLING) for time_s in _LOOK_BACK_S
        }
        self._limited_s: set[float] = set()  # times in which submits are limited; none: tasks at work may be
        self.places = Places(policy.base_s)
        self.room: Callable[[], None] = lambda: None  # called when the next submit may leave earlier

    @property
    def at_once(self) -> int:
        """How many submits may be on their way together."""
        return 1 if self._in_a_row else max(1, int(min(self._window, self.places.left)))

    @property
    def rate(self) -> float:
        """Submits a second that may leave; infinite until a first refusal."""
        return self._rate

    def pause_s(self) -> float:
        """Seconds of the pause that refusals have led to; 0 if there is none."""
        return max(0.0, self._next_at - self._clock.monotonic())

    @property
    def closed(self) -> bool:
        """Whether a submit whose turn has come must wait after all, as another was refused since."""
        return self._clock.monotonic() < self._held_until

    def wait_s(self) -> float:
        """Seconds until the next submit may leave, if no task ends before; 0 means now."""
        at = max(self._next_at, self.places.probe_at) if self.places.taken else self._next_at
        return max(0.0, at - self._clock.monotonic())

    def begins(self) -> None:
        """A task is at work from now on, until `ends` is called for it."""
        self.places.at_work += 1

    def ends(self) -> None:
        """The end of a task was seen, or nobody waits for it any more."""
        self.places.at_work -= 1
        if self._in_a_row:  # its place may be the one that was missing
            now = self._clock.monotonic()
            self._next_at = max(self._asked_until, min(self._next_at, now))
            self._held_until = min(self._held_until, self._next_at)
        self.room()

    def reserve(self) -> None:
        """A submit is at its turn, and leaves soon: the next one's turn is a gap of the rate later."""
        now = self._clock.monotonic()
        if now - max(self._refused_at, self._slowed_at) > _FORGOTTEN_S:
            self._window, self._rate, self._step, self._in_a_row = float(MOST_AT_ONCE), math.inf, 0.0, 0
            self._found = math.inf
            self._limited_s.clear()
            for seen in self._refusals.values():
                seen.clear()
            self.places.forget()
        if math.isfinite(self._rate):
            self._next_at = max(self._next_at, now) + 1.0 / self._rate

    def unused(self) -> None:
        """Nothing leaves at the turn that was reserved: the next one need not wait for it."""
        if math.isfinite(self._rate):
            self._next_at = max(self._held_until, self._asked_until, self._next_at - 1.0 / self._rate)

    def leave(self) -> Pass:
        """A submit leaves."""
        return Pass(self._clock.monotonic())

    def accepted(self, *, made: bool = True) -> None:
        """A submit was accepted; or, with `made` false, at least not turned away for being too many."""
        now = self._clock.monotonic()
        self._accepted.append(now)
        while now - self._accepted[0] >= _LOOK_BACK_S[-1]:
            self._accepted.popleft()
        if self._in_a_row and math.isfinite(self._rate):
            # Each probe in vain has halved the rate once more; it told when to come back, not at which pace.
            self._rate = max(self._rate, self._ground)
            self._step = self._rate * self._growth
        self._in_a_row, self._in_vain, self._paused_s = 0, 0, 0.0
        if made and not self._limited_s:
            self.places.accepted(now)
        self._window = min(float(MOST_AT_ONCE), self._window + 1.0 / self._window)
        self._rate += self._step
        if self._growth == _KEEPING and self._rate > _ABOVE * self._found:  # there is more than there was
            self._growth, self._step = _SEARCHING, self._rate * _SEARCHING

    def slow_down(self) -> None:
        """A task failed for being one too many: half the rate, without a pause."""
        self._slowed_at = self._clock.monotonic()
        self._cut(self._slowed_at, told=False)

    def refused(self, sent: Pass, retry_after_s: float | None, *, told: bool = True) -> bool:
        """A submit was turned away. Returns whether it is worth another try.

        Submits that were on their way together are refused together; that counts once. `told` is false where
        there was no connection: that says nothing of how many tasks there may be.
        """
        now = self._clock.monotonic()
        if now - self._refused_at > _FRESH_S:
            self._in_a_row, self._in_vain, self._paused_s = 0, 0, 0.0
        again = sent.left_at > self._refused_at
        self._in_a_row += again
        self._refused_at = now
        pause = self._pause(retry_after_s)
        self._next_at = max(self._next_at, now + pause)
        self._held_until = max(self._held_until, now + pause)
        if retry_after_s is not None:
            self._asked_until = max(self._asked_until, self._next_at)
        if again:
            self._learn(now, pause, retry_after_s, told=told)
        if told and self.places.at_work:
            return pause <= self._policy.total_s
        return self._in_vain < self._policy.attempts and self._paused_s <= self._policy.total_s

    def _learn(self, now: float, pause: float, retry_after_s: float | None, *, told: bool) -> None:
        if told:
            self._compare(now)
            if self._limited_s:
                self.places.forget()
            else:
                self.places.refused(self._next_at, retry_after_s)
        if told and self.places.certain:  # submits were not too fast, and many may be missing after a pause
            self._window = float(MOST_AT_ONCE)
            self._rate = max(self._rate, 2 * self._pace(now))
        else:
            self._cut(now, told=told)
        if not (told and self.places.at_work):
            self._in_vain += 1
            self._paused_s += pause

    def _compare(self, now: float) -> None:
        """Which limit there is: refusals come at one count of what it is on, and at any of the other."""
        for time_s, seen in self._refusals.items():
            if self._in_a_row > 1 or (seen and now - seen[-1][0] < time_s):
                continue  # counts in times that overlap are alike, whatever the limit is on
            seen.append((now, self.places.at_work, sum(now - at < time_s for at in self._accepted)))
            if len(seen) == _TELLING:
                _, at_work, submits = map(_spread, zip(*seen, strict=True))
                if _STEADIER * submits < at_work:
                    self._limited_s.add(time_s)
                elif _STEADIER * at_work < submits:
                    self._limited_s.discard(time_s)

    def _cut(self, now: float, *, told: bool) -> None:
        self._window = max(1.0, self._window / 2)
        pace, kept = min(self._rate, self._pace(now)), 0.5
        if self._in_a_row <= 1:
            low, high = sorted((pace, self._found))
            found_again = told and low >= _ALIKE * high
            self._growth, kept = (_KEEPING, _BELOW) if found_again else (_SEARCHING, kept)
            self._found = pace if told else math.inf
        self._rate = max(0.02, pace * kept)
        self._step = self._rate * self._growth
        if self._in_a_row <= 1:
            self._ground = self._rate

    def _pace(self, now: float) -> float:
        """Submits a second that were accepted lately."""
        recent = [at for at in self._accepted if now - at < _LOOK_BACK_S[0]]
        return len(recent) / max(1.0, now - recent[0]) if len(recent) > 1 else 1.0 / self._policy.base_s

    def _pause(self, retry_after_s: float | None) -> float:
        if retry_after_s is not None:
            # A little on top, so that programs told the same time do not come back together.
            return retry_after_s + self._clock.between(0.0, self._policy.base_s / 2)
        ceiling = min(self._policy.cap_s, self._policy.base_s * 2 ** min(max(self._in_a_row - 1, 0), 60))
        return self._clock.between(0.0, ceiling)


def _spread(counts: Sequence[float]) -> float:
    """How much they differ, as a share of their mean."""
    mean = statistics.fmean(counts)
    return statistics.pstdev(counts) / mean if mean else math.inf
