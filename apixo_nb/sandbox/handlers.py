"""The API of the service over HTTP: submit, status and balance (the pictures: `picture_host`).

Every request passes `prepare` first, where it is noted, and leaves through `answer` or `write_error`.
"""

# ruff: noqa: D102 - Tornado's own verbs: initialize, prepare, get, post, write_error

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler

from apixo_nb.sandbox import checks, markers
from apixo_nb.sandbox.account import Account, Seen
from apixo_nb.sandbox.callbacks import Courier
from apixo_nb.sandbox.checks import RefusedError
from apixo_nb.sandbox.options import SandboxOptions
from apixo_nb.sandbox.tasks import Json, Task, success
from apixo_nb.spec import MODELS, ModelSpec

RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class Desk:
    """What the handlers share: the account they serve, and how."""

    options: SandboxOptions
    account: Account
    courier: Courier
    picture_url: str


class Handler(RequestHandler):
    """What API and picture host have in common: every request is noted, and errors stay off the log."""

    kind = "other"
    allow = "GET"

    def initialize(self, desk: Desk) -> None:
        self.desk = desk

    def prepare(self) -> None:
        self.desk.account.note(self.seen(authorised=False))

    def seen(self, *, authorised: bool) -> Seen:
        """The request without its secrets."""
        headers = self.request.headers
        return Seen(
            kind=self.kind,
            method=str(self.request.method),
            path=self.request.path,
            authorised=authorised,
            has_authorization="Authorization" in headers,
            has_cookie="Cookie" in headers,
        )

    def hang_up(self) -> None:
        """Close the connection as it is, in the middle of everything."""
        self.detach().close()

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        # A refusal is the sandbox at work, a vanished client its own affair; only our own bugs are news.
        if not isinstance(value, HTTPError | StreamClosedError):
            super().log_exception(typ, value, tb)


class ApiHandler(Handler):
    """The API host: JSON envelopes, and nothing without a key."""

    def prepare(self) -> None:
        authorised = self.desk.account.knows(self.request.headers.get("Authorization", ""))
        self.desk.account.note(self.seen(authorised=authorised))
        if not authorised:
            raise RefusedError(401)

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

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        refused = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if not isinstance(refused, RefusedError):
            refused = RefusedError(status_code)
        if refused.retry_after_s is not None:
            self.set_header("Retry-After", refused.retry_after_s)
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
        self._confirm(task)

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
            self.answer(success({"taskId": task.task_id}))


class StatusHandler(ApiHandler):
    """``GET /statusTask/{model}?taskId=``: how a task stands at this moment."""

    kind = "status"

    def get(self, model_id: str) -> None:
        spec = self.model(model_id)
        task_id = self.get_query_argument("taskId", "")
        if not task_id:
            raise RefusedError(400, "required: taskId")
        task = self.desk.account.tasks.get(task_id)
        if task is None or task.model != spec.id:
            raise RefusedError(404, message="Task not found")
        self.answer(task.envelope(self.desk.account.now_ms(), self.desk.picture_url))


class BalanceHandler(ApiHandler):
    """``GET /apikeys/current-balance``: what is left in USD, as a bare number (APIXO docs, "System APIs")."""

    kind = "balance"

    def get(self) -> None:
        self.answer(success(self.desk.account.balance_micros / 1_000_000))


def api(desk: Desk) -> Application:
    """The API host."""
    return application(
        desk,
        NotFoundHandler,
        (r"/api/v1/generateTask/([^/]+)", SubmitHandler),
        (r"/api/v1/statusTask/([^/]+)", StatusHandler),
        (r"/api/v1/apikeys/current-balance", BalanceHandler),
    )


def application(desk: Desk, otherwise: type[Handler], *routes: tuple[str, type[Handler]]) -> Application:
    """A host with these routes, and `otherwise` for every other address."""
    shared = {"desk": desk}
    return Application(
        [(pattern, handler, shared) for pattern, handler in routes],
        default_handler_class=otherwise,
        default_handler_args=shared,
        log_function=lambda _: None,  # an access log would be noise in a notebook
    )
