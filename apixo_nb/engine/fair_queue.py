"""A queue for the slots of a limit: at most so many in use at a time, and fair to the batches that wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Protocol, Self


class Limit(Protocol):
    """How many slots there are, and when the next one may be taken. It may change at any time."""

    @property
    def at_once(self) -> int:
        """How many slots may be in use now."""

    def wait_s(self) -> float:
        """Seconds until the next slot may be taken; 0 means now."""

    def reserve(self) -> None:
        """A slot was taken."""

    def give_back(self) -> None:
        """A slot was released, and not used."""


class AtMost:
    """A limit on the number of slots only.

    Parameters
    ----------
    at_once : int
        How many slots may be in use at a time.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once

    def wait_s(self) -> float:
        """Now: there is no limit on the rate."""
        return 0.0

    def reserve(self) -> None:
        """Nothing to do: the queue counts the slots."""

    def give_back(self) -> None:
        """Nothing to do, as above."""


class Slot:
    """A slot of a `FairQueue`, to be used in a ``with`` statement, whose end releases it.

    Attributes
    ----------
    used : bool
        Whether something was done with it; else the limit need not count it.
    """

    def __init__(self, queue: FairQueue) -> None:
        self.used = False
        self._queue = queue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.release(self)


class FairQueue:
    """Hands out the slots of a limit, on one event loop; the batches that wait take turns.

    Parameters
    ----------
    limit : Limit
        How many slots may be in use, and when the next one may be taken.

    Attributes
    ----------
    in_use : int
        How many slots are in use.
    """

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._batches: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        self.in_use = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many wait for a slot."""
        return sum(not granted.done() for line in self._batches.values() for granted in line)

    async def acquire(self, batch: Hashable = None, *, first: bool = False) -> Slot:
        """Wait for a slot. `first`: before all others, as for one that had a slot before and did not use it.

        If it is cancelled, no slot is taken, also where one was granted in the same moment.

        Raises
        ------
        Exception
            What `refuse_all` was given, if it was called meanwhile.
        """
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._batches.setdefault(batch, deque())
        if first:
            line.appendleft(granted)
            self._batches.move_to_end(batch, last=False)
        else:
            line.append(granted)
        self.admit()
        try:
            await granted
        except asyncio.CancelledError:
            self._abandon(batch, granted)
            raise
        return Slot(self)

    def admit(self) -> None:
        """Grant the slots that may be taken now. Call it when the limit may allow more than before."""
        while self.in_use < self._limit.at_once and (line := self._next_line()) is not None:
            wait_s = self._limit.wait_s()
            if wait_s > 0:
                self._admit_in(wait_s)
                return
            granted = line.popleft()
            batch, _ = self._batches.popitem(last=False)
            if line:
                self._batches[batch] = line  # behind the other batches
            self._limit.reserve()
            self.in_use += 1
            granted.set_result(None)

    def release(self, slot: Slot) -> None:
        """End the use of a slot."""
        if not slot.used:
            self._limit.give_back()
        self.in_use -= 1
        # In the next step of the loop, so that its owner may acquire another one before all others.
        asyncio.get_running_loop().call_soon(self.admit)

    def refuse_all(self, make_error: Callable[[], Exception]) -> int:
        """Raise an error, made for each, in all that wait. Returns how many these were."""
        waiting = [granted for line in self._batches.values() for granted in line if not granted.done()]
        self._batches.clear()
        for granted in waiting:
            granted.set_exception(make_error())
        return len(waiting)

    def _next_line(self) -> deque[asyncio.Future[None]] | None:
        """The line of the batch whose turn it is; those that have given up are removed from its head."""
        while self._batches:
            batch, line = next(iter(self._batches.items()))
            while line and line[0].done():
                line.popleft()
            if line:
                return line
            del self._batches[batch]
        return None

    def _admit_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.admit)

    def _abandon(self, batch: Hashable, granted: asyncio.Future[None]) -> None:
        """One that waited was cancelled."""
        if not granted.cancelled():
            if granted.exception() is None:  # in the same moment in which it was granted a slot
                self.release(Slot(self))
            return
        line = self._batches.get(batch)
        if line is not None and granted in line:
            line.remove(granted)
            if not line:
                del self._batches[batch]
