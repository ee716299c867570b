"""Submits whose answer was lost: how a person who has looked at the account settles them."""

from __future__ import annotations

from . import loop
from .errors import InvalidRequestError
from .run import FAILED, UNKNOWN, Run
from .session import Session
from .text import printable


def adopt(session: Session, run_id: str, task_id: str) -> Run:
    """Give such a run the task that it became, as APIXO's console shows it; it can then be resumed.

    Raises
    ------
    InvalidRequestError
        The run is none of those.
    NotFoundError
        APIXO does not know the task.
    """
    run = _unanswered(session, run_id)
    taken = next((other for other in session.ledger.runs() if other.task_id == task_id), None)
    if taken is not None:
        text = f"Task {printable(task_id, 80)} is that of run {taken.run_id} already"
        raise InvalidRequestError(text, field="task_id", value=task_id)
    status = loop.run(session.client.status(task_id, model=run.model))
    session.ledger.keep_task(run_id, status.task_id, run.submitted_at or run.created_at)
    return session.run(run_id)


def settle(session: Session, run_id: str, *, paid: bool) -> Run:
    """Say how it ended: charged, or not. It then counts as that, and is no longer at stake.

    Raises
    ------
    InvalidRequestError
        The run is none of those.
    """
    run = _unanswered(session, run_id)
    said = f"Settled by hand: {'charged' if paid else 'not charged'}. {run.fail_msg}"
    if paid:
        session.ledger.update(run_id, fail_msg=said, cost_micros=run.price_micros)
    else:
        session.ledger.update(run_id, fail_msg=said, cost_micros=0, state=FAILED)
    return session.run(run_id)


def _unanswered(session: Session, run_id: str) -> Run:
    session.ledger.settle()
    run = session.run(run_id)
    if run.state != UNKNOWN:
        text = f"Run {run_id} is {printable(run.state, 40)}: its submit was answered"
        raise InvalidRequestError(text, field="run_id", value=run_id, allowed="a run that is unknown")
    return run
