"""Work in line: at most so many pieces at a time, and those that wait have no task yet."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

Work = Callable[[], Coroutine[Any, Any, None]]


class Lane:
    """A queue of coroutine functions, for one event loop; fair to the batches they belong to.

    Parameters
    ----------
    at_once : callable
        How many may run now. Asked again and again, as it may change.
    wait_s : callable
        Seconds until the next one may begin; 0 means now.
    """

    def __init__(self, at_once: Callable[[], int], wait_s: Callable[[], float] = lambda: 0.0) -> None:
        self._at_once = at_once
        self._wait_s = wait_s
        self._batches: OrderedDict[Hashable, deque[Work]] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, work: Work, batch: Hashable = None, *, first: bool = False) -> None:
        """Put work in line: the batches take turns. `first`: it was at its turn before."""
        line = self._batches.setdefault(batch, deque())
        if first:
            line.appendleft(work)
            self._batches.move_to_end(batch, last=False)
        else:
            line.append(work)
        self.go_on()

    def remove(self, work: Work) -> bool:
        """Take work out of the line; False if it has begun."""
        for batch, line in self._batches.items():
            if work in line:
                line.remove(work)
                if not line:
                    del self._batches[batch]
                return True
        return False

    def clear(self) -> list[Work]:
        """Take everything out of the line; returns it."""
        waiting = [work for line in self._batches.values() for work in line]
        self._batches.clear()
        return waiting

    def go_on(self) -> None:
        """Begin what may begin now. Call it when more may begin than before."""
        while self._batches and len(self._running) < self._at_once():
            wait_s = self._wait_s()
            if wait_s > 0:
                if self._alarm is not None:
                    self._alarm.cancel()
                self._alarm = asyncio.get_running_loop().call_later(wait_s, self.go_on)
                return
            batch, line = next(iter(self._batches.items()))
            work = line.popleft()
            if line:
                self._batches.move_to_end(batch)  # the next batch's turn
            else:
                del self._batches[batch]
            task = asyncio.ensure_future(work())
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.go_on()
