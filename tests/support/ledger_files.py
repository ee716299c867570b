"""The ledger's SQLite file as another program reads it, and damages it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apixo_nb.session import session as shared
from apixo_nb.session.session import Session

PAGE = 4096


def rows_on_disk(place: Path, columns: str = "run_id") -> list[Any]:
    """What another program sees in the file now."""
    with contextlib.closing(sqlite3.connect(place)) as connection:
        return connection.execute(f"SELECT {columns} FROM runs ORDER BY created_at, take").fetchall()


def in_file(session: Session, question: str) -> list[Any]:
    """What another program reads in the ledger's file now."""
    with contextlib.closing(sqlite3.connect(session.ledger_file())) as connection:
        return connection.execute(question).fetchall()


def patch(place: Path, at: int, data: bytes) -> None:
    with place.open("r+b") as file:
        file.seek(at)
        file.write(data)


def root_page(place: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(place)) as connection:
        [found] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [table]).fetchone()
    return int(found)


def damaged(session: Session, damage: Callable[[Path], None]) -> bytes:
    """Damage the ledger between two kernels; returns what is in its file then."""
    session.close()
    damage(session.ledger_file())
    shared.reset()
    return session.ledger_file().read_bytes() if session.ledger_file().is_file() else b""
