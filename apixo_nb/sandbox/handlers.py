"""The two hosts of the service over HTTP: the API (submit, status, balance), and the host of the result URLs.

Every request passes `prepare` first, where it is noted, and may meet a fault that takes it over. A request
of the API leaves through `answer` or `write_error`. Like the real one, the host of the result URLs is a
storage server apart: it knows no keys and no envelopes, answers to anyone, and its errors are HTML pages.
"""

# ruff: noqa: D102 - Tornado's own verbs, and `Handler`'s

from __future__ import annotations

import json
from asyncio import get_running_loop
from collections.abc import Awaitable
from http import HTTPStatus

from tornado.web import Application, HTTPError

from apixo_nb.core.models import MODELS, ModelSpec
from apixo_nb.sandbox import markers, pictures, validation
from apixo_nb.sandbox.failures import apply_fault
from apixo_nb.sandbox.service import Handler, Service, application
from apixo_nb.sandbox.tasks import Json, Task, success
from apixo_nb.sandbox.validation import RefusedError

RETRY_AFTER_S = 1


class ApiHandler(Handler):
    """The API host: JSON envelopes, and nothing without a key."""

    def prepare(self) -> Awaitable[None] | None:
        authorised = self.service.account.knows(self.request.headers.get("Authorization", ""))
        self.service.account.note(self.seen(authorised=authorised))
        if not authorised:
            raise RefusedError(401)
        return apply_fault(self)

    def envelope(self) -> Json:
        """Handle the request, and return the good answer; `RefusedError` if there is none."""
        raise RefusedError(404)

    async def respond(self) -> bytes:
        return json.dumps(self.envelope()).encode()

    def model(self, model_id: str) -> ModelSpec:
        """The model of that id, or 404."""
        if model_id not in MODELS:
            raise RefusedError(404, message="Model not found")
        return MODELS[model_id]

    def answer(self, envelope: Json) -> None:
        """Send an envelope; its ``code`` is the HTTP status as well (APIXO docs, "Response format")."""
        self.set_status(envelope["code"])
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(envelope))

    def write_refusal(self, status_code: int, refused: BaseException | None) -> None:
        if not isinstance(refused, RefusedError):
            refused = RefusedError(status_code)
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", self.allow)
        self.answer(validation.refusal(status_code, refused.error, refused.message))


class NotFoundHandler(ApiHandler):
    """Any other address under the API."""

    def prepare(self) -> None:
        super().prepare()
        raise RefusedError(404)


class SubmitHandler(ApiHandler):
    """``POST /generateTask/{model}``: check, charge, promise."""

    kind = "submit"
    allow = "POST"

    def post(self, model_id: str) -> None:
        self._confirm(self._accept_task(model_id))

    def envelope(self) -> Json:
        return _promise(self._accept_task(*self.path_args))

    def prompt(self) -> str:
        try:
            return str(json.loads(self.request.body)["input"]["prompt"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""

    def _accept_task(self, model_id: str) -> Task:
        """Check the request and accept it, which charges for it."""
        spec = self.model(model_id)
        request = validation.parsed(self.request.body, self.request.headers.get("Content-Type", ""))
        validation.check(request, spec, self.service.options.hosts)
        prompt = request["input"]["prompt"]
        script = self._script(prompt)
        self._refuse_if_asked(script, prompt)
        if self.service.account.balance_micros < spec.unit_price_micros * spec.pictures(request["input"]):
            raise RefusedError(402)
        task = self.service.account.accept(spec, request)
        self.service.callbacks.schedule(task)
        return task

    def _script(self, prompt: str) -> markers.Script:
        try:
            return markers.read(prompt)
        except ValueError as error:
            raise RefusedError(400, str(error)) from None

    def _refuse_if_asked(self, script: markers.Script, prompt: str) -> None:
        if script.http is not None:
            retry_after_s = RETRY_AFTER_S if script.http == HTTPStatus.TOO_MANY_REQUESTS else None
            raise RefusedError(script.http, f"asked for by [http:{script.http}]", retry_after_s=retry_after_s)
        if self.service.account.is_busy(prompt, script.busy):
            raise RefusedError(429, retry_after_s=RETRY_AFTER_S)

    def _confirm(self, task: Task) -> None:
        if task.script.lost_status is not None:
            raise RefusedError(task.script.lost_status)
        if task.script.lost:
            self.hang_up()
        else:
            self.answer(_promise(task))


def _promise(task: Task) -> Json:
    return success({"taskId": task.task_id})


class StatusHandler(ApiHandler):
    """``GET /statusTask/{model}?taskId=``: how a task stands at this moment."""

    kind = "status"

    def get(self, model_id: str) -> None:
        self.answer(self._status(model_id))

    def envelope(self) -> Json:
        return self._status(*self.path_args)

    def task(self) -> Task | None:
        return self.service.account.tasks.get(self.get_query_argument("taskId", ""))

    def _status(self, model_id: str) -> Json:
        spec = self.model(model_id)
        if not self.get_query_argument("taskId", ""):
            raise RefusedError(400, "required: taskId")
        task = self.task()
        if task is None or task.model != spec.id:
            raise RefusedError(404, message="Task not found")
        return task.envelope(self.service.account.now_ms(), self.service.picture_url)


class BalanceHandler(ApiHandler):
    """``GET /apikeys/current-balance``: what is left in USD, as a bare number (APIXO docs, "System APIs")."""

    kind = "balance"

    def get(self) -> None:
        self.answer(self.envelope())

    def envelope(self) -> Json:
        return success(self.service.account.balance_micros / 1_000_000)


def api(service: Service) -> Application:
    """The API host."""
    return application(
        service,
        NotFoundHandler,
        (r"/api/v1/generateTask/([^/]+)", SubmitHandler),
        (r"/api/v1/statusTask/([^/]+)", StatusHandler),
        (r"/api/v1/apikeys/current-balance", BalanceHandler),
    )


# --- the host of the result URLs ---


class PictureHandler(Handler):
    """``GET /{token}/{task}-{index}.png``: drawn when asked for, away from the event loop."""

    kind = "picture"
    content_type = "image/png"

    def prepare(self) -> Awaitable[None] | None:
        super().prepare()
        return apply_fault(self)

    async def get(self, token: str, task_id: str, index: str) -> None:
        task = self._found(token, task_id, index)
        if task.script.html:
            self.finish("<!doctype html><title>Please wait</title><p>Checking your browser…</p>")
            return
        await self._deliver(await self._draw(task, index), broken=task.script.broken)

    def task(self) -> Task | None:
        return self.service.account.tasks.get(self.path_args[1])

    async def respond(self) -> bytes:
        token, task_id, index = self.path_args
        return await self._draw(self._found(token, task_id, index), index)

    def _found(self, token: str, task_id: str, index: str) -> Task:
        """The task of a picture that can be had; HTTPError if this is none."""
        task = self.service.account.tasks.get(task_id)
        if task is None or task.token != token or task.state(self.service.account.now_ms()) != "success":
            raise HTTPError(404)
        if int(index) not in range(1, task.pictures + 1) or task.script.gone:
            raise HTTPError(404)
        return task

    async def _draw(self, task: Task, index: str) -> bytes:
        sketch = pictures.Sketch.of(task, int(index), self.service.options.picture_scale)
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


def picture_host(service: Service) -> Application:
    """The host of the result URLs."""
    return application(
        service,
        NoSuchPictureHandler,
        (r"/([0-9a-f]+)/(task_[0-9a-f]+)-([0-9]{1,4})\.png", PictureHandler),
    )
