"""The host of the result URLs: like the real one, a storage server apart from the API.

It knows no keys and no envelopes, answers to anyone, and its errors are HTML pages.
"""

# ruff: noqa: D102 - Tornado's own verbs, and `Handler`'s

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Awaitable

from tornado.web import Application, HTTPError

from apixo_nb.sandbox import acts, pictures
from apixo_nb.sandbox.desk import Desk, Handler, application
from apixo_nb.sandbox.tasks import Task


class PictureHandler(Handler):
    """``GET /{token}/{task}-{index}.png``: drawn when asked for, away from the event loop."""

    kind = "picture"
    content_type = "image/png"

    def prepare(self) -> Awaitable[None] | None:
        super().prepare()
        return acts.meet(self)

    async def get(self, token: str, task_id: str, index: str) -> None:
        task = self._found(token, task_id, index)
        if task.script.html:
            self.finish("<!doctype html><title>Please wait</title><p>Checking your browser…</p>")
            return
        await self._deliver(await self._draw(task, index), broken=task.script.broken)

    def task(self) -> Task | None:
        return self.desk.account.tasks.get(self.path_args[1])

    async def respond(self) -> bytes:
        token, task_id, index = self.path_args
        return await self._draw(self._found(token, task_id, index), index)

    def _found(self, token: str, task_id: str, index: str) -> Task:
        """The task of a picture that can be had; HTTPError if this is none."""
        task = self.desk.account.tasks.get(task_id)
        if task is None or task.token != token or task.state(self.desk.account.now_ms()) != "success":
            raise HTTPError(404)
        if int(index) not in range(1, task.pictures + 1) or task.script.gone:
            raise HTTPError(404)
        return task

    async def _draw(self, task: Task, index: str) -> bytes:
        sketch = pictures.Sketch.of(task, int(index), self.desk.options.picture_scale)
        return await get_running_loop().run_in_executor(None, pictures.draw, sketch)

    async def _deliver(self, png: bytes, *, broken: bool) -> None:
        self.set_header("Content-Type", "image/png")
        self.set_header("Content-Length", len(png))
        if broken:
            self.write(png[: len(png) // 2])
            await self.flush()
            self.hang_up()
        else:
            self.finish(png)


class NoSuchPictureHandler(Handler):
    """Any other address on the picture host."""

    kind = "picture"

    def prepare(self) -> None:
        super().prepare()
        raise HTTPError(404)


def host(desk: Desk) -> Application:
    """The host of the result URLs."""
    return application(
        desk,
        NoSuchPictureHandler,
        (r"/([0-9a-f]+)/(task_[0-9a-f]+)-([0-9]{1,4})\.png", PictureHandler),
    )
