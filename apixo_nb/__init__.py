"""Make, track and compare paid AI pictures in Jupyter: ``%load_ext apixo_nb``, then ``%%apixo``.

Every picture a notebook pays for becomes a row you own: on disk, priced, timed, never lost, never paid twice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .api import agenerate, compare, export_csv, generate, history, images, import_bundle, resume
    from .client.client import AsyncClient, Client
    from .core.event_loop import allow_nested_asyncio
    from .display.live import wait
    from .errors import ApixoError
    from .experiments.review import contact_sheet, grid, rate
    from .experiments.sweep import sweep
    from .session.session import Session
    from .widgets.panel import panel
    from .widgets.review import vote

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

# Where each name lives. They are imported when first used, so that `%load_ext apixo_nb` stays quick.
_HOMES = {
    "ApixoError": "errors",
    "AsyncClient": "client.client",
    "Client": "client.client",
    "Session": "session.session",
    "agenerate": "api",
    "allow_nested_asyncio": "core.event_loop",
    "compare": "api",
    "contact_sheet": "experiments.review",
    "export_csv": "api",
    "generate": "api",
    "grid": "experiments.review",
    "history": "api",
    "images": "api",
    "import_bundle": "api",
    "panel": "widgets.panel",
    "rate": "experiments.review",
    "resume": "api",
    "sweep": "experiments.sweep",
    "vote": "widgets.review",
    "wait": "display.live",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def load_ipython_extension(shell: InteractiveShell) -> None:
    """``%load_ext apixo_nb``: register the magics, their completion and their settings."""
    from .notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """``%unload_ext apixo_nb``: take back everything that was registered."""
    from .notebook.extension import unload

    unload(shell)
