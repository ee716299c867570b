"""What 1, 100, 1,000 and 5,000 tasks in flight cost: CPU, requests, memory, and how late one hears.

One server speaks APIXO's protocol, Replicate's and fal's, and the k-th task takes as long in each of them:
log-normal, 30 s on average, at most 60 s. All times are divided by a scale, the same for the tasks
and for the pauses of every client. Each client is a process of its own, with a server of its own. Nobody
downloads pictures, but for the line with the ledger.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.table import ROOT, Table, say

OURS, PROMPT, HASTY, SESSION, BASELINE = "ours", "ours-prompt", "ours-hasty", "ours-session", "aiohttp"
PEERS = {
    "requests": "requests, threads, 2 s",
    "httpx": "httpx loop, 2 s",
    "aiohttp": "aiohttp loop, 2 s",
    "aiohttp-told": "aiohttp, told the end",
    "replicate": "replicate, 0.5 s",
    "fal-client": "fal-client, 0.1 s",
}
#: Whom ours is as prompt as where it is allowed to poll as often as they do.
AS_PROMPT = {PROMPT: ("requests", "httpx", "aiohttp"), HASTY: ("replicate", "fal-client")}
NAN = float("nan")

Figures = dict[str, Any] | None  # None: was not done in time


@dataclass(frozen=True, slots=True)
class Size:
    """How many tasks, by what their times are divided, and who takes part.

    At a tenth of the time everybody has ten times as many polls a second: many tasks are slowed down less, or
    it would be the scale that fills the event loops.
    """

    count: int
    scale: float
    clients: tuple[str, ...]


EVERYBODY = (OURS, PROMPT, HASTY, SESSION, *PEERS)
SIZES = (
    Size(1, 10.0, (OURS, *PEERS)),
    Size(100, 10.0, EVERYBODY),
    Size(1000, 2.0, (OURS, PROMPT, *PEERS)),
    Size(5000, 2.0, (OURS, "requests", "httpx", "aiohttp")),
)
QUICK = (Size(1, 30.0, (OURS, *PEERS)), Size(50, 30.0, EVERYBODY))

#: What is told of each client, and in which unit. Of one task alone, the delay is a matter of luck.
MEASURES = {
    "cpu_ms": ("CPU a task, with imports", "ms"),
    "requests": ("requests a task", "requests"),
    "delay_ms": ("done to known, mean", "ms"),
    "makespan_s": ("all of them known", "s"),
    "peak_mb": ("peak memory", "MB"),
}
OF_ONE = ("cpu_ms", "peak_mb")


@contextmanager
def server(scale: float) -> Iterator[str]:
    """A server as a process of its own; yields its address."""
    command = [sys.executable, "-m", "tests.benchmarks.protocols", "--scale", str(scale)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.kill()


def measure(name: str, size: Size, patience_s: float) -> Figures:
    """One client with so many tasks; None if it is not done in time."""
    with server(size.scale) as url:
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.clients",
            name,
            url,
            str(size.count),
            str(size.scale),
        ]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=patience_s, check=False
            )
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
        with urllib.request.urlopen(f"{url}/account", timeout=60) as answer:
            account = json.load(answer)
    return figures(json.loads(done.stdout.splitlines()[-1]), account, size)


def figures(told: dict[str, Any], account: dict[str, Any], size: Size) -> dict[str, Any]:
    """What the client told, beside the server's account. All times as they were, not scaled back."""
    delays = sorted(at - account["done_at"][task_id] for task_id, at in told["at"].items())
    requests = account["submits"] + account["polls"] + account["others"]
    return {
        "cpu_ms": 1000 * told["cpu_s"] / size.count,
        "requests": requests / size.count,
        "delay_ms": 1000 * statistics.mean(delays) if delays else NAN,
        "delay_p95_ms": 1000 * delays[int(0.95 * len(delays))] if delays else NAN,
        "makespan_s": told["makespan_s"],
        "peak_mb": told["peak_mb"],
        "known": len(delays),
        "errors": told["errors"],
        "submits": account["submits"],
        "connections": account["connections"],
        "server_cpu_s": account["cpu_s"],
    }


def tabulate(table: Table, size: Size, found: dict[str, Figures]) -> None:
    """The lines of one size: first all peers, then what our pace and our ledger make of it."""
    for measure_name in OF_ONE if size.count == 1 else MEASURES:
        for peer, title in PEERS.items():
            if peer in found:
                _line(table, size, measure_name, title, (found[peer], found[OURS]))
    for name, peers in AS_PROMPT.items():
        for peer, measure_name in itertools.product(peers, ("delay_ms", "requests", "cpu_ms")):
            if peer in found and name in found:
                _line(table, size, measure_name, f"{PEERS[peer]}; ours as prompt", (found[peer], found[name]))
    if SESSION in found:
        for measure_name in ("cpu_ms", "peak_mb"):
            _line(table, size, measure_name, "ours bare; with ledger", (found[OURS], found[SESSION]))


def _line(table: Table, size: Size, name: str, peer: str, both: tuple[Figures, Figures]) -> None:
    theirs, ours = both
    what, unit = MEASURES[name]
    tasks = "1 task" if size.count == 1 else f"{size.count:,} tasks"
    table.add(
        f"{tasks}: {what}",
        peer,
        theirs=theirs[name] if theirs else NAN,
        ours=ours[name] if ours else NAN,
        unit=unit,
        note=_note(theirs, size),
    )


def _note(theirs: Figures, size: Size) -> str:
    if theirs is None:
        return "was not done in time"
    lost = size.count - theirs["known"]
    return f"{lost} of its tasks ended in {', '.join(theirs['errors'])}" if lost else ""


def main() -> None:
    """Measure, print, and keep all figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.client", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 and 50 tasks, to see that it works")
    parser.add_argument(
        "--patience", type=float, default=90.0, help="seconds for one client (default: %(default)s)"
    )
    parser.add_argument("--sizes", type=int, nargs="*", help="only these numbers of tasks")
    parser.add_argument("--scale", type=float, help="divide all times by this (default: 10; 2 from 1,000 on)")
    parser.add_argument("--clients", nargs="*", help="only these beside ours and aiohttp")
    asked = parser.parse_args()
    packages = ("requests", "httpx", "aiohttp", "replicate", "fal-client")
    table = Table("client", packages)
    kept = []
    for size in QUICK if asked.quick else SIZES:
        if asked.sizes and size.count not in asked.sizes:
            continue
        if asked.scale:
            size = dataclasses.replace(size, scale=asked.scale)  # noqa: PLW2901 - the same size at another pace
        wanted = {OURS, BASELINE, *(asked.clients if asked.clients is not None else size.clients)}
        found = {name: measure(name, size, asked.patience) for name in size.clients if name in wanted}
        tabulate(table, size, found)
        kept.append({"count": size.count, "scale": size.scale, "clients": found})
        busiest = max(one["server_cpu_s"] / one["makespan_s"] for one in found.values() if one)
        say(f"The server was busy for {100 * busiest:.0f} % of the time at most.")
    table.write(sizes=kept)


if __name__ == "__main__":
    main()
