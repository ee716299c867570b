"""The vocabulary: models and prices, requests, run records, settings, the key, money, words for people.

Everything else is written in these terms. Nothing here knows a network, a database or a notebook.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cadence import Cadence
    from .credentials import ApiKey
    from .formatting import HtmlResult
    from .models import MODELS, ModelSpec
    from .records import Image, Run, Vote
    from .request import Labels, Request, make_labels, make_request
    from .settings import Apixo

__all__ = [
    "MODELS",
    "ApiKey",
    "Apixo",
    "Cadence",
    "HtmlResult",
    "Image",
    "Labels",
    "ModelSpec",
    "Request",
    "Run",
    "Vote",
    "make_labels",
    "make_request",
]


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package that hands on names of its modules (PEP 562).

    Each is imported when it is first asked for: to import a package loads none of its modules.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    homes : mapping
        Module of the package -> the names that are handed on from it.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)

    return get, lambda: sorted(home_of)


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "cadence": ("Cadence",),
        "credentials": ("ApiKey",),
        "formatting": ("HtmlResult",),
        "models": ("MODELS", "ModelSpec"),
        "records": ("Image", "Run", "Vote"),
        "request": ("Labels", "Request", "make_labels", "make_request"),
        "settings": ("Apixo",),
    },
)
