"""Many runs at once: templates and lists, sweeps, grids, ratings, and ``df.apixo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apixo_nb.core import lazy_names

if TYPE_CHECKING:
    from .accessor import Table, register
    from .cell_options import Options
    from .plan import make_plan
    from .prompts import Template, fill, split_prompts
    from .review import Grid, compare, contact_sheet, grid, rate
    from .sweep import Sweep

__all__ = [
    "Grid",
    "Options",
    "Sweep",
    "Table",
    "Template",
    "compare",
    "contact_sheet",
    "fill",
    "grid",
    "make_plan",
    "rate",
    "register",
    "split_prompts",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "accessor": ("Table", "register"),
        "cell_options": ("Options",),
        "plan": ("make_plan",),
        "prompts": ("Template", "fill", "split_prompts"),
        "review": ("Grid", "compare", "contact_sheet", "grid", "rate"),
        "sweep": ("Sweep",),
    },
)
