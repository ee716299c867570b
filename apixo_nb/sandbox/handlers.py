"""The API of the service over HTTP: submit, status and balance (the pictures: `picture_host`).

Every request passes `prepare` first, where it is noted, and may meet a fault that takes it over. It leaves
through `answer` or `write_error`.
"""

# ruff: noqa: D102 - Tornado's own verbs, and `Handler`'s

from __future__ import annotations

import json
from collections.abc import Awaitable
from http import HTTPStatus

from tornado.web import Application

from apixo_nb.core.models import MODELS, ModelSpec
from apixo_nb.sandbox import acts, checks, markers
from apixo_nb.sandbox.checks import RefusedError
from apixo_nb.sandbox.desk import Desk, Handler, application
from apixo_nb.sandbox.tasks import Json, Task, success

RETRY_AFTER_S = 1


class ApiHandler(Handler):
    """The API host: JSON envelopes, and nothing without a key."""

    def prepare(self) -> Awaitable[None] | None:
        authorised = self.desk.account.knows(self.request.headers.get("Authorization", ""))
        self.desk.account.note(self.seen(authorised=authorised))
        if not authorised:
            raise RefusedError(401)
        return acts.meet(self)

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
        self.answer(checks.refusal(status_code, refused.error, refused.message))


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
        self._confirm(self._take_on(model_id))

    def envelope(self) -> Json:
        return _promise(self._take_on(*self.path_args))

    def prompt(self) -> str:
        try:
            return str(json.loads(self.request.body)["input"]["prompt"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""

    def _take_on(self, model_id: str) -> Task:
        """Check the request and accept it, which charges for it."""
        spec = self.model(model_id)
        request = checks.parsed(self.request.body, self.request.headers.get("Content-Type", ""))
        checks.check(request, spec)
        prompt = request["input"]["prompt"]
        script = self._script(prompt)
        self._refuse_if_asked(script, prompt)
        if self.desk.account.balance_micros < spec.unit_price_micros * spec.pictures(request["input"]):
            raise RefusedError(402)
        task = self.desk.account.accept(spec, request)
        self.desk.courier.expect(task)
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
        if self.desk.account.turns_away(prompt, script.busy):
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
        return self.desk.account.tasks.get(self.get_query_argument("taskId", ""))

    def _status(self, model_id: str) -> Json:
        spec = self.model(model_id)
        if not self.get_query_argument("taskId", ""):
            raise RefusedError(400, "required: taskId")
        task = self.task()
        if task is None or task.model != spec.id:
            raise RefusedError(404, message="Task not found")
        return task.envelope(self.desk.account.now_ms(), self.desk.picture_url)


class BalanceHandler(ApiHandler):
    """``GET /apikeys/current-balance``: what is left in USD, as a bare number (APIXO docs, "System APIs")."""

    kind = "balance"

    def get(self) -> None:
        self.answer(self.envelope())

    def envelope(self) -> Json:
        return success(self.desk.account.balance_micros / 1_000_000)


def api(desk: Desk) -> Application:
    """The API host."""
    return application(
        desk,
        NotFoundHandler,
        (r"/api/v1/generateTask/([^/]+)", SubmitHandler),
        (r"/api/v1/statusTask/([^/]+)", StatusHandler),
        (r"/api/v1/apikeys/current-balance", BalanceHandler),
    )
