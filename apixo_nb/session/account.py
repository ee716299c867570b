"""The account: where requests go, with which key, what was spent, what may be spent, and the balance."""

from __future__ import annotations

from apixo_nb.core import checks
from apixo_nb.core.spending import balance_text, count_text, spent_text
from apixo_nb.errors import ConfigurationError, InvalidRequestError
from apixo_nb.ledger.budgets import DAY, TOTAL, Budget, notebook_scope
from apixo_nb.ledger.query import Query
from apixo_nb.text import to_micros

from .session import Session


def status_lines(session: Session) -> list[str]:
    """Where requests go, with which key, what the ledger holds, what was spent; never the key itself."""
    runs = session.runs()
    others = session.ledger.find(Query(sandbox=not session.is_sandbox, limit=0)).total
    beside = f" (and {others} {'of APIXO' if session.is_sandbox else 'of the sandbox, not paid'})"
    sandbox = "SANDBOX, on this machine; nothing is paid"
    return [
        f"requests  {sandbox if session.is_sandbox else session.settings.base_url}",
        f"API key   {_key_text(session)}",
        f"ledger    {session.ledger.shown_place}",
        f"pictures  {session.images.folder}",
        f"runs      {count_text(runs)}{beside if others else ''}",
        f"spent     {spent_text(runs)}",
    ]


def _key_text(session: Session) -> str:
    if session.settings.sandbox:
        return "none is needed"
    key = session.service.key
    return key.source if key else "none; try `%apixo login`"


def budgets(session: Session) -> list[Budget]:
    """The budgets that are set, with what counts against each."""
    return session.ledger.budgets(sandbox=session.is_sandbox)


def set_budget(session: Session, limit_usd: float | None, scope: str = TOTAL) -> None:
    """Limit what runs may cost; None takes the budget away. Kept in the ledger.

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
    checks.number(limit_usd, "budget", "a sum in US dollars, 0 or more", 0.0)
    limit = None if limit_usd is None else to_micros(limit_usd)
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
    before = session.ledger.record_balance(usd, sandbox=session.is_sandbox)
    since = session.ledger.since(before[0], sandbox=session.is_sandbox) if before else []
    return balance_text(usd, before, since)
