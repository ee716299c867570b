"""A run in flight, as whoever waits for it or stops it sees it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol

from apixo_nb.client.responses import TaskStatus
from apixo_nb.core import event_loop
from apixo_nb.core.records import FAILED, PLANNED, SUBMITTING, SUCCESS, UNKNOWN, Run, expiry, utc_now
from apixo_nb.errors import (
    ApixoError,
    RateLimitError,
    ResultError,
    RunCancelledError,
    SubmitUnknownError,
    TaskFailedError,
    remember,
)
from apixo_nb.text import dollars, printable, to_usd

_MAX_RESULTS = 2  # result URLs taken, as a multiple of the pictures asked for


def outcome(run: Run, status: TaskStatus, waited_ms: int) -> dict[str, Any]:
    """The columns that change when a task has ended.

    Raises
    ------
    ResultError
        It was a success before, and is none now: what APIXO says of it later takes nothing back.
    """
    error = status.error()
    if run.state == SUCCESS and error is not None:
        raise ResultError(f"The pictures are gone: {error.message}", next_step="Their URLs are kept.")
    finished = run.finished_at or utc_now()
    facts: dict[str, Any] = {
        "cost_time_ms": status.cost_time_ms,
        "wait_ms": run.wait_ms or waited_ms,
        "finished_at": finished,
        "raw": status.raw,
    }
    if status.state == FAILED:
        # APIXO's pages do not say whether a failed task is charged; it counts as free, and users are told.
        return facts | {
            "state": FAILED,
            "fail_code": status.fail_code,
            "fail_msg": status.fail_msg,
            "cost_micros": 0,
        }
    return facts | {
        "state": SUCCESS,
        "result_urls": status.result_urls[: run.num_images * _MAX_RESULTS],
        "expires_at": run.expires_at or expiry(finished),
        "cost_micros": run.price_micros,
        "fail_msg": error.message if error else status.result_problem,
    }


def refusal(error: ApixoError) -> dict[str, Any]:
    """The columns of a run whose submit was refused: it cost nothing."""
    code = f"HTTP {error.status}" if error.status else type(error).__name__
    if error.status == 200:  # the body said no
        code = f"code {error.code}"
    return {
        "state": FAILED,
        "fail_code": code,
        "fail_msg": error.message,
        "cost_micros": 0,
        "finished_at": utc_now(),
    }


_GRACE_S = 0.2  # how long Stop waits for the row to say "cancelled" before it returns


class TaskCounter(Protocol):
    """Counts the tasks that are running at the service."""

    def task_began(self) -> None:
        """One more."""

    def task_ended(self) -> None:
        """One less."""


class Job:
    """A run in flight. Wait for it with `wait`, or ``await`` it; both return the final `Run` or raise.

    The runner carries every step to its end; a stop cuts off nothing but `stoppable` blocks.

    Attributes
    ----------
    run : Run
        The latest record.
    note : str
        How it came about, where that is worth a line: shown again, resumed.
    polls : int
        How often APIXO was asked about it here.
    begun, submitting, posted, stopped : bool
        Set by the runner: whether its coroutine has begun, whether a POST is on its way or about to leave,
        whether one may have left, and whether the user has stopped it.
    ended : Future
        Done when all is written and nothing works on it any more.
    """

    def __init__(self, run: Run, note: str = "") -> None:
        self.run = run
        self.note = note
        self.answer: concurrent.futures.Future[Run] = concurrent.futures.Future()
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.polls = 0
        self.begun = self.submitting = self.posted = False
        self.stopped = False
        self._stoppable: asyncio.Task[Any] | None = None
        self._counted_by: TaskCounter | None = None

    def __repr__(self) -> str:
        return f"<Job {self.run.run_id}: {self.run.state}{', ended' if self.done else ''}>"

    @property
    def done(self) -> bool:
        """Whether `wait` would return or raise at once."""
        return self.answer.done()

    def cancel(self) -> None:
        """Stop waiting. From any thread; returns at once.

        A POST that is on its way is not cut off: its answer is still read and kept; nothing is sent again.
        """
        event_loop.loop_thread().loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.done or self.stopped:
            return
        self.stopped = True
        if self.submitting:
            self.fail(stopped_error(self, "Stopped while the submit was on its way"))
        elif self._stoppable is not None:
            self._stoppable.cancel()

    @contextlib.contextmanager
    def stoppable(self, what: str) -> Iterator[None]:
        """Used by the runner: a block of its coroutine that a stop cuts off.

        Parameters
        ----------
        what : str
            The message of the error: what was going on.

        Raises
        ------
        RunCancelledError
            It was stopped, before the block or within it.
        """
        self.check_stopped(what)
        self._stoppable = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            self.check_stopped(what)
            raise  # the event loop ends
        finally:
            self._stoppable = None

    @contextlib.contextmanager
    def uninterrupted_submit(self) -> Iterator[None]:
        """Used by the runner: from the slot of a submit to its answer."""
        self.submitting = True
        try:
            yield
        finally:
            self.submitting = False

    def check_stopped(self, what: str) -> None:
        """Used by the runner: raise RunCancelledError with this message if it was stopped."""
        if self.stopped:
            raise stopped_error(self, what) from None

    def wait(self) -> Run:
        """Block until the run has ended. Stop (KeyboardInterrupt) cancels it and says how to resume.

        Raises
        ------
        ApixoError
            Why there are no pictures, or not all of them.
        """
        try:
            return event_loop.wait(self.answer)
        except KeyboardInterrupt as stop:
            self.stop()
            raise remember(stop, run_id=self.run.run_id, task_id=self.run.task_id) from None

    def stop(self) -> None:
        """`cancel`, and wait a moment until the row says so."""
        stop_all([self])

    def __await__(self) -> Generator[Any, None, Run]:
        return self._awaited().__await__()

    async def _awaited(self) -> Run:
        try:
            # In short steps, not wrap_future: on an idle kernel loop nothing else would notice a Stop.
            while not self.answer.done():  # noqa: ASYNC110
                await asyncio.sleep(event_loop.TICK_S)
        except asyncio.CancelledError as cancelled:
            self.cancel()
            raise remember(cancelled, run_id=self.run.run_id, task_id=self.run.task_id) from None
        return self.answer.result()

    def succeed(self) -> None:
        """Used by the runner: all is well and on disk."""
        if not self.answer.done():
            self.answer.set_result(self.run)

    def task_began(self, counter: TaskCounter) -> None:
        """Used by the runner: its task is running, and is counted once."""
        if self._counted_by is None:
            self._counted_by = counter
            counter.task_began()

    def task_ended(self) -> None:
        """Used by the runner: its task has ended, or is not waited for any more."""
        counter, self._counted_by = self._counted_by, None
        if counter is not None:
            counter.task_ended()

    def end(self) -> None:
        """Used by the runner: nothing more happens to it."""
        self.task_ended()
        if not self.ended.done():
            self.ended.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Used by the runner: this is what `wait` raises. The first error stands."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def complete(self, error: ApixoError) -> None:
        """Used by the runner: add to an error which run it is about, and what may have been paid."""
        error.run_id = error.run_id or self.run.run_id
        error.task_id = error.task_id or self.run.task_id
        if error.maybe_billed:  # the client knows the list price only
            error.at_stake_usd = to_usd(self.run.price_micros)

    @property
    def age_s(self) -> float:
        """Seconds since the task was made, by our own clock; 0 if that was set back since."""
        return max(0.0, (utc_now() - (self.run.submitted_at or self.run.created_at)).total_seconds())

    def leave_to_parent(self) -> None:
        """Used by the runner in the child of a fork: the run goes on in the parent, and `wait` says so."""
        # New ones: the locks in the old ones may be held by a thread that is not here.
        self.answer, self.ended = concurrent.futures.Future(), concurrent.futures.Future()
        self._stoppable, self.stopped, self._counted_by = None, True, None
        error = RunCancelledError(
            "It is in flight in the process that this one was forked from, and is not waited for here",
            run_id=self.run.run_id,
            task_id=self.run.task_id,
            at_stake_usd=to_usd(self.run.price_micros),
            next_step="It goes on there, and is paid for once. Wait for it there.",
        )
        self.fail(error)
        self.end()


def cancel_all(jobs: Sequence[Job]) -> None:
    """`Job.cancel` for several; in one step, so that the end of one makes no room for the next."""

    def cancel() -> None:
        for job in jobs:
            job._cancel()  # noqa: SLF001 - of this module

    event_loop.loop_thread().loop.call_soon_threadsafe(cancel)


def stop_all(jobs: Sequence[Job]) -> None:
    """Stop several jobs, and wait a moment until their rows say so."""
    cancel_all(jobs)
    concurrent.futures.wait([job.ended for job in jobs], timeout=_GRACE_S)


def wait_for_answers(jobs: Sequence[Job], limit_s: float) -> None:
    """At the end of a script: wait for the answers to submits that are on their way, and say so on stderr."""
    if left := _unanswered(jobs):
        many = f"{len(left)} submit{'' if len(left) == 1 else 's'}"
        _say(f"Waiting up to {limit_s:.0f} s for the answer to {many}; it is kept. Ctrl+C ends at once.")
        concurrent.futures.wait([job.ended for job in left], timeout=limit_s)


def say_unanswered(jobs: Sequence[Job]) -> None:
    """At the end of a script that waits no longer: say on stderr what may have been charged."""
    if left := _unanswered(jobs):
        price = dollars(sum(job.run.price_micros for job in left))
        _say(f"Ended without the answer: up to {price} may have been charged. See `apixo-nb resume`.")


def _unanswered(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if job.posted and job.run.task_id is None and not job.ended.done()]


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # there is no stderr any more
        sys.stderr.write(f"apixo_nb: {text}\n")
        sys.stderr.flush()


def stopped_error(job: Job, what: str) -> RunCancelledError:
    """The error of a run that was stopped; says what may have been paid."""
    run, price_usd = job.run, to_usd(job.run.price_micros)
    if run.task_id is not None:
        return RunCancelledError(what, run_id=run.run_id, task_id=run.task_id, at_stake_usd=price_usd)
    if job.posted:
        step = "Its answer is still read and kept if it comes: see `%apixo history`. Nothing is sent again."
        return RunCancelledError(what, run_id=run.run_id, at_stake_usd=price_usd, next_step=step)
    return RunCancelledError(what, run_id=run.run_id, maybe_billed=False, next_step="Nothing was sent.")


def as_others(problem: ApixoError) -> ApixoError:
    """The error of those that waited behind a refusal which does not clear."""
    error = type(problem)(f"Not sent, as others were turned away: {problem.message}")
    if isinstance(error, RateLimitError) and isinstance(problem, RateLimitError):
        error.retry_after_s = problem.retry_after_s
    return error


def failed_elsewhere(run: Run) -> ApixoError:
    """The error of a run that ended elsewhere without pictures, from its row."""
    reason = ": ".join(text for text in (run.fail_code, printable(run.fail_msg)) if text)
    if run.state == FAILED and run.task_id:
        return TaskFailedError(f"The task failed: {reason}", run_id=run.run_id, fail_code=run.fail_code)
    if run.state == UNKNOWN:
        price_usd = to_usd(run.price_micros)
        return SubmitUnknownError(printable(run.fail_msg), run_id=run.run_id, at_stake_usd=price_usd)
    return ApixoError(f"Its submit came to nothing: {reason or run.state}", run_id=run.run_id)


def cannot_resume(run: Run) -> ApixoError:
    """The error of a run that has no task to wait for, or has it elsewhere."""
    why = {
        UNKNOWN: "its submit's answer was lost, so no task is known",
        SUBMITTING: "its submit was not answered, so no task is known",
        FAILED: "its submit was refused, so there is no task",
    }.get(run.state, "no task was made for it")
    if run.task_id:
        why = f"its task was made {'in the sandbox' if run.sandbox else 'at APIXO'}; go there first"
    return ApixoError(f"It cannot be resumed: {why}", run_id=run.run_id)


def not_accepted(error: ApixoError) -> dict[str, Any]:
    """The columns of a run that was not submitted, was refused, or of which nobody knows whether it was."""
    if isinstance(error, RunCancelledError):
        return {"state": PLANNED}
    if isinstance(error, SubmitUnknownError):
        return {"state": UNKNOWN, "fail_msg": error.headline, "raw": error.answer}
    return refusal(error)
