"""What the service refuses, and with which HTTP status; written from APIXO's pages alone.

It is a second opinion on purpose: nothing here is shared with the client's own validation, so a request
that both let through is right for two reasons. The facts of a model come from `apixo_nb.core.models`. Fields
nobody asked for are let through. Reference URLs are looked at, never fetched: the sandbox uses no network.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urlsplit

from tornado.web import HTTPError

from apixo_nb.core.models import ModelSpec, Parameter
from apixo_nb.sandbox.tasks import Json

MAX_BODY_BYTES = 1_000_000

# Model page, "HTTP errors", "Meaning"; 404, 405 and 503 in the words of APIXO's other pages and of HTTP.
MESSAGES = {
    400: "Invalid request",
    401: "Missing or invalid API key",
    402: "Insufficient credits",
    403: "Key or route cannot access the model",
    404: "Not found",
    405: "Method not allowed",
    429: "Rate limit reached",
    500: "Server error",
    502: "Upstream provider error",
    503: "Service unavailable",
    504: "Upstream timeout",
}


class RefusedError(HTTPError):
    """A request the service turns down. `error` is the detail that a 400 carries in its data.

    `retry_after_s` becomes the header Retry-After: seconds, or any text as it is.
    """

    def __init__(
        self, status: int, error: str = "", *, message: str = "", retry_after_s: int | str | None = None
    ) -> None:
        super().__init__(status)
        self.error = error
        self.message = message
        self.retry_after_s = retry_after_s


def refusal(status: int, error: str = "", message: str = "") -> Json:
    """The envelope of a refusal; its ``data`` is ``{"error": …}`` at 400, absent at 401, else null."""
    envelope: Json = {"code": status, "message": message or MESSAGES.get(status, "Error")}
    if status == HTTPStatus.BAD_REQUEST:
        envelope["data"] = {"error": error or MESSAGES[status]}
    elif status != HTTPStatus.UNAUTHORIZED:
        envelope["data"] = None
    return envelope


def parsed(body: bytes, content_type: str) -> Json:
    """The JSON object in a request body, or `RefusedError`."""
    _require(
        "Content-Type: application/json",
        holds=content_type.partition(";")[0].strip().lower() == "application/json",
    )
    _require(f"a body of at most {MAX_BODY_BYTES} bytes", holds=len(body) <= MAX_BODY_BYTES)
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body must be valid JSON") from None
    _require("a JSON object as the body", holds=isinstance(request, dict))
    return dict(request)


def check(request: Json, spec: ModelSpec, hosts: Collection[str] = ()) -> None:
    """Raise `RefusedError` unless the service would accept this request body for this model.

    `hosts`: where callbacks may go beside this machine.
    """
    _check_delivery(request, hosts)
    given = request.get("input")
    if not isinstance(given, dict):
        raise RefusedError(400, "input must be an object")
    _require(f"input.mode: {spec.mode}", holds=given.get("mode") == spec.mode)
    _check_prompt(given.get("prompt"), spec.prompt_max)
    for parameter in spec.parameters:
        _check_parameter(given.get(parameter.wire), parameter)
    _check_references(given.get("image_urls", []), spec.references.maximum)


def _require(what: str, *, holds: bool) -> None:
    if not holds:
        raise RefusedError(400, f"required: {what}")


def _check_delivery(request: Json, hosts: Collection[str]) -> None:
    kind = request.get("request_type")
    _require("request_type: async or callback", holds=kind in ("async", "callback"))
    if kind == "callback":
        _check_callback_url(request.get("callback_url"), hosts)
    elif "callback_url" in request:
        raise RefusedError(400, "callback_url goes only with request_type: callback")


def _check_callback_url(url: object, hosts: Collection[str]) -> None:
    # The real service takes public HTTPS addresses; these would carry the sandbox's results off this machine.
    parts = _web_address(url)
    _require("callback_url, an http or https address", holds=parts is not None)
    if parts is None or not is_local(parts.hostname or "", hosts):
        raise RefusedError(400, "the sandbox sends callbacks to this machine only (127.0.0.1, localhost)")


def _check_prompt(prompt: object, longest: int) -> None:
    _require("input.prompt, a text that is not empty", holds=isinstance(prompt, str) and bool(prompt.strip()))
    _require(f"input.prompt of at most {longest} characters", holds=len(str(prompt)) <= longest)


def _check_parameter(value: Any, parameter: Parameter) -> None:
    # By type as well: in Python True == 1 and 1.0 == 1, in JSON they are three different values.
    fits = any(type(value) is type(allowed) and value == allowed for allowed in parameter.values)
    _require(f"input.{parameter.wire}, one of {', '.join(map(str, parameter.values))}", holds=fits)


def _check_references(urls: object, maximum: int) -> None:
    if not isinstance(urls, list) or len(urls) > maximum:
        raise RefusedError(400, f"input.image_urls must be a list of at most {maximum}")
    _require("input.image_urls, http or https addresses", holds=all(map(_web_address, urls)))


def _web_address(url: object) -> SplitResult | None:
    """The parts of an http(s) URL with a host; None for anything else."""
    if not isinstance(url, str) or any(char.isspace() or not char.isprintable() for char in url):
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def is_local(host: str, others: Collection[str] = ()) -> bool:
    """Whether a host is this machine, or one of `others`. No name is resolved."""
    return _is_loopback(host) or host in {other.casefold() for other in others}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
