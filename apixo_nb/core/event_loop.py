"""One daemon thread owns the event loop on which all network work of this process runs.

The kernel's own loop is never used or patched: a cell that sleeps or computes would stop every poll, and
patched loops lose queued cells on recent kernels. Synchronous callers, cell magics and awaiting cells all
wait here for work that goes on over there.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .process import after_fork

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Seconds between two looks at the work one waits for; bounds how late a Stop is noticed.
TICK_S = 0.1


class LoopThread:
    """An event loop on a daemon thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="apixo-loop", daemon=True)
        self._thread.start()
        # At the end of the process work is cancelled, not cut off: half a picture is cleared away.
        atexit.register(self.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopping:
            try:
                self.loop.run_forever()
            except BaseException:  # noqa: BLE001 - SystemExit in a callback: all other work goes on
                _log.exception("a callback on the loop thread asked for the end of the program")
        for task in (pending := asyncio.all_tasks(self.loop)):
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self.loop.close()

    @property
    def usable(self) -> bool:
        """False after a fork (threads do not survive it) or once the thread has died."""
        return self._pid == os.getpid() and self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the caller is this very thread."""
        return threading.current_thread() is self._thread

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start `work` on the loop; its context, and so its notebook cell, is the caller's."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        """End the thread; pending work is cancelled."""
        atexit.unregister(self.stop)
        if self.usable:
            self._stopping = True
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(timeout=2)


_lock = threading.Lock()
_current: LoopThread | None = None


def loop_thread() -> LoopThread:
    """The process's loop thread; made on first use, and anew after a fork."""
    global _current  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _current is None or not _current.usable:
            _current = LoopThread()
        return _current


@after_fork
def _renew_lock() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()  # another thread of the parent may have held it


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the loop thread and wait for it; Stop (KeyboardInterrupt) cancels it at once.

    Raises RuntimeError when called on the loop thread itself, where waiting would never end.
    """
    thread = loop_thread()
    try:
        check_may_wait()
    except RuntimeError:
        work.close()
        raise
    future: concurrent.futures.Future[T] | None = None
    try:
        future = thread.submit(work)
        return wait(future)
    except BaseException:  # Stop, or whatever else a signal handler raises
        if future is not None:
            future.cancel()
        raise


def check_may_wait() -> None:
    """Raise RuntimeError on the loop thread, where waiting for its work would never end."""
    if loop_thread().is_current:
        raise RuntimeError("this would wait for itself; use the async client on the loop thread")


def wait(future: concurrent.futures.Future[T], timeout_s: float | None = None) -> T:
    """Wait in short steps, so that Stop is noticed on every platform.

    Raises TimeoutError if `timeout_s` passes first, and the future goes on; RuntimeError on the loop thread.
    """
    if not future.done():
        check_may_wait()
    # Not future.result(timeout): a TimeoutError raised by the work itself would look the same.
    waited = 0.0
    while not future.done():
        if timeout_s is not None and waited >= timeout_s:
            raise TimeoutError
        concurrent.futures.wait([future], timeout=TICK_S)
        waited += TICK_S
    return future.result()


def allow_nested_asyncio() -> None:
    """Let ``asyncio.run(...)`` and ``loop.run_until_complete(...)`` work inside a running loop, as in a cell.

    An explicit opt-in for your own code: it patches asyncio for the whole process and cannot be taken back.
    apixo_nb itself never needs or calls it.
    """
    import nest_asyncio2

    nest_asyncio2.apply()


class WriterThread:
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

    def close(self, *, wait: bool = True) -> None:
        """End the thread once all that was asked for is done, and wait for that."""
        self._calls.put(None)
        if wait:
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
