"""A cell's output that can be written to later, from any thread, also when other cells run meanwhile."""

from __future__ import annotations

import threading
from typing import Any


class Outlet:
    """The output of the cell that makes it. Thread-safe.

    IPython's own `display` writes to the cell that runs, or on older kernels to the one that ran last. This
    has a publisher of its own, which remembers the cell.
    """

    def __init__(self, shell: Any) -> None:
        known = shell.display_pub
        self._cell = shell.kernel.get_parent()
        self._publisher = type(known)(session=known.session, pub_socket=known.pub_socket)
        self._publisher.topic = known.topic
        self._lock = threading.Lock()

    def show(self, bundle: dict[str, str], *, display_id: str = "", update: bool = False) -> None:
        """Add an output, or with `update` write over the one of that `display_id`, wherever it stands."""
        transient = {"display_id": display_id} if display_id else {}
        with self._lock:
            self._publisher.set_parent(self._cell)  # of this thread, where threads have their own
            self._publisher.publish(data=bundle, metadata={}, transient=transient, update=update)
