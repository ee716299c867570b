"""One thread owns the network's event loop: synchronous callers wait for it, and Stop ends the wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

import pytest

from apixo_nb.core import event_loop as loop
from apixo_nb.core.event_loop import LoopThread
from tests.support.fault_server import PATIENCE_S

pytestmark = pytest.mark.usefixtures("thread")


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopThread]:
    """A loop thread of this test's own; the process's is put back afterwards."""
    monkeypatch.setattr(loop, "_current", None)
    made = loop.loop_thread()
    yield made
    for each in {made, loop.loop_thread()}:
        each.stop()
        each.loop.close()


async def forever() -> None:
    await asyncio.Event().wait()


def script(code: str) -> str:
    """What a fresh interpreter prints when it runs `code`."""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def when_main_thread_is_in(function: Callable, act: Callable[[], None]) -> None:
    """Do something, on another thread, once the main thread is inside `function`."""
    main, done = threading.main_thread().ident, threading.Event()

    def inside() -> bool:
        stack = traceback.walk_stack(sys._current_frames()[main or 0])
        return any(frame.f_code is function.__code__ for frame, _ in stack)

    def watch() -> None:
        while not inside():
            done.wait(0.01)
        act()

    threading.Thread(target=watch, daemon=True).start()


# --- run and wait ------------------------------------------------------------------------------------


def test_run_gives_what_the_work_returns(thread):
    async def work() -> tuple[str, bool]:
        return threading.current_thread().name, asyncio.get_running_loop() is thread.loop

    assert loop.run(work()) == ("apixo-loop", True)


@pytest.mark.parametrize("kind", [ValueError, TimeoutError, asyncio.CancelledError])
def test_run_raises_what_the_work_raises(kind):
    async def work() -> None:
        raise kind("from the work")

    expected = concurrent.futures.CancelledError if kind is asyncio.CancelledError else kind
    with pytest.raises(expected):
        loop.run(work())


def test_run_inside_a_running_loop_waits_for_the_other_thread():
    async def cell() -> int:
        return loop.run(asyncio.sleep(0, 7))

    assert asyncio.run(cell()) == 7


def test_run_from_many_threads_uses_one_loop(thread):
    async def work() -> int:
        return id(asyncio.get_running_loop())

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert {pool.submit(loop.run, work()).result() for _ in range(20)} == {id(thread.loop)}


def test_run_carries_the_callers_context():
    # What ipykernel uses to know to which cell an output belongs.
    cell = contextvars.ContextVar("cell", default="none")
    cell.set("the third")

    async def work() -> str:
        return cell.get()

    assert loop.run(work()) == "the third"


def test_run_on_the_loop_thread_itself_is_refused():
    async def outer() -> None:
        loop.run(forever())

    with pytest.raises(RuntimeError, match="wait for itself"):
        loop.run(outer())


def test_wait_gives_up_at_its_timeout_and_the_work_goes_on(thread):
    release = asyncio.Event()

    async def work() -> str:
        await release.wait()
        return "done"

    future = thread.submit(work())
    with pytest.raises(TimeoutError):
        loop.wait(future, timeout_s=0.05)
    assert not future.done()
    thread.loop.call_soon_threadsafe(release.set)
    assert loop.wait(future) == "done"


def test_keyboard_interrupt_cancels_the_work():
    ended = threading.Event()

    async def work() -> None:
        try:
            await forever()
        finally:
            ended.set()

    when_main_thread_is_in(loop.wait, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        loop.run(work())
    assert ended.wait(PATIENCE_S)


def test_any_other_exception_in_the_waiting_thread_cancels_the_work_too():
    # A test's timeout, a kernel's SystemExit: a signal handler may raise anything.
    ended = threading.Event()

    async def work() -> None:
        try:
            await forever()
        finally:
            ended.set()

    def handler(*_: object) -> None:
        raise SystemExit

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        when_main_thread_is_in(loop.wait, lambda: signal.raise_signal(signal.SIGUSR1))
        with pytest.raises(SystemExit):
            loop.run(work())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended.wait(5)


# --- the thread --------------------------------------------------------------------------------------


def test_one_thread_serves_the_process(thread):
    assert loop.loop_thread() is loop.loop_thread() is thread


def test_thread_does_not_keep_the_interpreter_alive(thread):
    assert thread._thread.daemon


def test_dead_thread_is_replaced(thread):
    thread.stop()
    assert not thread.usable
    assert loop.run(asyncio.sleep(0, "alive")) == "alive"
    assert loop.loop_thread() is not thread


def test_stopped_thread_leaves_no_open_loop(thread):
    thread.stop()
    assert thread.loop.is_closed()


def test_waiting_for_work_of_a_stopped_thread_ends(thread):
    started = threading.Event()

    async def work() -> None:
        started.set()
        await forever()

    future = thread.submit(work())
    assert started.wait(PATIENCE_S)
    thread.stop()
    with pytest.raises(concurrent.futures.CancelledError):
        loop.wait(future, timeout_s=5)


def test_stop_twice_is_harmless(thread):
    thread.stop()
    thread.stop()


def test_after_a_fork_the_child_has_a_loop_of_its_own():
    printed = script(
        "import asyncio, os, sys\n"
        "from apixo_nb.core import event_loop as loop\n"
        "loop.run(asyncio.sleep(0))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    print(loop.run(asyncio.sleep(0, 'child')), flush=True)\n"
        "    os._exit(0)\n"
        "_, status = os.waitpid(child, 0)\n"
        "print(loop.run(asyncio.sleep(0, 'parent')), status)\n"
    )
    assert printed.split("\n") == ["child", "parent 0"]


# --- nested asyncio, on request only -----------------------------------------------------------------

CELL = (
    "import asyncio, warnings\n"
    "import apixo_nb\n"
    "async def inner(): return 7\n"
    "def nested():\n"
    "    work = inner()\n"
    "    try: return asyncio.run(work)\n"
    "    except RuntimeError as error:\n"
    "        work.close()\n"
    "        return 'refused'\n"
    "async def cell(): return nested()\n"
)


def test_asyncio_run_inside_a_running_loop_works_only_once_allowed():
    printed = script(
        f"{CELL}print(asyncio.run(cell()))\napixo_nb.allow_nested_asyncio()\nprint(asyncio.run(cell()))\n"
    )
    assert printed.split("\n") == ["refused", "7"]


def test_client_works_beside_nested_asyncio():
    printed = script(
        f"{CELL}apixo_nb.allow_nested_asyncio()\n"
        "from apixo_nb.core import event_loop as loop\n"
        "async def both(): return nested(), loop.run(asyncio.sleep(0, 8))\n"
        "print(asyncio.run(both()))\n"
    )
    assert printed == "(7, 8)"


def test_package_never_patches_asyncio_by_itself():
    printed = script(
        "import asyncio, sys, apixo_nb\n"
        "for name in dir(apixo_nb): getattr(apixo_nb, name)\n"
        "from apixo_nb.core import event_loop as loop\n"
        "loop.run(asyncio.sleep(0))\n"
        "print('nest_asyncio2' in sys.modules, 'nest_asyncio' in sys.modules)\n"
    )
    assert printed == "False False"
