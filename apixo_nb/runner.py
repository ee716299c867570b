"""Takes runs from a request to pictures on disk, on the loop thread.

The order is what keeps money safe: the row is in the ledger before the POST leaves, the taskId before
anything else happens, the result URLs before the first download. Each step is a new `Run` record; the ledger
keeps it, listeners hear of it, and `Job.run` is always the latest.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from . import loop
from .api import AsyncClient
from .errors import (
    ApixoError,
    ImageError,
    LedgerError,
    ResultError,
    RunCancelledError,
    SubmitUnknownError,
    WaitTimeoutError,
)
from .images import Images
from .job import Job, stopped_error
from .ledger import Ledger
from .run import (
    CANCELLED,
    FAILED,
    PLANNED,
    SUBMITTED,
    SUBMITTING,
    SUCCESS,
    TIMEOUT,
    UNKNOWN,
    Image,
    Run,
    expiry,
    utc_now,
)
from .wire import TaskStatus
from .writer import Writer

Listener = Callable[[Run], None]

_log = logging.getLogger(__name__)
_LAST_S = 4.0  # at the end of the process; a kernel that is shut down is killed after some five seconds
_MAX_RESULTS = 2  # result URLs taken, as a multiple of the pictures asked for


class Runner:
    """Carries runs out. Made by the session; its methods may be called from any thread."""

    def __init__(self, client: AsyncClient, ledger: Ledger, images: Images) -> None:
        self._client = client
        self._ledger = ledger
        self._images = images
        self._listeners: list[Listener] = []
        self._live: dict[str, Job] = {}
        self._writer = Writer()
        loop.loop_thread()  # made before the line below, so that it ends after it
        atexit.register(self._at_exit)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Hear of every new record, on the loop thread; returns the function that ends it."""
        self._listeners.append(listener)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return forget

    @property
    def busy(self) -> bool:
        """Whether runs are in flight."""
        return bool(self._live)

    def watches(self, run: Run) -> bool:
        """Whether a run is in flight here."""
        return run.run_id in self._live

    def close(self) -> None:
        """Stop waiting for all runs; returns when submits on their way are answered and all is written."""
        jobs = list(self._live.values())
        for job in jobs:
            job.cancel()
        concurrent.futures.wait([job.ended for job in jobs if job.ended is not None])
        self._writer.close()
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        """The process ends: a submit on its way may still be answered, and its taskId written."""
        jobs = list(self._live.values())
        for job in jobs:
            job.cancel()
        concurrent.futures.wait([job.ended for job in jobs if job.ended is not None], timeout=_LAST_S)

    def start(self, run: Run, timeout_s: float) -> Job:
        """Buy: write the row, submit, wait, download."""
        return self._launch(Job(run), lambda job: self._buy(job, timeout_s))

    def resume(self, run: Run, timeout_s: float) -> Job:
        """Bring a run that has a taskId to its end, pictures and all; never submits.

        A run that is in flight here already is not watched twice: its own job is returned.
        """
        live = self._live.get(run.run_id)
        if live is not None and not (live.stopped or live.done):
            return live
        return self._launch(Job(run), lambda job: self._take_up(job, timeout_s))

    def _launch(self, job: Job, work: Callable[[Job], Any]) -> Job:
        self._live[job.run.run_id] = job
        job.ended = loop.loop_thread().submit(self._guard(job, work))
        return job

    async def _guard(self, job: Job, work: Callable[[Job], Any]) -> None:
        """Run the work as a task that `Job.cancel` can end, and hand its outcome to whoever waits."""
        job.task = asyncio.ensure_future(work(job))
        if job.stopped:  # before it began
            job.task.cancel()
        try:
            await job.task
        except asyncio.CancelledError:
            job.fail(stopped_error(job, "Stopped waiting"))
        except ApixoError as error:
            error.run_id = error.run_id or job.run.run_id
            error.task_id = error.task_id or job.run.task_id
            if error.maybe_billed and error.at_stake_usd is None:
                error.at_stake_usd = job.run.price_micros / 1e6
            job.fail(error)
        except Exception as error:  # noqa: BLE001 - handed on to the waiting caller, who sees all of it
            job.fail(error)
        else:
            job.succeed()
        finally:
            if self._live.get(job.run.run_id) is job:
                del self._live[job.run.run_id]

    # --- the way of a run ---

    async def _buy(self, job: Job, timeout_s: float) -> None:
        job.submitting = True
        try:
            self._tell(job, await self._write(self._ledger.add, job.run.but(state=SUBMITTING)))
            await self._submit(job)
        finally:
            job.submitting = False
        if job.stopped:
            await self._change(job, state=CANCELLED)
            return
        await self._finish(job, timeout_s, age_s=0.0)

    async def _submit(self, job: Job) -> None:
        try:
            if job.stopped:
                raise stopped_error(job, "Stopped before anything was sent")
            job.posted = True
            task_id = await self._client.submit_request(job.run.request, lambda: job.stopped)
        except SubmitUnknownError as error:
            error.at_stake_usd = job.run.price_micros / 1e6
            await self._change(job, state=UNKNOWN, fail_msg=error.headline)
            raise
        except RunCancelledError:
            await self._change(job, state=PLANNED)
            raise
        except ApixoError as error:
            code = f"HTTP {error.status}" if error.status else type(error).__name__
            await self._change(
                job,
                state=FAILED,
                fail_code=code,
                fail_msg=error.message,
                cost_micros=0,
                finished_at=utc_now(),
            )
            raise
        bought = {"task_id": task_id, "submitted_at": utc_now()}
        self._tell(job, job.run.but(state=SUBMITTED, **bought))
        await self._write(self._ledger.keep_task, job.run.run_id, **bought)

    async def _take_up(self, job: Job, timeout_s: float) -> None:
        if job.run.state == SUCCESS and job.run.result_urls:
            with contextlib.suppress(ImageError):
                await self._download(job)
                return
        # Ask again: the task may have ended since, and its pictures may have new addresses.
        await self._finish(job, timeout_s, age_s=_age(job.run))

    async def _finish(self, job: Job, timeout_s: float, age_s: float) -> None:
        started = time.monotonic()
        try:
            status = await self._client.wait(
                str(job.run.task_id),
                model=job.run.model,
                timeout_s=timeout_s,
                age_s=age_s,
                seen=lambda status: self._seen(job, status),
                check=False,
            )
        except asyncio.CancelledError:
            await asyncio.shield(self._change_unless_final(job, CANCELLED))
            raise
        except WaitTimeoutError:
            await self._change_unless_final(job, TIMEOUT)
            raise
        waited_ms = int((time.monotonic() - started) * 1000) + int(age_s * 1000)
        await self._conclude(job, status, waited_ms)

    def _seen(self, job: Job, status: TaskStatus) -> None:
        """A poll came in: keep a state that is news. Final states are kept with their facts, below."""
        if status.state and status.state != job.run.state and not status.final and not job.run.is_final:
            self._tell(job, job.run.but(state=status.state))
            self._writer.submit(self._ledger.update, job.run.run_id, state=status.state)

    async def _change_unless_final(self, job: Job, state: str) -> None:
        if not job.run.is_final:
            await self._change(job, state=state)

    async def _conclude(self, job: Job, status: TaskStatus, waited_ms: int) -> None:
        error = status.error()
        if job.run.state == SUCCESS and error is not None:
            # It was a success before; what APIXO says of it later takes nothing back.
            raise ResultError(f"The pictures are gone: {error.message}", next_step="Their URLs are kept.")
        finished = job.run.finished_at or utc_now()
        changes: dict[str, Any] = {
            "cost_time_ms": status.cost_time_ms,
            "wait_ms": job.run.wait_ms or waited_ms,
            "finished_at": finished,
            "raw": status.raw,
        }
        if status.state == FAILED:
            changes |= {
                "state": FAILED,
                "fail_code": status.fail_code,
                "fail_msg": status.fail_msg,
                "cost_micros": 0,
            }
        else:
            urls = status.result_urls[: job.run.num_images * _MAX_RESULTS]
            changes |= {
                "state": SUCCESS,
                "result_urls": urls,
                "expires_at": expiry(finished),
                "cost_micros": job.run.price_micros,
                "fail_msg": error.message if error else status.result_problem,
            }
        await self._change(job, **changes)
        if error is not None:
            raise error
        await self._download(job)

    # --- pictures ---

    async def _download(self, job: Job) -> None:
        """Fetch every result picture that is not on disk; raises the first problem after trying all."""
        have = {image.index for image in job.run.images if image.file and self._images.path(image).exists()}
        wanted = [(index, url) for index, url in enumerate(job.run.result_urls) if index not in have]
        problems = await asyncio.gather(*(self._picture(job, index, url) for index, url in wanted))
        found = [problem for problem in problems if problem is not None]
        if found:
            raise found[0]

    async def _picture(self, job: Job, index: int, url: str) -> ApixoError | None:
        try:
            downloaded = await self._client.download(url, self._images.target(job.run.run_id, index))
            image = await asyncio.to_thread(self._images.keep, job.run, index, downloaded)
        except ApixoError as error:
            if isinstance(error, LedgerError):
                return error
            await self._picture_known(job, Image(index=index, url=url, error=error.message))
            return _as_image_error(error)
        await self._picture_known(job, image)
        return None

    async def _picture_known(self, job: Job, image: Image) -> None:
        others = [known for known in job.run.images if known.index != image.index]
        images = tuple(sorted([*others, image], key=lambda known: known.index))
        self._tell(job, job.run.but(images=images))
        await self._write(self._ledger.put_image, job.run.run_id, image)

    # --- records ---

    async def _change(self, job: Job, **changes: Any) -> None:
        """Change the record, tell the listeners, and return when it is on disk."""
        self._tell(job, job.run.but(**changes))
        await self._write(self._ledger.update, job.run.run_id, **changes)

    async def _write(self, call: Callable[..., Any], *args: Any, **changes: Any) -> Any:
        return await asyncio.wrap_future(self._writer.submit(call, *args, **changes))

    def _tell(self, job: Job, run: Run) -> None:
        job.run = run
        for listener in tuple(self._listeners):
            try:
                listener(run)
            except Exception:  # noqa: BLE001 - whoever looks on must not stop what is paid for
                _log.exception("a listener failed at run %s", run.run_id)


def _as_image_error(error: ApixoError) -> ApixoError:
    return error if isinstance(error, ImageError) else ImageError(error.message, status=error.status)


def _age(run: Run) -> float:
    """Seconds since the task was made, by our own clock; 0 if that was set back since."""
    return max(0.0, (utc_now() - (run.submitted_at or run.created_at)).total_seconds())
