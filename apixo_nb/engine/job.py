"""A run in flight, as the one who waits for it sees it."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from apixo_nb.client.responses import TaskStatus
from apixo_nb.core import event_loop as loop
from apixo_nb.core.records import FAILED, SUBMITTING, SUCCESS, UNKNOWN, Run, expiry, utc_now
from apixo_nb.errors import (
    ApixoError,
    ResultError,
    RunCancelledError,
    SubmitUnknownError,
    TaskFailedError,
    remember,
)
from apixo_nb.text import printable

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
        # APIXO's pages do not say whether a failed task is charged; it is counted as free, and that is said.
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


class Counts(Protocol):
    """Whoever counts the tasks that are at work."""

    def begins(self) -> None:
        """One more."""

    def ends(self) -> None:
        """One less."""


class Job:
    """A run in flight. Wait for it with `wait`, or ``await`` it; both return the final `Run` or raise.

    Attributes
    ----------
    run : Run
        The latest record.
    said : str
        How it came about, where that is worth a line: shown again, taken up again.
    polls : int
        How often APIXO was asked about it here.
    submitting, posted, stopped : bool
        The runner's side: whether a POST may be on its way or about to leave, whether one may have left, and
        whether the user has had enough.
    give_up : callable or None
        The runner's side: ends what is going on for this job just now; called on the loop.
    ended : Future
        Done when all is written and nobody works on it any more.
    """

    def __init__(self, run: Run, said: str = "") -> None:
        self.run = run
        self.said = said
        self.answer: concurrent.futures.Future[Run] = concurrent.futures.Future()
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.give_up: Callable[[], object] | None = None
        self.polls = 0
        self.submitting = self.posted = False
        self.stopped = False
        self._counted: Counts | None = None

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
        loop.loop_thread().loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.done or self.stopped:
            return
        self.stopped = True
        if self.submitting:
            self.fail(stopped_error(self, "Stopped while the submit was on its way"))
        elif self.give_up is not None:
            self.give_up()

    def wait(self) -> Run:
        """Block until the run has ended. Stop (KeyboardInterrupt) cancels it and says how to resume.

        Raises
        ------
        ApixoError
            Why there are no pictures, or not all of them.
        """
        try:
            return loop.wait(self.answer)
        except KeyboardInterrupt as stop:
            self.stop()
            raise remember(stop, run_id=self.run.run_id, task_id=self.run.task_id) from None

    def stop(self) -> None:
        """`cancel`, and give the row a moment to say so."""
        stop_all([self])

    def __await__(self) -> Generator[Any, None, Run]:
        return self._awaited().__await__()

    async def _awaited(self) -> Run:
        try:
            # In short steps, not wrap_future: on an idle kernel loop nothing else would notice a Stop.
            while not self.answer.done():  # noqa: ASYNC110
                await asyncio.sleep(loop.TICK_S)
        except asyncio.CancelledError as cancelled:
            self.cancel()
            raise remember(cancelled, run_id=self.run.run_id, task_id=self.run.task_id) from None
        return self.answer.result()

    def succeed(self) -> None:
        """The runner's side: all is well and on disk."""
        if not self.answer.done():
            self.answer.set_result(self.run)

    def takes_place(self, counts: Counts) -> None:
        """The runner's side: its task is at work, and counts once."""
        if self._counted is None:
            self._counted = counts
            counts.begins()

    def leaves_place(self) -> None:
        """The runner's side: its task has ended, or is waited for no more."""
        counts, self._counted = self._counted, None
        if counts is not None:
            counts.ends()

    def end(self) -> None:
        """The runner's side: nothing more happens to it."""
        self.leaves_place()
        if not self.ended.done():
            self.ended.set_result(None)

    def fail(self, error: BaseException) -> None:
        """The runner's side: this is what `wait` raises. The first word stands."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def leave_to_parent(self) -> None:
        """The runner's side, in the child of a fork: the run goes on in the parent, and `wait` says so."""
        # New ones: the locks in the old ones may be held by a thread that is not here.
        self.answer, self.ended = concurrent.futures.Future(), concurrent.futures.Future()
        self.give_up, self.stopped, self._counted = None, True, None
        error = RunCancelledError(
            "It is in flight in the process that this one was forked from, and is not waited for here",
            run_id=self.run.run_id,
            task_id=self.run.task_id,
            at_stake_usd=self.run.price_micros / 1e6,
            next_step="It goes on there, and is paid for once. Wait for it there.",
        )
        self.fail(error)
        self.end()


def cancel_all(jobs: Sequence[Job]) -> None:
    """`Job.cancel` for several; in one go, so that the end of one makes no room for the next."""

    def cancel() -> None:
        for job in jobs:
            job._cancel()  # noqa: SLF001 - of this module

    loop.loop_thread().loop.call_soon_threadsafe(cancel)


def stop_all(jobs: Sequence[Job]) -> None:
    """Stop several jobs, and give their rows one moment together to say so."""
    cancel_all(jobs)
    concurrent.futures.wait([job.ended for job in jobs], timeout=_GRACE_S)


def stopped_error(job: Job, what: str) -> RunCancelledError:
    """The error of a run that was stopped; says what may have been paid."""
    run, price_usd = job.run, job.run.price_micros / 1e6
    if run.task_id is not None:
        return RunCancelledError(what, run_id=run.run_id, task_id=run.task_id, at_stake_usd=price_usd)
    if job.posted:
        step = "Its answer is still read and kept if it comes: see `%apixo history`. Nothing is sent again."
        return RunCancelledError(what, run_id=run.run_id, at_stake_usd=price_usd, next_step=step)
    return RunCancelledError(what, run_id=run.run_id, maybe_billed=False, next_step="Nothing was sent.")


def came_to_nothing(run: Run) -> ApixoError:
    """The error of a run that ended elsewhere without pictures, from its row."""
    said = ": ".join(text for text in (run.fail_code, printable(run.fail_msg)) if text)
    if run.state == FAILED and run.task_id:
        return TaskFailedError(f"The task failed: {said}", run_id=run.run_id, fail_code=run.fail_code)
    if run.state == UNKNOWN:
        price_usd = run.price_micros / 1e6
        return SubmitUnknownError(printable(run.fail_msg), run_id=run.run_id, at_stake_usd=price_usd)
    return ApixoError(f"Its submit came to nothing: {said or run.state}", run_id=run.run_id)


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
