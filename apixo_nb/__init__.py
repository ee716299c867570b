"""Make, track and compare paid AI pictures in Jupyter: ``%load_ext apixo_nb``, then ``%%apixo``.

Every picture a notebook pays for becomes a row you own: on disk, priced, timed, never lost, never paid twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .core import lazy_names

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .api import agenerate, compare, export_csv, generate, history, images, import_bundle, resume
    from .client import AsyncClient, Client
    from .core.event_loop import allow_nested_asyncio
    from .display import wait
    from .errors import ApixoError
    from .experiments import contact_sheet, grid, rate
    from .experiments.sweep import sweep
    from .session import Session
    from .widgets import vote
    from .widgets.panel import panel

__version__ = "0.1.0"

__all__ = [
    "ApixoError",
    "AsyncClient",
    "Client",
    "Session",
    "agenerate",
    "allow_nested_asyncio",
    "compare",
    "contact_sheet",
    "export_csv",
    "generate",
    "grid",
    "history",
    "images",
    "import_bundle",
    "panel",
    "rate",
    "resume",
    "sweep",
    "vote",
    "wait",
]

__getattr__, _names = lazy_names(
    __name__,
    {
        "api": (
            "agenerate",
            "compare",
            "export_csv",
            "generate",
            "history",
            "images",
            "import_bundle",
            "resume",
        ),
        "client": ("AsyncClient", "Client"),
        "core.event_loop": ("allow_nested_asyncio",),
        "display": ("wait",),
        "errors": ("ApixoError",),
        "experiments": ("contact_sheet", "grid", "rate"),
        "experiments.sweep": ("sweep",),
        "session": ("Session",),
        "widgets": ("vote",),
        "widgets.panel": ("panel",),
    },
)


def __dir__() -> list[str]:
    return [*_names(), "__version__"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """``%load_ext apixo_nb``: register the magics, their completion and their settings."""
    from .notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """``%unload_ext apixo_nb``: take back everything that was registered."""
    from .notebook.extension import unload

    unload(shell)
