"""Programs on both sides of a kill, each a process: ``python -m tests.kills.programs service|fork-server``.

``service`` is the sandbox on a slow network: every answer has a before, a middle and an after in which its
client can die. The tasks it accepts are in the sandbox's own journal, on disk before the answer leaves; the
POSTs and the first polls are in a second file, each before anything is done about it.

``fork-server`` has imported everything and started no thread. For each line it reads it forks a program -
or, on demand, starts one afresh - and kills it: after so many seconds, when a file holds a text, or at the
N-th system call of a kind, by strace. So a program costs what its work costs, not what its imports cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apixo_nb
from apixo_nb.client import transport
from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core import settings
from apixo_nb.errors import ApixoError, SubmitUnknownError
from apixo_nb.sandbox import Sandbox, SandboxOptions, handlers
from apixo_nb.sandbox.validation import RefusedError

PATIENCE_S = 90.0  # a guard against programs that hang, not a measure of anything

# --- the service ---------------------------------------------------------------------------------------


#: Seconds that the network takes: before an acceptance, before its answer, and in the middle of a picture.
SLOW_S = 0.02


class Log:
    """Where the service notes what comes."""

    path: Path

    @classmethod
    def note(cls, **facts: Any) -> None:
        """Write a line; when this returns, it is on the disk."""
        with cls.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")
            file.flush()
            os.fsync(file.fileno())


class Once:
    """Whether something happens for the first time."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, what: str) -> bool:
        new = what not in self._seen
        self._seen.add(what)
        return new


class SlowSubmit(handlers.SubmitHandler):
    """Takes its time before the acceptance, and between the acceptance and the answer.

    [hold] in the prompt: the first time, there is no answer before the client has gone.
    """

    _numbers = itertools.count()
    _first = Once()
    _holding = False
    _envelope: dict[str, Any] | None = None

    def prepare(self) -> Awaitable[None] | None:
        self._left = asyncio.Event()
        return super().prepare()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._left.set()

    async def post(self, model_id: str) -> None:  # type: ignore[override]
        number, prompt = next(self._numbers), json.loads(self.request.body)["input"]["prompt"]
        Log.note(post=number, prompt=prompt)
        held, status = "[hold]" in prompt and self._first(prompt), 0
        try:
            await asyncio.sleep(SLOW_S)
            self._accept(model_id)
            with contextlib.suppress(TimeoutError):  # nobody is kept waiting who is dead
                await asyncio.wait_for(self._left.wait(), PATIENCE_S if held else SLOW_S)
            if self._envelope is not None:
                self.answer(self._envelope)
        except RefusedError as refused:
            status = refused.status_code
            raise
        finally:
            Log.note(end=number, status=status)

    def _accept(self, model_id: str) -> None:
        self._holding = True
        try:
            super().post(model_id)
        finally:
            self._holding = False

    def answer(self, envelope: dict[str, Any]) -> None:
        if self._holding:
            self._envelope = envelope
        else:
            super().answer(envelope)


class NotedStatus(handlers.StatusHandler):
    """Notes that a task is asked for: whoever asks had its answer, and has written it."""

    _first = Once()

    def prepare(self) -> Awaitable[None] | None:
        task = self.service.account.tasks.get(self.get_query_argument("taskId", ""))
        if task is not None and self._first(task.task_id):
            Log.note(polled=task.prompt)
        return super().prepare()


class SlowPicture(handlers.PictureHandler):
    """Sends a picture in two halves. For the first time of each picture, a word in the prompt does more:

    [half] sends only one and hangs up, without a word; [stall] keeps the other until the client has gone.
    """

    _first = Once()

    def prepare(self) -> Awaitable[None] | None:
        self._left = asyncio.Event()
        return super().prepare()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._left.set()

    async def _deliver(self, png: bytes, *, broken: bool) -> None:
        path = self.request.path
        prompt = self.service.account.tasks[path.rpartition("/")[2].rpartition("-")[0]].prompt
        first, middle = self._first(path), len(png) // 2
        stalled = first and "[stall]" in prompt
        if broken:
            await super()._deliver(png, broken=broken)
        elif first and "[half]" in prompt:
            stream = self.detach()
            await stream.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + png[:middle])
            stream.close()
        else:
            self.set_header("Content-Type", "image/png")
            self.set_header("Content-Length", len(png))
            self.write(png[:middle])
            await self.flush()
            if stalled:
                Log.note(stalled=prompt)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), PATIENCE_S if stalled else SLOW_S)
            self.finish(png[middle:])


def service(arguments: list[str]) -> None:
    """Serve until stdin is closed; the first line printed says where, as JSON."""
    folder = Path(arguments[0])
    Log.path = folder / "requests.jsonl"
    handlers.SubmitHandler, handlers.StatusHandler = SlowSubmit, NotedStatus  # type: ignore[misc]
    handlers.PictureHandler = SlowPicture  # type: ignore[misc]
    tasks = folder / "tasks.jsonl"
    quick = SandboxOptions(seconds=0.1, picture_scale=0.1, balance_usd=1_000_000.0, journal=tasks)
    with Sandbox(quick) as sandbox:
        _say(base_url=sandbox.base_url, picture_url=sandbox.picture_url)
        sys.stdin.read()


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)  # noqa: T201 - a program that is read by another


# --- what programs do ---------------------------------------------------------------------------------


def buy(given: dict[str, Any]) -> None:
    """Buy pictures as a script does: the first request by `generate`, the others at the same time."""
    first, *others = given["requests"]
    session = apixo_nb.Session()
    with contextlib.suppress(ApixoError):
        apixo_nb.generate(first[0], num_images=first[1])
    jobs = []
    for prompt, number in others:
        with contextlib.suppress(ApixoError):  # a budget may be used up
            jobs.append(session.begin(prompt, num_images=number))
    for job in jobs:
        with contextlib.suppress(ApixoError):
            job.wait()
    session.close()


def resume(_given: dict[str, Any]) -> None:
    """What a person does after a crash."""
    apixo_nb.resume()


def again(given: dict[str, Any]) -> None:
    """Run the same cell in the next kernel."""
    for prompt, number in given["requests"]:
        with contextlib.suppress(ApixoError):
            apixo_nb.generate(prompt, num_images=number, replay=True)


def impatient(given: dict[str, Any]) -> None:
    """Buy one picture, with a deadline of so many seconds for each request; the submit's answer is lost."""
    [[prompt, number]] = given["requests"]
    settings.settings().request_timeout = given["deadline_s"]
    try:
        apixo_nb.generate(prompt, num_images=number)
    except SubmitUnknownError:
        return
    raise AssertionError("the submit had an answer")


def in_cells(given: dict[str, Any], code: str, cell_id: str | None = None) -> None:
    """Run a cell twice in an IPython shell, as a front end that sends this id; `code` asks for PROMPT."""
    from IPython.core.interactiveshell import InteractiveShell

    [[prompt, _]] = given["requests"]
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "apixo_nb")
    for _ in range(2):
        shell.run_cell(f"import apixo_nb\nPROMPT = {prompt!r}\n{code}", cell_id=cell_id)


def cell(given: dict[str, Any]) -> None:
    """A cell that a front end knows by its id."""
    in_cells(given, "apixo_nb.generate(PROMPT)", "a-cell")


def failing_cell(given: dict[str, Any]) -> None:
    """A cell without an id that ends in an error each time, after its purchase."""
    in_cells(given, "apixo_nb.generate(PROMPT)\n1 / 0")


def two_plans(given: dict[str, Any]) -> None:
    """A cell that plans the same purchase twice before it starts either, as two kernels do at once."""
    plans = "[apixo_nb.sweep(PROMPT, dry_run=True) for _ in range(2)]"
    in_cells(given, f"for plan in {plans}:\n    plan.start().wait()", "a-cell")


PROGRAMS: dict[str, Callable[[dict[str, Any]], None]] = {
    "buy": buy,
    "resume": resume,
    "again": again,
    "cell": cell,
    "failing cell": failing_cell,
    "two plans": two_plans,
    "impatient": impatient,
}


def perform(command: dict[str, Any]) -> None:
    """Be the program that is killed. The pipe `report` gets "." at its beginning, an error at its end."""
    os.environ.update(command["env"])
    os.write(command["report"], b".")
    if command.get("strace"):
        _wait_for_tracer()
    try:
        if command.get("tries"):  # a service that never gets better is not waited for that long
            RetryPolicy.__init__.__defaults__ = (command["tries"], 0.01, 0.02, 1.0)
        if command.get("mutation"):
            getattr(importlib.import_module("tests.kills.mutations"), command["mutation"])()
        PROGRAMS[command["program"]](command)
    except BaseException:  # noqa: BLE001 - the fork server is to hear of it
        os.write(command["report"], traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def _wait_for_tracer() -> None:
    # Where only parents may trace (Yama), this lets anybody: PR_SET_PTRACER, PR_SET_PTRACER_ANY.
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text("ascii"):
        time.sleep(0.001)


# --- the fork server -------------------------------------------------------------------------------------


def fork_server() -> None:
    """Carry out one command for each line of stdin, and answer each with a line."""
    _warm_up()
    for line in sys.stdin:
        _say(**_kill_one(json.loads(line)))


def _warm_up() -> None:
    import sqlalchemy as sa
    from PIL import Image

    Image.init()
    for name in ("session.session", "ledger.ledger", "engine.runner"):
        importlib.import_module(f"apixo_nb.{name}")
    sa.create_engine("sqlite://").dispose()
    getattr(transport, "_tls", lambda **_: None)(trust_env=False)  # a context for TLS takes 30 ms


class _Watch:
    """Looks at what a program reports: "." at its beginning, nothing or an error at its end."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.said = b""
        self.over = False

    def look(self, seconds: float) -> None:
        """Wait so long for something new."""
        if not self.over and select.select([self.pipe], [], [], max(0.0, seconds))[0]:
            news = os.read(self.pipe, 65536)
            self.said += news
            self.over = not news

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Look until the condition holds or the program has ended, but not longer than so many seconds."""
        deadline = time.monotonic() + seconds
        while not (self.over or condition()) and time.monotonic() < deadline:
            self.look(0.005)


def _kill_one(command: dict[str, Any]) -> dict[str, Any]:
    """Run a program, and kill it. Says whether it had ended by itself, and its error if it had one."""
    ours, its = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _start_child({**command, "report": its})
    os.close(its)
    watch = _Watch(ours)
    watch.until(lambda: bool(watch.said))
    begun = time.monotonic()
    refused = bool(command.get("strace")) and not _trace(watch, child, *command["strace"])
    late = not refused and _wait_for_kill_time(watch, command)
    seconds = time.monotonic() - begun
    died_at = time.time()
    os.kill(child, signal.SIGKILL)  # it is not waited for yet: the number is still its own
    status = os.waitpid(child, 0)[1]
    watch.until(lambda: False)
    os.close(ours)
    error = " ".join(watch.said[1:].decode(errors="replace").splitlines()[-3:])
    return {
        "ended": os.WIFEXITED(status),
        "seconds": seconds,
        "died_at": died_at,
        "error": error or ("it hangs" if late else ""),
        "refused": refused,
    }


def _start_child(command: dict[str, Any]) -> None:
    """In the child: never returns."""
    with open(os.devnull, encoding="utf-8") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what it prints is no answer of the fork server's
    if command.get("fresh"):
        os.set_inheritable(command["report"], True)  # noqa: FBT003
        os.execv(
            sys.executable, [sys.executable, "-m", "tests.kills.programs", "perform", json.dumps(command)]
        )
    perform(command)


def _trace(watch: _Watch, child: int, call: str, number: int) -> bool:
    """Kill a process as it enters its N-th system call of a kind; each of its threads counts its own.

    Returns when it is dead, or hangs; False if nobody may trace here.
    """
    inject = f"inject={call}:signal=KILL:when={number}"
    options = ["-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject, "-p", str(child)]
    with subprocess.Popen(["strace", *options], stderr=subprocess.DEVNULL) as tracer:
        watch.until(lambda: tracer.poll() is not None)
        watch.look(0.1)  # the dead close their pipe before their tracer hears of it
        hangs = tracer.poll() is None
        tracer.kill()
    return watch.over or hangs


def _wait_for_kill_time(watch: _Watch, command: dict[str, Any]) -> bool:
    """Return when the program is to be killed, or has ended; True if it should have ended and has not."""
    if command.get("strace"):
        return not watch.over
    if command.get("kill_after") is not None:
        deadline = time.monotonic() + command["kill_after"]
        while not watch.over and (left := deadline - time.monotonic()) > 0:
            watch.look(left)
        return False
    if command.get("kill_when"):
        folder, pattern, text = command["kill_when"]
        watch.until(lambda: any(map(_holding(text), Path(folder).glob(pattern))))
        return False
    watch.until(lambda: False)
    return not watch.over


def _holding(text: str) -> Callable[[Path], bool]:
    def holds(path: Path) -> bool:
        with contextlib.suppress(OSError):
            return text in path.read_text("utf-8", "replace")
        return False

    return holds


def main() -> None:
    """Be one of the programs."""
    role, *rest = sys.argv[1:]
    if role == "service":
        service(rest)
    elif role == "fork-server":
        fork_server()
    else:
        perform(json.loads(rest[0]))


if __name__ == "__main__":
    main()
