"""openai: ``images.generate``, which answers in the same call."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from tests.peers.peer import KEY, TIMEOUT_S, Peer
from tests.support.fault_server import Received


def submit(url: str) -> object:
    """One picture; its answer holds it."""
    client = importlib.import_module("openai").OpenAI(api_key=KEY, base_url=url, timeout=TIMEOUT_S)
    pictures = getattr(client.images.generate(model="gpt-image-1", prompt="a fox"), "data", None)
    return pictures[0].url if pictures else None


def answer(_received: Received, url: str, _polls: int) -> Mapping[str, Any]:
    """The answer of the images endpoint."""
    return {"created": 1767965610, "data": [{"url": f"{url}/picture.png"}]}


PEER = Peer(
    name="openai",
    package="openai",
    settings="`OpenAI(timeout=1).images.generate`",
    submit=submit,
    answer=answer,
)
