"""Downloads the pictures of finished runs, each once, and records what is known of each."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

from apixo_nb.client.client import AsyncClient
from apixo_nb.core.files import Downloaded
from apixo_nb.core.records import Image
from apixo_nb.errors import ApixoError, ImageError
from apixo_nb.storage.originals import Images

from .job import Job
from .recorder import Recorder

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
