"""APIXO over HTTP: submit, status, wait, download and balance, for scripts and for everything above.

`protocol` has the rules as generators without I/O, `responses` reads answers without trust, `transport` and
`download` have the connections, `client` joins them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apixo_nb.core import lazy_names

if TYPE_CHECKING:
    from .client import AsyncClient, Client
    from .protocol import Clock, RetryPolicy
    from .responses import TaskStatus

__all__ = [
    "AsyncClient",
    "Client",
    "Clock",
    "RetryPolicy",
    "TaskStatus",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "client": ("AsyncClient", "Client"),
        "protocol": ("Clock", "RetryPolicy"),
        "responses": ("TaskStatus",),
    },
)
