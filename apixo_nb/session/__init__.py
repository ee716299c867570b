"""The facade: settings, key, client, ledger, pictures and engine made one; and what looks after them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apixo_nb.core import lazy_names

if TYPE_CHECKING:
    from .history import History
    from .replay import Decision
    from .session import Session, current, reset

__all__ = [
    "Decision",
    "History",
    "Session",
    "current",
    "reset",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "history": ("History",),
        "replay": ("Decision",),
        "session": ("Session", "current", "reset"),
    },
)
