"""The rate limiter learns from refusals how fast to submit, on a clock that only these tests move."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apixo_nb.client.protocol import Clock, RetryPolicy
from apixo_nb.engine.rate_limit import MOST_AT_ONCE, Permit, RateLimiter
from tests.support.rate_limits import LONG_S, Time, accept, leave, refuse

PROPERTY = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=300
)
POLICY = RetryPolicy()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def limiter(time: Time) -> RateLimiter:
    return RateLimiter(POLICY, time.clock)


# --- while all goes well -----------------------------------------------------------------------------


def test_without_a_refusal_nothing_is_held_back(limiter: RateLimiter, time: Time) -> None:
    accept(limiter, time, 500)
    assert (limiter.wait_s(), limiter.at_once, limiter.rate) == (0.0, MOST_AT_ONCE, math.inf)


def test_submits_that_leave_together_do_not_wait_for_each_other(limiter: RateLimiter) -> None:
    for _ in range(MOST_AT_ONCE):
        leave(limiter)
        assert limiter.wait_s() == 0.0


# --- less after a refusal, a little more after each acceptance ---------------------------------------


def test_a_refusal_leaves_half_the_rate_that_went_well(limiter: RateLimiter, time: Time) -> None:
    accept(limiter, time, 40, every_s=0.25)  # 4 a second
    refuse(limiter, time)
    assert limiter.rate == pytest.approx(2.0, rel=0.1)


def test_each_further_refusal_halves_the_rate_once_more_down_to_a_floor(
    limiter: RateLimiter, time: Time
) -> None:
    accept(limiter, time, 40, every_s=0.25)
    rates = []
    for _ in range(20):
        refuse(limiter, time)
        rates.append(limiter.rate)
    assert rates[1] <= rates[0] / 2
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] >= 0.01


def test_a_refusal_before_any_acceptance_starts_from_the_pace_of_the_policy(time: Time) -> None:
    limiter = RateLimiter(RetryPolicy(base_s=0.1), time.clock)
    refuse(limiter, time)
    assert limiter.rate == pytest.approx(5.0)


def test_a_refusal_halves_how_many_may_be_on_their_way(limiter: RateLimiter, time: Time) -> None:
    refuse(limiter, time)
    time.now += limiter.wait_s()
    accept(limiter, time, 1)  # the probe
    assert limiter.at_once == MOST_AT_ONCE // 2


def test_acceptances_add_a_little_rate_each_and_in_the_end_all_places(
    limiter: RateLimiter, time: Time
) -> None:
    refuse(limiter, time)
    low, steps = limiter.rate, []
    for _ in range(100):
        before = limiter.rate
        accept(limiter, time, 1, every_s=limiter.wait_s())
        steps.append(limiter.rate - before)
    assert steps == pytest.approx([low / 10] * 100)
    assert limiter.at_once == MOST_AT_ONCE


def test_a_finite_rate_spaces_the_submits(limiter: RateLimiter, time: Time) -> None:
    refuse(limiter, time)
    time.now += limiter.wait_s()
    leave(limiter)
    assert limiter.wait_s() == pytest.approx(1 / limiter.rate)
    time.now += limiter.wait_s()
    assert limiter.wait_s() == 0.0


def test_a_slot_that_nobody_used_is_the_next_ones(limiter: RateLimiter, time: Time) -> None:
    refuse(limiter, time)
    time.now += limiter.wait_s()
    limiter.reserve()
    assert limiter.wait_s() == pytest.approx(1 / limiter.rate)
    limiter.give_back()
    assert limiter.wait_s() == 0.0


def test_a_slot_that_nobody_used_ends_no_pause(limiter: RateLimiter) -> None:
    sent = leave(limiter)
    limiter.reserve()
    limiter.refused(sent, 30.0)
    limiter.give_back()
    assert limiter.wait_s() >= 30.0


# --- refusals of submits that were on their way together ---------------------------------------------


def test_refusals_together_count_once(time: Time) -> None:
    limiter = RateLimiter(RetryPolicy(attempts=2), time.clock)
    together = [leave(limiter) for _ in range(MOST_AT_ONCE)]
    rates = []
    for sent in together:
        time.now += 0.1
        assert limiter.refused(sent, None)
        rates.append(limiter.rate)
    assert len(set(rates)) == 1
    assert not refuse(limiter, time)  # this one left after them


def test_refusals_together_spend_the_patience_of_one(time: Time) -> None:
    limiter = RateLimiter(RetryPolicy(total_s=50.0), time.clock)
    together = [leave(limiter) for _ in range(MOST_AT_ONCE)]
    assert all(limiter.refused(sent, 30.0) for sent in together)


def test_an_acceptance_among_refusals_ends_the_row(time: Time) -> None:
    limiter = RateLimiter(RetryPolicy(attempts=2), time.clock)
    for _ in range(5):
        assert refuse(limiter, time)
        time.now += limiter.wait_s()
        accept(limiter, time, 1)


# --- pauses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.0, 0.999])
def test_a_pause_that_was_asked_for_holds_for_all(chance: float) -> None:
    time = Time(chance)
    limiter = RateLimiter(POLICY, time.clock)
    first, second = leave(limiter), leave(limiter)
    limiter.refused(first, 30.0)
    assert 30.0 <= limiter.wait_s() <= 30.0 + POLICY.base_s / 2
    limiter.refused(second, None)  # its own pause is shorter, and shortens nothing
    assert limiter.wait_s() >= 30.0


def test_an_acceptance_that_comes_late_does_not_end_a_pause_that_was_asked_for(limiter: RateLimiter) -> None:
    refused, _other = leave(limiter), leave(limiter)
    limiter.refused(refused, 30.0)
    limiter.accepted()
    assert limiter.wait_s() >= 30.0


def test_pauses_double_to_their_cap() -> None:
    time = Time(chance=1.0)
    limiter = RateLimiter(RetryPolicy(attempts=99, total_s=math.inf), time.clock)
    pauses = []
    for _ in range(8):
        sent = leave(limiter)
        time.now += 60.0  # longer than any gap of the rate, so that only the pause is left
        limiter.refused(sent, None)
        pauses.append(limiter.wait_s())
        time.now += limiter.wait_s()
    assert pauses == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0])


def test_after_a_refusal_one_at_a_time_finds_out(limiter: RateLimiter, time: Time) -> None:
    for _ in range(3):
        refuse(limiter, time)
        assert limiter.at_once == 1
    time.now += limiter.wait_s()
    accept(limiter, time, 1)
    assert limiter.at_once >= 1


def test_slow_down_halves_the_rate_and_makes_no_pause(limiter: RateLimiter, time: Time) -> None:
    accept(limiter, time, 40, every_s=0.25)
    limiter.slow_down()
    assert limiter.rate == pytest.approx(2.0, rel=0.1)
    assert (limiter.at_once, limiter.wait_s()) == (MOST_AT_ONCE // 2, 0.0)


# --- patience ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 6])
def test_patience_ends_with_the_attempts_of_the_policy(attempts: int) -> None:
    time = Time()
    limiter = RateLimiter(RetryPolicy(attempts=attempts), time.clock)
    assert [refuse(limiter, time) for _ in range(attempts)] == [True] * (attempts - 1) + [False]


def test_patience_ends_with_the_seconds_of_the_policy(time: Time) -> None:
    limiter = RateLimiter(RetryPolicy(total_s=120.0), time.clock)
    assert [refuse(limiter, time, 50.0) for _ in range(3)] == [True, True, False]


def test_a_pause_longer_than_all_patience_ends_it_at_once(limiter: RateLimiter, time: Time) -> None:
    assert not refuse(limiter, time, POLICY.total_s + 1.0)


def test_when_patience_is_over_one_more_refusal_is_enough(limiter: RateLimiter, time: Time) -> None:
    while refuse(limiter, time):
        pass
    assert limiter.at_once == 1
    assert not refuse(limiter, time)


def test_an_acceptance_brings_all_patience_back(limiter: RateLimiter, time: Time) -> None:
    while refuse(limiter, time):
        pass
    accept(limiter, time, 1)
    assert [refuse(limiter, time) for _ in range(POLICY.attempts)] == [True] * (POLICY.attempts - 1) + [False]


def test_a_long_quiet_time_is_a_new_beginning(limiter: RateLimiter, time: Time) -> None:
    while refuse(limiter, time):
        pass
    time.now += LONG_S
    assert refuse(limiter, time)


def test_a_long_quiet_time_forgets_the_old_pace(limiter: RateLimiter, time: Time) -> None:
    while refuse(limiter, time):
        pass
    time.now += 3600.0
    accept(limiter, time, 20)
    assert limiter.wait_s() == 0.0
    assert limiter.at_once == MOST_AT_ONCE


# --- whatever happens --------------------------------------------------------------------------------

SECONDS = st.floats(0, 200)
EVENTS = st.one_of(
    st.tuples(st.just("time"), SECONDS),
    st.tuples(st.just("leave"), st.none()),
    st.tuples(st.just("accepted"), st.none()),
    st.tuples(st.just("refused"), st.none() | st.floats(0.1, 500)),
    st.tuples(st.just("slow_down"), st.none()),
)
POLICIES = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 8),
    base_s=st.floats(0.01, 5),
    cap_s=st.floats(0.01, 60),
    total_s=st.floats(0, 300),
)


@dataclass
class Play:
    """A limiter, the submits on their way, and the latest moment that anybody was told to wait for."""

    limiter: RateLimiter
    time: Time
    flying: list[Permit] = field(default_factory=list)
    not_before: float = -math.inf

    def happens(self, event: str, value: Any) -> None:
        if event == "time":
            self.time.now += value
        elif event == "leave" and self.limiter.wait_s() == 0 and len(self.flying) < self.limiter.at_once:
            self.flying.append(leave(self.limiter))
        elif event == "accepted" and self.flying:
            self.flying.pop(0)
            self.limiter.accepted()
        elif event == "refused" and self.flying:
            self.limiter.refused(self.flying.pop(0), value)
            self.not_before = max(self.not_before, self.time.now + (value or 0.0))
        elif event == "slow_down":
            self.limiter.slow_down()


@PROPERTY
@given(st.lists(EVENTS, max_size=60), POLICIES, st.floats(0, 0.999))
def test_whatever_happens_the_gate_stays_within_its_bounds(
    events: list[tuple[str, Any]], policy: RetryPolicy, chance: float
) -> None:
    time = Time(chance)
    play = Play(RateLimiter(policy, time.clock), time)
    for event, value in events:
        play.happens(event, value)
        assert play.limiter.wait_s() >= 0
        assert 1 <= play.limiter.at_once <= MOST_AT_ONCE
        assert play.limiter.rate > 0
        assert time.now + play.limiter.wait_s() >= play.not_before - 1e-6


@PROPERTY
@given(st.lists(st.none() | st.floats(0.1, 60), min_size=8, max_size=8), POLICIES, st.floats(0, 0.999))
def test_refusals_without_an_end_use_up_the_patience(
    asked: list[float | None], policy: RetryPolicy, chance: float
) -> None:
    time = Time(chance)
    limiter = RateLimiter(policy, time.clock)
    tries = next(number for number, seconds in enumerate(asked, 1) if not refuse(limiter, time, seconds))
    assert tries <= policy.attempts
    assert all(not refuse(limiter, time, seconds) for seconds in asked)


# --- a service that takes so many a second -----------------------------------------------------------


class Service:
    """Takes `per_s` submits a second, with a bucket for one second's worth; answers after 0.2 s."""

    def __init__(self, per_s: float, time: Time):
        self._per_s, self._time = per_s, time
        self._left, self._looked_at = max(1.0, per_s), time.now

    def takes(self) -> bool:
        elapsed, self._looked_at = self._time.now - self._looked_at, self._time.now
        self._left = min(max(1.0, self._per_s), self._left + elapsed * self._per_s)
        self._left -= (taken := self._left >= 1.0)
        return taken


def crowd(per_s: float, count: int, seed: int) -> tuple[float, int]:
    """`count` submits at such a service: how many seconds that takes, and how many refusals."""
    chance, time = random.Random(seed), Time()
    limiter = RateLimiter(POLICY, Clock(monotonic=lambda: time.now, random=chance.random))
    service, in_line, refusals, started = Service(per_s, time), count, 0, time.now
    flying: list[tuple[float, Permit]] = []
    while in_line or flying:
        while in_line and len(flying) < limiter.at_once and limiter.wait_s() == 0:
            flying.append((time.now + 0.2, leave(limiter)))
            in_line -= 1
        may_leave = [time.now + limiter.wait_s()] if in_line and len(flying) < limiter.at_once else []
        time.now = min([at for at, _ in flying] + may_leave) + 1e-9
        for at, sent in [flight for flight in flying if flight[0] <= time.now]:
            flying.remove((at, sent))
            if service.takes():
                limiter.accepted()
            else:
                assert limiter.refused(sent, None), "patience ended though the service takes submits"
                in_line, refusals = in_line + 1, refusals + 1
    return time.now - started, refusals


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("per_s", [0.2, 1.0, 2.0, 10.0, 50.0])
def test_the_pace_of_the_service_is_found_with_few_refusals(per_s: float, seed: int) -> None:
    took_s, refusals = crowd(per_s, 200, seed)
    assert took_s < 2 * 200 / per_s
    assert refusals < 200 / 4
