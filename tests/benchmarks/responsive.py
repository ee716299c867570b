"""How much later a short cell answers while hundreds of tasks are waited for in the same kernel.

A real kernel and a sandbox, each a process of its own. The cell is ``time.sleep(0.01)``; its round trip is
taken from outside, as a front end sees it: first in the idle kernel, then in the same kernel with all tasks
on their way, none of which ever ends. Beside us, what people write for it: an asyncio task each, with one
client, on the kernel's own loop, and a thread each with a requests session. All ask at the same pace.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.kernels import bare_kernel, printed, sandbox_beside
from tests.benchmarks.table import Table
from tests.support.kernels import Kernel

CELL = "time.sleep(0.01)"
PATIENCE_S = 45.0  # for all tasks to be under way
MOST_S = 15.0  # of timing in one kernel, as a cell may take seconds
FEWEST = 10  # cells that are timed all the same

_OURS_START = """
numbers = [str(number) for number in range({count})]
get_ipython().run_line_magic("load_ext", "apixo_nb")
get_ipython().run_cell_magic("apixo", "--set n=@numbers --bg --yes -o many", "[never] a fox, number {{n}}")
"""
_OURS_STATE = """
print('STATE', json.dumps(dict(live=sum(job.run.task_id is not None and not job.done for job in many.jobs),
                               polls=sum(job.polls for job in many.jobs), cpu=time.process_time())))
"""

_PEER = """
SUBMIT = URL + "/generateTask/gpt-image-1"
STATUS = URL + "/statusTask/gpt-image-1"
HEADERS = {{"Authorization": "Bearer test-key"}}
live = polls = 0

def body(number):
    wanted = {{"mode": "gpt-image-1", "prompt": f"[never] a fox, number {{number}}"}}
    return {{"request_type": "async", "input": {{**wanted, "aspect_ratio": "1:1", "num_images": 1}}}}
"""
_PEER_STATE = "print('STATE', json.dumps(dict(live=live, polls=polls, cpu=time.process_time())))"

_HTTPX = """
import asyncio, httpx
client = httpx.AsyncClient(headers=HEADERS, timeout=60)

async def wait_for(number):
    global live, polls
    answer = await client.post(SUBMIT, json=body(number))
    task = answer.raise_for_status().json()["data"]["taskId"]
    live, state = live + 1, ""
    while state not in ("success", "failed"):
        await asyncio.sleep({pause})
        answer = await client.get(STATUS, params={{"taskId": task}})
        state = answer.raise_for_status().json()["data"]["state"]
        polls += 1

tasks = [asyncio.create_task(wait_for(number)) for number in range({count})]
"""

_AIOHTTP = """
import asyncio, aiohttp
session = aiohttp.ClientSession(headers=HEADERS)

async def wait_for(number):
    global live, polls
    async with session.post(SUBMIT, json=body(number), raise_for_status=True) as answer:
        task = (await answer.json())["data"]["taskId"]
    live, state = live + 1, ""
    while state not in ("success", "failed"):
        await asyncio.sleep({pause})
        async with session.get(STATUS, params={{"taskId": task}}, raise_for_status=True) as answer:
            state = (await answer.json())["data"]["state"]
        polls += 1

tasks = [asyncio.create_task(wait_for(number)) for number in range({count})]
"""

_THREADS = """
import threading, requests

def wait_for(number):
    global live, polls
    session = requests.Session()
    session.headers.update(HEADERS)
    answer = session.post(SUBMIT, json=body(number), timeout=60)
    task = answer.json()["data"]["taskId"]
    live, state = live + 1, ""
    while state not in ("success", "failed"):
        time.sleep({pause})
        answer = session.get(STATUS, params={{"taskId": task}}, timeout=60)
        state = answer.json()["data"]["state"]
        polls += 1

for number in range({count}):
    threading.Thread(target=wait_for, args=(number,), daemon=True).start()
"""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to wait for many tasks: the cell that starts them, and one that prints how they are."""

    name: str
    start: str
    state: str


OURS = Way("apixo_nb", _OURS_START, _OURS_STATE)
PEERS = (
    Way("asyncio + httpx", _PEER + _HTTPX, _PEER_STATE),
    Way("asyncio + aiohttp", _PEER + _AIOHTTP, _PEER_STATE),
    Way("threads + requests", _PEER + _THREADS, _PEER_STATE),
)


@dataclass(frozen=True, slots=True)
class Load:
    """How many tasks are waited for, the seconds between two polls of one, and the cells to time."""

    count: int
    pause_s: float
    samples: int


def measure(way: Way, load: Load) -> dict[str, Any]:
    """One kernel: round trips in seconds, idle and with all tasks on their way, and what it did for them."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        sandbox_beside(Path(name), "--balance=100000") as url,
        bare_kernel(
            Path(name),
            APIXO_BASE_URL=url,
            APIXO_API_KEY="test-key",
            APIXO_FIRST_POLL=str(load.pause_s),
            APIXO_POLL_INTERVAL=str(load.pause_s),
        ) as kernel,
    ):
        printed(kernel.run(f"import json, time\nURL = {url!r}"))
        idle = round_trips(kernel, load.samples)
        began = time.perf_counter()
        printed(kernel.run(way.start.format(count=load.count, pause=load.pause_s)))
        started_s = time.perf_counter() - began
        _settle(kernel, way, load)
        before, began = _state(kernel, way), time.perf_counter()
        busy = round_trips(kernel, load.samples, least_s=2 * load.pause_s)
        after, took_s = _state(kernel, way), time.perf_counter() - began
    return {
        "live": after["live"],
        "idle": idle,
        "busy": busy,
        "start_cell_s": started_s,
        "polls_per_s": (after["polls"] - before["polls"]) / took_s,
        "cpu_share": (after["cpu"] - before["cpu"]) / took_s,
    }


def round_trips(kernel: Kernel, samples: int, least_s: float = 0.0) -> list[float]:
    """Seconds from sending the cell to its kernel being idle again, with a moment between two cells."""
    # At least `least_s`: what was begun together is asked for together, and missed in less than a period.
    chance = random.Random(20261125)
    found: list[float] = []
    began_s = time.monotonic()
    while (spent_s := time.monotonic() - began_s) < least_s or len(found) < samples:
        if spent_s > MOST_S and len(found) >= FEWEST:
            break
        time.sleep(chance.uniform(0.02, 0.1))  # people pause, and no rhythm shall meet another
        began = time.perf_counter()
        kernel.run(CELL)
        found.append(time.perf_counter() - began)
    return found


def _state(kernel: Kernel, way: Way) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed(kernel.run(way.state)).partition("STATE")[2])
    return found


def _settle(kernel: Kernel, way: Way, load: Load) -> None:
    """Wait until all tasks are accepted, and each was asked for once or so; what is late is late."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        state = _state(kernel, way)
        if state["live"] == load.count <= state["polls"]:
            return
        time.sleep(0.2)


def typical(found: dict[str, Any]) -> dict[str, float]:
    """Milliseconds: the idle kernel's median, and median and 95th percentile with all tasks on their way."""
    busy = sorted(1000 * value for value in found["busy"])
    p95 = busy[min(len(busy) - 1, int(0.95 * len(busy)))]
    return {"idle": 1000 * statistics.median(found["idle"]), "median": statistics.median(busy), "p95": p95}


def compare(table: Table, load: Load) -> dict[str, Any]:
    """All ways at one pace, and their lines."""
    found = {way.name: measure(way, load) for way in (OURS, *PEERS)}
    if found[OURS.name]["live"] < load.count:
        raise AssertionError(f"only {found[OURS.name]['live']} tasks of {load.count} are under way")
    ours, own = found[OURS.name], typical(found[OURS.name])
    what = f"{load.count} tasks, polls every {load.pause_s:g} s"
    rate = f"ours {ours['polls_per_s']:.0f} polls/s"
    table.add(
        f"{what}: median", "the idle kernel", theirs=own["idle"], ours=own["median"], unit="ms", note=rate
    )
    for way in PEERS:
        theirs, other = found[way.name], typical(found[way.name])
        rates = f"theirs {theirs['polls_per_s']:.0f}, {rate}"
        if theirs["live"] < load.count:
            rates += f"; theirs had got {theirs['live']} tasks under way"
        for key in ("median", "p95"):
            added = [figures[key] - figures["idle"] for figures in (other, own)]
            note = f"added: theirs {added[0]:.1f}, ours {added[1]:.1f} ms; {rates}"
            table.add(f"{what}: {key}", way.name, theirs=other[key], ours=own[key], unit="ms", note=note)
        shares = [100 * one["cpu_share"] for one in (theirs, ours)]
        table.add(f"{what}: CPU", way.name, theirs=shares[0], ours=shares[1], unit="% of one", note=rates)
    return found


def main() -> None:
    """Measure, print, and keep the round trips."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.responsive", description=__doc__)
    parser.add_argument("--tasks", type=int, default=500, help="on their way at once (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=60, help="cells to time (default: %(default)s)")
    pauses = "seconds between polls (default: %(default)s)"
    parser.add_argument("--pause", type=float, nargs="*", default=(1.5, 5.0), help=pauses)
    parser.add_argument("--quick", action="store_true", help="few tasks and cells, to see that it works")
    asked = parser.parse_args()
    if asked.quick:
        asked.tasks, asked.samples, asked.pause = 20, 10, (0.5,)
    table = Table("responsive", ("aiohttp", "ipykernel", "httpx", "requests"))
    loads = [Load(asked.tasks, pause_s, asked.samples) for pause_s in asked.pause]
    table.write(found={f"{load.pause_s:g} s": compare(table, load) for load in loads}, tasks=asked.tasks)


if __name__ == "__main__":
    main()
