"""How many tasks APIXO works on at a time for this key: nobody says so, but refusals tell.

APIXO's page speaks of limits of "concurrency" that vary by account, and names none. A submit that is refused
while tasks are at work may have found all places taken; then it is the end of a task that makes room, and not
slower submits. So the count of our tasks at that moment is taken for the number of places, until others are
found.
"""

from __future__ import annotations

import math

_ALIKE = 0.75  # two counts are alike if the smaller is at least so much of the larger
_MORE = 0.05  # of a place, for each submit that was accepted within them
_DEAREST = 16.0  # so that places that others had held are found within some refusals
_LONGEST_S = 60.0
_PAUSE = 2.0  # in the pauses of the retry policy: while all are taken, between two tries whether that is so


class Places:
    """Counts the tasks at work, and learns how many there can be.

    Parameters
    ----------
    base_s : float
        The first pause of the retry policy, in seconds.
    """

    def __init__(self, base_s: float) -> None:
        self._base_s = base_s
        self._refused_at_work = 0  # how many were at work at the last refusal
        self._step = 1.0  # what is added when one more than thought was accepted
        self._patience = 1.0  # grows with each try in vain, and shrinks again
        self._dear = 1.0  # what a refusal costs; 1 where it costs a pause of `base_s`
        self.at_work = 0
        self.limit = math.inf
        self.certain = False  # whether refusals came at one count more than once
        self.probe_at = -math.inf  # while all are taken: not before, by the monotonic clock

    @property
    def taken(self) -> bool:
        """Whether there is no place left, as far as is known."""
        return self.at_work + 1 > self.limit

    @property
    def left(self) -> float:
        """How many may be taken at once: half of what is left, as what is known is a little old."""
        return (self.limit - self.at_work) / 2

    def forget(self) -> None:
        """What was learned is out of date."""
        self.limit, self.certain, self._refused_at_work = math.inf, False, 0

    def accepted(self, now: float) -> None:
        """A submit was accepted."""
        if not self.taken:
            self.limit += _MORE / self._dear
            return
        self.limit = self.at_work + self._step
        if self.certain:  # a task has ended unseen
            self._patience = max(1.0, self._patience * 0.75)
            self.probe_at = now + self._pause_s
        else:
            self._step *= 2

    def refused(self, next_at: float, asked_s: float | None) -> None:
        """A submit was refused; the next may leave at `next_at`, and APIXO asked for a pause or did not.

        Where it asks for long pauses, which hold up everything, refusals are risked less.
        """
        low, high = sorted((self.at_work, self._refused_at_work))
        self.certain = low > 0 and low >= _ALIKE * high
        self._dear = min(_DEAREST, max(1.0, (asked_s or 0.0) / self._base_s) ** 2)
        if self.certain and self.taken:
            self._patience = min(10.0, self._patience * 1.5)
        self._step, self._refused_at_work = 1.0, self.at_work
        self.limit = self.at_work or math.inf
        self.probe_at = next_at + (self._pause_s if self.certain else 0.0)

    @property
    def _pause_s(self) -> float:
        return min(_LONGEST_S, _PAUSE * self._base_s * self._dear * self._patience)
