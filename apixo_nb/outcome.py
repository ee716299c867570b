"""What the end of a task means for its row."""

from __future__ import annotations

from typing import Any

from .errors import ApixoError, ResultError
from .run import FAILED, SUCCESS, Run, expiry, utc_now
from .wire import TaskStatus

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
