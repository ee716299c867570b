"""How long a sweep takes where an account may have 50 tasks at work, beside the least that is possible.

The service refuses with 429 and Retry-After what is one too many: a 51st task at work, and a 41st submit in
ten seconds. The bound is that of a perfect client, which hears of each end at once: the tasks, in their
order, each in the first place that is free (another order can be a little better). Three things are told of
each client: its makespan over the bound, its refusals, and the submits that it sent although it had been told
that they would be too early (a closed window).

First by simulation, at full scale and in no time, the same service for all. Ours is `FairQueue`,
`RateLimiter`, `submit_once`, `wait` and `Poller` of the package; peers are the loops that people write: a
semaphore, a poll every two seconds, and on 429 a fixed sleep or exponential backoff with jitter. Then once
for real: a session with its ledger and downloads, against a sandbox in another process, five times as fast,
over HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import heapq
import json
import math
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from apixo_nb.client.protocol import Clock, Fault, Reply, RetryPolicy, Send, TurnedAway, submit_once, wait
from apixo_nb.core import settings as config
from apixo_nb.core.models import DEFAULT_MODEL, MODELS
from apixo_nb.core.request import Request, make_request
from apixo_nb.engine.fair_queue import FairQueue, Slot
from apixo_nb.engine.poller import Poller
from apixo_nb.engine.rate_limit import RateLimiter
from apixo_nb.sandbox import Sandbox, SandboxOptions, handlers
from apixo_nb.sandbox.validation import RefusedError
from apixo_nb.session import service
from apixo_nb.session.session import Session
from tests.benchmarks.table import Table, say
from tests.support.limited_service import Counts, LimitedService, Rules, bound
from tests.support.virtual_time import run_in_virtual_time

PAGE = MODELS[DEFAULT_MODEL].cadence
LATENCY_S = 0.15  # there and back
SCALE = 0.2  # of the run over HTTP
POLL_S = 2.0  # peers
RELEARN = 30  # ends of tasks, after which the durations are looked at again


def made_up(count: int, sigma: float, seed: int) -> list[float]:
    """Durations of 30 s on average, log-normal."""
    chance = random.Random(seed)
    return [30 * math.exp(chance.gauss(-sigma * sigma / 2, sigma)) for _ in range(count)]


# --- in no time --------------------------------------------------------------------------------------


class Simulated:
    """The service on a loop whose clock skips; its k-th prompt takes the k-th duration."""

    def __init__(self, durations: Sequence[float], rules: Rules) -> None:
        self.durations = durations
        self.limits = LimitedService(rules, LATENCY_S / 2)
        self.ready: dict[int, float] = {}

    async def post(self, number: int) -> float | None:
        """A submit: None if it was accepted, else the pause that was asked for."""
        now = asyncio.get_running_loop().time
        sent_at = now()
        await asyncio.sleep(LATENCY_S / 2)
        pause = self.limits.refusal(now(), sent_at)
        if pause is None:
            assert number not in self.ready, "bought twice"
            self.ready[number] = now() + self.durations[number]
            heapq.heappush(self.limits.ends, self.ready[number])
        await asyncio.sleep(LATENCY_S / 2)
        return pause

    async def ended(self, number: int) -> bool:
        """A poll."""
        await asyncio.sleep(LATENCY_S / 2)
        found = asyncio.get_running_loop().time() >= self.ready[number]
        await asyncio.sleep(LATENCY_S / 2)
        return found

    async def carry_out(self, send: Send) -> Reply | Fault:
        """The same two, as the package's flows ask for them."""
        if send.body is not None:
            number = int(send.body["input"]["prompt"])
            pause = await self.post(number)
            if pause is not None:
                return Reply(429, {"retry-after": str(pause)} if pause else {}, b'{"code": 429}')
            return _reply({"taskId": str(number)})
        task_id = send.query["taskId"]
        done = await self.ended(int(task_id))
        return _reply({"taskId": task_id, "state": "success" if done else "processing"})


def _reply(data: dict[str, str]) -> Reply:
    return Reply(200, {}, json.dumps({"code": 200, "message": "success", "data": data}).encode())


class Ours:
    """The package's own parts, put together as `runner` has them."""

    def __init__(self, server: Simulated, seed: int) -> None:
        now = asyncio.get_running_loop().time
        self.server = server
        self.clock = Clock(now, now, random.Random(seed).random)
        self.limiter = RateLimiter(RetryPolicy(), self.clock)
        self.queue = FairQueue(self.limiter)
        self.limiter.wake = self.queue.admit
        self.poller = Poller(server.carry_out, self.clock, 2.0)
        self.cadence = PAGE
        self.known: list[float] = []
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def all(self) -> None:
        """Submit them all and wait for them."""
        count = len(self.server.durations)
        runs = [
            asyncio.ensure_future(self.submit(number, make_request(str(number)))) for number in range(count)
        ]
        await self.finished
        await asyncio.gather(*runs)

    async def submit(self, number: int, request: Request) -> None:
        """One submit, repeated until it is accepted."""
        accepted = had_slot = False
        while not accepted:
            with await self.queue.acquire(first=had_slot) as slot:
                had_slot = True
                accepted = not self.limiter.closed and await self.post(number, request, slot)

    async def post(self, number: int, request: Request, slot: Slot) -> bool:
        """One POST; False if it was turned away."""
        slot.used = True
        permit, flow = self.limiter.leave(), submit_once(request, self.clock)
        post = next(flow)
        assert isinstance(post, Send)
        reply = await self.server.carry_out(post)
        try:
            flow.send(reply)
        except StopIteration as end:
            answer = end.value
        if isinstance(answer, TurnedAway):
            if not self.limiter.refused(permit, answer.retry_after_s):
                self.finished.set_exception(RuntimeError("gave up"))
            return False
        self.limiter.accepted()
        self.limiter.task_began()
        self.poller.add(
            wait(DEFAULT_MODEL, answer, self.cadence, self.clock, timeout_s=900.0),
            lambda _status, _error: self.ended(number),
        )
        return True

    def ended(self, number: int) -> None:
        """The end of a task was seen."""
        self.limiter.task_ended()
        self.known.append(self.server.durations[number])
        if len(self.known) % RELEARN == 0:
            self.cadence = PAGE.learned(self.known[-200:])
        if len(self.known) == len(self.server.durations):
            self.finished.set_result(None)


Pause = Callable[[int, float, random.Random], float]


def fixed(tries: int, asked_s: float, chance: random.Random) -> float:
    """Five seconds, whatever was asked for."""
    del tries, asked_s, chance
    return 5.0


def backoff(tries: int, asked_s: float, chance: random.Random) -> float:
    """As tenacity's `wait_random_exponential(max=60)`, which knows no Retry-After."""
    del asked_s
    return chance.uniform(0, min(60.0, 2.0**tries))


def obedient(tries: int, asked_s: float, chance: random.Random) -> float:
    """The same, but no earlier than was asked for."""
    return max(asked_s, backoff(tries, asked_s, chance))


async def semaphore(server: Simulated, seed: int, at_once: int, pause: Pause) -> None:
    """The loop that people write."""
    chance, places = random.Random(seed), asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with places:
            tries = 0
            while (asked_s := await server.post(number)) is not None:
                await asyncio.sleep(pause(tries, asked_s, chance))
                tries += 1
            while not await server.ended(number):  # noqa: ASYNC110 - that is what people write
                await asyncio.sleep(POLL_S)

    await asyncio.gather(*(one(number) for number in range(len(server.durations))))


Work = Callable[[Simulated, int], Coroutine[Any, Any, None]]

PEERS: dict[str, Work] = {
    "told 50, fixed 5 s": lambda server, seed: semaphore(server, seed, 50, fixed),
    "told 50, backoff": lambda server, seed: semaphore(server, seed, 50, backoff),
    "told 50, Retry-After": lambda server, seed: semaphore(server, seed, 50, obedient),
    "guessed 100, fixed 5 s": lambda server, seed: semaphore(server, seed, 100, fixed),
    "guessed 100, backoff": lambda server, seed: semaphore(server, seed, 100, backoff),
    "guessed 100, Retry-After": lambda server, seed: semaphore(server, seed, 100, obedient),
    "guessed 20, backoff": lambda server, seed: semaphore(server, seed, 20, backoff),
}


async def ours(server: Simulated, seed: int) -> None:
    """This package."""
    await Ours(server, seed).all()


def simulate(work: Work, durations: Sequence[float], rules: Rules, seed: int) -> tuple[float, Counts]:
    """The makespan over the bound, and what the service saw."""
    server, took = Simulated(durations, rules), [0.0]

    async def main() -> None:
        await work(server, seed)
        took[0] = asyncio.get_running_loop().time()

    run_in_virtual_time(main())
    assert server.limits.counts.accepted == len(server.ready) == len(durations)
    return took[0] / bound(durations, rules), server.limits.counts


# --- over HTTP ---------------------------------------------------------------------------------------


def serve(pipe: Connection, rules: Rules) -> None:
    """A sandbox with limits, in a process of its own; tells what it saw when it is asked to stop."""
    limits, original = LimitedService(rules, 0.0), handlers.SubmitHandler._accept_task
    latest = [0.0, 0.0]

    def take_on(handler: Any, model_id: str) -> Any:
        now = time.monotonic()
        latest[0] = latest[0] or now
        pause = limits.refusal(now, now)
        if pause is not None:
            raise RefusedError(429, retry_after_s=f"{pause:.3f}" if pause else None)
        task = original(handler, model_id)
        ends_at = now + ((task.ready_ms or 0) - task.created_ms) / 1000
        heapq.heappush(limits.ends, ends_at)
        latest[1] = max(latest[1], ends_at)
        return task

    opened: Any = handlers.SubmitHandler
    opened._accept_task = take_on
    options = SandboxOptions(picture_scale=0.02, balance_usd=10_000.0)
    with Sandbox(options) as sandbox:
        pipe.send(sandbox.base_url)
        pipe.recv()
        prompts = {task.prompt for task in sandbox.account.tasks.values()}
        assert len(prompts) == len(sandbox.account.accepted) == limits.counts.accepted, "one was bought twice"
        facts = {"polls": sandbox.account.polls, "last end": latest[1] - latest[0]}
        pipe.send((limits.counts, facts))


def over_http(durations: Sequence[float], rules: Rules) -> tuple[float, Counts, dict[str, Any]]:
    """A session buys them all: makespan over the bound, and what the service saw."""
    spawn = multiprocessing.get_context("spawn")
    ends = spawn.Pipe()
    process = spawn.Process(target=serve, args=(ends[1], rules.scaled(SCALE)))
    process.start()
    try:
        base_url = ends[0].recv()
        with tempfile.TemporaryDirectory() as home:
            took_s, facts = _buy(base_url, home, [duration * SCALE for duration in durations])
        ends[0].send("stop")
        counts, seen = ends[0].recv()
    finally:
        process.join(10)
        process.kill()
    least = bound(durations, rules) * SCALE
    seen["last end"] /= least
    counts.wasted = facts["wasted"]  # what it knew when it sent; the service cannot tell that exactly
    return took_s / least, counts, facts | seen


class Ear:
    """Stands before a session's submits: what it was told, and what it sent all the same."""

    def __init__(self, session: Session) -> None:
        self.wasted, self.closed_until = 0, -math.inf
        self._submit = session.client.submit_once
        client: Any = session.client
        client.submit_once = self

    async def __call__(self, request: Request) -> str | TurnedAway:
        self.wasted += time.monotonic() < self.closed_until
        answer = await self._submit(request)
        if isinstance(answer, TurnedAway):
            self.closed_until = max(self.closed_until, time.monotonic() + (answer.retry_after_s or 0.0))
        return answer


def _buy(base_url: str, home: str, durations: Sequence[float]) -> tuple[float, dict[str, Any]]:
    quick = PAGE.scaled(SCALE)
    service._LEARN_AGAIN_S *= SCALE
    settings = config.Apixo(home=str(Path(home) / "runs"), base_url=base_url)
    with Session(settings, key="test-key") as session:
        where: Any = session.service
        where._advised = lambda _model: quick
        session.client.retry = RetryPolicy(base_s=SCALE, cap_s=20 * SCALE)
        ear = Ear(session)
        began, cpu = time.monotonic(), time.process_time()
        batch = object()
        jobs = [
            session.start(session.plan(make_request(f"[seconds:{duration:.3f}] {number}")), batch=batch)
            for number, duration in enumerate(durations)
        ]
        concurrent.futures.wait([job.ended for job in jobs])
        took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
        came = sum(job.answer.exception() is None and job.run.missing == 0 for job in jobs)
        assert came == len(durations), f"only {came} came"
        return took_s, {"cpu_s": cpu_s, "seconds": took_s, "wasted": ear.wasted}


# --- the table ---------------------------------------------------------------------------------------


def compare(table: Table, name: str, durations: Sequence[float], rules: Rules, seeds: int) -> dict[str, Any]:
    """Every client at one service, the mean of some seeds."""
    found = {}
    for client, work in {"ours": ours, **PEERS}.items():
        every = [simulate(work, durations, rules, seed) for seed in range(seeds)]
        ratio = sum(each for each, _ in every) / seeds
        kept = {key: sum(asdict(counts)[key] for _, counts in every) / seeds for key in asdict(Counts())}
        found[client] = {"makespan": ratio, **kept}
    mine = found["ours"]
    for client in PEERS:
        him = found[client]
        note = f"429: {him['refused']:.0f}, ours {mine['refused']:.0f}; "
        note += f"too early: {him['wasted']:.0f}, ours {mine['wasted']:.0f}"
        table.add(name, client, theirs=him["makespan"], ours=mine["makespan"], unit="x bound", note=note)
    return found


SERVICES = {
    "50 places, Retry-After 1 s": Rules(),
    "50 places, no Retry-After": Rules(retry_after_s=None),
    "50 places, Retry-After 5 s": Rules(retry_after_s=5.0),
    "1 submit a second (10 in 10 s)": Rules(places=10_000, submits=10),
}


def main() -> int:
    """Simulate, then buy once for real."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few tasks")
    parser.add_argument("--tasks", type=int, default=1_632)
    parser.add_argument("--seeds", type=int, default=1, help="simulations of each (default: %(default)s)")
    parser.add_argument("--no-http", action="store_true", help="only what takes no time")
    parser.add_argument("--only-http", action="store_true", help="only what is real")
    asked = parser.parse_args()
    count, seeds = (150, 1) if asked.quick else (asked.tasks, asked.seeds)
    durations, table, kept = made_up(count, 0.25, 6), Table("makespan"), {}
    for name, rules in () if asked.only_http else SERVICES.items():
        kept[name] = compare(table, f"{name}, simulated", durations, rules, seeds)
    if not asked.no_http:
        ratio, counts, facts = over_http(durations, Rules())
        note = f"429: {counts.refused}, too early: {counts.wasted}; last end at {facts['last end']:.2f}; "
        note += f"CPU {facts['cpu_s']:.0f} s in {facts['seconds']:.0f} s"
        table.add(f"{count:,} tasks over HTTP", "bound", theirs=1.0, ours=ratio, unit="x bound", note=note)
        kept["over HTTP"] = {"makespan": ratio, **asdict(counts), **facts}
        say(json.dumps(kept["over HTTP"]))
    table.write(tasks=count, services={name: asdict(rules) for name, rules in SERVICES.items()}, found=kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
