"""Waiting for a condition, with a limit."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 60  # a guard against whatever hangs, not a measure of anything


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def ended(job: Any) -> None:
    """Wait until the runner has done all it does for a job, after its answer too."""
    assert job.ended is not None
    concurrent.futures.wait([job.ended], timeout=PATIENCE_S)
    assert job.ended.done()
