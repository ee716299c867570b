"""Every run a row, in SQLite or PostgreSQL: written before money is spent, leased to a process, searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apixo_nb.core import lazy_names

if TYPE_CHECKING:
    from .budgets import Budget
    from .ledger import Ledger
    from .query import Facets, Found, Query, query_of
    from .unfinished import pending_line

__all__ = [
    "Budget",
    "Facets",
    "Found",
    "Ledger",
    "Query",
    "pending_line",
    "query_of",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "budgets": ("Budget",),
        "ledger": ("Ledger",),
        "query": ("Facets", "Found", "Query", "query_of"),
        "unfinished": ("pending_line",),
    },
)
