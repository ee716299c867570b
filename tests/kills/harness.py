"""The kill harness: nothing paid is lost, nothing is paid twice, whenever the process dies.

    python -m tests.kills --kills 2000 --seed 7

Programs buy pictures from the service - the sandbox in a process of its own - and are killed with SIGKILL.
After each kill its leftovers are checked, then a new process does what a person does, `apixo_nb.resume()`
(and is killed in turn, now and then), and everything is checked by `tests.kills.checker`. Three ways to die:

=========  ===============================================================================================
``fork``   a plain process, at a random instant of its life; each tenth starts afresh, imports and all
``calls``  a plain process, as it enters its N-th system call of a kind (strace), for N = 1, 2, ...
``kernel`` a Jupyter kernel that runs ``%%apixo`` cells, at a random instant; the next kernel resumes, runs
           all cells again, and is killed next
=========  ===============================================================================================
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import queue
import random
import shutil
import signal
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from jupyter_client.manager import KernelManager

from apixo_nb.core.records import SUCCESS, UNKNOWN
from tests.kills.processes import PATIENCE_S, Counts, ForkServer, Home, Request, ServiceProcess, environment

#: What programs ask for: mostly plain pictures, and now and then a refusal, or no answer at all.
MARKERS = ("",) * 16 + ("[fail:SensitiveContent]", "[lost]", "[lost:502]", "[busy:1]")
#: A ledger grows for so many lives, then a new one begins: an old row must survive what happens to new ones.
LIVES_OF_A_LEDGER = 60
#: Some ledgers have a budget that is soon used up: ten pictures.
CAP_MICROS = 3_500_000
#: The system calls that end a step - what is durable, what gets its name, what is sent, what is read - and
#: every how many of them somebody dies where time is short.
CALLS = {
    "connect": 1,
    "fsync": 1,
    "fdatasync": 2,
    "ftruncate": 1,  # ends a transaction: it empties the rollback journal
    "?rename,?renameat,?renameat2": 1,
    "unlink": 1,
    "write": 1,
    "sendto": 1,
    "recvfrom": 5,
    "pwrite64": 29,
}
#: Those at which a resume dies as well, over and over until it comes through.
CALLS_OF_RESUME = {"fsync": 1, "fdatasync": 3, "ftruncate": 1, "sendto": 1}


# --- kills one after another ---


class Worker:
    """A service, a fork server, and one ledger after another."""

    def __init__(self, folder: Path, seed: str, deadline: float = float("inf")) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.seed = seed
        self.deadline = deadline
        self.counts = Counts()
        self.service = ServiceProcess(folder / "service")
        self.fork_server = ForkServer(folder / "fork-server")
        self.home = Home(folder / "home-0", self.service)
        self.homes = 1
        self.resume_s = 0.3
        self.lives = 0
        self.fell: Counter[str] = Counter()  # where the last kill did

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.fork_server.__exit__()
        self.service.__exit__()

    @property
    def late(self) -> bool:
        """Whether the time is up, or enough is broken."""
        return time.monotonic() > self.deadline or len(self.counts.broken) > 20

    def requests(self, count: int, *, plain: bool = False) -> list[Request]:
        """New requests; no two have the same prompt."""
        self.lives += 1
        return [
            (
                f"life {self.seed}-{self.lives}, wish {number} {self._marker(plain)}".strip(),
                self.chance.choice((1, 1, 2, 4)),
            )
            for number in range(count)
        ]

    def _marker(self, plain: bool) -> str:  # noqa: FBT001
        return "" if plain else self.chance.choice(MARKERS)

    def new_home(self, cap_micros: int | None = None) -> None:
        """Go on with a new ledger; the one before is checked in full a last time."""
        self.counts.broken += self.home.settled()
        self.counts.add(self.home)
        shutil.rmtree(self.home.folder)
        self.home = Home(self.folder / f"home-{self.homes}", self.service, cap_micros)
        self.homes += 1

    def buy(self, requests: Sequence[Request], **how: Any) -> dict[str, Any]:
        """Run a program, kill it, and check the leftovers."""
        self.home.asked.update(prompt for prompt, _ in requests)
        outcome = self.fork_server.run_and_kill("buy", env=self.home.env, requests=requests, **how)
        if outcome["refused"]:
            raise TracingRefusedError
        self.service.wait_until_idle()
        self.died(outcome, requests)
        prompts = {prompt for prompt, _ in requests if "[lost" not in prompt}
        unknown = [run for run in self.home.rows() if run.state == UNKNOWN and run.prompt in prompts]
        self.report([f"unknown: run {run.run_id} had an answer, or may still have had" for run in unknown])
        return outcome

    def died(self, outcome: dict[str, Any], requests: Sequence[Request]) -> None:
        """Count a kill, and check what it has left."""
        found, self.fell = self.home.check_leftovers(requests, outcome["died_at"])
        self.report(found if not outcome["error"] else [*found, f"error: {outcome['error']}"])
        self.counts.kills += 1
        if not outcome["ended"]:
            self.counts.interrupted += 1
            self.counts.where += self.fell

    def resume(self, requests: Sequence[Request], **how: Any) -> bool:
        """A resume that is killed; True if it had come through."""
        outcome = self.fork_server.run_and_kill("resume", env=self.home.env, **how)
        self.counts.in_resume += not outcome["ended"]
        self.service.wait_until_idle()
        self.died(outcome, requests)
        return bool(outcome["ended"])

    def recover(self, requests: Sequence[Request]) -> None:
        """Resume, with a chance of being killed in the middle, and check what then is there."""
        while self.chance.random() < 0.25:
            self.resume(requests, kill_after=self.chance.uniform(0.0, self.resume_s))
        outcome = self.fork_server.run_and_kill("resume", env=self.home.env)
        self.resume_s = 0.8 * self.resume_s + 0.2 * outcome["seconds"]
        self.report([f"error in resume: {outcome['error']}"] if outcome["error"] else [])
        self.service.wait_until_idle()
        self.report(self.home.settled())

    def report(self, broken: Sequence[str]) -> None:
        """Keep what was found, with where it was."""
        self.counts.broken += [f"[{self.seed}, life {self.lives}] {text}" for text in broken]

    def finish(self) -> Counts:
        """The last look: all ledgers together against the balance."""
        self.report(self.home.settled())
        self.counts.add(self.home)
        everything = self.service.account(_Anything())
        if everything.bill_micros != self.service.bill_micros():
            self.report(
                [f"money: the service's balance says {self.service.bill_micros()} in place of its tasks'"]
            )
        if len(everything.tasks) != self.counts.accepted:
            self.report(
                [f"unexpected: {len(everything.tasks)} tasks in all, {self.counts.accepted} asked for"]
            )
        return self.counts


class _Anything(frozenset[str]):
    """Holds every prompt."""

    def __contains__(self, _prompt: object) -> bool:
        return True


class TracingRefusedError(Exception):
    """There is no strace, or this machine lets nobody trace a process."""


def fork_worker(folder: Path, seed: str, kills: int, deadline: float = float("inf")) -> Counts:
    """Plain processes, killed at random instants."""
    with Worker(folder, seed, deadline) as worker:
        clean_s = max(_clean_life_s(worker) for _ in range(2))
        fresh_s = _clean_life_s(worker, fresh=True) + 0.1
        while worker.counts.kills < kills and not worker.late:
            often = 0.15 if worker.home.cap_micros is None else 0.4  # a budget that is used up kills no time
            if worker.lives % LIVES_OF_A_LEDGER == 0 or worker.chance.random() < often:
                worker.new_home(worker.chance.choice((None, None, CAP_MICROS)))
            requests = worker.requests(3)
            fresh = worker.chance.random() < 0.1
            busy_s = sum("[busy:" in prompt for prompt, _ in requests) * 1.0
            longest_s = (fresh_s if fresh else clean_s) + busy_s
            worker.buy(requests, fresh=fresh, kill_after=worker.chance.uniform(0.0, longest_s))
            worker.recover(requests)
        worker.counts.notes.append(f"{seed}: a clean life takes {clean_s:.2f} s, afresh {fresh_s:.2f} s")
        return worker.finish()


def _clean_life_s(worker: Worker, **how: Any) -> float:
    """How long a life takes that nobody ends; nothing of it may be uncertain."""
    requests = worker.requests(3, plain=True)
    worker.home.asked.update(prompt for prompt, _ in requests)
    outcome = worker.fork_server.run_and_kill("buy", env=worker.home.env, requests=requests, **how)
    rows_before = len(worker.home.rows())
    worker.report(worker.home.settled())
    new = worker.home.rows()[rows_before:]
    if outcome["error"] or [run.state for run in new] != [SUCCESS] * len(requests):
        worker.report([f"clean: {[run.state for run in new]} {outcome['error']}"])
    return float(outcome["seconds"])


def calls_worker(
    folder: Path, seed: str, calls: Mapping[str, int], kills: int, deadline: float = float("inf")
) -> Counts:
    """Plain processes, each killed as one of its threads enters its N-th system call of a kind.

    `calls` says by how much N grows for each; a kind has been gone through once a life ends by itself.
    """
    if shutil.which("strace") is None:
        raise TracingRefusedError
    with Worker(folder, seed, deadline) as worker:
        for pictures in itertools.cycle((2, 4, 1)):
            for call, stride in calls.items():
                _lives_by_call(worker, call, stride, pictures, kills)
                if call in CALLS_OF_RESUME:
                    _resumes_by_call(worker, call, CALLS_OF_RESUME[call], kills)
                if worker.counts.kills >= kills or worker.late:
                    return worker.finish()
                worker.new_home()
    raise AssertionError("the circle ended")


def _lives_by_call(worker: Worker, call: str, stride: int, pictures: int, kills: int) -> None:
    for number in itertools.count(1, stride):
        if worker.counts.kills >= kills or worker.late:
            return
        requests = [(f"life {worker.seed}-{pictures}-{call}-{number} [seconds:0.2]", pictures)]
        outcome = worker.buy(requests, strace=(call, number))
        worker.recover(requests)
        if outcome["ended"]:
            return
        worker.counts.by_call.update((f"{call} in life", step) for step in worker.fell)


def _resumes_by_call(worker: Worker, call: str, stride: int, kills: int) -> None:
    """Kill one resume after another on the same ledger: each goes on from where the last one was killed."""
    requests = worker.requests(1, plain=True)
    polled = json.dumps({"polled": requests[0][0]})[1:-1]
    worker.buy(requests, kill_when=(str(worker.service.folder), "requests.jsonl", polled))
    for number in itertools.count(1, stride):
        if worker.counts.kills >= kills or worker.late:
            break
        ended = worker.resume(requests, strace=(call, number))
        if ended:
            break
        worker.counts.by_call.update((f"{call} in resume", step) for step in worker.fell)
    worker.recover(requests)


# --- kernels -----------------------------------------------------------------------------------------


class Kernel:
    """A Jupyter kernel with the extension loaded, to be killed."""

    def __init__(self, worker: Worker) -> None:
        folder = worker.folder / "kernel"
        folder.mkdir(exist_ok=True)
        self.manager = KernelManager(connection_file=str(folder / f"kernel-{worker.lives}.json"))
        environ = environment(folder) | worker.home.env
        with (folder / "output.txt").open("a", encoding="utf-8") as output:
            self.manager.start_kernel(cwd=str(folder), env=environ, stdout=output, stderr=output)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_S)
        self.errors: list[str] = []

    def run(self, *cells: str, ids: Sequence[str] = (), within_s: float = PATIENCE_S) -> bool:
        """Queue cells, with their `ids` as JupyterLab sends them, or without.

        Returns when all have ended (True) or the time is over.
        """
        waited = {self._send(*cell) for cell in itertools.zip_longest(cells, ids)}
        deadline = time.monotonic() + within_s
        while waited and (left := deadline - time.monotonic()) > 0:
            try:
                message = self.client.get_iopub_msg(timeout=left)
            except queue.Empty:
                break
            if message["content"].get("execution_state") == "idle":
                waited.discard(message["parent_header"].get("msg_id"))
            if message["msg_type"] == "error":
                self.errors.append(f"{message['content']['ename']}: {message['content']['evalue']}")
        return not waited

    def _send(self, code: str, cell_id: str | None) -> str:
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}}
        content |= {"allow_stdin": False, "stop_on_error": False}
        metadata = {"cellId": cell_id} if cell_id else {}
        message = self.client.session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def kill(self) -> None:
        """SIGKILL, and nothing else that could help it to end well."""
        provisioner: Any = self.manager.provisioner
        os.kill(provisioner.pid, signal.SIGKILL)
        provisioner.process.wait()

    def clear_away(self) -> None:
        """Let go of what was the kernel's."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def kernel_worker(folder: Path, seed: str, kills: int, deadline: float = float("inf")) -> Counts:
    """Kernels that resume, run all cells of the one before and new ones, and die at random instants."""
    with Worker(folder, seed, deadline) as worker:
        done, clean_s = _kernel_life(worker, [], within_s=None)
        while worker.counts.kills < kills and not worker.late:
            done, _ = _kernel_life(worker, done, within_s=worker.chance.uniform(0.0, clean_s))
        _kernel_life(worker, done, within_s=None)
        worker.counts.notes.append(f"{seed}: the cells of a clean kernel take {clean_s:.2f} s")
        return worker.finish()


def _kernel_life(
    worker: Worker, done: Sequence[Request], within_s: float | None
) -> tuple[list[Request], float]:
    """One kernel: resume, check, run all, and die; without a limit, its cells run to their end first.

    Returns what it asked for, and the seconds that its cells had.
    """
    kernel = Kernel(worker)
    try:
        kernel.run("%load_ext apixo_nb", "%apixo resume")
        worker.report([f"error in resume: {error}" for error in kernel.errors])
        worker.service.wait_until_idle()
        worker.report(worker.home.settled())
        # Plain ones: a cell whose task has failed buys again when it is run again, as it should.
        new = worker.requests(2, plain=True)
        if worker.chance.random() < 0.3:  # two cells with one request: a variation each, and no more
            new[1] = new[0]
        worker.home.asked.update(prompt for prompt, _ in new)
        asked = (*done, *new)
        cells = [f"%%apixo -n {number}\n{prompt}" for prompt, number in asked]
        ids = _cell_ids(asked) if worker.chance.random() < 0.6 else []
        if ids and within_s is not None:  # Run All twice in one kernel
            cells, ids = cells * 2, ids * 2
        begun = time.monotonic()
        ended = kernel.run(*cells, ids=ids, within_s=PATIENCE_S if within_s is None else within_s)
        seconds = time.monotonic() - begun
        died_at = time.time()
        kernel.kill()
        worker.service.wait_until_idle()
        if within_s is not None:
            worker.died({"ended": ended, "error": "", "died_at": died_at}, [*done, *new])
        return new, seconds
    finally:
        kernel.clear_away()


def _cell_ids(requests: Sequence[Request]) -> list[str]:
    """The same id for the same cell in every kernel: of its request, and the how many-th cell it is of it."""
    seen: Counter[Request] = Counter()
    found = []
    for request in requests:
        seen[request] += 1
        found.append(f"{zlib.crc32(request[0].encode()):08x}-{seen[request]}")
    return found


# --- the program -------------------------------------------------------------------------------------


def run(
    folder: Path, kills: int, seed: int, seconds: float = float("inf"), *, every_call: bool = True
) -> dict[str, Counts]:
    """All three ways to die, at the same time: five in ten by chance, four by strace, one with a kernel.

    `every_call`: N grows by one; else by the strides of `CALLS`. Without strace, "calls" is missing.
    """
    deadline = time.monotonic() + seconds
    traced, with_kernel = kills * 4 // 10, kills // 10
    by_chance = [(kills - traced - with_kernel + worker) // 2 for worker in range(2)]
    calls = dict.fromkeys(CALLS, 1) if every_call else CALLS
    with ThreadPoolExecutor() as pool:
        workers = [
            pool.submit(fork_worker, folder / f"fork-{worker}", f"{seed}-fork-{worker}", count, deadline)
            for worker, count in enumerate(by_chance)
        ]
        tracing = pool.submit(calls_worker, folder / "calls", f"{seed}-calls", calls, traced, deadline)
        found = {"kernel": kernel_worker(folder / "kernel", f"{seed}-kernel", with_kernel, deadline)}
        found["fork"] = sum((worker.result() for worker in workers), start=Counts())
        with contextlib.suppress(TracingRefusedError):
            found["calls"] = tracing.result()
    return found


def main() -> int:
    """Kill, print what came of it, and fail if anything was lost."""
    parser = argparse.ArgumentParser("python -m tests.kills", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds-budget", type=float, default=float("inf"))
    parser.add_argument("--keep", type=Path, help="folder for the leftovers; default: one that is removed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="apixo-kills-") as temporary:
        found = run(given.keep or Path(temporary), given.kills, given.seed, given.seconds_budget)
    total = sum(found.values(), start=Counts())
    print(f"seed                  {given.seed}\n{total}")  # noqa: T201 - a program prints
    return 1 if total.broken else 0
