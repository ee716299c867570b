"""Brings the pictures of a finished run to disk, each once, and keeps what is known of each."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

from .api import AsyncClient
from .download import Downloaded
from .errors import ApixoError, ImageError
from .job import Job
from .keeper import Keeper
from .originals import Images
from .run import Image

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
        have = {image.index for image in job.run.images if image.file and self._images.path(image).exists()}
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
