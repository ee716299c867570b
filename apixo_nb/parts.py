"""The parts of a run's way, each a coroutine that can be stopped; the last one hands its outcome on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from .errors import ApixoError
from .job import Job, stopped_error
from .keeper import Keeper

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
