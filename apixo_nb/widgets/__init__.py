"""What one can click: the panel, the live grid, blind votes; the page is in ``static``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apixo_nb.core import lazy_names

if TYPE_CHECKING:
    from .panel import Panel
    from .review import Ballot, show_grid, vote

__all__ = [
    "Ballot",
    "Panel",
    "show_grid",
    "vote",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "panel": ("Panel",),
        "review": ("Ballot", "show_grid", "vote"),
    },
)
