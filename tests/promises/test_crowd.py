"""Many runs at once, over real HTTP: each is bought once, nobody starves, and a refusal is heeded by all."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import pytest

from apixo_nb import errors
from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core import settings
from apixo_nb.core.formatting import progress_text
from apixo_nb.core.models import fail_code
from apixo_nb.core.records import Run
from apixo_nb.core.request import make_request
from apixo_nb.engine.job import Job
from apixo_nb.engine.rate_limit import RateLimiter
from apixo_nb.ledger.leases import Leases
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.sandbox import Sandbox, SandboxOptions, handlers
from apixo_nb.sandbox.validation import RefusedError
from apixo_nb.session.session import Session
from tests.support.factories import KEY
from tests.support.fault_server import Exchange, FaultServer, Step, answer, message

PATIENCE_S = 100  # no test waits so long; one that would hang ends here
AT_ONCE = 8  # submits that may be at the server together
POLLS_AT_ONCE = 16


class Clock:
    """The sandbox's clock: real time, and whatever a test adds to it."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sandbox(clock: Clock) -> Iterator[Sandbox]:
    options = SandboxOptions(seconds=0.1, picture_scale=0.05, balance_usd=1000.0)
    with Sandbox(options, clock=clock) as running:
        yield running


@pytest.fixture
def make_session(sandbox: Sandbox, tmp_path: Any) -> Iterator[Callable[..., Session]]:
    """Sessions on one home, as of several kernels."""
    opened: list[Session] = []

    def make(retry: RetryPolicy | None = None, **traits: Any) -> Session:
        usual = {"base_url": sandbox.base_url, "home": str(tmp_path / "home")}
        pace = {"first_poll": 0.05, "poll_interval": 0.1}
        session = Session(settings.Apixo(**(usual | pace | traits)), key=KEY)
        session.client.retry = retry or RetryPolicy(attempts=4, base_s=0.02, cap_s=0.1)
        opened.append(session)
        return session

    yield make
    for session in opened:
        session.close()


@pytest.fixture
def session(make_session: Callable[..., Session]) -> Session:
    return make_session()


class Counter:
    """Stands in a handler of the sandbox: how many requests it saw, and how many of them at a time.

    While it is closed, requests stay inside. `before` may answer in place of the handler.
    """

    def __init__(self, handler: type, verb: str, monkeypatch: pytest.MonkeyPatch):
        self.seen = self.inside = self.most = 0
        self.takes_s = 0.005  # so that requests which come together are seen together
        self.before: Callable[[Any], None] = lambda _handler: None
        self._open = True
        self._changed = threading.Condition()
        original = getattr(handler, verb)

        async def counted(request: Any, *arguments: str) -> None:
            self._enter()
            try:
                await asyncio.sleep(self.takes_s)
                while not self._open:  # noqa: ASYNC110 - what would set an event is on another thread
                    await asyncio.sleep(0.01)
                self.before(request)
                answered = original(request, *arguments)
                if answered is not None:
                    await answered
            finally:
                self.inside -= 1

        monkeypatch.setattr(handler, verb, counted)

    def _enter(self) -> None:
        with self._changed:
            self.seen += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
            self._changed.notify_all()

    def close(self) -> None:
        """Keep inside whoever comes."""
        self._open = False

    def open(self) -> None:
        self._open = True

    def arrived(self, count: int) -> None:
        """Wait until it has seen so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen >= count, PATIENCE_S)


@pytest.fixture
def submits(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:  # noqa: ARG001 - opened before it stops
    counter = Counter(handlers.SubmitHandler, "post", monkeypatch)
    yield counter
    counter.open()


@pytest.fixture
def polls(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:  # noqa: ARG001 - as above
    counter = Counter(handlers.StatusHandler, "get", monkeypatch)
    yield counter
    counter.open()


@pytest.fixture
def pictures(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:  # noqa: ARG001 - as above
    counter = Counter(handlers.PictureHandler, "get", monkeypatch)
    yield counter
    counter.open()


def begin(session: Session, count: int, prompt: str = "a fox", **options: Any) -> list[Job]:
    """So many runs at once, of one cell."""
    batch = object()
    return [
        session.start(session.plan(make_request(f"{prompt} {number}")), batch=batch, **options)
        for number in range(count)
    ]


def until(condition: Callable[[], object]) -> None:
    """Wait for something to be so."""
    patience = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < patience, "it never came about"
        time.sleep(0.01)


def ends(jobs: Sequence[Job]) -> list[Run | BaseException]:
    """Every job's run or error, once nothing happens to any of them any more."""
    for job in jobs:
        job.ended.result(timeout=PATIENCE_S)
    return [job.answer.exception() or job.answer.result() for job in jobs]


def kinds(outcomes: Sequence[object]) -> dict[str, int]:
    """How many of each kind; of a ledger's error, which nobody expects here, also what it says."""
    names = [
        str(outcome) if isinstance(outcome, errors.LedgerError) else type(outcome).__name__
        for outcome in outcomes
    ]
    return {name: names.count(name) for name in sorted(set(names))}


def rows(session: Session) -> list[tuple[str, str | None, int | None]]:
    """State, task and cost (micro-dollars) of every row, as another program sees them in the file."""
    with contextlib.closing(sqlite3.connect(session.ledger_file())) as connection:
        return connection.execute("SELECT state, task_id, cost_micros FROM runs").fetchall()


def assert_paid_is_kept(session: Session, sandbox: Sandbox) -> None:
    """Each accepted task has one row, and no row has a task that was never accepted."""
    tasks = [task_id for _, task_id, _ in rows(session) if task_id]
    assert sorted(tasks) == sorted(sandbox.account.accepted)


def assert_all_is_on_disk(session: Session, sandbox: Sandbox) -> None:
    """Account and ledger agree to the cent, and every picture is there."""
    assert_paid_is_kept(session, sandbox)
    assert {state for state, _, _ in rows(session)} == {"success"}
    spent = round(sandbox.options.balance_usd * 1e6) - sandbox.account.balance_micros
    assert sum(cost or 0 for _, _, cost in rows(session)) == spent
    for run in session.runs():
        assert run.missing == 0
        assert all(session.images.path(image).stat().st_size == image.bytes for image in run.images)


# --- three hundred -----------------------------------------------------------------------------------


def test_300_runs_at_once_are_bought_once_each_and_need_at_most_two_tasks_a_run_and_no_300_threads(
    session: Session, sandbox: Sandbox, clock: Clock, submits: Counter, polls: Counter
) -> None:
    most_tasks, most_threads, threads_before = [0], [0], threading.active_count()

    def measure(_run: Run) -> None:  # on the loop thread
        most_tasks[0] = max(most_tasks[0], len(asyncio.all_tasks()))
        most_threads[0] = max(most_threads[0], threading.active_count())

    session.listen(measure)
    submits.close()
    jobs = begin(session, 300, "[seconds:1000] a fox")
    submits.arrived(AT_ONCE)
    for _ in range(20):  # while these go there and back, a ninth submit would have come too
        session.balance()
    assert submits.inside == AT_ONCE
    submits.open()
    until(lambda: len(sandbox.account.accepted) == 300)  # all 300 wait now
    clock.ahead_s += 1000
    assert kinds(ends(jobs)) == {"Run": 300}
    assert (sandbox.account.submits, len(set(sandbox.account.accepted))) == (300, 300)
    assert_all_is_on_disk(session, sandbox)
    assert 1 < submits.most <= AT_ONCE
    assert 1 < polls.most <= POLLS_AT_ONCE
    assert most_tasks[0] <= 2 * 300
    assert most_threads[0] - threads_before < 30


# --- a service that takes only so many a second --------------------------------------------------------


class RateLimit:
    """Takes a first `bucket` of submits, and from then on `per_s` a second; refuses the others with 429.

    Its diary tells what happened.
    """

    def __init__(self, bucket: int, per_s: float):
        self._left, self._bucket, self._per_s = float(bucket), bucket, per_s
        self._looked_at: float | None = None  # it refills from its first refusal on, however slow the machine
        self.diary: list[str] = []

    def __call__(self, _handler: Any) -> None:
        now = time.monotonic()
        if self._looked_at is not None:
            self._left = min(self._bucket, self._left + (now - self._looked_at) * self._per_s)
        if self._left < 1 or self._looked_at is not None:
            self._looked_at = now
        if self._left < 1:
            self.diary.append("refused")
            raise RefusedError(429)
        self._left -= 1
        self.diary.append("accepted")


def test_a_storm_of_429_costs_few_refusals_and_does_not_hold_up_those_who_wait(
    make_session: Callable[..., Session], sandbox: Sandbox, submits: Counter
) -> None:
    session = make_session(RetryPolicy(attempts=8, base_s=0.05, cap_s=0.5))
    limit = RateLimit(bucket=20, per_s=20.0)
    submits.before = limit
    session.listen(lambda run: limit.diary.append("success") if run.missing == 0 and run.files else None)
    assert kinds(ends(begin(session, 60))) == {"Run": 60}
    assert_all_is_on_disk(session, sandbox)
    assert limit.diary.count("accepted") == len(sandbox.account.accepted) == 60
    assert 0 < limit.diary.count("refused") < 60
    last = max(index for index, word in enumerate(limit.diary) if word == "accepted")
    assert limit.diary[:last].count("success") >= 15


def test_refusals_that_never_clear_end_all_runs_after_a_few_posts_and_cost_nothing(
    make_session: Callable[..., Session], sandbox: Sandbox, submits: Counter
) -> None:
    policy = RetryPolicy(attempts=4, base_s=0.02, cap_s=0.05)
    session = make_session(policy)
    submits.before = refuse
    outcomes = ends(begin(session, 60))
    posts = sandbox.account.submits
    assert kinds(outcomes) == {"RateLimitError": 60}
    assert policy.attempts <= posts <= policy.attempts + AT_ONCE
    assert not any(getattr(error, "maybe_billed", True) for error in outcomes)
    written = rows(session)
    assert {(state, task_id, cost) for state, task_id, cost in written} == {("failed", None, 0)}
    unsent = [error for error in outcomes if "Not sent" in str(error)]
    assert any(f"{len(unsent)} more were not sent" in str(error) for error in outcomes)
    assert (session.resume(), session.lost()) == ([], [])
    # Pressing again while it lasts is one probe, however many were asked for.
    assert kinds(ends(begin(session, 20))) == {"RateLimitError": 20}
    assert sandbox.account.submits == posts + 1
    submits.before = lambda _handler: None
    assert kinds(ends(begin(session, 3))) == {"Run": 3}
    assert_paid_is_kept(session, sandbox)


def refuse(_handler: Any, status: int = 429, retry_after_s: int | None = None) -> None:
    raise RefusedError(status, retry_after_s=retry_after_s)


def test_a_pause_that_the_service_asks_for_is_kept_by_all(make_session: Callable[..., Session]) -> None:
    told_at: list[float] = []

    def together(exchange: Exchange) -> None:
        exchange.server.arrived("submit", AT_ONCE)
        told_at.append(time.monotonic())
        exchange.send(message(429, {"code": 429}, Retry_After="0.7"))

    with FaultServer() as server:
        server.script("submit", *[Step(together)] * AT_ONCE)
        session = make_session(base_url=server.base_url)
        assert kinds(ends(begin(session, 30))) == {"Run": 30}
        came_at = [received.at for received in server.seen("submit")]
        assert len(came_at) == 30 + AT_ONCE
        assert all(at >= max(told_at) + 0.7 for at in came_at[AT_ONCE:])
        session.close()


def test_who_was_at_its_turn_when_another_was_refused_keeps_the_pause_as_well(
    make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, original, learn = threading.Event(), Leases.begin_submit, RateLimiter.refused
    told_at: list[float] = []
    begun: list[str] = []

    def slowly(leases: Leases, run_id: str) -> datetime:
        begun.append(run_id)
        if len(begun) == 2:  # the other one
            refused.wait(PATIENCE_S)
        return original(leases, run_id)

    def refuses(exchange: Exchange) -> None:
        told_at.append(time.monotonic())
        exchange.send(message(429, {"code": 429}, Retry_After="0.7"))

    def learns(limiter: RateLimiter, *arguments: Any, **options: Any) -> bool:
        again = learn(limiter, *arguments, **options)
        refused.set()  # only now the last question before the POST of the other one is answered
        return again

    monkeypatch.setattr(Leases, "begin_submit", slowly)
    monkeypatch.setattr(RateLimiter, "refused", learns)
    with FaultServer() as server:
        server.script("submit", Step(refuses))
        session = make_session(base_url=server.base_url)
        assert kinds(ends(begin(session, 2))) == {"Run": 2}
        came_at = [received.at for received in server.seen("submit")]
        assert len(came_at) == 3
        assert all(at >= told_at[0] + 0.7 for at in came_at[1:])
        session.close()


def test_who_presses_again_during_a_pause_of_an_hour_is_told_at_once_and_nothing_is_sent(
    make_session: Callable[..., Session],
) -> None:
    with FaultServer() as server:
        server.always("submit", answer(429, {"code": 429}, Retry_After="3600"))
        session = make_session(base_url=server.base_url)
        posts = []
        for _ in range(2):
            jobs = begin(session, 3)
            until(lambda: all(job.done for job in jobs))  # noqa: B023 - it is over before the next turn
            assert kinds(ends(jobs)) == {"RateLimitError": 3}
            assert any(re.search(r"wait \d{4} s", str(error)) for error in ends(jobs))
            posts.append(server.posts)
        assert 1 <= posts[0] <= 3
        assert posts[1] == posts[0]
        session.close()


def test_a_task_that_failed_for_being_one_too_many_slows_the_submits_and_is_not_bought_again(
    session: Session, sandbox: Sandbox
) -> None:
    assert fail_code("RateLimited").category == "rate"
    limiter = session.runner.rate_limiter
    [outcome] = ends(begin(session, 1, "[fail:Timeout] a fox"))
    assert limiter.rate == float("inf")
    [outcome] = ends(begin(session, 1, "[fail:RateLimited] a fox"))
    assert type(outcome) is errors.TaskFailedError
    assert limiter.rate < float("inf")
    assert sandbox.account.submits == 2


# --- fair --------------------------------------------------------------------------------------------


def test_a_single_run_begun_after_a_batch_of_200_does_not_wait_for_all_of_them(
    session: Session, sandbox: Sandbox, submits: Counter
) -> None:
    submits.close()
    begin(session, 200, "[never] a fox")
    submits.arrived(AT_ONCE)
    [single] = begin(session, 1, "a single cat")
    submits.open()
    assert single.answer.result(timeout=PATIENCE_S).missing == 0
    position = sandbox.account.accepted.index(str(single.run.task_id))
    assert position < 3 * AT_ONCE


def test_runs_that_another_kernel_is_buying_do_not_stand_in_the_way_of_those_to_be_bought(
    make_session: Callable[..., Session], sandbox: Sandbox
) -> None:
    first, second = make_session(), make_session()
    same = [make_request(f"[never] a fox {number}") for number in range(2 * AT_ONCE)]
    [theirs, ours] = [kernel.decide([kernel.plan(request) for request in same]) for kernel in (first, second)]
    for decision in theirs:
        first.carry_out(decision)
    until(lambda: len(sandbox.account.accepted) == len(same))
    batch = object()
    for decision in ours:
        second.carry_out(decision, batch=batch)
    [own] = begin(second, 1, "a cat")
    assert own.answer.result(timeout=10).missing == 0
    assert len(sandbox.account.accepted) == len(same) + 1


# --- Stop --------------------------------------------------------------------------------------------


def cancel(jobs: Sequence[Job]) -> list[Run | BaseException]:
    for job in jobs:
        job.cancel()
    return ends(jobs)


def test_stop_in_line_sends_nothing_more_and_leaves_no_row(
    session: Session, sandbox: Sandbox, submits: Counter
) -> None:
    submits.close()
    jobs = begin(session, 50)
    submits.arrived(AT_ONCE)
    for job in jobs:
        job.cancel()
    until(lambda: all(job.done for job in jobs))  # though eight submits have no answer yet
    submits.open()
    outcomes = ends(jobs)
    assert kinds(outcomes) == {"RunCancelledError": 50}
    assert sum(bool(getattr(error, "maybe_billed", None)) for error in outcomes) == AT_ONCE
    assert sandbox.account.submits == AT_ONCE
    assert [state for state, _, _ in rows(session)] == ["cancelled"] * AT_ONCE
    assert_paid_is_kept(session, sandbox)
    assert kinds(ends(session.resume())) == {"Run": AT_ONCE}
    assert sandbox.account.submits == AT_ONCE


def test_stop_of_one_in_line_takes_only_that_one_out(
    session: Session, sandbox: Sandbox, submits: Counter
) -> None:
    submits.close()
    jobs = begin(session, 30)
    submits.arrived(AT_ONCE)
    [stopped] = cancel([jobs[20]])
    submits.open()
    assert kinds(ends(jobs)) == {"Run": 29, "RunCancelledError": 1}
    assert not getattr(stopped, "maybe_billed", True)
    prompts = {task.prompt for task in sandbox.account.tasks.values()}
    assert (sandbox.account.submits, "a fox 20" in prompts) == (29, False)
    assert_all_is_on_disk(session, sandbox)


def test_stop_after_refusals_leaves_those_that_were_refused_planned(
    session: Session, sandbox: Sandbox, submits: Counter
) -> None:
    submits.close()
    submits.before = functools.partial(refuse, retry_after_s=60)
    jobs = begin(session, 30)
    submits.arrived(AT_ONCE)
    submits.open()
    until(lambda: not any(job.submitting for job in jobs))  # all in line again, for a minute
    outcomes = cancel(jobs)
    assert kinds(outcomes) == {"RunCancelledError": 30}
    assert not any(getattr(error, "maybe_billed", True) for error in outcomes)
    assert [(state, task_id) for state, task_id, _ in rows(session)] == [("planned", None)] * AT_ONCE
    assert sandbox.account.submits == AT_ONCE
    assert (session.resume(), session.lost()) == ([], [])


def test_stop_while_they_wait_keeps_every_task(
    session: Session, sandbox: Sandbox, clock: Clock, polls: Counter
) -> None:
    jobs = begin(session, 60, "[seconds:1000] a fox")
    until(lambda: len(sandbox.account.accepted) == 60)
    polls.arrived(60)
    outcomes = cancel(jobs)
    assert kinds(outcomes) == {"RunCancelledError": 60}
    assert all(getattr(error, "maybe_billed", False) for error in outcomes)
    assert [state for state, _, _ in rows(session)] == ["cancelled"] * 60
    assert_paid_is_kept(session, sandbox)
    until(lambda: polls.inside == 0)
    asked = polls.seen
    clock.ahead_s += 1000
    assert polls.seen == asked
    assert kinds(ends(session.resume())) == {"Run": 60}
    assert sandbox.account.submits == 60
    assert_all_is_on_disk(session, sandbox)


def test_stop_at_any_moment_leaves_each_accepted_task_cancelled_or_done(
    session: Session, sandbox: Sandbox
) -> None:
    jobs = begin(session, 80)
    until(lambda: len(sandbox.account.accepted) >= 30)
    outcomes = cancel(jobs)
    posts = sandbox.account.submits
    assert set(kinds(outcomes)) <= {"Run", "RunCancelledError"}
    assert_paid_is_kept(session, sandbox)
    assert {state for state, _, _ in rows(session)} <= {"success", "cancelled", "planned"}
    assert set(kinds(ends(session.resume()))) <= {"Run"}
    assert sandbox.account.submits == posts == len(sandbox.account.accepted)
    assert all(state == "success" for state, task_id, _ in rows(session) if task_id)


def test_stop_in_line_for_the_download_keeps_the_success_and_its_addresses(
    session: Session, sandbox: Sandbox, pictures: Counter
) -> None:
    pictures.close()
    jobs = begin(session, 30)
    pictures.arrived(1)
    until(lambda: len(sandbox.account.accepted) == 30)
    outcomes = cancel(jobs)
    assert kinds(outcomes) == {"RunCancelledError": 30}
    asked = pictures.seen
    assert asked < 30
    pictures.open()
    assert_paid_is_kept(session, sandbox)
    assert {state for state, _, _ in rows(session)} <= {"success", "cancelled"}
    assert kinds(ends(session.resume())) == {"Run": 30}
    assert sandbox.account.submits == 30
    assert_all_is_on_disk(session, sandbox)


@contextlib.contextmanager
def held(kind: type, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Calls of a method wait until the block has ended; the event says that one has come."""
    original, came, go = getattr(kind, name), threading.Event(), threading.Event()

    def waiting(*arguments: Any, **options: Any) -> Any:
        came.set()
        assert go.wait(PATIENCE_S)
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(kind, name, waiting)
        try:
            yield came
        finally:
            go.set()


class Slots:
    """How often slots were reserved, given back and used, on a rate limiter that also keeps them apart."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch):
        self.runner = session.runner
        self.calls = dict.fromkeys(("reserve", "give_back", "leave"), 0)
        for name in self.calls:
            original = getattr(self.runner.rate_limiter, name)
            monkeypatch.setattr(
                self.runner.rate_limiter, name, functools.partial(self._counted, name, original)
            )
        self.runner.rate_limiter.slow_down()

    def _counted(self, name: str, original: Callable[[], Any]) -> Any:
        self.calls[name] += 1
        return original()

    def stop(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.cancel()
        until(lambda: all(job.stopped or job.done for job in jobs))

    def assert_all_are_back(self, jobs: Sequence[Job]) -> None:
        assert set(kinds(ends(jobs))) <= {"Run", "RunCancelledError"}
        assert self.calls["reserve"] == self.calls["leave"] + self.calls["give_back"]
        assert self.runner.rate_limiter.concurrency.running == 0
        queues = (self.runner._submits, self.runner._downloads)
        assert [(len(queue), queue.in_use) for queue in queues] == [(0, 0)] * 2


def test_runs_stopped_while_rows_are_written_give_their_slots_back(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots(session, monkeypatch)
    with held(Ledger, "add", monkeypatch) as came:
        jobs = begin(session, 12)
        assert came.wait(PATIENCE_S)
        slots.stop(jobs)
    slots.assert_all_are_back(jobs)
    assert slots.calls["give_back"] > 0
    assert sandbox.account.submits == 0


def test_runs_stopped_while_posts_are_on_their_way_give_their_slots_back(
    session: Session, sandbox: Sandbox, submits: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots(session, monkeypatch)
    submits.close()
    jobs = begin(session, 12)
    submits.arrived(1)
    slots.stop(jobs)
    submits.open()
    slots.assert_all_are_back(jobs)
    assert slots.calls["leave"] == sandbox.account.submits == len(sandbox.account.accepted) > 0
    assert_paid_is_kept(session, sandbox)


def test_runs_stopped_while_they_wait_give_their_slots_back(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots(session, monkeypatch)
    jobs = begin(session, 12, "[never] a fox")
    until(lambda: len(sandbox.account.accepted) == 12)
    slots.stop(jobs)
    slots.assert_all_are_back(jobs)
    assert_paid_is_kept(session, sandbox)


def test_runs_stopped_while_pictures_come_give_their_slots_back(
    session: Session, sandbox: Sandbox, pictures: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots(session, monkeypatch)
    pictures.close()
    jobs = begin(session, 12)
    pictures.arrived(1)
    slots.stop(jobs)
    pictures.open()
    slots.assert_all_are_back(jobs)
    assert_paid_is_kept(session, sandbox)
    assert kinds(ends(begin(session, 1, "a cat"))) == {"Run": 1}


def test_stop_between_the_acceptance_and_the_first_wait_leaves_the_row_cancelled(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(Ledger, "durations_s", monkeypatch) as came:
        [job] = begin(session, 1, "[never] a fox")
        assert came.wait(PATIENCE_S)
        job.cancel()
        until(lambda: job.stopped)
    assert kinds(ends([job])) == {"RunCancelledError": 1}
    assert rows(session) == [("cancelled", sandbox.account.accepted[0], None)]


def test_stop_while_another_kernel_turns_out_to_be_quicker_leaves_the_run_to_it(
    make_session: Callable[..., Session], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_session(), make_session()
    request = make_request("[never] a fox")
    [[theirs], [ours]] = [kernel.decide([kernel.plan(request)]) for kernel in (first, second)]
    first.carry_out(theirs)
    until(lambda: len(sandbox.account.accepted) == 1)
    claimed, original = [], Leases.claim

    def claim(leases: Leases, run_id: str) -> Run | None:
        claimed.append(run_id)
        return original(leases, run_id)

    monkeypatch.setattr(Leases, "claim", claim)
    with held(Ledger, "add", monkeypatch) as came:
        job = second.carry_out(ours, timeout_s=2.0)
        assert came.wait(PATIENCE_S)
        job.cancel()
        until(lambda: job.stopped)
    assert kinds(ends([job])) == {"RunCancelledError": 1}
    assert claimed == []
    assert [state for state, _, _ in rows(first)] != ["cancelled"]
    assert sandbox.account.submits == 1


# --- a network that goes, and comes back -------------------------------------------------------------


def test_network_that_goes_while_50_are_in_line_ends_them_unsent_and_only_the_eight_are_unknown(
    session: Session, sandbox: Sandbox, submits: Counter
) -> None:
    submits.close()
    jobs = begin(session, 50 + AT_ONCE)
    submits.arrived(AT_ONCE)
    sandbox.stop()
    outcomes = ends(jobs)
    assert kinds(outcomes) == {"APIConnectionError": 50, "SubmitUnknownError": AT_ONCE}
    unsent = [error for error in outcomes if isinstance(error, errors.APIConnectionError)]
    assert not any(error.maybe_billed for error in unsent)
    assert all("not sent" in str(error).casefold() for error in unsent)
    assert sandbox.account.accepted == []
    assert sorted({(state, cost) for state, _, cost in rows(session)}, key=str) == [
        ("failed", 0),
        ("unknown", None),
    ]
    assert sum(run.state == "unknown" for run in session.runs()) == AT_ONCE


def test_service_that_is_gone_for_a_while_is_asked_seldom_and_all_100_end_well_after(
    make_session: Callable[..., Session], sandbox: Sandbox, clock: Clock, polls: Counter
) -> None:
    probe_s = 0.1
    session = make_session(poll_interval=probe_s)
    jobs = begin(session, 100, "[seconds:1000] a fox")
    until(lambda: len(sandbox.account.accepted) == 100)

    polls.before = functools.partial(refuse, status=503)
    before, since = polls.seen, time.monotonic()
    polls.arrived(before + 40)  # who would not hold back would send so many in no time
    came, elapsed = polls.seen - before, time.monotonic() - since
    assert came <= 2 * AT_ONCE + 4 + elapsed / probe_s + 1
    polls.before = lambda _handler: None
    clock.ahead_s += 1000
    assert kinds(ends(jobs)) == {"Run": 100}
    assert sandbox.account.submits == 100
    assert_all_is_on_disk(session, sandbox)


# --- the pace that is learned ------------------------------------------------------------------------


def test_after_ten_runs_the_session_knows_how_long_the_next_one_takes_and_says_so(
    session: Session, make_session: Callable[..., Session]
) -> None:
    planned = session.plan(make_request("a fox"))
    assert session.cadence_of(planned).slow_s is None
    ends(begin(session, 10))
    took = sorted((run.cost_time_ms or 0) / 1000 for run in session.runs())
    learned = make_session().cadence_of(planned)  # of a kernel that starts now
    assert (learned.expected_s, learned.slow_s) == (took[5], took[9])
    pair = session.plan(make_request("a fox", num_images=2))
    assert make_session().cadence_of(pair).slow_s is None  # two pictures are another kind of task


def test_progress_says_what_is_usual_once_that_is_known(session: Session) -> None:
    planned = session.plan(make_request("a fox")).replace(state="processing")
    advised = session.cadence_of(planned)
    assert "usually about 30 s" in progress_text(planned, 1.0, advised)
    learned = advised.learned([20.0, 22.0, 24.0, 26.0, 28.0, 31.0, 32.0, 34.0, 36.0, 80.0])
    assert "usually 31 s, 9 of 10 under 80 s" in progress_text(planned, 1.0, learned)
