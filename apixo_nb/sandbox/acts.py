"""What a request meets when a fault hits it: the table from kinds to functions, and the meeting itself.

`INSTEAD` answers in place of the handler, `CARRIED` has the handler's good answer and carries it badly,
and `changes.CHANGES` has another say what is in a status answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

from apixo_nb.sandbox import bulk, checks
from apixo_nb.sandbox.changes import CHANGES
from apixo_nb.sandbox.checks import RefusedError
from apixo_nb.sandbox.desk import Handler
from apixo_nb.sandbox.faults import Draw, Occasion

_DRIPS_PER_S = 20


def meet(handler: Handler) -> Awaitable[None] | None:
    """What becomes of this request; None if no fault is due. To be called, and awaited, in `prepare`."""
    if handler.request.method != handler.allow:
        return None
    draw = handler.desk.faults.draw(_occasion(handler))
    return None if draw is None else _carry_out(handler, draw)


def _occasion(handler: Handler) -> Occasion:
    task, prompt = handler.task(), handler.prompt()
    return Occasion(
        on=handler.kind,
        prompt=prompt,
        address=str(handler.request.uri),
        task=prompt if task is None else task.task_id,
        state="" if task is None else task.state(handler.desk.account.now_ms()),
    )


async def _carry_out(handler: Handler, draw: Draw) -> None:
    kind, arguments = draw.fault.kind, draw.fault.arguments()
    accept = arguments.pop("accept", False)
    instead = INSTEAD.get(kind)
    body = b"" if instead is not None and not accept else await _healthy(handler, draw)
    if instead is not None:
        await instead(handler, **arguments)
    elif kind in CHANGES:
        envelope = json.loads(body)
        changed = envelope | {"data": CHANGES[kind](envelope["data"], **arguments)}
        _finish(handler, json.dumps(changed).encode())
    else:
        await CARRIED[kind](handler, body, **arguments)


async def _healthy(handler: Handler, draw: Draw) -> bytes:
    """What the handler answers: with all its checks, and all that follows from them."""
    try:
        return await handler.respond()
    except HTTPError:  # it would have been refused anyway
        handler.desk.faults.give_back(draw)
        raise


def _finish(handler: Handler, body: bytes, content_type: str = "") -> None:
    handler.set_header("Content-Type", content_type or handler.content_type)
    handler.finish(body)


# --- in place of the handler -------------------------------------------------------------------------


async def _refuse(
    handler: Handler, *, status: int, message: str, retry_after: float | str | None, as_date: bool
) -> None:
    if isinstance(retry_after, int | float):
        at_s = math.ceil(handler.desk.account.now_ms() / 1000 + retry_after)  # a date has no fractions
        retry_after = formatdate(at_s, usegmt=True) if as_date else f"{retry_after:g}"
    raise RefusedError(status, message, message=message, retry_after_s=retry_after)


async def _not_found(_handler: Handler) -> None:
    raise RefusedError(404, message="Task not found")


async def _html(handler: Handler, *, status: int | None) -> None:
    handler.set_status(status or (200 if handler.kind == "picture" else 502))
    title = f"{handler.get_status()} {_phrase(handler.get_status())}"
    page = f"<!doctype html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    _finish(handler, page.encode(), "text/html; charset=UTF-8")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


async def _code(handler: Handler, *, code: int, message: str) -> None:
    _finish(handler, json.dumps(checks.refusal(code, message=message)).encode())


async def _redirect(handler: Handler, *, location: str, status: int) -> None:
    handler.set_status(status)
    handler.set_header("Location", location)
    handler.finish()


async def _reset(handler: Handler) -> None:
    handler.hang_up(reset=True)


async def _swell(handler: Handler, *, megabytes: int) -> None:
    body = bulk.swollen(megabytes)
    handler.set_header("Content-Type", handler.content_type)
    handler.set_header("Content-Encoding", "gzip")
    await handler.pour(body.blocks, body.length)


async def _bomb(handler: Handler, *, pixels: int) -> None:
    _finish(handler, bulk.bomb(pixels))


async def _huge(handler: Handler, *, megabytes: int) -> None:
    body = bulk.huge_png(megabytes)
    handler.set_header("Content-Type", handler.content_type)
    await handler.pour(body.blocks, body.length)


# --- the good answer, badly carried ------------------------------------------------------------------


async def _drop(handler: Handler, _body: bytes) -> None:
    handler.hang_up()


async def _hang(handler: Handler, _body: bytes, *, seconds: float | None) -> None:
    await handler.hold(seconds)
    handler.hang_up()


async def _delay(handler: Handler, body: bytes, *, seconds: float) -> None:
    if await handler.hold(seconds):
        _finish(handler, body)
    else:
        handler.hang_up()


async def _drip(handler: Handler, body: bytes, *, bytes: int) -> None:  # noqa: A002 - its name in a rule
    size = max(1, bytes // _DRIPS_PER_S)
    blocks = (body[start : start + size] for start in range(0, len(body), size))
    handler.set_header("Content-Type", handler.content_type)
    await handler.pour(blocks, len(body), pause_s=size / bytes)


async def _truncated_json(handler: Handler, body: bytes) -> None:
    _finish(handler, body[: len(body) // 2])


async def _invalid_json(handler: Handler, _body: bytes, *, body: str) -> None:
    _finish(handler, body.encode(errors="replace"))


async def _cut(handler: Handler, body: bytes) -> None:
    await _first_half(handler, body, reset=True)


async def _half(handler: Handler, body: bytes, *, length: str) -> None:
    if length == "short":
        _finish(handler, body[: len(body) // 2])
    else:
        await _first_half(handler, body, reset=False)


async def _first_half(handler: Handler, body: bytes, *, reset: bool) -> None:
    handler.set_header("Content-Type", handler.content_type)
    handler.set_header("Content-Length", len(body))
    handler.write(body[: len(body) // 2])
    with suppress(StreamClosedError):
        await handler.flush()
    handler.hang_up(reset=reset)


Act = Callable[..., Awaitable[None]]

INSTEAD: dict[str, Act] = {
    "refuse": _refuse,
    "not-found": _not_found,
    "html": _html,
    "code": _code,
    "redirect": _redirect,
    "reset": _reset,
    "swell": _swell,
    "bomb": _bomb,
    "huge": _huge,
}
CARRIED: dict[str, Act] = {
    "accept-then-drop": _drop,
    "accept-then-hang": _hang,
    "delay": _delay,
    "drip": _drip,
    "truncated-json": _truncated_json,
    "invalid-json": _invalid_json,
    "cut": _cut,
    "half": _half,
}
