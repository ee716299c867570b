"""Records what happens to runs, and downloads their pictures; once paid for, nothing is given up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from apixo_nb.client.client import AsyncClient
from apixo_nb.core.event_loop import WriterThread
from apixo_nb.core.files import Downloaded
from apixo_nb.core.records import SUBMITTED, Image, Run
from apixo_nb.errors import ApixoError, ImageError, LedgerError
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.storage.originals import Images

from .job import Job

Listener = Callable[[Run], None]

_AGAIN_S = 1.0  # to the second attempt to release a run

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Unwritten:
    """What the ledger has refused so far, and why."""

    columns: dict[str, Any] = field(default_factory=dict)
    images: dict[int, Image] = field(default_factory=dict)
    refusal: LedgerError | None = None


class Recorder:
    """Keeps the records of all runs in flight. Its coroutines run on the loop thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._writer = WriterThread()
        self._listeners: list[Listener] = []
        self._unwritten: dict[Job, _Unwritten] = {}
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks only weakly

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a function with every new record; returns the function that ends this."""
        self._listeners.append(listener)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def close(self) -> None:
        """Return when all is written."""
        self._closed = True
        self._writer.close()

    def notify(self, job: Job, run: Run) -> None:
        """Give the job its new record, and notify the listeners of it."""
        job.run = run
        for listener in tuple(self._listeners):
            try:
                listener(run)
            except Exception:  # noqa: BLE001 - a listener must not stop what is paid for
                _log.exception("a listener failed at run %s", run.run_id)

    async def write(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Make a call that reads or writes the disk, in its order; returns or raises what it does."""
        return await asyncio.wrap_future(self._writer.submit(call, *args, **options))

    def later(self, call: Callable[[], Any]) -> None:
        """Make a call without waiting for its result."""
        self._writer.submit(call)

    async def submitted(self, job: Job, task_id: str, submitted_at: datetime) -> None:
        """Record the taskId: without it, what was paid for cannot be fetched."""
        self.notify(job, job.run.replace(state=SUBMITTED, task_id=task_id, submitted_at=submitted_at))
        columns = {"state": SUBMITTED, "task_id": task_id, "submitted_at": submitted_at}
        try:
            if not await self.write(self._ledger.record_task, job.run.run_id, task_id, submitted_at):
                self._unwritten_of(job).columns |= columns  # safe in the journal, but not yet in the row
        except LedgerError as refusal:
            unwritten = self._unwritten_of(job)
            unwritten.refusal = unwritten.refusal or refusal
            unwritten.columns |= columns

    async def change(self, job: Job, **changes: Any) -> None:
        """Change the record; returns when it is on disk, or was refused."""
        self.notify(job, job.run.replace(**changes))
        columns = self._unwritten[job].columns | changes if job in self._unwritten else changes
        try:
            await self.write(self._ledger.update, job.run.run_id, **columns)
        except LedgerError as refusal:
            unwritten = self._unwritten_of(job)
            unwritten.columns |= columns
            unwritten.refusal = unwritten.refusal or refusal
        else:
            if job in self._unwritten:
                self._unwritten[job].columns.clear()

    def note_state(self, job: Job, state: str, word: str) -> None:
        """Record a state on the way, and APIXO's word for it, without waiting; nothing is lost without it."""
        self.notify(job, job.run.replace(state=state, service_state=word))
        self._writer.submit(self._ledger.update, job.run.run_id, state=state, service_state=word)

    async def image(self, job: Job, image: Image) -> None:
        """Record what is known of one picture now."""
        for known in job.run.images:  # a person may have rated the one that is replaced
            if known.index == image.index and known.is_chosen and not image.is_chosen:
                image = image.with_choice(known)
        others = [known for known in job.run.images if known.index != image.index]
        images = tuple(sorted([*others, image], key=lambda known: known.index))
        self.notify(job, job.run.replace(images=images))
        try:
            await self.write(self._ledger.put_image, job.run.run_id, image)
        except LedgerError as refusal:
            unwritten = self._unwritten_of(job)
            unwritten.images[image.index] = image
            unwritten.refusal = unwritten.refusal or refusal

    async def flush(self, job: Job) -> LedgerError | None:
        """Write a last time what the ledger has refused. Returns why it still does, or None."""
        unwritten = self._unwritten.pop(job, None)
        if unwritten is None:
            return None
        try:
            if unwritten.columns:
                await self.write(self._ledger.update, job.run.run_id, **unwritten.columns)
            for image in unwritten.images.values():
                await self.write(self._ledger.put_image, job.run.run_id, image)
        except LedgerError as last:
            # The first refusal: where a taskId could not be written anywhere, this is the one that names it.
            return (unwritten.refusal or last).about(job.run.run_id, job.run.task_id)
        return None

    async def release(self, job: Job) -> None:
        """Release the run: this process does not work on it any more."""
        await self._release(job.run.run_id, _AGAIN_S)

    async def _release(self, run_id: str, again_s: float) -> None:
        try:
            await self.write(self._ledger.leases.release, run_id)
        except LedgerError:
            # Else other kernels would leave the run to this one for ever.
            def again() -> None:
                if self._closed:  # the ledger releases all its runs when it is closed
                    return
                task = asyncio.ensure_future(self._release(run_id, min(60.0, again_s * 2)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            asyncio.get_running_loop().call_later(again_s, again)

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
