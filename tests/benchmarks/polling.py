"""How long an ended task goes unseen, against how often it is polled: peers' schedules and ours, simulated.

No request is sent and no time passes. Ours is the code itself: each task is a `flows.wait` on a clock that is
moved on, with the cadence that `spec` learns from the tasks before it, beginning with none. A peer is its
schedule of polls, faster and slower by a factor, which makes a curve: so many polls, so much delay. Ours is
compared with the least delay that the peer has with as many polls, or with fewer.

Nobody has published durations of APIXO's tasks, so all of these are made up: log-normal and two-peaked ones
about the page's "about 30 seconds", and one about the two examples there (success after 41.4 s, failure after
9.0 s).
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from apixo_nb.client.protocol import Clock, Fault, Reply, Send, Sleep, wait
from apixo_nb.core.cadence import Cadence
from apixo_nb.core.models import DEFAULT_MODEL, MODELS
from tests.benchmarks.table import Table, say

PAGE = MODELS[DEFAULT_MODEL].cadence
LAST = 200  # durations that the ledger tells
LEARN_EVERY = 10  # tasks; a session looks into the ledger once a minute
FACTORS = [2.0 ** (step / 8) for step in range(-24, 73)]  # an eighth of a peer's pauses to 500 times
LONGEST_S = 3600.0


class Point(NamedTuple):
    """A mean over tasks: polls for each, and seconds from its end to the poll that saw it."""

    polls: float
    delay_s: float


class Took(NamedTuple):
    """One made-up task; only what succeeds is learned from."""

    seconds: float
    succeeded: bool = True


Draw = Callable[[random.Random], Took]
Times = Callable[[random.Random, float], Iterator[float]]


# --- durations --------------------------------------------------------------------------------------


def log_normal(mean_s: float, sigma: float) -> Draw:
    """Durations whose logarithms are normal."""
    return lambda chance: Took(mean_s * math.exp(chance.gauss(-sigma * sigma / 2, sigma)))


def mixed(share: float, one: Draw, other: Draw) -> Draw:
    """That share of the tasks like the one, the rest like the other."""
    return lambda chance: one(chance) if chance.random() < share else other(chance)


def failing(draw: Draw) -> Draw:
    """The same tasks, but failed."""
    return lambda chance: Took(draw(chance).seconds, succeeded=False)


KINDS: dict[str, Draw] = {
    "log-normal, mean 30 s, sigma 0.1": log_normal(30, 0.1),
    "log-normal, mean 30 s, sigma 0.25": log_normal(30, 0.25),
    "log-normal, mean 30 s, sigma 0.5": log_normal(30, 0.5),
    "log-normal, mean 30 s, sigma 0.8": log_normal(30, 0.8),
    "two queues, 22 s (60 %) and 48 s": mixed(0.6, log_normal(22, 0.12), log_normal(48, 0.15)),
    "page's examples, 41 s; 10 % fail at 9 s": mixed(
        0.1, failing(log_normal(9, 0.2)), log_normal(41.4, 0.25)
    ),
    "twice as slow as the page, mean 60 s": log_normal(60, 0.3),
    "faster than the page, mean 12 s": log_normal(12, 0.4),
}


# --- peers ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody's schedule; `times` tells it for a factor, as seconds after the submit."""

    name: str
    times: Times


def steady(pause_s: float, first_s: float = 0.0) -> Times:
    """First after `first_s`, whatever the factor; then at one pause."""

    def times(_chance: random.Random, factor: float) -> Iterator[float]:
        at = first_s
        while True:
            yield at
            at += pause_s * factor

    return times


def after_a_pause(pause_s: float, spread_s: float = 0.0) -> Times:
    """The first poll after one pause, then at the same pause; each `spread_s` more or less."""

    def times(chance: random.Random, factor: float) -> Iterator[float]:
        at = 0.0
        while True:
            at += (pause_s + chance.uniform(-spread_s, spread_s)) * factor
            yield at

    return times


def growing(pause_s: float, growth: float, longest_s: float) -> Times:
    """At once, then at pauses that grow up to the longest."""

    def times(_chance: random.Random, factor: float) -> Iterator[float]:
        at, pause = 0.0, pause_s
        while True:
            yield at
            at += pause * factor
            pause = min(longest_s, pause * growth)

    return times


#: As their sources have it: fal-client `subscribe`, replicate `Prediction.wait`, openai `videos.poll`,
#: comfy-sdk `Job.wait`, runwayml `wait_for_task_output`. The page: 20 s, then every 3 to 10 s.
PEERS = (
    Peer("APIXO page, 20 s + 5 s", steady(5.0, first_s=PAGE.first_poll_s)),
    Peer("fal-client, 0.1 s", steady(0.1)),
    Peer("replicate, 0.5 s", after_a_pause(0.5)),
    Peer("openai, 1 s", steady(1.0)),
    Peer("comfy-sdk, 0.5 s x1.5 to 5 s", growing(0.5, 1.5, 5.0)),
    Peer("runwayml, 6 s +-1.5", after_a_pause(6.0, 1.5)),
    Peer("doubling, 1 s to 30 s", growing(1.0, 2.0, 30.0)),
)


def point_of(peer: Peer, factor: float, tasks: Sequence[Took], seed: int) -> Point:
    """How a peer does with these tasks, its pauses times a factor."""
    chance, polls, delay_s = random.Random(seed), 0, 0.0
    shared = _unrolled(peer, factor) if "+-" not in peer.name else None
    for took in tasks:
        if shared is not None:
            index = bisect.bisect_left(shared, took.seconds)
            polls, delay_s = polls + index + 1, delay_s + shared[index] - took.seconds
            continue
        for number, at in enumerate(peer.times(chance, factor), 1):
            if at >= took.seconds:
                polls, delay_s = polls + number, delay_s + at - took.seconds
                break
    return Point(polls / len(tasks), delay_s / len(tasks))


def _unrolled(peer: Peer, factor: float) -> list[float]:
    """All its times, once: they are the same for each task."""
    found = []
    for at in peer.times(random.Random(0), factor):
        found.append(at)
        if at > LONGEST_S:
            return found
    return found


def curve_of(peer: Peer, tasks: Sequence[Took], seed: int) -> list[tuple[float, Point]]:
    """A point for each factor that leaves between one poll and a hundred."""
    fit = (
        factor
        for factor in FACTORS
        if PAGE.expected_s / 100 < _typical_pause(peer, factor) < 3 * PAGE.expected_s
    )
    return [(factor, point_of(peer, factor, tasks, seed)) for factor in fit]


def _typical_pause(peer: Peer, factor: float) -> float:
    times = peer.times(random.Random(0), factor)
    found = [next(times) for _ in range(12)]
    return found[-1] - found[-2]


def at_most(curve: Sequence[tuple[float, Point]], polls: float) -> float:
    """The least delay of a curve with at most so many polls, between its points too; NaN if it needs more."""
    best = min((point.delay_s for _, point in curve if point.polls <= polls), default=math.nan)
    for (_, one), (_, other) in pairwise(curve):
        low, high = sorted((one, other))
        if low.polls <= polls < high.polls:
            share = (polls - low.polls) / (high.polls - low.polls)
            best = min(best, low.delay_s + share * (high.delay_s - low.delay_s))
    return best


# --- ours -------------------------------------------------------------------------------------------


class World:
    """A clock that `live` moves on."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.clock = Clock(lambda: self.now, lambda: self.now, random.Random(seed).random)

    def live(self, cadence: Cadence, took: Took) -> Point:
        """One task and its wait, as the package itself waits."""
        began, polls = self.now, 0
        flow = wait(DEFAULT_MODEL, "task", cadence, self.clock, timeout_s=LONGEST_S)
        answer: Reply | Fault | None = None
        try:
            while True:
                command = flow.send(answer)
                answer = None
                if isinstance(command, Sleep):
                    self.now += command.seconds
                elif isinstance(command, Send):
                    polls += 1
                    answer = _status(took, self.now - began)
        except StopIteration:
            return Point(polls, self.now - began - took.seconds)


def _status(took: Took, age_s: float) -> Reply:
    state = "processing" if age_s < took.seconds else "success" if took.succeeded else "failed"
    body = {"code": 200, "message": "success", "data": {"taskId": "task", "state": state}}
    return Reply(200, {}, json.dumps(body).encode())


def ours(tasks: Sequence[Took], seed: int, *, learn: bool = True) -> Point:
    """All tasks, one after the other, learning from those before; or as while nothing is learned."""
    world, cadence, known, points = World(seed), PAGE, list[float](), list[Point]()
    for number, took in enumerate(tasks):
        if learn and number % LEARN_EVERY == 0:
            cadence = PAGE.learned(known[-LAST:])
        points.append(world.live(cadence, took))
        if took.succeeded:
            known.append(took.seconds)
    return Point(*(sum(column) / len(points) for column in zip(*points, strict=True)))


# --- the table --------------------------------------------------------------------------------------


def measure(table: Table, kind: str, count: int, seed: int) -> dict[str, object]:
    """Lines for one kind of durations; returns its curves."""
    chance = random.Random(seed)
    tasks = [KINDS[kind](chance) for _ in range(count)]
    found, untaught = ours(tasks, seed), ours(tasks, seed, learn=False)
    curves = {peer.name: curve_of(peer, tasks, seed) for peer in PEERS}
    for peer in PEERS:
        shipped = point_of(peer, 1.0, tasks, seed)
        fewest = min(point.polls for _, point in curves[peer.name])
        theirs = at_most(curves[peer.name], found.polls)
        note = f"{found.polls:.2f} polls; as shipped {shipped.polls:.1f} polls, {shipped.delay_s:.2f} s"
        if math.isnan(theirs):
            note += f"; needs {fewest:.2f} polls at least"
        table.add(kind, peer.name, theirs=theirs, ours=found.delay_s, unit="s", note=note)
    return {"ours": found, "nothing learned": untaught, "curves": curves}


def main() -> None:
    """Simulate all kinds of durations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few tasks")
    parser.add_argument("--tasks", type=int, default=3_000, help="of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=6)
    asked = parser.parse_args()
    count = min(asked.tasks, 200) if asked.quick else asked.tasks
    table = Table("polling")
    kept = {kind: measure(table, kind, count, asked.seed) for kind in KINDS}
    above = [line for line in table.lines if line.ours > line.theirs]
    unreached = sum(math.isnan(line.theirs) for line in table.lines)
    say(f"On or below the curve: {len(table.lines) - len(above)} of {len(table.lines)} lines, of which")
    say(f"{unreached} have no such point: however slow, that schedule takes more polls than ours")
    for line in above:
        say(f"Above: {line.what}, {line.peer}: {line.ours:.2f} s, theirs {line.theirs:.2f} s")
    table.write(tasks=count, seed=asked.seed, above=len(above), kinds=kept)


if __name__ == "__main__":
    main()
