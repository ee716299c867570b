"""One call of one peer, in a process of its own: ``python -m tests.peers.call NAME WHAT URL``.

Says in one line of JSON what came of it, and how long it took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from tests.peers.peers import load
from tests.support.fault_server import PICTURE


def outcome(name: str, what: str, url: str) -> tuple[str, str]:
    """A word for what the caller met, and its details."""
    call = getattr(load(name), what)
    try:
        result = call(url)
    except Exception as error:  # noqa: BLE001 - what a client raises is what is asked here
        return type(error).__name__, f"{error}"[:300]
    good = {"submit": bool(result), "wait": "picture.png" in str(result), "download": result == PICTURE}
    return ("" if good[what] else "returns what is no result"), f"{result!r}"[:300]


def main(arguments: Sequence[str]) -> None:
    started = time.monotonic()
    met, details = outcome(*arguments)
    taken_s = round(time.monotonic() - started, 1)
    sys.stdout.write(json.dumps({"met": met, "details": details, "seconds": taken_s}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
