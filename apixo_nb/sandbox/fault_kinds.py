"""The kinds of fault, as data: where each may happen, what it does, and its arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PLACES = ("submit", "status", "picture", "balance")
API = ("submit", "status", "balance")

#: An argument that has no default.
REQUIRED = object()

_ENDED = ("success", "failed")

#: The ways in which a resultJson can be malformed.
VARIANTS = {
    "absent": "not there",
    "empty": 'the empty text ""',
    "null": "null",
    "not-json": "text that is no JSON",
    "object": "an object, not a text that holds one",
    "double-encoded": "a JSON text in a JSON text",
    "empty-list": "[]",
    "no-urls": "an object without resultUrls",
    "url": "resultUrls is one URL, not a list",
    "bare-url": "a URL alone",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes
    ----------
    does
        What the client sees, in one line.
    on
        The requests that can meet it.
    arguments
        Their names and defaults.
    statuses
        The HTTP statuses allowed.
    states
        The task must be in one of these; empty: in any.
    after
        How many requests pass before, unless the rule says it.
    """

    does: str
    on: tuple[str, ...] = PLACES
    arguments: Mapping[str, Any] = field(default_factory=dict)
    statuses: tuple[int, ...] | range = range(200, 600)
    states: tuple[str, ...] = ()
    after: int = 0


_ACCEPT = {"accept": False}

KINDS: dict[str, Kind] = {
    # In place of the healthy answer; with accept, a submit is accepted and charged before.
    "refuse": Kind(
        "an HTTP status with the envelope (picture: a page); as_date: Retry-After is a date",
        arguments={"status": 503, "message": "", "retry_after": None, "as_date": False} | _ACCEPT,
        statuses=range(400, 600),
    ),
    "html": Kind(
        "an HTML page in place of JSON (status 502) or of a picture (status 200)",
        arguments={"status": None} | _ACCEPT,
    ),
    "code": Kind(
        "HTTP 200, but the code in the body is another",
        on=API,
        arguments={"code": 500, "message": ""} | _ACCEPT,
    ),
    "redirect": Kind(
        "a redirect to location, any host at all",
        arguments={"location": REQUIRED, "status": 302} | _ACCEPT,
        statuses=(301, 302, 303, 307, 308),
    ),
    "reset": Kind("the connection is reset (RST) before any answer", arguments=_ACCEPT),
    "swell": Kind(
        "a small gzip body that swells to so many megabytes when decoded",
        arguments={"megabytes": 300} | _ACCEPT,
    ),
    "not-found": Kind("HTTP 404 for a task that is there, as right after its submit", on=("status",)),
    "bomb": Kind(
        "a PNG of a few bytes that claims to be pixels wide and high",
        on=("picture",),
        arguments={"pixels": 60_000},
    ),
    "huge": Kind("a whole picture of so many megabytes", on=("picture",), arguments={"megabytes": 60}),
    # The healthy answer, or none, after the request was handled as ever: accepted, charged, drawn.
    "accept-then-drop": Kind(
        "accepted and charged, then the connection closes without an answer", on=("submit",)
    ),
    "accept-then-hang": Kind(
        "accepted and charged, then no answer: held for so many seconds, or until the sandbox stops",
        on=("submit",),
        arguments={"seconds": None},
    ),
    "delay": Kind("the healthy answer, so many seconds late", arguments={"seconds": 1.0}),
    "drip": Kind("the healthy answer, so many bytes a second", arguments={"bytes": 20}),
    "truncated-json": Kind("half of the JSON, in an HTTP answer that is whole", on=API),
    "invalid-json": Kind(
        "body, which is no JSON, in place of the JSON", on=API, arguments={"body": "Please wait."}
    ),
    "cut": Kind("half a picture, then the connection is reset (RST)", on=("picture",)),
    "half": Kind(
        'half a picture; Content-Length is the "true" one, or as "short" as what comes',
        on=("picture",),
        arguments={"length": "true"},
    ),
    # The healthy status answer, changed.
    "wrong-task": Kind(
        "the answer is about another task", on=("status",), arguments={"task_id": "task_0000000000000000"}
    ),
    "state": Kind(
        "the task is in this state, whatever it may mean", on=("status",), arguments={"state": "pending"}
    ),
    "backwards": Kind(
        "a task that has ended is processing again (after: 1, so that its end was told once)",
        on=("status",),
        states=_ENDED,
        after=1,
    ),
    "no-cost-time": Kind(
        "costTime is missing in the answer about an ended task", on=("status",), states=_ENDED
    ),
    "result": Kind(
        f"resultJson is malformed; variant: {', '.join(VARIANTS)}",
        on=("status",),
        arguments={"variant": "not-json"},
        states=("success",),
    ),
    "urls": Kind(
        "so many result URLs, whatever was asked for",
        on=("status",),
        arguments={"count": 0},
        states=("success",),
    ),
    "fail": Kind(
        "an ended task has failed, with this failMsg; that refunds nothing",
        on=("status",),
        arguments={"message": "<script>alert(1)</script>", "fail_code": "Unknown error"},
        states=_ENDED,
    ),
}


def describe_kinds() -> str:
    """All kinds for a reader, one line each: what the client sees, where, and the arguments with defaults."""
    return "\n".join(f"  {name}  {kind.does} {_where(kind)}" for name, kind in KINDS.items())


def _where(kind: Kind) -> str:
    places = "any" if kind.on == PLACES else ", ".join(kind.on)
    given = (
        name if value in (None, "", REQUIRED) else f"{name}: {json.dumps(value)}"
        for name, value in kind.arguments.items()
    )
    return f"({'; '.join([places, *given])})"
