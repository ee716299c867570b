"""Faults in a status answer: each changes the ``data`` of the healthy one, and knows nothing of HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from apixo_nb.sandbox.tasks import Json

_END = ("completeTime", "costTime", "resultJson", "failCode", "failMsg")


def wrong_task(data: Json, *, task_id: str) -> Json:
    """About a task that nobody asked for."""
    return data | {"taskId": task_id}


def state(data: Json, *, state: str) -> Json:
    """In any state, with the fields of a task that goes on."""
    return _without(data, *_END) | {"state": state}


def backwards(data: Json) -> Json:
    """Processing, after its end was told."""
    return state(data, state="processing")


def no_cost_time(data: Json) -> Json:
    """Without costTime."""
    return _without(data, "costTime")


def fail(data: Json, *, message: str, fail_code: str) -> Json:
    """Failed, in these words."""
    return _without(data, "resultJson") | {"state": "failed", "failCode": fail_code, "failMsg": message}


def urls(data: Json, *, count: int) -> Json:
    """So many result URLs. Those beyond the pictures that there are lead to the first ones again."""
    known = _urls(data)
    more = [f"{known[index % len(known)]}?again={index}" for index in range(len(known), count) if known]
    return data | {"resultJson": json.dumps({"resultUrls": [*known, *more][:count]})}


def result(data: Json, *, variant: str) -> Json:
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


CHANGES: dict[str, Callable[..., dict[str, Any]]] = {
    "wrong-task": wrong_task,
    "state": state,
    "backwards": backwards,
    "no-cost-time": no_cost_time,
    "result": result,
    "urls": urls,
    "fail": fail,
}
