"""What ``%load_ext`` prints about unfinished runs: read with sqlite3 alone, as SQLAlchemy loads slowly."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apixo_nb.text import dollars

_PATIENCE_S = 0.3  # for a ledger that another kernel writes to at this moment

_QUESTION = """
SELECT run_id, state, task_id IS NOT NULL, missing, expires_at, num_images * unit_price_micros, runs.owner,
       owners.host, owners.pid, owners.started, owners.machine_id, owners.boot_id, owners.pid_namespace,
       owners.heartbeat_at
FROM runs LEFT JOIN owners ON owners.id = runs.owner
WHERE sandbox = ? AND cost_micros IS NULL AND state NOT IN ('planned', 'success', 'failed')
   OR sandbox = ? AND missing > 0
"""


def pending_line(ledger: Path, *, sandbox: bool) -> str:
    """One line about what is unfinished in a ledger file, or "". Never raises, never waits long.

    What another living kernel works on is not unfinished.
    """
    try:
        address = f"{ledger.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE_S)) as connection:
            rows = connection.execute(_QUESTION, (sandbox, sandbox)).fetchall()
        own = [row for row in rows if not _is_leased(row[6:])]
        known = set() if all(has_task for _, _, has_task, *_ in own) else _in_journals(ledger)
        left = [(state, has_task or run_id in known, *row) for run_id, state, has_task, *row in own]
    except (sqlite3.Error, OSError, ValueError):
        return ""  # no ledger yet, an older one, or one that cannot be read: the first command says which
    missing = sum(row[2] for row in left)
    waiting = sum(bool(row[1]) for row in left if not row[2])
    unanswered = [row[4] for row in left if not row[1] and row[0] in ("unknown", "submitting")]
    notes = [
        f"{waiting} {_many('run', waiting)} unfinished" if waiting else "",
        f"{missing} {_many('picture', missing)} not downloaded" if missing else "",
        _expiry([_time(row[3]) for row in left if row[2] and row[3]]),
        _stake(unanswered),
    ]
    text = ", ".join(part for part in notes if part)
    return f"apixo_nb: {text}: `%apixo resume`" if text else ""


def _in_journals(ledger: Path) -> set[str]:
    """Ids of runs whose task is in a journal: there is one while a kernel is at work, or after it died."""
    if not any(ledger.parent.glob("ledger-tasks*")):
        return set()
    from .journal import NAME, entries_of, journal_files  # which loads SQLAlchemy

    files = journal_files(ledger.with_name(NAME))
    return {entry.run_id for file in files for entry in entries_of(file)}


def _is_leased(owner: Sequence[Any]) -> bool:
    """Whether a living process works on it; of another machine's, as far as its clock can be trusted."""
    name, host, pid, started, machine_id, boot_id, pid_namespace, heartbeat_at = owner
    if not (name and host):
        return False
    from apixo_nb.core.process import ProcessIdentity

    identity = ProcessIdentity(host, pid, started, name, machine_id, boot_id, pid_namespace)
    return identity.is_alive(datetime.now(UTC) - _time(heartbeat_at))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _many(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _stake(prices: list[int]) -> str:
    if not prices:
        return ""
    count = f"{len(prices)} {_many('submit', len(prices))} without an answer"
    return f"{count}, up to {dollars(sum(prices))} at stake"


def _expiry(times: list[datetime]) -> str:
    if not times:
        return ""
    hours = (min(times) - datetime.now(UTC)).total_seconds() / 3600
    if hours < 0:
        return "the first URL has probably expired"
    left = f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} {_many('hour', round(hours))}"
    return f"the first URL expires in {left}"
