"""Make, track and compare paid AI pictures in Jupyter: ``%load_ext apixo_nb``, then ``%%apixo``.

Every picture a notebook pays for becomes a row you own: on disk, priced, timed, never lost, never paid twice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .api import AsyncClient, Client
    from .errors import ApixoError
    from .functions import agenerate, compare, export_csv, generate, history, images, import_bundle, resume
    from .grids import contact_sheet, grid
    from .live import wait
    from .loop import allow_nested_asyncio
    from .panels import panel
    from .session import Session
    from .sweeps import sweep
    from .voting import rate, vote

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
    "AsyncClient": "api",
    "Client": "api",
    "Session": "session",
    "agenerate": "functions",
    "allow_nested_asyncio": "loop",
    "compare": "functions",
    "contact_sheet": "grids",
    "export_csv": "functions",
    "generate": "functions",
    "grid": "grids",
    "history": "functions",
    "images": "functions",
    "import_bundle": "functions",
    "panel": "panels",
    "rate": "voting",
    "resume": "functions",
    "sweep": "sweeps",
    "vote": "voting",
    "wait": "live",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def load_ipython_extension(shell: InteractiveShell) -> None:
    """``%load_ext apixo_nb``: register the magics, their completion and their settings."""
    from .extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """``%unload_ext apixo_nb``: take back everything that was registered."""
    from .extension import unload

    unload(shell)
