"""The session that notebooks share. The functions that work on it are in `functions.py`."""

from __future__ import annotations

import os
import threading
from typing import Any

from . import config
from .session import Session

_lock = threading.RLock()
_current: tuple[Session, dict[str, Any]] | None = None


def current() -> Session:
    """The process's session; a new one when a setting has changed since the last call."""
    global _current  # noqa: PLW0603 - one per process is the point
    with _lock:
        wanted = config.settings().trait_values(config=True)
        if _current is None or _current[1] != wanted:
            if _current is not None and not _current[0].busy:
                _current[0].close()  # a busy one is left open: its runs go on to their end
            _current = (Session(), wanted)
        return _current[0]


def reset() -> None:
    """Forget the shared session, as after another key was stored."""
    global _current  # noqa: PLW0603
    with _lock:
        _current = None


def _after_fork() -> None:
    """A child process shares no connection, thread or lock with its parent."""
    global _lock, _current
    _lock, _current = threading.RLock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
