"""The peers by name. Their modules are imported when asked for, as a machine may lack some packages."""

from __future__ import annotations

import importlib

from tests.peers.peer import Peer

#: Name of the module -> the column of the table, from left to right.
PEERS = ("apixo", "comfy", "replicate", "fal", "openai")


def load(name: str) -> Peer:
    """One peer; its package is imported when it is called."""
    peer: Peer = importlib.import_module(f"tests.peers.{name}").PEER
    return peer
