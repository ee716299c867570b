"""What a peer is: how to call it, and how to answer it as its own service does when all is well."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.fault_server import Received

KEY = "made-up-key"
TIMEOUT_S = 1.0  # seconds; the one setting that is not the default, so that a hang is over soon
POLLS = 4  # the healthy service says "done" at this poll


@dataclass(frozen=True, slots=True)
class Peer:
    """A client, and its service in a few lines.

    Attributes
    ----------
    name, package : str
        In the table, and as the package index knows it.
    settings : str
        What is called, and which settings are not the defaults.
    submit : callable
        Asks the service at this URL for one picture, once.
    answer : callable
        The service's healthy answer to a request: its JSON. Takes the request, the server's URL and the
        number of polls so far.
    is_poll : callable
        Whether a GET asks for the state of a task.
    wait : callable, optional
        Asks, waits for the end and returns what the client gives back; it must hold "picture.png".
    download : callable, optional
        Fetches a picture from this URL and returns its bytes.
    """

    name: str
    package: str
    settings: str
    submit: Callable[[str], object]
    answer: Callable[[Received, str, int], Mapping[str, Any]]
    is_poll: Callable[[str], bool] = lambda _target: False
    wait: Callable[[str], object] | None = None
    download: Callable[[str], bytes] | None = None

    @property
    def version(self) -> str:
        """The version that is installed, or "" if none is."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""
