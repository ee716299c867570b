"""Hundreds of waits on one heap: few requests, kept times, patience in an outage. No time passes in here."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apixo_nb.client import protocol
from apixo_nb.client.protocol import Clock, Fault, Flow, Reply, Send, Sleep
from apixo_nb.core.cadence import ENOUGH_DURATIONS, Cadence
from apixo_nb.core.models import MODELS
from apixo_nb.engine.poller import MOST_AT_ONCE, Poller, Waiting
from apixo_nb.errors import ApixoError, WaitTimeoutError
from tests.support.replies import BUSY, DONE, refused, state
from tests.support.virtual_time import run_in_virtual_time

MODEL = "gpt-image-1"
CADENCE = MODELS[MODEL].cadence
PROBE_S = 2.0
LOST, UNSENT = Fault("lost", "cut"), Fault("unsent", "no route")


class Server:
    """Answers polls, each after `takes_s` or at its deadline, and keeps count. `answer` may be exchanged."""

    def __init__(self, answer: Callable[[Send], Reply | Fault], takes_s: float = 0.1):
        self.answer, self.takes_s = answer, takes_s
        self.at: list[float] = []
        self.asked: list[str] = []
        self.inside = self.most = self.tasks = 0

    async def carry_out(self, send: Send) -> Reply | Fault:
        self.at.append(asyncio.get_running_loop().time())
        self.asked.append(send.query.get("taskId", ""))
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.tasks = max(self.tasks, len(asyncio.all_tasks()))
        try:
            await asyncio.sleep(min(self.takes_s, send.timeout_s or self.takes_s))
            return self.answer(send)
        finally:
            self.inside -= 1

    def between(self, start: float, end: float) -> int:
        """How many requests came in this time."""
        return sum(start <= at < end for at in self.at)


class Crowd:
    """A poller on the running loop, and what became of its flows."""

    def __init__(self, server: Server, seed: int = 1):
        self.clock = Clock(
            monotonic=asyncio.get_running_loop().time, wall=lambda: 0.0, random=random.Random(seed).random
        )
        self.poller = Poller(server.carry_out, self.clock, PROBE_S)
        self.ended: dict[str, Any] = {}
        self.ended_at: dict[str, float] = {}

    def add(self, who: str, flow: Flow[Any]) -> Waiting:
        def done(value: Any, error: BaseException | None) -> None:
            assert who not in self.ended, "told twice"
            self.ended[who] = error or value
            self.ended_at[who] = asyncio.get_running_loop().time()

        return self.poller.add(flow, done)

    def wait(self, count: int, timeout_s: float = 900.0, younger_s: float = 0.0) -> list[Waiting]:
        """So many waits for tasks, begun now; each task `younger_s` younger than the one after it."""
        return [
            self.add(
                name(number),
                protocol.wait(
                    MODEL, name(number), CADENCE, self.clock, timeout_s=timeout_s, age_s=number * younger_s
                ),
            )
            for number in range(count)
        ]

    async def over(self, count: int) -> None:
        while len(self.ended) < count:  # noqa: ASYNC110 - on this loop looking costs nothing
            await asyncio.sleep(0.5)


def name(number: int) -> str:
    return f"task_{number:08d}"


def says(reply: Reply | Fault) -> Callable[[Send], Reply | Fault]:
    """The same answer to everybody; those about a task are about the one that was asked for."""

    def answer(send: Send) -> Reply | Fault:
        if isinstance(reply, Fault):
            return reply
        asked = send.query["taskId"].encode()
        return Reply(reply.status, reply.headers, reply.body.replace(b"task_12345678", asked))

    return answer


def ends_after(seconds: float) -> Callable[[Send], Reply | Fault]:
    """Tasks that were all made at 0 and end at that time."""

    def answer(send: Send) -> Reply | Fault:
        done = asyncio.get_running_loop().time() >= seconds
        return says(DONE if done else BUSY)(send)

    return answer


# --- many at once ------------------------------------------------------------------------------------


def test_hundreds_of_waits_need_no_more_tasks_than_there_may_be_polls() -> None:
    server = Server(ends_after(60.0))

    async def main() -> None:
        crowd = Crowd(server)
        crowd.wait(500)
        assert len(crowd.poller) == 500
        assert len(asyncio.all_tasks()) == 1
        await crowd.over(500)
        assert {status.state for status in crowd.ended.values()} == {"success"}
        assert len(crowd.poller) == 0

    run_in_virtual_time(main())
    assert server.most == MOST_AT_ONCE
    assert server.tasks <= 1 + 2 * MOST_AT_ONCE


def test_every_wait_is_polled_at_its_own_time() -> None:
    server = Server(ends_after(40.0), takes_s=0.0)

    async def main() -> None:
        crowd = Crowd(server)
        crowd.wait(20, younger_s=1.0)
        await crowd.over(20)

    run_in_virtual_time(main())
    for number in range(20):
        mine = [at for at, asked in zip(server.at, server.asked, strict=True) if asked == name(number)]
        assert mine[0] == pytest.approx(20.0 - number)
        assert all(3.0 <= later - before <= 10.0 for before, later in itertools.pairwise(mine))


def test_what_is_due_sooner_goes_first_whenever_it_was_added() -> None:
    said: list[str] = []

    def sleeper(who: str, seconds: float) -> Flow[None]:
        yield Sleep(seconds)
        said.append(who)

    async def main() -> None:
        crowd = Crowd(Server(says(BUSY)))
        crowd.add("late", sleeper("late", 50.0))
        crowd.add("soon", sleeper("soon", 5.0))
        crowd.add("now", sleeper("now", 0.0))
        await crowd.over(3)
        assert crowd.ended_at == pytest.approx({"now": 0.0, "soon": 5.0, "late": 50.0})

    run_in_virtual_time(main())
    assert said == ["now", "soon", "late"]


# --- ends --------------------------------------------------------------------------------------------


def test_a_wait_that_was_dropped_before_its_poll_is_never_asked_for() -> None:
    server = Server(says(DONE))

    async def main() -> None:
        crowd = Crowd(server)
        dropped, _kept = crowd.wait(2)
        await asyncio.sleep(10.0)
        crowd.poller.drop(dropped)
        assert len(crowd.poller) == 1
        await asyncio.sleep(60.0)
        assert list(crowd.ended) == [name(1)]

    run_in_virtual_time(main())
    assert server.asked == [name(1)]


def test_a_wait_that_was_dropped_while_its_poll_is_on_its_way_ends_without_a_word() -> None:
    server = Server(says(DONE), takes_s=5.0)

    async def main() -> None:
        crowd = Crowd(server)
        [dropped] = crowd.wait(1)
        await asyncio.sleep(22.0)
        assert server.inside == 1
        crowd.poller.drop(dropped)
        await asyncio.sleep(60.0)
        assert crowd.ended == {}
        assert len(crowd.poller) == 0

    run_in_virtual_time(main())
    assert len(server.asked) == 1


def test_a_wait_that_is_awaited_returns_its_value_or_raises_its_error() -> None:
    async def main() -> None:
        crowd = Crowd(Server(ends_after(60.0)))
        done = await crowd.poller.finish(protocol.wait(MODEL, name(1), CADENCE, crowd.clock, timeout_s=900.0))
        assert done.state == "success"
        with pytest.raises(WaitTimeoutError):
            await Crowd(Server(says(BUSY))).poller.finish(
                protocol.wait(MODEL, name(1), CADENCE, crowd.clock, timeout_s=30.0)
            )

    run_in_virtual_time(main())


def test_a_wait_that_is_cancelled_is_dropped_unless_it_has_just_ended() -> None:
    server = Server(says(DONE), takes_s=5.0)

    async def main() -> None:
        crowd = Crowd(server)

        def finish(number: int) -> asyncio.Task[Any]:
            flow = protocol.wait(MODEL, name(number), CADENCE, crowd.clock, timeout_s=900.0)
            return asyncio.ensure_future(crowd.poller.finish(flow))

        cancelled, ended = finish(0), finish(1)
        await asyncio.sleep(1.0)
        cancelled.cancel()
        await asyncio.sleep(1.0)
        assert (cancelled.cancelled(), len(crowd.poller)) == (True, 1)

        def cancel_now(send: Send) -> Reply | Fault:
            asyncio.get_running_loop().call_soon(ended.cancel)  # before the task hears of the answer
            return says(DONE)(send)

        server.answer = cancel_now
        assert (await ended).state == "success"

    run_in_virtual_time(main())
    assert server.asked == [name(1)]


@pytest.mark.parametrize("kind", [ApixoError, RuntimeError])
def test_what_sending_raises_ends_the_wait_and_no_other(kind: type[Exception]) -> None:
    error = kind("the proxy cannot be used")

    def answer(send: Send) -> Reply | Fault:
        if send.query["taskId"] == name(1):
            raise error
        return says(DONE)(send)

    async def main() -> None:
        crowd = Crowd(Server(answer))
        crowd.wait(3)
        await crowd.over(3)
        assert crowd.ended[name(1)] is error
        assert [getattr(end, "state", None) for end in crowd.ended.values()].count("success") == 2

    run_in_virtual_time(main())


def test_what_a_flow_raises_is_told_to_whoever_waits_for_it() -> None:
    async def main() -> None:
        crowd = Crowd(Server(says(refused(401))))
        crowd.wait(1)
        await crowd.over(1)
        assert crowd.ended[name(0)].maybe_billed

    run_in_virtual_time(main())


# --- an outage ---------------------------------------------------------------------------------------

TROUBLES = {"lost": LOST, "unsent": UNSENT, "503": refused(503), "429": refused(429)}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_while_nobody_answers_only_probes_leave(trouble: Reply | Fault) -> None:
    server = Server(says(trouble))

    async def main() -> None:
        Crowd(server).wait(300, timeout_s=600.0)
        await asyncio.sleep(320.0)

    run_in_virtual_time(main())
    until_known = MOST_AT_ONCE + 4  # those that fail in a row, and those that were on their way meanwhile
    assert 0 < len(server.at) <= until_known + 300.0 / PROBE_S + 1
    gaps = [later - before for before, later in itertools.pairwise(server.at)]
    assert all(gap >= PROBE_S - 1e-6 for gap in gaps[until_known:])


def test_in_an_outage_every_wait_still_ends_at_its_time() -> None:
    server = Server(says(LOST))

    async def main() -> None:
        crowd = Crowd(server)
        crowd.wait(100, timeout_s=300.0)
        await crowd.over(100)
        assert {type(end) for end in crowd.ended.values()} == {WaitTimeoutError}
        assert all(300.0 <= at <= 301.0 for at in crowd.ended_at.values())
        assert len(crowd.poller) == 0

    run_in_virtual_time(main())


def test_where_every_request_hangs_a_wait_still_ends_when_one_request_can_have_ended() -> None:
    server = Server(says(Fault("timeout", "no answer in time")), takes_s=60.0)

    async def main() -> None:
        crowd = Crowd(server)
        crowd.wait(100, timeout_s=300.0)
        await crowd.over(100)
        assert {type(end) for end in crowd.ended.values()} == {WaitTimeoutError}
        assert all(300.0 <= at <= 300.0 + 60.0 + PROBE_S for at in crowd.ended_at.values())

    run_in_virtual_time(main())


def test_three_failures_in_a_row_hold_nobody_back() -> None:
    answers = iter([LOST, LOST, LOST])
    server = Server(lambda send: next(answers, None) or says(DONE)(send), takes_s=0.01)

    async def main() -> None:
        crowd = Crowd(server)
        crowd.wait(50)
        await crowd.over(47)
        assert all(at < 21.0 for at in crowd.ended_at.values())

    run_in_virtual_time(main())


def test_when_somebody_answers_again_those_who_were_held_come_soon_and_not_all_in_one_moment() -> None:
    server = Server(says(LOST), takes_s=0.01)

    async def main() -> None:
        crowd = Crowd(server)
        crowd.wait(100)
        await asyncio.sleep(200.0)
        server.answer = says(DONE)
        await crowd.over(100)

    run_in_virtual_time(main())
    back = next(at for at in server.at if at >= 200.0)
    assert server.between(back, back + 2 * PROBE_S + 1.0) == 100
    assert server.between(back, back + 0.1) < 30


def test_an_answer_that_is_no_trouble_ends_a_row_of_failures() -> None:
    count = [0]

    def answer(send: Send) -> Reply | Fault:
        count[0] += 1
        return says(BUSY)(send) if count[0] % 4 == 0 else LOST

    server = Server(answer, takes_s=0.0)

    async def main() -> None:
        Crowd(server).wait(1, timeout_s=10_000.0)
        await asyncio.sleep(1000.0)

    run_in_virtual_time(main())
    assert len(server.at) > 1000.0 / 25.0  # its own pauses: 5, 5, 10, and 20 seconds at the most


def test_an_unknown_state_is_an_answer() -> None:
    server = Server(says(state("warming up")))

    async def main() -> None:
        Crowd(server).wait(20)
        await asyncio.sleep(60.0)

    run_in_virtual_time(main())
    assert len(server.at) >= 20 * 7


# --- the pace that is learned ------------------------------------------------------------------------

PROPERTY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
DURATIONS = st.lists(st.floats(0.1, 900.0), max_size=60)
AGES = st.floats(0.0, 2000.0)


def earliest(learned: Cadence) -> float:
    """20 s of typically 30, and as much earlier where tasks are faster."""
    return CADENCE.first_poll_s * min(1.0, learned.expected_s / CADENCE.expected_s) - 1e-9


@PROPERTY
@given(DURATIONS)
def test_the_first_poll_is_never_earlier_than_the_page_says_for_tasks_so_long(
    durations: list[float],
) -> None:
    learned = CADENCE.learned(durations)
    assert learned.first_poll_s >= earliest(learned)
    assert learned.interval_bounds_s == CADENCE.interval_bounds_s
    enough = len(durations) >= ENOUGH_DURATIONS
    assert (learned.slow_s is None) is not enough
    assert learned == CADENCE or enough


@PROPERTY
@given(DURATIONS.filter(lambda known: len(known) >= ENOUGH_DURATIONS))
def test_what_was_learned_is_ordered_and_was_seen(durations: list[float]) -> None:
    learned = CADENCE.learned(durations)
    assert learned.slow_s is not None
    assert min(durations) <= learned.expected_s <= learned.slow_s <= max(durations)
    assert sum(duration <= learned.slow_s for duration in durations) >= 0.9 * len(durations)
    assert learned == CADENCE.learned(reversed(durations))


@PROPERTY
@given(DURATIONS, AGES)
def test_the_pause_stays_within_what_the_page_allows(durations: list[float], age_s: float) -> None:
    low, high = CADENCE.interval_bounds_s
    assert low <= CADENCE.learned(durations).pause_s(age_s) <= high


@PROPERTY
@given(DURATIONS, AGES, AGES)
def test_who_asks_later_is_not_told_to_come_earlier(durations: list[float], one: float, other: float) -> None:
    learned, (sooner, later) = CADENCE.learned(durations), sorted((one, other))
    assert sooner + learned.pause_s(sooner) <= later + learned.pause_s(later) + 1e-6


@PROPERTY
@given(DURATIONS, st.floats(0.0, 60.0), st.floats(0.05, 60.0))
def test_an_own_rhythm_stands_whatever_was_learned(
    durations: list[float], first_s: float, every_s: float
) -> None:
    own = CADENCE.learned(durations).override(first_s, every_s)
    assert own.first_poll_s == first_s
    assert own.pause_s(30.0) == pytest.approx(every_s, rel=0.21)


@PROPERTY
@given(DURATIONS, st.floats(20.0, 300.0), st.integers(0, 1000))
def test_a_wait_with_a_learned_pace_keeps_to_the_page(
    durations: list[float], ends_s: float, seed: int
) -> None:
    server, learned = Server(ends_after(ends_s), takes_s=0.0), CADENCE.learned(durations)

    async def main() -> None:
        crowd = Crowd(server, seed)
        crowd.add(name(0), protocol.wait(MODEL, name(0), learned, crowd.clock, timeout_s=2000.0))
        await crowd.over(1)

    run_in_virtual_time(main())
    assert server.at[0] >= earliest(learned)
    assert all(3.0 - 1e-6 <= pause <= 10.0 + 1e-6 for pause in map(_gap, itertools.pairwise(server.at)))


def _gap(pair: tuple[float, float]) -> float:
    return pair[1] - pair[0]


def test_a_learned_pace_asks_where_tasks_end() -> None:
    learned = CADENCE.learned([40.0 + number / 10 for number in range(50)])
    assert 41.0 < learned.first_poll_s < 44.0
    advised, known = Server(ends_after(43.0)), Server(ends_after(43.0))

    async def main(server: Server, cadence: Cadence) -> None:
        crowd = Crowd(server)
        crowd.add(name(0), protocol.wait(MODEL, name(0), cadence, crowd.clock, timeout_s=900.0))
        await crowd.over(1)

    run_in_virtual_time(main(advised, CADENCE))
    run_in_virtual_time(main(known, learned))
    assert len(known.at) <= 2 < len(advised.at)


def mean_cost(cadence: Cadence, durations: list[float]) -> float:
    """Seconds of delay per task, and three quarters of a second for each poll."""
    total = 0.0
    for duration in durations:
        at, polls = cadence.first_poll_s, 1
        while at < duration:
            at, polls = at + cadence.pause_s(at), polls + 1
        total += at - duration + 0.75 * polls
    return total / len(durations)


@pytest.mark.parametrize(("median_s", "sigma"), [(30, 0.1), (30, 0.25), (30, 0.5), (12, 0.4), (60, 0.3)])
def test_a_learned_pace_costs_less_than_any_fixed_one_with_the_page_s_first_poll(
    median_s: float, sigma: float
) -> None:
    chance = random.Random(7)
    known, new = [
        [median_s * chance.lognormvariate(0.0, sigma) for _ in range(count)] for count in (200, 2000)
    ]
    learned = mean_cost(CADENCE.learned(known), new)
    assert all(learned < mean_cost(CADENCE.override(None, every_s), new) for every_s in range(3, 16))


def test_one_task_that_took_an_hour_spoils_nothing() -> None:
    known = [30.0 + number / 10 for number in range(50)]
    assert mean_cost(CADENCE.learned([*known, 3600.0]), known) < 1.2 * mean_cost(
        CADENCE.learned(known), known
    )


def test_a_task_that_outlasts_all_others_is_polled_as_seldom_as_the_page_allows() -> None:
    learned = CADENCE.learned([30.0 + number / 10 for number in range(50)])
    assert {learned.pause_s(age_s) for age_s in (90.0, 200.0, 5000.0)} == {10.0}


def test_a_learned_pace_is_the_same_on_another_scale() -> None:
    known = [20.0 + number for number in range(30)]
    tenth = CADENCE.scaled(0.1).learned([duration / 10 for duration in known])
    for age_s in range(100):
        assert tenth.pause_s(age_s / 10 + 0.01) == pytest.approx(
            CADENCE.learned(known).scaled(0.1).pause_s(age_s / 10 + 0.01)
        )
