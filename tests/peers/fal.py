"""fal-client: ``SyncClient.submit``, and the handle's ``get``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from tests.peers.peer import KEY, POLLS, TIMEOUT_S, Peer
from tests.support.fault_server import Received

REQUEST = "fal-ai/gpt-image-1/requests/request1"


def _submitted(url: str) -> Any:
    client: Any = importlib.import_module("fal_client.client")
    # Its address is fixed to https, by a constant; a variable changes the host alone.
    client.QUEUE_URL_FORMAT = f"{url}/"
    return client.SyncClient(key=KEY, default_timeout=TIMEOUT_S).submit(
        "fal-ai/gpt-image-1", {"prompt": "a fox"}
    )


def submit(url: str) -> object:
    """One queued request."""
    return _submitted(url)


def wait(url: str) -> object:
    """One queued request and its result."""
    return _submitted(url).get()


def answer(received: Received, url: str, polls: int) -> Mapping[str, Any]:
    """The answers of the queue."""
    if received.method == "POST":
        addresses = {name: f"{url}/{REQUEST}{tail}" for name, tail in _ADDRESSES.items()}
        return {"request_id": "request1", **addresses}
    if "/status" in received.target:
        return {"status": "COMPLETED" if polls >= POLLS else "IN_PROGRESS", "logs": []}
    return {"images": [{"url": f"{url}/picture.png"}]}


_ADDRESSES = {"response_url": "", "status_url": "/status", "cancel_url": "/cancel"}

PEER = Peer(
    name="fal-client",
    package="fal-client",
    settings="`SyncClient(default_timeout=1).submit`, the handle's `get()`; its polls have 120 s, fixed",
    submit=submit,
    answer=answer,
    is_poll=lambda target: "/status" in target,
    wait=wait,
)
