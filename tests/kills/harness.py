"""The kill harness: nothing paid is lost, nothing is paid twice, whenever the process dies.

    python -m tests.kills.harness --kills 2000 --seed 7

Victims buy pictures from a judge - the sandbox in a process of its own - and are killed with SIGKILL. After
each kill the wreck is looked at, then a new process does what a person does, `apixo_nb.resume()` (and is
killed in turn, now and then), and everything is judged by `tests.kills.checker`. Three ways to die:

=========  ===============================================================================================
``fork``   a plain process, at a random instant of its life; each tenth starts afresh, imports and all
``calls``  a plain process, as it enters its N-th system call of a kind (strace), for N = 1, 2, ...
``kernel`` a Jupyter kernel that runs ``%%apixo`` cells, at a random instant; the next kernel resumes, runs
           all cells again, and is the next victim
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
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from jupyter_client.manager import KernelManager

from apixo_nb.core.records import SUCCESS, UNKNOWN
from tests.kills.processes import PATIENCE_S, Home, Judge, Nursery, Request, Tally, environment

#: What victims ask for: mostly plain pictures, and now and then one of the ways a service says no or nothing.
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


# --- lanes: kills one after another ------------------------------------------------------------------


class Lane:
    """A judge, a nursery, and one ledger after another."""

    def __init__(self, folder: Path, seed: str, deadline: float = float("inf")) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.seed = seed
        self.deadline = deadline
        self.tally = Tally()
        self.judge = Judge(folder / "judge")
        self.nursery = Nursery(folder / "nursery")
        self.home = Home(folder / "home-0", self.judge)
        self.homes = 1
        self.resume_s = 0.3
        self.lives = 0
        self.fell: Counter[str] = Counter()  # where the last kill did

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.nursery.__exit__()
        self.judge.__exit__()

    @property
    def late(self) -> bool:
        """Whether the time is up, or enough is broken."""
        return time.monotonic() > self.deadline or len(self.tally.broken) > 20

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
        """Go on with a new ledger; the one before is judged in full a last time."""
        self.tally.broken += self.home.settled()
        self.tally.count(self.home)
        shutil.rmtree(self.home.folder)
        self.home = Home(self.folder / f"home-{self.homes}", self.judge, cap_micros)
        self.homes += 1

    def live(self, requests: Sequence[Request], **how: Any) -> dict[str, Any]:
        """One life, its death and the look at the wreck."""
        self.home.asked.update(prompt for prompt, _ in requests)
        outcome = self.nursery.victim("live", env=self.home.env, requests=requests, **how)
        if outcome["refused"]:
            raise TracingRefusedError
        self.judge.settle()
        self.died(outcome, requests)
        prompts = {prompt for prompt, _ in requests if "[lost" not in prompt}
        unknown = [run for run in self.home.rows() if run.state == UNKNOWN and run.prompt in prompts]
        self.report([f"unknown: run {run.run_id} had an answer, or may still have had" for run in unknown])
        return outcome

    def died(self, outcome: dict[str, Any], requests: Sequence[Request]) -> None:
        """Count a kill, and judge what it has left."""
        found, self.fell = self.home.wreck(requests, outcome["died_at"])
        self.report(found if not outcome["error"] else [*found, f"error: {outcome['error']}"])
        self.tally.kills += 1
        if not outcome["ended"]:
            self.tally.interrupted += 1
            self.tally.where += self.fell

    def take_up(self, requests: Sequence[Request], **how: Any) -> bool:
        """A resume that is killed; True if it had come through."""
        outcome = self.nursery.victim("take_up", env=self.home.env, **how)
        self.tally.in_resume += not outcome["ended"]
        self.judge.settle()
        self.died(outcome, requests)
        return bool(outcome["ended"])

    def recover(self, requests: Sequence[Request]) -> None:
        """Resume, with a chance of being killed in the middle, and judge what then is there."""
        while self.chance.random() < 0.25:
            self.take_up(requests, kill_after=self.chance.uniform(0.0, self.resume_s))
        outcome = self.nursery.victim("take_up", env=self.home.env)
        self.resume_s = 0.8 * self.resume_s + 0.2 * outcome["seconds"]
        self.report([f"error in resume: {outcome['error']}"] if outcome["error"] else [])
        self.judge.settle()
        self.report(self.home.settled())

    def report(self, broken: Sequence[str]) -> None:
        """Keep what was found, with where it was."""
        self.tally.broken += [f"[{self.seed}, life {self.lives}] {text}" for text in broken]

    def finish(self) -> Tally:
        """The last look: all ledgers together against the balance."""
        self.report(self.home.settled())
        self.tally.count(self.home)
        everything = self.judge.account(_Anything())
        if everything.bill_micros != self.judge.bill_micros():
            self.report(
                [f"money: the judge's balance says {self.judge.bill_micros()} in place of its tasks'"]
            )
        if len(everything.tasks) != self.tally.accepted:
            self.report(
                [f"unexpected: {len(everything.tasks)} tasks in all, {self.tally.accepted} asked for"]
            )
        return self.tally


class _Anything(frozenset[str]):
    """Holds every prompt."""

    def __contains__(self, _prompt: object) -> bool:
        return True


class TracingRefusedError(Exception):
    """There is no strace, or this machine lets nobody trace a process."""


def fork_lane(folder: Path, seed: str, kills: int, deadline: float = float("inf")) -> Tally:
    """Plain processes, killed at random instants."""
    with Lane(folder, seed, deadline) as lane:
        clean_s = max(_clean_life_s(lane) for _ in range(2))
        fresh_s = _clean_life_s(lane, fresh=True) + 0.1
        while lane.tally.kills < kills and not lane.late:
            often = 0.15 if lane.home.cap_micros is None else 0.4  # a budget that is used up kills no time
            if lane.lives % LIVES_OF_A_LEDGER == 0 or lane.chance.random() < often:
                lane.new_home(lane.chance.choice((None, None, CAP_MICROS)))
            requests = lane.requests(3)
            fresh = lane.chance.random() < 0.1
            busy_s = sum("[busy:" in prompt for prompt, _ in requests) * 1.0
            longest_s = (fresh_s if fresh else clean_s) + busy_s
            lane.live(requests, fresh=fresh, kill_after=lane.chance.uniform(0.0, longest_s))
            lane.recover(requests)
        lane.tally.notes.append(f"{seed}: a clean life takes {clean_s:.2f} s, afresh {fresh_s:.2f} s")
        return lane.finish()


def _clean_life_s(lane: Lane, **how: Any) -> float:
    """How long a life takes that nobody ends; nothing of it may be uncertain."""
    requests = lane.requests(3, plain=True)
    lane.home.asked.update(prompt for prompt, _ in requests)
    outcome = lane.nursery.victim("live", env=lane.home.env, requests=requests, **how)
    rows_before = len(lane.home.rows())
    lane.report(lane.home.settled())
    new = lane.home.rows()[rows_before:]
    if outcome["error"] or [run.state for run in new] != [SUCCESS] * len(requests):
        lane.report([f"clean: {[run.state for run in new]} {outcome['error']}"])
    return float(outcome["seconds"])


def calls_lane(
    folder: Path, seed: str, calls: Mapping[str, int], kills: int, deadline: float = float("inf")
) -> Tally:
    """Plain processes, each killed as one of its threads enters its N-th system call of a kind.

    `calls` says by how much N grows for each; a kind has been gone through once a life ends by itself.
    """
    if shutil.which("strace") is None:
        raise TracingRefusedError
    with Lane(folder, seed, deadline) as lane:
        for pictures in itertools.cycle((2, 4, 1)):
            for call, stride in calls.items():
                _lives_by_call(lane, call, stride, pictures, kills)
                if call in CALLS_OF_RESUME:
                    _resumes_by_call(lane, call, CALLS_OF_RESUME[call], kills)
                if lane.tally.kills >= kills or lane.late:
                    return lane.finish()
                lane.new_home()
    raise AssertionError("the circle ended")


def _lives_by_call(lane: Lane, call: str, stride: int, pictures: int, kills: int) -> None:
    for number in itertools.count(1, stride):
        if lane.tally.kills >= kills or lane.late:
            return
        requests = [(f"life {lane.seed}-{pictures}-{call}-{number} [seconds:0.2]", pictures)]
        outcome = lane.live(requests, strace=(call, number))
        lane.recover(requests)
        if outcome["ended"]:
            return
        lane.tally.by_call.update((f"{call} in life", step) for step in lane.fell)


def _resumes_by_call(lane: Lane, call: str, stride: int, kills: int) -> None:
    """The same wreck again and again: whatever a resume died of, the next one goes on from there."""
    requests = lane.requests(1, plain=True)
    polled = json.dumps({"polled": requests[0][0]})[1:-1]
    lane.live(requests, kill_when=(str(lane.judge.folder), "requests.jsonl", polled))
    for number in itertools.count(1, stride):
        if lane.tally.kills >= kills or lane.late:
            break
        ended = lane.take_up(requests, strace=(call, number))
        if ended:
            break
        lane.tally.by_call.update((f"{call} in resume", step) for step in lane.fell)
    lane.recover(requests)


# --- kernels -----------------------------------------------------------------------------------------


class Kernel:
    """A Jupyter kernel with the extension loaded, to be killed."""

    def __init__(self, lane: Lane) -> None:
        folder = lane.folder / "kernel"
        folder.mkdir(exist_ok=True)
        self.manager = KernelManager(connection_file=str(folder / f"kernel-{lane.lives}.json"))
        environ = environment(folder) | lane.home.env
        with (folder / "output.txt").open("a", encoding="utf-8") as output:
            self.manager.start_kernel(cwd=str(folder), env=environ, stdout=output, stderr=output)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_S)
        self.errors: list[str] = []

    def run(self, *cells: str, within_s: float = PATIENCE_S) -> bool:
        """Queue cells; returns when all have ended (True) or the time is over."""
        waited = {self.client.execute(cell, stop_on_error=False, store_history=False) for cell in cells}
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

    def kill(self) -> None:
        """SIGKILL, and nothing else that could help it to end well."""
        provisioner: Any = self.manager.provisioner
        os.kill(provisioner.pid, signal.SIGKILL)
        provisioner.process.wait()

    def clear_away(self) -> None:
        """Let go of what was the kernel's."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def kernel_lane(folder: Path, seed: str, kills: int, deadline: float = float("inf")) -> Tally:
    """Kernels that resume, run all cells of the one before and new ones, and die at random instants."""
    with Lane(folder, seed, deadline) as lane:
        done, clean_s = _kernel_life(lane, [], within_s=None)
        while lane.tally.kills < kills and not lane.late:
            done, _ = _kernel_life(lane, done, within_s=lane.chance.uniform(0.0, clean_s))
        _kernel_life(lane, done, within_s=None)
        lane.tally.notes.append(f"{seed}: the cells of a clean kernel take {clean_s:.2f} s")
        return lane.finish()


def _kernel_life(lane: Lane, done: Sequence[Request], within_s: float | None) -> tuple[list[Request], float]:
    """One kernel: resume, judge, run all, and die; without a limit, its cells run to their end first.

    Returns what it asked for, and the seconds that its cells had.
    """
    kernel = Kernel(lane)
    try:
        kernel.run("%load_ext apixo_nb", "%apixo resume")
        lane.report([f"error in resume: {error}" for error in kernel.errors])
        lane.judge.settle()
        lane.report(lane.home.settled())
        # Plain ones: a cell whose task has failed buys again when it is run again, as it should.
        new = lane.requests(2, plain=True)
        lane.home.asked.update(prompt for prompt, _ in new)
        cells = [f"%%apixo -n {number}\n{prompt}" for prompt, number in (*done, *new)]
        begun = time.monotonic()
        ended = kernel.run(*cells, within_s=PATIENCE_S if within_s is None else within_s)
        seconds = time.monotonic() - begun
        died_at = time.time()
        kernel.kill()
        lane.judge.settle()
        if within_s is not None:
            lane.died({"ended": ended, "error": "", "died_at": died_at}, [*done, *new])
        return new, seconds
    finally:
        kernel.clear_away()


# --- the program -------------------------------------------------------------------------------------


def run(
    folder: Path, kills: int, seed: int, seconds: float = float("inf"), *, every_call: bool = True
) -> dict[str, Tally]:
    """All three ways to die, at the same time: five in ten by chance, four by strace, one with a kernel.

    `every_call`: N grows by one; else by the strides of `CALLS`. Without strace, "calls" is missing.
    """
    deadline = time.monotonic() + seconds
    traced, with_kernel = kills * 4 // 10, kills // 10
    by_chance = [(kills - traced - with_kernel + lane) // 2 for lane in range(2)]
    calls = dict.fromkeys(CALLS, 1) if every_call else CALLS
    with ThreadPoolExecutor() as pool:
        lanes = [
            pool.submit(fork_lane, folder / f"fork-{lane}", f"{seed}-fork-{lane}", count, deadline)
            for lane, count in enumerate(by_chance)
        ]
        tracing = pool.submit(calls_lane, folder / "calls", f"{seed}-calls", calls, traced, deadline)
        found = {"kernel": kernel_lane(folder / "kernel", f"{seed}-kernel", with_kernel, deadline)}
        found["fork"] = sum((lane.result() for lane in lanes), start=Tally())
        with contextlib.suppress(TracingRefusedError):
            found["calls"] = tracing.result()
    return found


def main() -> int:
    """Kill, print what came of it, and fail if anything was lost."""
    parser = argparse.ArgumentParser(
        "python -m tests.kills.harness", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds-budget", type=float, default=float("inf"))
    parser.add_argument("--keep", type=Path, help="folder for the wrecks; default: one that is removed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="apixo-kills-") as temporary:
        found = run(given.keep or Path(temporary), given.kills, given.seed, given.seconds_budget)
    total = sum(found.values(), start=Tally())
    print(f"seed                  {given.seed}\n{total}")  # noqa: T201 - a program prints
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main())
