"""Answers of the service, as the protocol reads them."""

from __future__ import annotations

import json
from typing import Any

from apixo_nb.client.protocol import Reply

MODEL, TASK = "gpt-image-1", "task_12345678"


def reply(status: int, body: object = b"", **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def said(code: object, data: object = None, status: int = 200, **headers: str) -> Reply:
    return reply(status, {"code": code, "message": "so it is", "data": data}, **headers)


def refused(status: int, **headers: str) -> Reply:
    return said(status, None, status, **headers)


def state(word: object, **data: Any) -> Reply:
    return said(200, {"taskId": TASK, "state": word, **data})


DONE = state("success", resultJson={"resultUrls": ["https://r2.apixo.ai/a.png"]})
BUSY = state("processing")
