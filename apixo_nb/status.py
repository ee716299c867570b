"""What ``%apixo status`` and ``apixo-nb status`` say."""

from __future__ import annotations

from .session import Session
from .spend import count_text, spent_text


def status_lines(session: Session) -> list[str]:
    """Where requests go, with which key, what the ledger holds, what was spent; never the key itself."""
    runs = [run for run in session.ledger.runs() if run.sandbox == session.is_sandbox]
    sandbox = "SANDBOX, on this machine; nothing is paid"
    return [
        f"requests  {sandbox if session.is_sandbox else session.settings.base_url}",
        f"API key   {_key_text(session)}",
        f"ledger    {session.ledger.shown_place}",
        f"pictures  {session.images.folder}",
        f"runs      {count_text(runs)}",
        f"spent     {spent_text(runs)}",
    ]


def _key_text(session: Session) -> str:
    if session.settings.sandbox:
        return "none is needed"
    key = session.service.key
    return key.source if key else "none; try `%apixo login`"
