"""Runs in a cell: cards, galleries, comparisons, and live output that lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apixo_nb.core import lazy_names

if TYPE_CHECKING:
    from .cards import card, compared, plan_html
    from .live import Watch, wait

__all__ = [
    "Watch",
    "card",
    "compared",
    "plan_html",
    "wait",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "cards": ("card", "compared", "plan_html"),
        "live": ("Watch", "wait"),
    },
)
