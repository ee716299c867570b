"""Polls many tasks with few requests: one heap of due times, and a bounded number of polls at a time.

A flow that waits says when it wants to poll next. The poller keeps these times, sends what is due over a
bounded number of connections, and applies what the answers show to all flows: while APIXO does not answer at
all, a single poll from time to time finds out when it is back.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from apixo_nb.client.protocol import Clock, Fault, Flow, Reply, Send, Sleep
from apixo_nb.errors import ApixoError

# Polls; below the number of connections, which are shared with other calls. Where an answer takes 0.15 s,
# these are a hundred a second: enough for 500 tasks at the intervals of APIXO's page.
MOST_AT_ONCE = 16
_ENOUGH_FAILURES = 4  # in a row, of any flows, after which APIXO counts as unreachable

Done = Callable[[Any, BaseException | None], None]


@dataclass(eq=False, slots=True)
class Waiting:
    """A flow in the poller."""

    flow: Flow[Any]
    done: Done
    command: Send | None = None
    held: bool = False  # its last poll was not sent, or not answered
    ended: bool = False


@dataclass(order=True, slots=True)
class _Due:
    at: float
    number: int
    waiting: Waiting = field(compare=False)


class Poller:
    """Steps flows that send and sleep. All of it happens on one event loop.

    Parameters
    ----------
    carry_out : callable
        Sends one request, and returns its `Reply` or `Fault`.
    clock : Clock
    probe_s : float
        While APIXO does not answer: seconds between two polls.
    """

    def __init__(
        self, carry_out: Callable[[Send], Awaitable[Reply | Fault]], clock: Clock, probe_s: float
    ) -> None:
        self._carry_out = carry_out
        self._clock = clock
        self._probe_s = probe_s
        self._heap: list[_Due] = []
        self._numbers = itertools.count()
        self._polls: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._probe_at = 0.0

    def __len__(self) -> int:
        return sum(not due.waiting.ended for due in self._heap) + len(self._polls)

    async def finish(self, flow: Flow[Any]) -> Any:
        """Carry a flow to its end: returns its value, or raises its error. If cancelled, it is dropped."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(value: Any, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        waiting = self.add(flow, done)
        try:
            await asyncio.wait([answer])
        except asyncio.CancelledError:
            if not answer.done():  # else it has ended in the same moment
                self.drop(waiting)
                raise
        return answer.result()

    def add(self, flow: Flow[Any], done: Done) -> Waiting:
        """Begin a flow. `done` is called once, on the loop, with its value or its error."""
        waiting = Waiting(flow, done)
        self._step(waiting, None)
        self._go_on()
        return waiting

    def drop(self, waiting: Waiting) -> None:
        """Forget a flow; `done` is not called any more."""
        waiting.ended = True
        waiting.flow.close()

    # --- one flow ---

    def _step(self, waiting: Waiting, answer: Reply | Fault | None) -> None:
        """Give a flow its answer, and put it on the heap for what it wants next."""
        try:
            command = waiting.flow.send(answer)
        except StopIteration as end:
            self._end(waiting, end.value, None)
        except ApixoError as error:
            self._end(waiting, None, error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - handed on to whoever waits for it
            self._end(waiting, None, error)
        else:
            waiting.command = command if isinstance(command, Send) else None
            self._push(waiting, command.seconds if isinstance(command, Sleep) else 0.0)

    def _push(self, waiting: Waiting, delay_s: float) -> None:
        at = self._clock.monotonic() + delay_s
        heapq.heappush(self._heap, _Due(at, next(self._numbers), waiting))

    def _end(self, waiting: Waiting, value: Any, error: BaseException | None) -> None:
        waiting.ended = True
        waiting.done(value, error)

    # --- all of them ---

    def _go_on(self) -> None:
        """Do what is due, and set the timer for what is next."""
        while self._heap:
            due = self._heap[0]
            if due.waiting.ended:
                heapq.heappop(self._heap)
                continue
            left_s = due.at - self._clock.monotonic()
            if left_s > 0:
                self._wake_in(left_s)
                return
            waiting, command = due.waiting, due.waiting.command
            if command is not None and not self._held_back():
                if len(self._polls) >= MOST_AT_ONCE:
                    return  # goes on when one of these has ended
                self._send(waiting, command)
            elif command is not None:
                waiting.held = True
                self._next(waiting, Fault("unsent", "APIXO answers nobody at the moment"))
            else:  # it has slept
                self._next(waiting, None)

    def _next(self, waiting: Waiting, answer: Fault | None) -> None:
        heapq.heappop(self._heap)
        self._step(waiting, answer)

    def _send(self, waiting: Waiting, command: Send) -> None:
        heapq.heappop(self._heap)
        if self._failures >= _ENOUGH_FAILURES:
            self._probe_at = self._clock.monotonic() + self._probe_s
        task = asyncio.ensure_future(self._poll(waiting, command))
        self._polls.add(task)
        task.add_done_callback(self._polled)

    def _polled(self, task: asyncio.Task[None]) -> None:
        self._polls.discard(task)
        self._go_on()

    async def _poll(self, waiting: Waiting, send: Send) -> None:
        try:
            answer = await self._carry_out(send)
        except Exception as error:  # noqa: BLE001 - such as a proxy setting that cannot be used
            if not waiting.ended:
                waiting.flow.close()
                self._end(waiting, None, error)
            return
        self._learn(answer)
        waiting.held = _is_trouble(answer)
        if not waiting.ended:
            self._step(waiting, answer)

    def _wake_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._go_on)

    # --- what the answers show ---

    def _held_back(self) -> bool:
        """Whether a poll is not sent now: APIXO is unreachable, and another poll tries, or has just tried."""
        if self._failures < _ENOUGH_FAILURES:
            return False
        return bool(self._polls) or self._clock.monotonic() < self._probe_at

    def _learn(self, answer: Reply | Fault) -> None:
        if _is_trouble(answer):
            self._failures += 1
            if self._failures == _ENOUGH_FAILURES:
                self._probe_at = self._clock.monotonic() + self._probe_s
            return
        back, self._failures = self._failures >= _ENOUGH_FAILURES, 0
        if back:
            self._hurry()

    def _hurry(self) -> None:
        """APIXO is back: those that were held back are sent soon, but not all in one moment."""
        now = self._clock.monotonic()
        for due in self._heap:
            if due.waiting.held:
                due.at = min(due.at, now + self._clock.between(0.0, 2 * self._probe_s))
        heapq.heapify(self._heap)


def _is_trouble(answer: Reply | Fault) -> bool:
    return isinstance(answer, Fault) or answer.status == 429 or answer.status >= 500
