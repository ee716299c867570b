"""The ledger: every run a row, written before the money is spent.

It is small and written some five times a task, so safety comes before speed (see `database`). Pictures are
not in here, only their names and hashes. A run that somebody works on has an owner: a process of this or
another machine (see `owner`). Only a run that has lost its owner is taken up by another.
"""

from __future__ import annotations

import sqlalchemy as sa

from apixo_nb.core.process import Owner

from .schema import owners


def _living(connection: sa.Connection) -> set[str]:
    """Ids of the owners that are alive."""
    return {
        row.id
        for row in connection.execute(sa.select(owners))
        if Owner(row.host, row.pid, row.started, row.id).is_alive(row.heartbeat_at)
    }
