"""Budgets of a session, and its balance beside what the ledger says."""

from __future__ import annotations

from .budget import DAY, TOTAL, Budget, notebook_scope
from .errors import ConfigurationError, InvalidRequestError
from .labels import check_number
from .session import Session
from .spend import balance_text


def budgets(session: Session) -> list[Budget]:
    """The caps that are set, with what counts against each."""
    return session.ledger.budgets(sandbox=session.is_sandbox)


def set_budget(session: Session, limit_usd: float | None, scope: str = TOTAL) -> None:
    """Cap what runs may cost; None takes the cap away. Kept in the ledger.

    Parameters
    ----------
    limit_usd : float or None
        US dollars. A run that would pass it, with all that is spent and at stake, is refused.
    scope : "total", "day" or "notebook"
        What counts: all runs, those since midnight, or those of this notebook.

    Raises
    ------
    InvalidRequestError
        No such sum or scope.
    ConfigurationError
        The front end does not tell which notebook this is.
    """
    check_number(limit_usd, "budget", "a sum in US dollars, 0 or more", 0.0)
    limit = None if limit_usd is None else round(limit_usd * 1_000_000)
    session.ledger.set_budget(_scope(session, scope), sandbox=session.is_sandbox, limit_micros=limit)


def _scope(session: Session, scope: str) -> str:
    if scope in (TOTAL, DAY):
        return scope
    if scope != "notebook":
        raise InvalidRequestError(
            f"Unknown budget {scope!r:.80}", field="scope", value=scope, allowed="total, day, notebook"
        )
    if not session.settings.notebook:
        step = "Set APIXO_NOTEBOOK or `%config Apixo.notebook`, or use a budget in total or for a day."
        raise ConfigurationError("This front end does not tell which notebook this is", next_step=step)
    return notebook_scope(session.settings.notebook)


def compare_balance(session: Session, usd: float) -> str:
    """What the balance did since it was last compared, beside what the ledger says; "" the first time."""
    before = session.ledger.see_balance(usd, sandbox=session.is_sandbox)
    since = session.ledger.since(before[0]) if before else []
    return balance_text(usd, before, [run for run in since if run.sandbox == session.is_sandbox])
