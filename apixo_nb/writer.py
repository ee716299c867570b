"""One thread that writes: changes arrive in order, and a slow disk holds up no poll."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Callable
from typing import Any


class Writer:
    """Runs calls one after another on a daemon thread of its own.

    Not a ThreadPoolExecutor: that one takes no more work as soon as the process begins to end, which is when
    the taskId of a submit on its way may still have to be written.
    """

    def __init__(self, name: str = "apixo-ledger") -> None:
        self._calls: queue.SimpleQueue[tuple[concurrent.futures.Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[..., Any], *args: Any, **options: Any) -> concurrent.futures.Future[Any]:
        """Ask for a call; its outcome is in the future."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._calls.put((future, lambda: call(*args, **options)))
        return future

    def close(self) -> None:
        """Wait for all that was asked for, then end the thread."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (asked := self._calls.get()) is not None:
            future, call = asked
            try:
                outcome = call()
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
                _settle(future, error=error)
            else:
                _settle(future, outcome)


def _settle(
    future: concurrent.futures.Future[Any], outcome: object = None, error: BaseException | None = None
) -> None:
    # The one who asked may have been cancelled since; what was written stays written.
    if future.set_running_or_notify_cancel():
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(outcome)
