"""replicate: ``predictions.create``, ``Prediction.wait`` and ``FileOutput.read``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from tests.peers.peer import KEY, POLLS, TIMEOUT_S, Peer
from tests.support.fault_server import Received

VERSION = "0" * 64


def _client(url: str) -> Any:
    timeout = importlib.import_module("httpx").Timeout(TIMEOUT_S)
    return importlib.import_module("replicate").Client(api_token=KEY, base_url=url, timeout=timeout)


def submit(url: str) -> object:
    """One prediction."""
    return _client(url).predictions.create(version=VERSION, input={"prompt": "a fox"})


def wait(url: str) -> object:
    """One prediction and its output."""
    prediction = _client(url).predictions.create(version=VERSION, input={"prompt": "a fox"})
    prediction.wait()
    return prediction.output


def download(url: str) -> bytes:
    """One output file."""
    helpers = importlib.import_module("replicate.helpers")
    content: bytes = helpers.FileOutput(f"{url}/picture.png", _client(url)).read()
    return content


def answer(received: Received, url: str, polls: int) -> Mapping[str, Any]:
    """A prediction, starting at first, in the end with its output."""
    done = received.method == "GET" and polls >= POLLS
    return prediction(url, "prediction1", f"{url}/picture.png" if done else None)


def prediction(url: str, task_id: str, output: str | None) -> dict[str, Any]:
    """What the service says of a prediction; it has succeeded if there is an output."""
    return {
        "id": task_id,
        "model": "openai/gpt-image-1",
        "version": VERSION,
        "status": "succeeded" if output else "starting",
        "input": {"prompt": "a fox"},
        "output": [output] if output else None,
        "logs": "",
        "error": None,
        "metrics": {},
        "created_at": "2026-01-01T00:00:00Z",
        "started_at": None,
        "completed_at": None,
        "urls": {
            "get": f"{url}/v1/predictions/{task_id}",
            "cancel": f"{url}/v1/predictions/{task_id}/cancel",
        },
    }


PEER = Peer(
    name="replicate",
    package="replicate",
    settings="`Client(timeout=1).predictions.create`, `Prediction.wait`, `FileOutput.read`",
    submit=submit,
    answer=answer,
    is_poll=lambda target: "/v1/predictions/" in target,
    wait=wait,
    download=download,
)
