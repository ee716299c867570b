"""A limit on tasks at work is found by refusals, kept with few of them, and is never taken for a quota."""

from __future__ import annotations

import asyncio
import heapq
import math
import random

import pytest

from apixo_nb.client.protocol import Clock, RetryPolicy
from apixo_nb.core.records import new_run
from apixo_nb.core.request import make_request
from apixo_nb.engine.fair_queue import FairQueue, Slot
from apixo_nb.engine.job import Job
from apixo_nb.engine.rate_limit import RateLimiter
from tests.support.limited_service import Counts, LimitedService, Rules, bound
from tests.support.rate_limits import LONG_S, Time, accept, leave, refuse
from tests.support.virtual_time import run_in_virtual_time

POLICY = RetryPolicy()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def limiter(time: Time) -> RateLimiter:
    return RateLimiter(POLICY, time.clock)


def full_at(limiter: RateLimiter, time: Time, count: int) -> None:
    """So many accepted and at work, and then refusals at that count until it is certain."""
    for _ in range(count):
        accept(limiter, time, 1, every_s=0.1)
        limiter.task_began()
    for _ in range(2):
        refuse(limiter, time)


def test_without_tasks_at_work_nothing_is_learned_of_places(limiter: RateLimiter, time: Time) -> None:
    refuse(limiter, time)
    refuse(limiter, time)
    assert limiter.concurrency.limit == math.inf
    assert not limiter.concurrency.certain


def test_refusals_at_one_count_tell_of_a_limit_and_the_end_of_a_task_makes_room(
    limiter: RateLimiter, time: Time
) -> None:
    told: list[bool] = []
    limiter.wake = lambda: told.append(limiter.wait_s() == 0.0)
    full_at(limiter, time, 20)
    assert (limiter.concurrency.limit, limiter.concurrency.reached) == (20, True)
    assert limiter.wait_s() > 0
    limiter.task_ended()
    assert told == [True]


def test_a_pause_that_was_asked_for_is_kept_though_a_task_ends(limiter: RateLimiter, time: Time) -> None:
    full_at(limiter, time, 20)
    refuse(limiter, time, 30.0)
    limiter.task_ended()
    assert limiter.wait_s() >= 30.0


def test_patience_lasts_as_long_as_tasks_are_at_work_and_then_as_ever(
    limiter: RateLimiter, time: Time
) -> None:
    full_at(limiter, time, 1)
    assert all(refuse(limiter, time) for _ in range(50))
    limiter.task_ended()
    assert [refuse(limiter, time) for _ in range(POLICY.attempts)] == [True] * (POLICY.attempts - 1) + [False]


def test_a_pause_longer_than_all_patience_ends_it_also_while_tasks_are_at_work(
    limiter: RateLimiter, time: Time
) -> None:
    full_at(limiter, time, 5)
    assert not refuse(limiter, time, POLICY.total_s + 1.0)


def test_waiting_for_a_place_is_no_pause_that_apixo_asked_for_and_is_bounded(
    limiter: RateLimiter, time: Time
) -> None:
    full_at(limiter, time, 3)
    for _ in range(5):
        refuse(limiter, time, 10.0)
        assert limiter.pause_s() <= POLICY.total_s / 2
        assert limiter.wait_s() <= limiter.pause_s() + 61.0


def test_no_connection_tells_nothing_of_places_and_ends_as_ever(limiter: RateLimiter, time: Time) -> None:
    for _ in range(3):
        accept(limiter, time, 1)
        limiter.task_began()
    again = []
    for _ in range(POLICY.attempts):
        time.now += limiter.wait_s() + 0.01
        again.append(limiter.refused(limiter.leave(), None, answered=False))
    assert again == [True] * (POLICY.attempts - 1) + [False]
    assert limiter.concurrency.limit > 3
    assert not limiter.concurrency.certain


def test_busy_time_with_many_refusals_does_not_look_like_a_limit_on_submits(
    limiter: RateLimiter, time: Time
) -> None:
    chance = random.Random(4)
    for second in range(300):
        for _ in range(chance.randint(5, 11)):
            accept(limiter, time, 1, every_s=chance.uniform(0.0, 0.25))
            limiter.task_began()
        while (
            limiter.concurrency.running > 50 + second % 3
        ):  # some more than there are places, as their ends are unseen
            limiter.task_ended()
        time.now += limiter.wait_s()
        limiter.refused(leave(limiter), 0.1)
        assert second < 10 or limiter.concurrency.certain, second


def test_bad_request_takes_no_place(limiter: RateLimiter, time: Time) -> None:
    full_at(limiter, time, 3)
    limit = limiter.concurrency.limit
    limiter.accepted(made=False)
    assert limiter.concurrency.limit == limit


def test_tasks_that_never_end_do_not_stop_all_submits(limiter: RateLimiter, time: Time) -> None:
    full_at(limiter, time, 1)
    assert 0 < limiter.wait_s() <= POLICY.cap_s + 5 * POLICY.base_s
    time.now += limiter.wait_s()
    for count in range(2, 40):  # what refused is over: soon there is no limit to feel
        accept(limiter, time, 1, every_s=limiter.wait_s())
        limiter.task_began()
        assert limiter.wait_s() <= 5 * POLICY.base_s, count


def test_a_long_quiet_time_forgets_the_limit(limiter: RateLimiter, time: Time) -> None:
    full_at(limiter, time, 3)
    time.now += 10 * LONG_S
    accept(limiter, time, 5)
    assert limiter.concurrency.limit == math.inf


def test_a_job_counts_once_and_not_in_the_child_of_a_fork(limiter: RateLimiter) -> None:
    jobs = [Job(new_run(make_request("a fox"), unit_price_micros=350_000, sandbox=True)) for _ in range(2)]
    for job in jobs:
        job.task_began(limiter)
        job.task_began(limiter)
    assert limiter.concurrency.running == 2
    for _ in range(2):
        jobs[0].task_ended()
    jobs[0].end()
    assert limiter.concurrency.running == 1
    jobs[1].leave_to_parent()
    assert limiter.concurrency.running == 1


# --- a service with so many places ------------------------------------------------------------------


def crowd(rules: Rules, count: int, seed: int) -> tuple[float, Counts]:
    """Buys tasks of about 30 s: the time over the least that is possible, and what the service saw."""
    chance = random.Random(seed)
    lasts = [chance.uniform(20.0, 40.0) for _ in range(count)]
    took, service = [0.0], LimitedService(rules, 0.0)

    async def main() -> None:
        now = asyncio.get_running_loop().time
        limiter = RateLimiter(POLICY, Clock(now, now, chance.random))
        queue = FairQueue(limiter)
        limiter.wake = queue.admit

        async def submit(number: int) -> None:
            accepted, before = False, False
            while not accepted:
                with await queue.acquire(first=before) as slot:
                    before = True
                    accepted = not limiter.closed and await post(number, slot)

        async def post(number: int, slot: Slot) -> bool:
            slot.used = True
            permit = limiter.leave()
            sent_at = now()
            await asyncio.sleep(0.2)
            pause = service.refusal(now(), sent_at)
            if pause is not None:
                assert limiter.refused(permit, pause or None), "patience ended though tasks are running"
                return False
            heapq.heappush(service.ends, now() + lasts[number])
            limiter.accepted()
            limiter.task_began()
            await_end = lasts[number] + chance.uniform(0.0, 4.0)
            asyncio.get_running_loop().call_later(await_end, ended)
            return True

        def ended() -> None:
            limiter.task_ended()
            took.append(now())

        submits = [asyncio.ensure_future(submit(number)) for number in range(count)]
        while len(took) <= count:  # noqa: ASYNC110 - on this loop looking costs nothing
            await asyncio.sleep(0.5)
        await asyncio.gather(*submits)

    run_in_virtual_time(main())
    return took[-1] / bound(lasts, rules), service.counts


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("asked_s", [None, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("places", [5, 50])
def test_the_places_of_the_service_are_filled_and_none_is_sent_too_early(
    places: int, asked_s: float | None, seed: int
) -> None:
    over, counts = crowd(Rules(places, 10_000, retry_after_s=asked_s), 12 * places, seed)
    assert over < 1.35
    assert counts.refused < 12 * places
    assert counts.wasted == 0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("submits", "per_s"), [(10, 10.0), (2, 10.0), (30, 60.0)])
def test_a_limit_on_submits_in_a_time_is_not_taken_for_one_on_tasks_at_work(
    submits: int, per_s: float, seed: int
) -> None:
    over, counts = crowd(Rules(10_000, submits, per_s), 400, seed)
    assert over < 1.2
    assert counts.refused < 400 / 4
    assert counts.wasted == 0
