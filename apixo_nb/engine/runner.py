"""Takes runs from a request to pictures on disk, on the loop thread.

The order is what keeps money safe: the row is in the ledger before the POST leaves, the taskId before
anything else happens, the result URLs before the first download. Each step is a new `Run` record; the ledger
keeps it, listeners hear of it, and `Job.run` is always the latest.

Hundreds of runs need no hundreds of threads or tasks: submits stand in one line behind a gate, tasks that are
waited for are times on a heap, and those that have ended stand in another line, to be downloaded.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Hashable
from pathlib import Path

from apixo_nb.client.client import AsyncClient
from apixo_nb.client.protocol import wait
from apixo_nb.client.responses import TaskStatus
from apixo_nb.core import event_loop as loop
from apixo_nb.core.cadence import Cadence
from apixo_nb.core.files import Downloaded
from apixo_nb.core.models import fail_code
from apixo_nb.core.records import CANCELLED, FAILED, PLANNED, SUCCESS, TIMEOUT, Image, Run, utc_now
from apixo_nb.errors import ApixoError, ConfigurationError, ImageError, WaitTimeoutError
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.storage.originals import Images

from .job import Job, came_to_nothing, cancel_all, outcome, stopped_error
from .poller import Scheduler
from .rate_limit import Gate
from .recorder import Body, Keeper, Listener, Parts
from .submitter import Buyer, Lane, Purchase

_AT_ONCE = 12  # pictures on their way together, of all runs


class Collector:
    """Downloads pictures for the runner, on the loop thread."""

    def __init__(self, client: AsyncClient, images: Images, keeper: Keeper) -> None:
        self._client = client
        self._images = images
        self._keeper = keeper
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def collect(self, job: Job) -> None:
        """Fetch every result picture that is not on disk; raises the first problem after trying all."""
        have = {image.index for image in job.run.images if self._images.has(image)}
        wanted = [(index, url) for index, url in enumerate(job.run.result_urls) if index not in have]
        problems = await asyncio.gather(*(self._picture(job, index, url) for index, url in wanted))
        found = [problem for problem in problems if problem is not None]
        if found:
            raise found[0]

    async def try_collect(self, job: Job) -> bool:
        """As `collect`; False where a picture could not be had from the addresses that are known."""
        with contextlib.suppress(ImageError):
            await self.collect(job)
            return True
        return False

    async def _picture(self, job: Job, index: int, url: str) -> ApixoError | None:
        async with self._slots:
            try:
                await asyncio.to_thread(self._images.clear, job.run.run_id, index)
                downloaded = await self._client.download(url, self._images.target(job.run.run_id, index))
                image = await asyncio.to_thread(self._images.keep, job.run, index, downloaded)
            except ApixoError as error:
                if isinstance(error, ImageError) and error.unsaved:
                    await self._show_at_least(job, index, url)
                await self._keeper.picture(job, Image(index=index, url=url, error=error.headline))
                return _as_image_error(error)
        await self._keeper.picture(job, image)
        return None

    async def _show_at_least(self, job: Job, index: int, url: str) -> None:
        """The disk does not take the picture: show what was paid for all the same, from another place."""
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="apixo-"))
        try:
            downloaded: Downloaded = await self._client.download(url, folder / "picture")
            await asyncio.to_thread(self._images.hold, job.run.run_id, index, downloaded)
        except ApixoError:
            return  # its address is on the row, and in the error
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _as_image_error(error: ApixoError) -> ApixoError:
    return error if isinstance(error, ImageError) else ImageError(error.message, status=error.status)


_LAST_S = 4.0  # at the end of the process; a kernel that is shut down is killed after some five seconds
_ENDS_AT_ONCE = 6  # runs that are downloaded together
_HEARTBEAT_S = 30.0
_LOOK_S = 0.3  # between two looks at what another process is doing


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
    """

    def __init__(
        self,
        client: AsyncClient,
        ledger: Ledger,
        images: Images,
        cadence: Callable[[Run], Cadence],
        probe_s: float = 2.0,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._images = images
        self._cadence = cadence
        self._keeper = Keeper(ledger)
        self._collector = Collector(client, images, self._keeper)
        self._parts = Parts(self._keeper)
        self._buyer = Buyer(
            client, ledger, images, self._keeper, self._parts, bought=self._bought, beaten=self._beaten
        )
        self._polls = Scheduler(client.carry_out, client.clock, probe_s)
        self._ends = Lane(lambda: _ENDS_AT_ONCE)
        self._following = 0  # runs of other processes
        self._beating = False
        loop.loop_thread()  # made before the line below, so that it ends after it
        atexit.register(self._at_exit)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Hear of every new record, on the loop thread; returns the function that ends it."""
        return self._keeper.listen(listener)

    @property
    def busy(self) -> bool:
        """Whether runs are in flight."""
        return bool(self._parts.live)

    @property
    def gate(self) -> Gate:
        """The gate of the submits: how many leave at once, and how many a second."""
        return self._buyer.gate

    def jobs(self) -> list[Job]:
        """The runs in flight here; also those that have no row yet."""
        return list(self._parts.live.values())

    def close(self) -> None:
        """Stop waiting for all runs; returns when submits on their way are answered and all is written."""
        jobs = list(self._parts.live.values())
        cancel_all(jobs)
        concurrent.futures.wait([job.ended for job in jobs])
        self._keeper.close()
        atexit.unregister(self._at_exit)

    def leave_to_parent(self) -> None:
        """In the child of a fork: what is in flight goes on in the parent, and nothing of it here."""
        atexit.unregister(self._at_exit)
        for job in list(self._parts.live.values()):
            job.leave_to_parent()

    def _at_exit(self) -> None:
        """The process ends: a submit on its way may still be answered, and its taskId written."""
        jobs = list(self._parts.live.values())
        cancel_all(jobs)
        concurrent.futures.wait([job.ended for job in jobs], timeout=_LAST_S)

    def start(self, run: Run, timeout_s: float, *, batch: Hashable = None, once: bool = False) -> Job:
        """Buy: write the row, submit, wait, download.

        `batch`: what it belongs to, such as a cell; batches take turns. `once`: if another process was
        quicker to ask for this very take, follow that one, and buy nothing.

        Raises
        ------
        ConfigurationError
            The run is in flight, or was bought before. One whose row is in the ledger is refused in its turn.
        """
        purchase = Purchase(Job(run), timeout_s, batch, once)
        # One step, so that of two threads only one gets through.
        if run.state != PLANNED or self._parts.live.setdefault(run.run_id, purchase.job) is not purchase.job:
            step = "Nothing was sent. Plan it anew to ask for another draw."
            raise ConfigurationError(
                f"Run {run.run_id} was started before", run_id=run.run_id, next_step=step
            )
        return self._launch(purchase.job, lambda: self._buyer.line_up(purchase))

    def resume(self, run: Run, timeout_s: float) -> Job:
        """Bring a run that has a taskId to its end, pictures and all; never submits.

        A run that is in flight here already is not watched twice: its own job is returned. One that is in
        flight in another process is followed there, and taken over if that process dies.
        """
        live = self._parts.live.get(run.run_id)
        if live is not None and not (live.stopped or live.done):
            return live
        job = Job(run)

        def begin() -> None:
            self._parts.begin(job, self._leave(job) if job.stopped else self._take_up(job, timeout_s))

        return self._launch(job, begin)

    def _launch(self, job: Job, begin: Callable[[], None]) -> Job:
        self._parts.live[job.run.run_id] = job
        loop.loop_thread().loop.call_soon_threadsafe(begin)
        loop.loop_thread().loop.call_soon_threadsafe(self._keep_beating)
        return job

    # --- waiting ---

    async def _bought(self, purchase: Purchase) -> bool:
        job = purchase.job
        cadence = await self._keeper.write(self._cadence, job.run)
        if job.stopped:  # while its submit was on its way
            return await self._leave(job)
        self._watch(job, purchase.timeout_s, 0.0, cadence)
        return True

    async def _beaten(self, purchase: Purchase) -> bool:
        return await self._take_up(purchase.job, purchase.timeout_s)

    def _watch(self, job: Job, timeout_s: float, age_s: float, cadence: Cadence) -> None:
        started = time.monotonic()
        job.takes_place(self.gate)

        def ended(status: TaskStatus | None, error: BaseException | None) -> None:
            job.leaves_place()
            job.give_up = None  # it stands in line for its last part, which looks whether it was stopped
            waited_ms = int((time.monotonic() - started + age_s) * 1000)
            self._then(job, self._conclude(job, status, error, waited_ms))

        def give_up() -> None:
            self._polls.drop(waiting)
            self._parts.begin(job, self._leave(job))

        flow = wait(
            job.run.model,
            str(job.run.task_id),
            cadence,
            self._client.clock,
            timeout_s=timeout_s,
            age_s=age_s,
            seen=functools.partial(self._seen, job),
        )
        job.give_up, job.submitting = give_up, False
        waiting = self._polls.add(flow, ended)

    def _then(self, job: Job, body: Body) -> None:
        """The last part, in its turn."""
        self._ends.add(functools.partial(self._parts.carry_out, job, body))

    def _seen(self, job: Job, status: TaskStatus) -> None:
        """A poll came in: keep a state that is news. Final states are kept with their facts, below."""
        job.polls += 1
        if status.state and status.state != job.run.state and not status.final and not job.run.is_final:
            self._keeper.note(job, status.state)

    async def _leave(self, job: Job) -> bool:
        if not job.run.is_final:
            await self._keeper.change(job, state=CANCELLED)
        raise stopped_error(job, "Stopped waiting")

    async def _conclude(
        self, job: Job, status: TaskStatus | None, error: BaseException | None, waited_ms: int
    ) -> bool:
        if status is None:
            if isinstance(error, WaitTimeoutError) and not job.run.is_final:
                await self._keeper.change(job, state=TIMEOUT)
            raise error or AssertionError("a wait ends with a status or an error")
        await self._keeper.change(job, **outcome(job.run, status, waited_ms))
        if status.state == FAILED and fail_code(status.fail_code).category == "rate":
            self._buyer.gate.slow_down()  # a 429 in another dress; the task is not bought again by itself
        if (problem := status.error()) is not None:
            raise problem
        if job.stopped:
            raise stopped_error(job, "Stopped before the pictures were downloaded")
        await self._collector.collect(job)
        return False

    # --- taking up again ---

    async def _take_up(self, job: Job, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        claimed = await self._keeper.write(self._ledger.leases.claim, job.run.run_id)
        if claimed is None:
            claimed = await self._follow(job, deadline)
        self._keeper.tell(job, claimed)
        if claimed.state == SUCCESS and claimed.result_urls and await self._collector.try_collect(job):
            return False
        if claimed.state == FAILED or not claimed.task_id:
            raise came_to_nothing(claimed)
        # Ask again: the task may have ended since, and its pictures may have new addresses.
        cadence = await self._keeper.write(self._cadence, claimed)
        self._watch(job, timeout_s, _age(claimed), cadence)
        return True

    async def _follow(self, job: Job, deadline: float) -> Run:
        """Look on while another process works on the run; returns it once that one lets go, or has died."""
        self._following += 1
        try:
            while True:
                await asyncio.sleep(_LOOK_S * self._following)  # many together look as often as one alone
                known = await self._keeper.write(self._ledger.get, job.run.run_id)
                if known != job.run:
                    self._keeper.tell(job, known)
                if known.run_id not in await self._keeper.write(self._ledger.leases.held_elsewhere):
                    claimed: Run | None = await self._keeper.write(self._ledger.leases.claim, known.run_id)
                    if claimed is not None:
                        return claimed
                if time.monotonic() > deadline:
                    raise WaitTimeoutError("Another kernel still works on it", task_id=known.task_id)
        finally:
            self._following -= 1

    def _keep_beating(self) -> None:
        """While runs are in flight, other machines see that this process lives."""
        if not self._beating:
            self._beating = True
            self._beat()

    def _beat(self) -> None:
        self._beating = bool(self._parts.live)
        if self._beating:
            self._keeper.later(self._ledger.leases.heartbeat)
            asyncio.get_running_loop().call_later(_HEARTBEAT_S, self._beat)


def _age(run: Run) -> float:
    """Seconds since the task was made, by our own clock; 0 if that was set back since."""
    return max(0.0, (utc_now() - (run.submitted_at or run.created_at)).total_seconds())
