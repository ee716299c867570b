"""The counter where runs are bought: the row first, then one POST, sent again only if it was turned away."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any

from apixo_nb.client.client import AsyncClient
from apixo_nb.client.protocol import TurnedAway
from apixo_nb.core.records import PLANNED, SUBMITTING, UNKNOWN, utc_now
from apixo_nb.errors import ApixoError, RateLimitError, SubmitUnknownError
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.storage.originals import Images

from .job import Job, refusal, stopped_error
from .rate_limit import Gate
from .recorder import Keeper, Parts

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


@dataclass(eq=False, slots=True)
class Purchase:
    """A run that is to be bought.

    `batch`: what it belongs to, such as a cell; batches take turns. `once`: if another process was quicker to
    ask for this very take, nothing is bought. `written`: its row is in the ledger.
    """

    job: Job
    timeout_s: float
    batch: Hashable = None
    once: bool = False
    written: bool = False


Next = Callable[[Purchase], Coroutine[Any, Any, bool]]


class Buyer:
    """Buys runs, some at a time. Its methods run on the loop thread.

    Parameters
    ----------
    bought, beaten : coroutine functions
        How a run goes on that was bought, and one that another process is buying already.
    """

    def __init__(
        self,
        client: AsyncClient,
        ledger: Ledger,
        images: Images,
        keeper: Keeper,
        parts: Parts,
        *,
        bought: Next,
        beaten: Next,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._images = images
        self._keeper = keeper
        self._parts = parts
        self._bought = bought
        self._beaten = beaten
        self.gate = Gate(client.retry, client.clock)
        self._line = Lane(lambda: self.gate.at_once, self.gate.wait_s)
        self.gate.room = self._line.go_on
        self._waiting: dict[Job, Purchase] = {}

    def line_up(self, purchase: Purchase, *, first: bool = False) -> None:
        """Put a purchase in line; `first` if it was at its turn before."""
        job = purchase.job
        if job.stopped:
            self._parts.begin(job, self._not_sent(purchase))
            return
        if (pause_s := self.gate.pause_s()) > self._client.retry.total_s:
            self._parts.begin(job, self._not_now(purchase, pause_s))
            return

        def work() -> Coroutine[Any, Any, None]:
            del self._waiting[job]
            self.gate.reserve()
            job.submitting = True  # from here to the answer, nothing is cut off
            return self._parts.carry_out(job, self._buy(purchase))

        def give_up() -> None:
            if self._line.remove(work):
                del self._waiting[job]
                self._parts.begin(job, self._not_sent(purchase))

        self._waiting[job] = purchase
        job.give_up = give_up
        self._line.add(work, purchase.batch, first=first)

    async def _not_sent(self, purchase: Purchase) -> bool:
        """Stopped before anything was accepted."""
        if purchase.written:
            await self._keeper.change(purchase.job, state=PLANNED)
        raise stopped_error(purchase.job, "Stopped before anything was sent")

    async def _not_now(self, purchase: Purchase, pause_s: float) -> bool:
        """APIXO asked for a pause that nobody waits for in a cell."""
        step = f"Nothing was sent. {RateLimitError.next_step}"
        error = RateLimitError("APIXO turns submits away", retry_after_s=pause_s, next_step=step)
        if purchase.written:
            await self._keeper.change(purchase.job, **refusal(error))
        raise error

    async def _buy(self, purchase: Purchase) -> bool:
        job, leaves = purchase.job, False
        try:
            if not purchase.written and not job.stopped:
                await self._write_row(purchase)
            if job.stopped:
                return await self._not_sent(purchase)
            if not purchase.written:  # followed from here on, outside the line
                job.submitting = False
                self._parts.begin(job, self._beaten(purchase))
                return True
            leaves = not self.gate.closed
            if leaves and await self._submit(purchase):
                return await self._bought(purchase)  # a Stop in between is seen there
        finally:
            job.submitting = False
            if not leaves:  # also where the budget refused it
                self.gate.unused()
        self.line_up(purchase, first=True)  # turned away, or another was while this one was written
        return True

    async def _write_row(self, purchase: Purchase) -> None:
        """Reserve room on the disk, the sum in the budget, and the take.

        If another process was quicker to ask for this take, the job is about its row from here on.
        """
        job = purchase.job
        await self._keeper.write(self._images.check_room, job.run.num_images)
        planned = job.run.but(state=SUBMITTING)
        row = await self._keeper.write(self._ledger.add, planned, once=purchase.once)
        purchase.written = row.run_id == planned.run_id
        if not purchase.written:
            del self._parts.live[planned.run_id]
            self._parts.live[row.run_id] = job
        self._keeper.tell(job, row)

    async def _submit(self, purchase: Purchase) -> bool:
        """One POST. False if it was turned away and is to be sent again."""
        job = purchase.job
        sent = self.gate.leave()
        job.posted = True
        try:
            answer = await self._client.submit_once(job.run.request)
        except SubmitUnknownError as error:
            error.at_stake_usd = job.run.price_micros / 1e6
            await self._keeper.change(job, state=UNKNOWN, fail_msg=error.headline)
            raise
        except ApixoError as error:
            self.gate.accepted(made=False)  # what is wrong is this request, not that it was one too many
            await self._keeper.change(job, **refusal(error))
            raise
        if isinstance(answer, TurnedAway):
            job.posted = False
            told = isinstance(answer.problem, RateLimitError)
            again = self.gate.refused(sent, answer.retry_after_s, told=told)
            await self._turned_away(purchase, answer, again=again)
            return False
        self.gate.accepted()
        job.takes_place(self.gate)
        await self._keeper.bought(job, answer, utc_now())
        return True

    async def _turned_away(self, purchase: Purchase, answer: TurnedAway, *, again: bool) -> None:
        """Surely nothing was made. Raises unless it is worth another try."""
        if purchase.job.stopped:
            await self._keeper.change(purchase.job, state=PLANNED)
            raise answer.problem
        if not again:
            await self._keeper.change(purchase.job, **refusal(answer.problem))
            await self._give_up_all(answer.problem)
            raise answer.problem

    async def _give_up_all(self, problem: ApixoError) -> None:
        """What does not clear is a quota, or a network that is gone: nobody else in line is sent."""
        self._line.clear()
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for purchase in waiting:
            error = type(problem)(f"Not sent, as others were turned away: {problem.message}")
            if isinstance(error, RateLimitError) and isinstance(problem, RateLimitError):
                error.retry_after_s = problem.retry_after_s
            if purchase.written:
                await self._keeper.change(purchase.job, **refusal(error))
            await self._parts.end(purchase.job, error)
        if isinstance(problem, RateLimitError) and waiting:
            problem.next_step = f"{len(waiting)} more were not sent. {problem.next_step}"
