"""What ``%apixo status`` and ``apixo-nb status`` say."""

from __future__ import annotations

from .session import Session
from .spend import count_text, spent_text


def status_lines(session: Session) -> list[str]:
    """Where requests go, with which key, what the ledger holds, what was spent; never the key itself."""
    everything = session.ledger.runs()
    runs = [run for run in everything if run.sandbox == session.is_sandbox]
    others = len(everything) - len(runs)
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
