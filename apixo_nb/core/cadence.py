"""When to look at a task, from how long tasks of its kind took: each poll goes where it finds most.

A poll costs APIXO something, and a task that has ended unseen costs the person who waits. What the durations
foretell is smoothed, and of all schedules that keep the bounds the one is taken whose polls and delay
together cost least. The optimum is found backwards, from the last poll to the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

_ENOUGH = 64  # durations; of more, so many that stand for them
_CELLS = 600  # ages at which the next poll is worked out
_NARROWEST = 0.02  # of a duration: as exactly as that nobody knows the future
_PRICE = 0.15  # of a poll, in intervals: of the page's 5 s, three quarters of a second of delay


@dataclass(frozen=True, slots=True)
class PollTimes:
    """When to poll, in seconds since the task was made.

    `next_s[k]` is when to poll next if the task is still at work at ``start_s + k * step_s``.
    """

    first_s: float
    start_s: float
    step_s: float
    next_s: tuple[float, ...]

    def next_at(self, age_s: float) -> float:
        """When to poll next a task of this age that has not ended; infinite where nothing is known."""
        cell = max(0, math.floor((age_s - self.start_s) / self.step_s))
        return self.next_s[cell] if cell < len(self.next_s) else math.inf

    def scaled(self, factor: float) -> PollTimes:
        """The same, faster or slower."""
        return PollTimes(
            self.first_s * factor,
            self.start_s * factor,
            self.step_s * factor,
            tuple(at * factor for at in self.next_s),
        )


def best_poll_times(
    known: Sequence[float], start_s: float, bounds_s: tuple[float, float], interval_s: float
) -> PollTimes:
    """The best poll times for tasks like these.

    Parameters
    ----------
    known : sequence of float
        How long tasks took, in seconds, sorted; two at least.
    start_s : float
        No poll is earlier.
    bounds_s : tuple of float
        The shortest and the longest pause between two polls.
    interval_s : float
        The pause that is thought right where nothing is known: it tells what a poll is worth.
    """
    low_s, high_s = bounds_s
    end_s = max(start_s, 1.5 * known[int(0.95 * len(known))]) + 2 * high_s
    step_s = max(low_s / 6, (end_s - start_s) / _CELLS)
    ages = [start_s + cell * step_s for cell in range(math.ceil((end_s - start_s) / step_s) + 1)]
    left = _still_at_work(known, ages)
    # after[k]: how much time tasks still spend at work after that age, taken over all tasks
    after = [*accumulate(((a + b) / 2 * step_s for a, b in _pairs_backwards(left)), initial=0.0)][::-1]
    fewest = max(1, math.ceil(low_s / step_s - 1e-9))
    most = max(fewest, math.floor(high_s / step_s + 1e-9))
    costs, chosen = _backwards(left, after, step_s, (fewest, most), _PRICE * interval_s)
    first = min(range(len(ages)), key=lambda cell: cell * step_s + after[cell] + costs[cell])
    latest_first = accumulate(chosen, max)  # who asks later is never told to come earlier
    return PollTimes(ages[first], start_s, step_s, tuple(start_s + cell * step_s for cell in latest_first))


def _pairs_backwards(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(values[index - 1], values[index]) for index in range(len(values) - 1, 0, -1)]


def _backwards(
    left: Sequence[float], after: Sequence[float], step_s: float, pauses: tuple[int, int], price_s: float
) -> tuple[list[float], list[int]]:
    """For each cell: what polls and delay from there on cost, and the cell of the next poll.

    A task that ends between two polls is seen at the second: the delay of all tasks together is the time
    between the polls, times those that are at work at the first, less the time they still spend at work.
    """
    fewest, most = pauses
    costs, chosen = [0.0] * len(left), [0] * len(left)
    for cell in range(len(left) - 1, -1, -1):
        at_work, spent = left[cell], after[cell]
        if cell + most >= len(left):  # nearly none gets here; two more polls, at the longest pause
            costs[cell], chosen[cell] = 2 * at_work * (price_s + most * step_s / 2), cell + most
            continue
        found, costs[cell] = -1, math.inf
        for then in range(cell + fewest, cell + most + 1):
            cost = at_work * (price_s + (then - cell) * step_s) - (spent - after[then]) + costs[then]
            if cost < costs[cell]:
                found, costs[cell] = then, cost
        chosen[cell] = found
    return costs, chosen


def _still_at_work(known: Sequence[float], ages: Sequence[float]) -> list[float]:
    """Which share of tasks lasts longer than each of these ages.

    Each duration stands for those around it, by a normal distribution of logarithms as wide as
    Silverman's rule has it. One more, wide one stands for what was never seen.
    """
    size = min(len(known), _ENOUGH)
    logs = [math.log(max(1e-3, known[(2 * index + 1) * len(known) // (2 * size)])) for index in range(size)]
    middle = sum(logs) / size
    spread = math.sqrt(sum((each - middle) ** 2 for each in logs) / (size - 1))
    half = (logs[3 * size // 4] - logs[size // 4]) / 1.34
    width = max(_NARROWEST, 0.9 * (min(spread, half) or spread) * len(known) ** -0.2) * math.sqrt(2)
    median, shares = logs[size // 2], []
    for age_s in ages:
        at = math.log(max(1e-3, age_s))
        seen = sum(math.erfc((at - each) / width) for each in logs)
        unseen = math.erfc((at - median) / math.sqrt(2))
        shares.append((seen + unseen * size / len(known)) / 2 / (size * (1 + 1 / len(known))))
    return shares


#: So many durations of tasks are needed before they foretell the next one.
ENOUGH_DURATIONS = 8

_LATE = 4.0  # times its expected duration; a task so late is polled as seldom as the page allows


@dataclass(frozen=True, slots=True)
class Cadence:
    """When to poll, in seconds.

    `expected_s` is the typical duration of a task. `durations_s` are those that tasks of this kind were seen
    to take, sorted; with enough of them the polls go to where tasks end, within the bounds of the
    page.
    """

    expected_s: float
    first_poll_s: float
    interval_s: float
    interval_bounds_s: tuple[float, float]
    durations_s: tuple[float, ...] = ()
    poll_times: PollTimes | None = None

    @property
    def slow_s(self) -> float | None:
        """What 9 of 10 tasks stay under, where that is known."""
        return _quantile(self.durations_s, 0.9) if self.durations_s else None

    def learned(self, durations_s: Iterable[float]) -> Cadence:
        """With the durations seen so far; unchanged while they are too few to tell anything.

        The page advises a first poll after 20 s of typically 30. Where tasks take longer, it moves to where
        they end; where they are faster than the page says, it is as much earlier, and no earlier than that.
        """
        known = tuple(sorted(durations_s))
        if len(known) < ENOUGH_DURATIONS:
            return self
        typical_s = _quantile(known, 0.5)
        earliest_s = self.first_poll_s * min(1.0, typical_s / self.expected_s)
        best = best_poll_times(known, earliest_s, self.interval_bounds_s, self.interval_s)
        return replace(
            self, expected_s=typical_s, first_poll_s=best.first_s, durations_s=known, poll_times=best
        )

    def pause_s(self, age_s: float) -> float:
        """How long to wait for the next poll of a task of this age, before jitter, within the bounds."""
        low, high = self.interval_bounds_s
        if self.poll_times is not None:
            return min(high, max(low, self.poll_times.next_at(age_s) - age_s))
        late = age_s > _LATE * max(self.expected_s, self.first_poll_s)
        return high if late else self.interval_s

    def scaled(self, factor: float) -> Cadence:
        """The same rhythm, faster or slower: the sandbox works in a fraction of the real time."""
        low, high = self.interval_bounds_s
        return Cadence(
            self.expected_s * factor,
            self.first_poll_s * factor,
            self.interval_s * factor,
            (low * factor, high * factor),
            tuple(duration * factor for duration in self.durations_s),
            self.poll_times and self.poll_times.scaled(factor),
        )

    def override(self, first_poll_s: float | None, interval_s: float | None) -> Cadence:
        """The user's own numbers in place of the page's; an own interval is its own bounds, and is kept."""
        cadence = self
        if first_poll_s is not None:
            cadence = replace(cadence, first_poll_s=first_poll_s)
        if interval_s is not None:
            bounds = (interval_s * 0.8, interval_s * 1.2)
            cadence = replace(cadence, interval_s=interval_s, interval_bounds_s=bounds, poll_times=None)
        return cadence


def _quantile(known: tuple[float, ...], share: float) -> float:
    return known[min(len(known) - 1, int(share * len(known)))]
