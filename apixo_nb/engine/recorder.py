"""Records what happens to runs, and downloads their pictures; once paid for, nothing is given up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from apixo_nb.client.client import AsyncClient
from apixo_nb.core.event_loop import WriterThread
from apixo_nb.core.files import Downloaded
from apixo_nb.core.records import SUBMITTED, Image, Run
from apixo_nb.errors import ApixoError, ImageError, LedgerError, WaitTimeoutError
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.storage.originals import Images

from .job import Job

Listener = Callable[[Run], None]

_TELLING_S = 0.5  # how long the end of a run waits for its listeners
_HEARTBEAT_S = 30.0
_LOOK_S = 0.3  # between two looks at what another process is doing
_AGAIN_S = 1.0  # to the second attempt to release a run

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Unwritten:
    """What the ledger has refused so far, and why; `task`: whether its task is not in its row."""

    task: bool = False
    columns: dict[str, Any] = field(default_factory=dict)
    images: dict[int, Image] = field(default_factory=dict)
    refusal: LedgerError | None = None


class Recorder:
    """Keeps the records of all runs in flight. Its coroutines run on the loop thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._writer = WriterThread()
        self._journal = WriterThread("apixo-journal")  # its own: a task id waits for no lock of the ledger
        self._teller = WriterThread("apixo-listeners")  # its own: what listens may sleep, wait or fail
        self._listeners: list[Listener] = []
        self._unwritten: dict[Job, _Unwritten] = {}
        self._closed = self._beating = False
        self._followed = 0  # runs of other processes
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks only weakly

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a function with every new record, on a thread for it; returns the function that ends this."""
        self._listeners.append(listener)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def close(self) -> None:
        """Return when all is written."""
        self._closed = True
        self._journal.close()
        self._writer.close()
        self._teller.close(wait=False)  # a listener may sleep for ever

    def notify(self, job: Job, run: Run) -> None:
        """Give the job its new record, and notify the listeners of it, in order; waits for none of them."""
        job.run = run
        if self._listeners:
            self._teller.submit(self._tell, run)

    def _tell(self, run: Run) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(run)
            except BaseException:  # noqa: BLE001 - SystemExit as well: it must not stop what is paid for
                _log.exception("a listener failed at run %s", run.run_id)

    async def told(self) -> None:
        """Return when the listeners have heard of all so far, or one of them takes its time."""
        if self._listeners:
            await asyncio.wait([asyncio.wrap_future(self._teller.submit(lambda: None))], timeout=_TELLING_S)

    async def write(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Make a call that reads or writes the disk, in its order; returns or raises what it does."""
        return await asyncio.wrap_future(self._writer.submit(call, *args, **options))

    def later(self, call: Callable[[], Any]) -> None:
        """Make a call without waiting for its result."""
        self._writer.submit(call)

    async def submitted(self, job: Job, task_id: str, submitted_at: datetime) -> None:
        """Record the taskId: without it, what was paid for cannot be fetched.

        First in the journal, which waits for no lock; only then is it told, and written into the row.
        """
        run = job.run.replace(state=SUBMITTED, task_id=task_id, submitted_at=submitted_at)
        with contextlib.suppress(LedgerError):  # then the row is tried, which names the task if it fails
            await asyncio.wrap_future(self._journal.submit(self._ledger.journal_task, run))
        self.notify(job, run)
        try:
            in_row = await self.write(self._ledger.record_task, run)
        except LedgerError as refusal:
            self._refused(job, refusal).task = True
        else:
            if not in_row:  # safe in the journal
                self._unwritten_of(job).task = True

    async def change(self, job: Job, **changes: Any) -> None:
        """Change the record; returns when it is on disk, or was refused."""
        self.notify(job, job.run.replace(**changes))
        columns = self._unwritten[job].columns | changes if job in self._unwritten else changes
        try:
            await self._write_changes(job, columns)
        except LedgerError as refusal:
            self._refused(job, refusal).columns |= columns
        else:
            if job in self._unwritten:
                self._unwritten[job].columns.clear()

    async def _write_changes(self, job: Job, columns: dict[str, Any]) -> None:
        unwritten = self._unwritten.get(job)
        if unwritten is not None and unwritten.task and await self.write(self._ledger.record_task, job.run):
            unwritten.task = False
        await self.write(self._ledger.update, job.run.run_id, whole=job.run, **columns)

    def _refused(self, job: Job, refusal: LedgerError) -> _Unwritten:
        """Note the first refusal: where a taskId could be written nowhere, this is the one that names it."""
        unwritten = self._unwritten_of(job)
        unwritten.refusal = unwritten.refusal or refusal
        return unwritten

    def note_state(self, job: Job, state: str, word: str) -> None:
        """Record a state on the way, and APIXO's word for it, without waiting; nothing is lost without it."""
        self.notify(job, job.run.replace(state=state, service_state=word))
        columns = {"state": state, "service_state": word}
        self._writer.submit(self._ledger.update, job.run.run_id, whole=job.run, **columns)

    async def image(self, job: Job, image: Image) -> None:
        """Record what is known of one picture now."""
        for known in job.run.images:  # a person may have rated the one that is replaced
            if known.index == image.index and known.is_chosen and not image.is_chosen:
                image = image.with_choice(known)
        others = [known for known in job.run.images if known.index != image.index]
        images = tuple(sorted([*others, image], key=lambda known: known.index))
        self.notify(job, job.run.replace(images=images))
        try:
            await self.write(self._ledger.put_image, job.run.run_id, image, whole=job.run)
        except LedgerError as refusal:
            self._refused(job, refusal).images[image.index] = image

    async def flush(self, job: Job) -> LedgerError | None:
        """Write a last time what the ledger has refused. Returns why it still does, or None."""
        unwritten = self._unwritten.get(job)
        if unwritten is None:
            return None
        try:
            if unwritten.task or unwritten.columns:
                await self._write_changes(job, unwritten.columns)
            for image in unwritten.images.values():
                await self.write(self._ledger.put_image, job.run.run_id, image, whole=job.run)
        except LedgerError as last:
            return (unwritten.refusal or last).about(job.run.run_id, job.run.task_id)
        finally:
            del self._unwritten[job]
        return None

    async def release(self, job: Job) -> None:
        """Release the run: this process does not work on it any more."""
        await self._release(job.run.run_id, _AGAIN_S)

    async def _release(self, run_id: str, again_s: float) -> None:
        try:
            await self.write(self._ledger.release, run_id)
        except LedgerError:
            # Else other kernels would leave the run to this one for ever.
            def again() -> None:
                if self._closed:  # the ledger releases all its runs when it is closed
                    return
                task = asyncio.ensure_future(self._release(run_id, min(60.0, again_s * 2)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            asyncio.get_running_loop().call_later(again_s, again)

    async def follow(self, job: Job, deadline: float) -> Run:
        """Look on while another process works on the run; returns it once that one releases it, or dies."""
        self._followed += 1
        try:
            while True:
                await asyncio.sleep(_LOOK_S * self._followed)  # many together look as often as one alone
                known: Run = await self.write(self._ledger.get, job.run.run_id)
                if known != job.run:
                    self.notify(job, known)
                if known.run_id not in await self.write(self._ledger.leases.held_elsewhere):
                    claimed: Run | None = await self.write(self._ledger.leases.claim, known.run_id)
                    if claimed is not None:
                        return claimed
                if time.monotonic() > deadline:
                    raise WaitTimeoutError("Another kernel still works on it", task_id=known.task_id)
        finally:
            self._followed -= 1

    def keep_leases(self, is_busy: Callable[[], bool]) -> None:
        """While runs are in flight, other machines see that this process lives."""
        if not self._beating:
            self._beat(is_busy)

    def _beat(self, is_busy: Callable[[], bool]) -> None:
        self._beating = is_busy()
        if self._beating:
            self._writer.submit(self._ledger.leases.heartbeat)
            asyncio.get_running_loop().call_later(_HEARTBEAT_S, self._beat, is_busy)

    def _unwritten_of(self, job: Job) -> _Unwritten:
        return self._unwritten.setdefault(job, _Unwritten())


# --- pictures ---------------------------------------------------------------------------------------

_AT_ONCE = 12  # pictures that are downloaded at a time, of all runs


class Downloader:
    """Downloads pictures for the runner, on the loop thread."""

    def __init__(self, client: AsyncClient, images: Images, recorder: Recorder) -> None:
        self._client = client
        self._images = images
        self._recorder = recorder
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def download(self, job: Job) -> None:
        """Download every result picture that is not on disk.

        Raises
        ------
        ImageError
            The first problem, once all were tried.
        """
        have = {image.index for image in job.run.images if self._images.has(image)}
        wanted = [(index, url) for index, url in enumerate(job.run.result_urls) if index not in have]
        problems = await asyncio.gather(*(self._image(job, index, url) for index, url in wanted))
        found = [problem for problem in problems if problem is not None]
        if found:
            raise found[0]

    async def try_download(self, job: Job) -> bool:
        """As `download`; returns False where a picture could not be had from its known address."""
        with contextlib.suppress(ImageError):
            await self.download(job)
            return True
        return False

    async def _image(self, job: Job, index: int, url: str) -> ImageError | None:
        async with self._slots:
            try:
                await asyncio.to_thread(self._images.clear, job.run.run_id, index)
                downloaded = await self._client.download(url, self._images.target(job.run.run_id, index))
                image = await asyncio.to_thread(self._images.keep, job.run, index, downloaded)
            except ApixoError as error:
                if isinstance(error, ImageError) and error.unsaved:
                    await self._hold(job, index, url)
                await self._recorder.image(job, Image(index=index, url=url, error=error.headline))
                return _as_image_error(error)
        await self._recorder.image(job, image)
        return None

    async def _hold(self, job: Job, index: int, url: str) -> None:
        """The disk does not take the picture: hold in memory what was paid for, so that it can be shown."""
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="apixo-"))
        try:
            downloaded: Downloaded = await self._client.download(url, folder / "picture")
            await asyncio.to_thread(self._images.hold, job.run.run_id, index, downloaded)
        except ApixoError:
            return  # its address is on the row, and in the error
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _as_image_error(error: ApixoError) -> ImageError:
    return error if isinstance(error, ImageError) else ImageError(error.message, status=error.status)
