"""Keeps the record of a run on its way: tells the listeners, and writes it to the ledger in order.

Once a run may have been paid for, a ledger that refuses stops nothing: what it would not take is offered
again with the next change, and a last time at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from apixo_nb.core.event_loop import Writer
from apixo_nb.core.records import SUBMITTED, Image, Run
from apixo_nb.errors import ApixoError, LedgerError
from apixo_nb.ledger.ledger import Ledger

from .job import Job, stopped_error

Listener = Callable[[Run], None]

_AGAIN_S = 1.0  # to the second attempt to let go of a run

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Owed:
    """What the ledger has not taken yet, and why."""

    columns: dict[str, Any] = field(default_factory=dict)
    images: dict[int, Image] = field(default_factory=dict)
    refusal: LedgerError | None = None


class Keeper:
    """The records of all runs in flight. Its coroutines run on the loop thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._writer = Writer()
        self._listeners: list[Listener] = []
        self._owed: dict[Job, _Owed] = {}
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks only weakly

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell a function of every new record; returns the function that ends it."""
        self._listeners.append(listener)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return forget

    def close(self) -> None:
        """Return when all is written."""
        self._closed = True
        self._writer.close()

    def tell(self, job: Job, run: Run) -> None:
        """The new record of a job, for everybody who listens."""
        job.run = run
        for listener in tuple(self._listeners):
            try:
                listener(run)
            except Exception:  # noqa: BLE001 - whoever looks on must not stop what is paid for
                _log.exception("a listener failed at run %s", run.run_id)

    async def write(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A call that reads or writes the disk, in its turn; returns its value, raises what it raises."""
        return await asyncio.wrap_future(self._writer.submit(call, *args, **options))

    def later(self, call: Callable[[], Any]) -> None:
        """A call for whose outcome nobody waits."""
        self._writer.submit(call)

    async def bought(self, job: Job, task_id: str, submitted_at: datetime) -> None:
        """The most precious write: the taskId."""
        self.tell(job, job.run.but(state=SUBMITTED, task_id=task_id, submitted_at=submitted_at))
        bought = {"state": SUBMITTED, "task_id": task_id, "submitted_at": submitted_at}
        try:
            if not await self.write(self._ledger.record_task, job.run.run_id, task_id, submitted_at):
                self._owes(job).columns |= bought  # it is safe beside; the row is to have it too
        except LedgerError as refusal:
            owed = self._owes(job)
            owed.refusal = owed.refusal or refusal
            owed.columns |= bought

    async def change(self, job: Job, **changes: Any) -> None:
        """Change the record; returns when it is on disk, or was refused."""
        self.tell(job, job.run.but(**changes))
        columns = self._owed[job].columns | changes if job in self._owed else changes
        try:
            await self.write(self._ledger.update, job.run.run_id, **columns)
        except LedgerError as refusal:
            owed = self._owes(job)
            owed.columns |= columns
            owed.refusal = owed.refusal or refusal
        else:
            if job in self._owed:
                self._owed[job].columns.clear()

    def note(self, job: Job, state: str) -> None:
        """A state in passing; nobody waits until it is written, and it is no loss if it is not."""
        self.tell(job, job.run.but(state=state))
        self._writer.submit(self._ledger.update, job.run.run_id, state=state)

    async def picture(self, job: Job, image: Image) -> None:
        """What is known of one picture now."""
        for known in job.run.images:  # a person may have rated the one that is replaced
            if known.index == image.index and known.is_chosen and not image.is_chosen:
                image = image.with_choice(known)
        others = [known for known in job.run.images if known.index != image.index]
        images = tuple(sorted([*others, image], key=lambda known: known.index))
        self.tell(job, job.run.but(images=images))
        try:
            await self.write(self._ledger.put_image, job.run.run_id, image)
        except LedgerError as refusal:
            owed = self._owes(job)
            owed.images[image.index] = image
            owed.refusal = owed.refusal or refusal

    async def settle(self, job: Job) -> LedgerError | None:
        """Offer the ledger a last time what it refused; why it still does, or None."""
        owed = self._owed.pop(job, None)
        if owed is None:
            return None
        try:
            if owed.columns:
                await self.write(self._ledger.update, job.run.run_id, **owed.columns)
            for image in owed.images.values():
                await self.write(self._ledger.put_image, job.run.run_id, image)
        except LedgerError as last:
            # The first refusal: of a taskId that could be written nowhere, it is the one that names it.
            return (owed.refusal or last).about(job.run.run_id, job.run.task_id)
        return None

    async def release(self, job: Job) -> None:
        """Nobody works on the run any more."""
        await self._release(job.run.run_id, _AGAIN_S)

    async def _release(self, run_id: str, again_s: float) -> None:
        try:
            await self.write(self._ledger.leases.release, run_id)
        except LedgerError:
            # Another kernel would leave the run to us for ever.
            def again() -> None:
                if self._closed:  # the ledger lets go of all its runs when it is closed
                    return
                task = asyncio.ensure_future(self._release(run_id, min(60.0, again_s * 2)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            asyncio.get_running_loop().call_later(again_s, again)

    def _owes(self, job: Job) -> _Owed:
        return self._owed.setdefault(job, _Owed())


Body = Coroutine[Any, Any, bool]  # True if another part follows


class Parts:
    """The runs in flight, and what is going on for each. Its methods run on the loop thread."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks only weakly
        self.live: dict[str, Job] = {}

    def begin(self, job: Job, body: Body) -> None:
        """Carry out a part at once."""
        task = asyncio.ensure_future(self._watched(job, self._started(job, body)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def carry_out(self, job: Job, body: Body) -> None:
        """Carry out a part; returns when it has ended."""
        await self._watched(job, self._started(job, body))

    def _started(self, job: Job, body: Body) -> asyncio.Task[bool]:
        """The part as a task, which `Job.cancel` ends, even before it has begun."""
        task = asyncio.ensure_future(body)
        job.give_up = task.cancel
        return task

    async def _watched(self, job: Job, task: asyncio.Task[bool]) -> None:
        """Wait for a part; if it was the last, tell whoever waits for the job."""
        error: BaseException | None = None
        try:
            if await task:
                return
        except asyncio.CancelledError:
            error = stopped_error(job, "Stopped waiting")
        except Exception as problem:  # noqa: BLE001 - handed on to the waiting caller, who sees all of it
            error = problem
        await self.end(job, error)

    async def end(self, job: Job, error: BaseException | None) -> None:
        """The run has come to rest here."""
        unkept = await self._keeper.settle(job)
        if isinstance(error, ApixoError):
            error.run_id = error.run_id or job.run.run_id
            error.task_id = error.task_id or job.run.task_id
            if error.maybe_billed and error.at_stake_usd is None:
                error.at_stake_usd = job.run.price_micros / 1e6
        await self._keeper.release(job)
        if self.live.get(job.run.run_id) is job:
            del self.live[job.run.run_id]
        if (problem := error or unkept) is not None:
            job.fail(problem)
        else:
            job.succeed()
        job.end()
