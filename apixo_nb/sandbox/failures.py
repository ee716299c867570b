"""What a request meets when a fault hits it, for each kind of fault (`fault_kinds.KINDS`).

`REPLACED` answers in place of the handler, `BROKEN_DELIVERY` sends the handler's good answer badly, and
`CHANGED_STATUS` changes the ``data`` of a good status answer.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

from apixo_nb.sandbox import validation
from apixo_nb.sandbox.faults import Hit, RequestFacts
from apixo_nb.sandbox.service import Handler
from apixo_nb.sandbox.tasks import Json
from apixo_nb.sandbox.validation import RefusedError

_DRIPS_PER_S = 20


def apply_fault(handler: Handler) -> Awaitable[None] | None:
    """What becomes of this request; None if no fault is due. To be called, and awaited, in `prepare`."""
    if handler.request.method != handler.allow:
        return None
    hit = handler.service.faults.hit(_facts(handler))
    return None if hit is None else _fail(handler, hit)


def _facts(handler: Handler) -> RequestFacts:
    task, prompt = handler.task(), handler.prompt()
    return RequestFacts(
        on=handler.kind,
        prompt=prompt,
        address=str(handler.request.uri),
        task=prompt if task is None else task.task_id,
        state="" if task is None else task.state(handler.service.account.now_ms()),
    )


async def _fail(handler: Handler, hit: Hit) -> None:
    kind, arguments = hit.fault.kind, hit.fault.arguments()
    accept = arguments.pop("accept", False)
    instead = REPLACED.get(kind)
    body = b"" if instead is not None and not accept else await _healthy(handler, hit)
    if instead is not None:
        await instead(handler, **arguments)
    elif kind in CHANGED_STATUS:
        envelope = json.loads(body)
        changed = envelope | {"data": CHANGED_STATUS[kind](envelope["data"], **arguments)}
        _finish(handler, json.dumps(changed).encode())
    else:
        await BROKEN_DELIVERY[kind](handler, body, **arguments)


async def _healthy(handler: Handler, hit: Hit) -> bytes:
    """What the handler answers: with all its checks, and all that follows from them."""
    try:
        return await handler.respond()
    except HTTPError:  # it would have been refused anyway
        handler.service.faults.take_back(hit)
        raise


def _finish(handler: Handler, body: bytes, content_type: str = "") -> None:
    handler.set_header("Content-Type", content_type or handler.content_type)
    handler.finish(body)


# --- in place of the handler -------------------------------------------------------------------------


async def _refuse(
    handler: Handler, *, status: int, message: str, retry_after: float | str | None, as_date: bool
) -> None:
    if isinstance(retry_after, int | float):
        at_s = math.ceil(handler.service.account.now_ms() / 1000 + retry_after)  # a date has no fractions
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
    _finish(handler, json.dumps(validation.refusal(code, message=message)).encode())


async def _redirect(handler: Handler, *, location: str, status: int) -> None:
    handler.set_status(status)
    handler.set_header("Location", location)
    handler.finish()


async def _reset(handler: Handler) -> None:
    handler.hang_up(reset=True)


async def _swell(handler: Handler, *, megabytes: int) -> None:
    body = swollen(megabytes)
    handler.set_header("Content-Type", handler.content_type)
    handler.set_header("Content-Encoding", "gzip")
    await handler.pour(body.blocks, body.length)


async def _bomb(handler: Handler, *, pixels: int) -> None:
    _finish(handler, bomb(pixels))


async def _huge(handler: Handler, *, megabytes: int) -> None:
    body = huge_png(megabytes)
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


# --- a good status answer, changed ---

_END = ("completeTime", "costTime", "resultJson", "failCode", "failMsg")


def _wrong_task(data: Json, *, task_id: str) -> Json:
    """About a task that nobody asked for."""
    return data | {"taskId": task_id}


def _change_state(data: Json, *, state: str) -> Json:
    """In any state, with the fields of a task that goes on."""
    return _without(data, *_END) | {"state": state}


def _backwards(data: Json) -> Json:
    """Processing, after its end was told."""
    return _change_state(data, state="processing")


def _no_cost_time(data: Json) -> Json:
    """Without costTime."""
    return _without(data, "costTime")


def _change_fail(data: Json, *, message: str, fail_code: str) -> Json:
    """Failed, in these words."""
    return _without(data, "resultJson") | {"state": "failed", "failCode": fail_code, "failMsg": message}


def _change_urls(data: Json, *, count: int) -> Json:
    """So many result URLs. Those beyond the pictures that there are lead to the first ones again."""
    known = _urls(data)
    more = [f"{known[index % len(known)]}?again={index}" for index in range(len(known), count) if known]
    return data | {"resultJson": json.dumps({"resultUrls": [*known, *more][:count]})}


def _change_result(data: Json, *, variant: str) -> Json:
    """A resultJson that is not what the page shows."""
    if variant == "absent":
        return _without(data, "resultJson")
    return data | {"resultJson": _VARIANTS[variant](_urls(data))}


#: From the result URLs to the resultJson.
_VARIANTS: dict[str, Callable[[list[str]], object]] = {
    "empty": lambda _urls: "",
    "null": lambda _urls: None,
    "not-json": lambda _urls: "{'resultUrls': oops",
    "object": lambda urls: {"resultUrls": urls},
    "double-encoded": lambda urls: json.dumps(json.dumps({"resultUrls": urls})),
    "empty-list": lambda _urls: "[]",
    "no-urls": lambda _urls: json.dumps({"pictures": []}),
    "url": lambda urls: json.dumps({"resultUrls": "".join(urls[:1])}),
    "bare-url": lambda urls: "".join(urls[:1]),
}


def _urls(data: Json) -> list[str]:
    return list(json.loads(data["resultJson"])["resultUrls"])


def _without(data: Json, *names: str) -> Json:
    return {name: value for name, value in data.items() if name not in names}


# --- bodies that are larger than they look, or than they should be; made block by block ---

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2

_ROWS, _WIDTH = 4, 5000  # so many rows of a huge picture fill one stored block, at most 65,535 bytes
_MEGABYTE = bytes(1_000_000)


@dataclass(frozen=True, slots=True)
class LargeBody:
    """A body: its length in bytes on the wire, and its blocks, to be read once."""

    length: int
    blocks: Iterator[bytes]


def bomb(pixels: int) -> bytes:
    """A PNG of a few bytes whose header says that it is `pixels` wide and high."""
    header = _header(pixels, pixels, 1, _GREY)
    return header + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")


def huge_png(megabytes: int) -> LargeBody:
    """A whole picture of about so many megabytes, in stripes.

    Its pixels are stored, not compressed: every block is the same, and only the checksum has to be counted.
    """
    rows = b"".join(
        b"\0" + bytes((row * 40 + column // 3) % 256 for column in range(3 * _WIDTH)) for row in range(_ROWS)
    )
    times = -(-megabytes * 1_000_000 // len(rows))
    head = _header(_WIDTH, times * _ROWS, 8, _RGB) + _chunk(b"IDAT", b"\x78\x01")
    block = _chunk(b"IDAT", b"\0" + struct.pack("<HH", len(rows), len(rows) ^ 0xFFFF) + rows)

    def tail(checksum: int) -> bytes:
        return _chunk(b"IDAT", b"\1\0\0\xff\xff" + struct.pack(">I", checksum)) + _chunk(b"IEND", b"")

    def blocks() -> Iterator[bytes]:
        yield head
        checksum = 1
        for _ in range(times):
            checksum = zlib.adler32(rows, checksum)
            yield block
        yield tail(checksum)

    return LargeBody(len(head) + times * len(block) + len(tail(0)), blocks())


def swollen(megabytes: int) -> LargeBody:
    """A gzip body, about a thousandth of what it holds: so many megabytes of zeros.

    Each megabyte ends in a full flush, so its bytes fit behind any others: one is compressed for all.
    """
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = squeeze.compress(_MEGABYTE) + squeeze.flush(zlib.Z_FULL_FLUSH)
    head = b"\x1f\x8b\x08" + bytes(6) + b"\xff"

    def blocks() -> Iterator[bytes]:
        yield head
        checksum = 0
        for _ in range(megabytes):
            checksum = zlib.crc32(_MEGABYTE, checksum)
            yield block
        yield b"\x03\0" + struct.pack("<II", checksum, megabytes * len(_MEGABYTE) % 2**32)

    return LargeBody(len(head) + megabytes * len(block) + 10, blocks())


def _header(width: int, height: int, depth: int, colour: int) -> bytes:
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


# --- from kinds to functions ---

Failure = Callable[..., Awaitable[None]]

REPLACED: dict[str, Failure] = {
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
BROKEN_DELIVERY: dict[str, Failure] = {
    "accept-then-drop": _drop,
    "accept-then-hang": _hang,
    "delay": _delay,
    "drip": _drip,
    "truncated-json": _truncated_json,
    "invalid-json": _invalid_json,
    "cut": _cut,
    "half": _half,
}
CHANGED_STATUS: dict[str, Callable[..., dict[str, Any]]] = {
    "wrong-task": _wrong_task,
    "state": _change_state,
    "backwards": _backwards,
    "no-cost-time": _no_cost_time,
    "result": _change_result,
    "urls": _change_urls,
    "fail": _change_fail,
}
