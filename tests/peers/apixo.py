"""This package: ``Client.submit``, ``Client.wait`` and ``Client.download``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apixo_nb import Client
from apixo_nb.core.cadence import Cadence
from tests.peers.peer import KEY, POLLS, TIMEOUT_S, Peer
from tests.support.fault_server import Received, finished

#: The page's rhythm is a first poll after 20 s, then one each 5 s: the order of events is what matters here.
QUICK = Cadence(expected_s=2.0, first_poll_s=0.2, interval_s=0.5, interval_bounds_s=(0.4, 0.6))


def _client(url: str) -> Client:
    return Client(KEY, base_url=url, request_timeout_s=TIMEOUT_S, cadence=QUICK)


def submit(url: str) -> object:
    """One task."""
    with _client(url) as client:
        return client.submit("a fox")


def wait(url: str) -> object:
    """One task and its end."""
    with _client(url) as client:
        return client.wait(client.submit("a fox")).result_urls


def download(url: str) -> bytes:
    """One picture, by way of the disk."""
    with _client(url) as client, tempfile.TemporaryDirectory() as folder:
        return client.download(f"{url}/picture.png", Path(folder) / "picture").path.read_bytes()


def answer(received: Received, url: str, polls: int) -> Mapping[str, Any]:
    """APIXO's envelopes."""
    data: dict[str, Any] = {"taskId": "task_1"}
    if received.method == "GET":
        done = finished("task_1", f"{url}/picture.png")
        data = done if polls >= POLLS else {**data, "state": "processing"}
    return json.loads(json.dumps({"code": 200, "message": "success", "data": data}))


PEER = Peer(
    name="apixo_nb",
    package="apixo-nb",
    settings="`Client.submit`; `request_timeout_s=1`; polls each 0.5 s in place of 5 s",
    submit=submit,
    answer=answer,
    is_poll=lambda target: "/statusTask/" in target,
    wait=wait,
    download=download,
)
