"""Takes runs from a request to pictures on disk, on the loop thread: one coroutine for each run.

The order of the steps is what keeps money safe: the row is in the ledger before the POST leaves, the taskId
before anything else happens, the result URLs before the first download. Each step is a new `Run` record; the
ledger keeps it, listeners are notified of it, and `Job.run` is always the latest.

A run waits for a slot to submit, which the rate limiter grants; then for the end of its task, which the
poller sees; then for a slot to download. A stop cuts off only the first two waits and the download, see
`Job.stoppable`: from the slot to the answer of a submit, and while a result is recorded, nothing is cut off.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import math
import time
from collections.abc import Callable, Coroutine, Hashable, Iterator
from typing import Any

from apixo_nb.client.client import AsyncClient
from apixo_nb.client.protocol import TurnedAway, wait
from apixo_nb.client.responses import TaskStatus
from apixo_nb.core import event_loop
from apixo_nb.core.cadence import Cadence
from apixo_nb.core.models import fail_code
from apixo_nb.core.process import current_shell, has_kernel, since_boot_s
from apixo_nb.core.records import (
    CANCELLED,
    FAILED,
    PLANNED,
    SUBMITTING,
    SUCCESS,
    TIMEOUT,
    Run,
    state_of_task,
    utc_now,
)
from apixo_nb.errors import (
    ApixoError,
    ConfigurationError,
    LedgerError,
    RateLimitError,
    RunCancelledError,
    SubmitUnknownError,
    WaitTimeoutError,
)
from apixo_nb.ledger.leases import LeaseLostError
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.storage.originals import Images
from apixo_nb.text import to_usd

from .fair_queue import AtMost, FairQueue, Slot
from .job import (
    Job,
    as_others,
    cancel_all,
    failed_elsewhere,
    not_accepted,
    outcome,
    say_unanswered,
    stopped_error,
    wait_for_answers,
)
from .poller import Poller
from .rate_limit import RateLimiter
from .recorder import Downloader, Listener, Recorder

Steps = Callable[[Job], Coroutine[Any, Any, None]]

_LAST_S = 4.0  # at the end of the process; a kernel that is shut down is killed after some five seconds
_DOWNLOADS_AT_ONCE = 6  # runs
_ASKED_S = 10.0  # so long it holds that a run is this process's: far less than a lease outlives a heartbeat
_NOTHING_SENT = "Stopped before anything was sent"
_WAITING = "Stopped waiting"


class Runner:
    """Carries runs out. Made by the session; its methods may be called from any thread.

    Parameters
    ----------
    client, ledger, images
        What it works with.
    cadence : callable
        When to poll a run; may read the ledger.
    probe_s : float
        While APIXO does not answer at all: seconds between two polls that find out whether it is back.
    last_answer_s : float
        How long the end of a script waits for the answer to a submit.

    Attributes
    ----------
    rate_limiter : RateLimiter
        How many submits leave at once, and how many a second.
    """

    def __init__(
        self,
        client: AsyncClient,
        ledger: Ledger,
        images: Images,
        cadence: Callable[[Run], Cadence],
        *,
        probe_s: float = 2.0,
        last_answer_s: float = 0.0,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._images = images
        self._cadence = cadence
        self._last_answer_s = last_answer_s
        self._recorder = Recorder(ledger)
        self.rate_limiter = RateLimiter(client.retry, client.clock)
        self._submits = FairQueue(self.rate_limiter)
        self.rate_limiter.wake = self._submits.admit
        self._poller = Poller(client.carry_out, client.clock, probe_s)
        self._downloads = FairQueue(AtMost(_DOWNLOADS_AT_ONCE))
        self._downloader = Downloader(client, images, self._recorder)
        self._live: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks only weakly
        event_loop.loop_thread()  # made before the line below, so that it ends after it
        atexit.register(self._at_exit)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a function with every new record, on a thread for it; returns the function that ends this."""
        return self._recorder.listen(listener)

    @property
    def busy(self) -> bool:
        """Whether runs are in flight."""
        return bool(self._live)

    def jobs(self) -> list[Job]:
        """The runs in flight here; also those that have no row yet."""
        return list(self._live.values())

    def close(self) -> None:
        """Stop waiting for all runs; returns when submits on their way are answered and all is written."""
        self._stop_all(None)
        self._recorder.close()
        atexit.unregister(self._at_exit)

    def leave_to_parent(self) -> None:
        """In the child of a fork: what is in flight goes on in the parent, and nothing of it here."""
        atexit.unregister(self._at_exit)
        for job in self.jobs():
            job.leave_to_parent()

    def _at_exit(self) -> None:
        """The process ends: a submit on its way may still be answered, and its taskId written."""
        jobs = self.jobs()
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl+C once more: it ends at once
            self._stop_all(_LAST_S)
            if not has_kernel(current_shell()):  # whoever shuts a kernel down waits no longer
                wait_for_answers(jobs, self._last_answer_s)
        say_unanswered(jobs)

    def _stop_all(self, timeout_s: float | None) -> None:
        event_loop.check_may_wait()
        jobs = self.jobs()
        cancel_all(jobs)
        concurrent.futures.wait([job.ended for job in jobs], timeout=timeout_s)

    def start(self, run: Run, timeout_s: float, *, batch: Hashable = None, once: bool = False) -> Job:
        """Write the row, submit, wait, download.

        `batch`: what it belongs to, such as a cell; batches take turns. `once`: if another process was
        quicker to ask for the same, follow that one, and submit nothing.

        Raises
        ------
        ConfigurationError
            The run is in flight, or was submitted before. One whose row is in the ledger is refused when it
            has its slot.
        """
        job = Job(run)
        steps = functools.partial(self._run, timeout_s=timeout_s, batch=batch, once=once)
        with self._undone_if_interrupted(job):
            # One step, so that of two threads only one gets through.
            if run.state != PLANNED or self._live.setdefault(run.run_id, job) is not job:
                step = "Nothing was sent. Plan it anew to ask for another variation."
                raise ConfigurationError(
                    f"Run {run.run_id} was started before", run_id=run.run_id, next_step=step
                )
            return self._launch(job, steps)

    def resume(self, run: Run, timeout_s: float) -> Job:
        """Bring a run that has a taskId to its end, pictures and all; never submits.

        A run that is in flight here already is not watched twice: its own job is returned. One that is in
        flight in another process is followed there, and taken over if that process dies.
        """
        live = self._live.get(run.run_id)
        if live is not None and not (live.stopped or live.done):
            return live
        job, steps = Job(run), functools.partial(self._resume, timeout_s=timeout_s, after=live)
        with self._undone_if_interrupted(job):
            self._live[run.run_id] = job
            return self._launch(job, steps)

    # --- begin and end of a run's coroutine ---

    @contextlib.contextmanager
    def _undone_if_interrupted(self, job: Job) -> Iterator[None]:
        """A Stop (KeyboardInterrupt) while a run is taken stops it, or `close` would wait for it for ever."""
        try:
            yield
        except BaseException:
            event_loop.loop_thread().loop.call_soon_threadsafe(self._give_up, job)
            raise

    def _give_up(self, job: Job) -> None:
        if job.begun:
            return job.cancel()
        job.begun = True  # it never will
        if self._live.get(job.run.run_id) is job:
            del self._live[job.run.run_id]
        return job.end()

    def _launch(self, job: Job, steps: Steps) -> Job:
        event_loop.loop_thread().loop.call_soon_threadsafe(self._begin, job, steps)
        return job

    def _begin(self, job: Job, steps: Steps) -> None:
        if job.begun:  # given up
            return
        job.begun = True
        task = asyncio.ensure_future(self._carry_out(job, steps))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._recorder.keep_leases(lambda: self.busy)

    async def _carry_out(self, job: Job, steps: Steps) -> None:
        """Carry out the steps of a run, and report its end to whoever waits for the job."""
        error: BaseException | None = None
        try:
            await steps(job)
        except asyncio.CancelledError:  # the event loop ends
            error = stopped_error(job, _WAITING)
        except Exception as problem:  # noqa: BLE001 - handed on to the waiting caller, who sees all of it
            error = problem
        unwritten = await self._recorder.flush(job)
        if isinstance(error, ApixoError):
            job.complete(error)
        await self._recorder.release(job)
        await self._recorder.told()
        if self._live.get(job.run.run_id) is job:
            del self._live[job.run.run_id]
        if (failure := error or unwritten) is not None:
            job.fail(failure)
        else:
            job.succeed()
        job.end()

    async def _run(self, job: Job, *, timeout_s: float, batch: Hashable, once: bool) -> None:
        """All steps of a new run."""
        if await self._submit(job, batch, once=once):
            await self._finish(job, timeout_s, age_s=0.0)
        else:  # another process asked for this very take first
            await self._resume(job, timeout_s=timeout_s)

    # --- submit: nothing is cut off between the slot and the answer ---

    async def _submit(self, job: Job, batch: Hashable, *, once: bool) -> bool:
        """The row first, then one POST, sent again only if it was turned away.

        Returns whether it was accepted; else another process was quicker, and the job is about its run.
        """
        written = accepted = False
        try:
            while not accepted:
                with job.stoppable(_NOTHING_SENT):
                    self._check_pause()
                    slot = await self._submits.acquire(batch, first=written)
                with slot, job.uninterrupted_submit():
                    written = written or await self._write_row(job, once=once)
                    if not written:
                        return False
                    job.check_stopped(_NOTHING_SENT)
                    accepted = not self.rate_limiter.closed and await self._post(job, slot)
        except LeaseLostError:  # the row says what became of it, and is not ours to change
            known: Run | None = await self._recorder.write(self._ledger.get, job.run.run_id)
            self._recorder.notify(job, known or job.run)
            raise
        except ApixoError as error:
            if written and job.run.task_id is None:  # what was accepted is never recorded as refused
                await self._recorder.change(job, **not_accepted(error))
            raise
        return True

    def _check_pause(self) -> None:
        """Raise RateLimitError where APIXO asked for a pause that nobody waits for in a cell."""
        if (pause_s := self.rate_limiter.pause_s()) > self._client.retry.total_s:
            step = f"Nothing was sent. {RateLimitError.next_step}"
            raise RateLimitError("APIXO turns submits away", retry_after_s=pause_s, next_step=step)

    async def _write_row(self, job: Job, *, once: bool) -> bool:
        """Check the free space of the disk; then reserve the sum in the budget, and the take, with the row.

        If another process was quicker to ask for this take, the job is about its row from here on: False.
        """
        await self._recorder.write(self._images.check_room, job.run.num_images)
        planned = job.run
        row: Run = await self._recorder.write(self._ledger.add, planned, once=once)
        if row.run_id == planned.run_id:
            job.run = row  # listeners hear of it when it is submitted
            return True
        del self._live[planned.run_id]
        self._live[row.run_id] = job
        self._recorder.notify(job, row)
        return False

    async def _begin_submit(self, job: Job) -> None:
        """Write that the run is submitted now, if it is still this process's; see `Leases.begin_submit`.

        A process that was paused after it had asked asks once more.
        """
        asked_at = -math.inf
        while since_boot_s() - asked_at > _ASKED_S:
            asked_at = since_boot_s()
            bought_at = await self._recorder.write(self._ledger.leases.begin_submit, job.run.run_id)
        self._recorder.notify(job, job.run.replace(state=SUBMITTING, bought_at=bought_at))

    async def _turned_away(self, job: Job) -> None:
        """Write that nothing was made, and that the run waits: if this process ends now, nothing is lost."""
        with contextlib.suppress(LedgerError):  # then the row says less than is known, until the next attempt
            await self._recorder.write(self._ledger.leases.end_submit, job.run.run_id)
        self._recorder.notify(job, job.run.replace(state=PLANNED))

    async def _post(self, job: Job, slot: Slot) -> bool:
        """Send one POST. Returns False if it was turned away and is to be sent again."""
        await self._begin_submit(job)
        job.check_stopped(_NOTHING_SENT)
        if self.rate_limiter.closed:  # another was turned away meanwhile
            await self._turned_away(job)
            return False
        slot.used = True
        permit = self.rate_limiter.leave()
        job.posted = True
        try:
            answer = await self._client.submit_once(job.run.request)
        except SubmitUnknownError as error:
            error.at_stake_usd = to_usd(job.run.price_micros)  # at the price of this run, not of the list
            raise
        except ApixoError:
            self.rate_limiter.accepted(made=False)  # the request was wrong, not one too many
            raise
        if isinstance(answer, TurnedAway):
            job.posted = False  # surely no task was made
            again = self.rate_limiter.refused(
                permit, answer.retry_after_s, answered=isinstance(answer.problem, RateLimitError)
            )
            if not again and not job.stopped:
                self._refuse_waiting(answer.problem)
                raise answer.problem
            await self._turned_away(job)
            return False
        self.rate_limiter.accepted()
        job.task_began(self.rate_limiter)
        await self._recorder.submitted(job, answer, utc_now())
        return True

    def _refuse_waiting(self, problem: ApixoError) -> None:
        """What does not clear is a quota, or a network that is gone: none of those that wait is sent."""
        others = self._submits.refuse_all(functools.partial(as_others, problem))
        if isinstance(problem, RateLimitError) and others:
            problem.next_step = f"{others} more were not sent. {problem.next_step}"

    # --- wait and download ---

    async def _finish(self, job: Job, timeout_s: float, age_s: float) -> None:
        """Wait for a task that is `age_s` old, record how it ended, and download its pictures."""
        cadence = await self._recorder.write(self._cadence, job.run)
        began = time.monotonic() - age_s
        status = await self._wait(job, cadence, timeout_s, age_s)
        waited_ms = int((time.monotonic() - began) * 1000)
        with await self._downloads.acquire():
            await self._conclude(job, status, waited_ms)
            job.check_stopped("Stopped before the pictures were downloaded")
            with job.stoppable(_WAITING):
                await self._downloader.download(job)

    async def _wait(self, job: Job, cadence: Cadence, timeout_s: float, age_s: float) -> TaskStatus:
        """Poll the task to its end; returns its final status."""
        flow = wait(
            job.run.model,
            str(job.run.task_id),
            cadence,
            self._client.clock,
            timeout_s=timeout_s,
            age_s=age_s,
            seen=functools.partial(self._seen, job),
        )
        job.task_began(self.rate_limiter)
        try:
            with job.stoppable(_WAITING):
                status: TaskStatus = await self._poller.finish(flow)
        except (RunCancelledError, WaitTimeoutError) as error:
            if not job.run.is_final:
                state = TIMEOUT if isinstance(error, WaitTimeoutError) else CANCELLED
                await self._recorder.change(job, state=state)
            raise
        finally:
            job.task_ended()
        return status

    def _seen(self, job: Job, status: TaskStatus) -> None:
        """A poll was answered: record a new state. Final states are recorded with their facts, below."""
        job.polls += 1
        word, state = status.state, state_of_task(status.state)
        if not word or status.final or job.run.is_final:
            return
        if (state, word) != (job.run.state, job.run.service_state):
            self._recorder.note_state(job, state, word)

    async def _conclude(self, job: Job, status: TaskStatus, waited_ms: int) -> None:
        """Record how the task ended; raise why there are no pictures, or not all of them."""
        await self._recorder.change(job, **outcome(job.run, status, waited_ms))
        if status.state == FAILED and fail_code(status.fail_code).category == "rate":
            self.rate_limiter.slow_down()  # as after a 429; the task is not submitted again by itself
        if (problem := status.error()) is not None:
            raise problem

    # --- resume ---

    async def _resume(self, job: Job, *, timeout_s: float, after: Job | None = None) -> None:
        """All steps of a run that has a task; or is about to, once `after`, which was stopped, has ended."""
        with job.stoppable(_WAITING):
            if after is not None:  # the answer of its submit is still read and recorded there
                await asyncio.shield(asyncio.wrap_future(after.ended))
            claimed = await self._claim(job, time.monotonic() + timeout_s)
            if claimed.state == SUCCESS and claimed.result_urls and await self._downloader.try_download(job):
                return
        if claimed.state == FAILED or not claimed.task_id:
            raise failed_elsewhere(claimed)
        # Ask again: the task may have ended since, and its pictures may have new addresses.
        await self._finish(job, timeout_s, job.age_s)

    async def _claim(self, job: Job, deadline: float) -> Run:
        """Claim the run; while another process works on it, follow it there."""
        claimed: Run | None = await self._recorder.write(self._ledger.leases.claim, job.run.run_id)
        if claimed is None:
            claimed = await self._recorder.follow(job, deadline)
        self._recorder.notify(job, claimed)
        return claimed
