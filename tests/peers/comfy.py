"""comfy-sdk: the queued form of a model run, ``client.models.submit``."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from tests.peers.peer import KEY, POLLS, TIMEOUT_S, Peer
from tests.support.fault_server import Received

MODEL = "openai/gpt-image-1"


def _submitted(url: str) -> Any:
    os.environ["COMFY_ROUTER_BASE_URL"] = url
    client = importlib.import_module("comfy_sdk").Comfy(api_key=KEY, timeout=TIMEOUT_S)
    return client.models.submit(MODEL, {"prompt": "a fox"})


def submit(url: str) -> object:
    """One queued request."""
    return _submitted(url)


def wait(url: str) -> object:
    """One queued request and its result."""
    return _submitted(url).get()


def answer(received: Received, url: str, polls: int) -> Mapping[str, Any]:
    """The answers of Comfy Router's queue."""
    if received.method == "POST":
        return {"request_id": "request-1", "status": "IN_QUEUE"}
    if received.target.endswith("/status"):
        return {"request_id": "request-1", "status": "COMPLETED" if polls >= POLLS else "IN_PROGRESS"}
    return {"data": [{"url": f"{url}/picture.png"}]}


PEER = Peer(
    name="comfy-sdk",
    package="comfy-sdk",
    settings="`Comfy(timeout=1).models.submit`, the handle's `get()`",
    submit=submit,
    answer=answer,
    is_poll=lambda target: target.endswith("/status"),
    wait=wait,
)
