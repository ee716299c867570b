"""Budgets: limits on spending, kept in the ledger - in total, for a day, or for a notebook."""

from __future__ import annotations

import os
import re
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from pathlib import PurePath
from typing import Any

import sqlalchemy as sa

from apixo_nb.core.records import Run
from apixo_nb.errors import BudgetError
from apixo_nb.text import dollars

from . import rows
from .schema import budgets, runs

TOTAL, DAY = "total", "day"
_NOTEBOOK = "notebook:"
_OFFSET = re.compile(r"[+-]\d\d:\d\d")
# What comes from another ledger, or from before version 5, may not tell when it was bought.
_BOUGHT_AT = sa.func.coalesce(runs.c.bought_at, runs.c.submitted_at, runs.c.created_at)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on spending, and what counts against it. Money is integer micro-dollars.

    Attributes
    ----------
    scope : str
        "total", "day" (from midnight to midnight of the time zone in which it was set) or "notebook:" and its
        name.
    sandbox : bool
        Runs of the sandbox count against budgets of the sandbox, real ones against real ones.
    limit_micros, spent_micros : int
    at_stake_micros : int
        The price of runs in flight, and of those whose end nobody knows: all of it may be charged.
    """

    scope: str
    sandbox: bool
    limit_micros: int
    spent_micros: int = 0
    at_stake_micros: int = 0

    @property
    def left_micros(self) -> int:
        """What may still be asked for; below zero where the limit was lowered since."""
        return self.limit_micros - self.spent_micros - self.at_stake_micros

    @property
    def notebook(self) -> str | None:
        """The notebook it is for, or None."""
        return self.scope.removeprefix(_NOTEBOOK) if self.scope.startswith(_NOTEBOOK) else None

    @property
    def name(self) -> str:
        """The scope in words."""
        if self.notebook is not None:
            return f"for {PurePath(self.notebook).name}"
        return "for today" if self.scope == DAY else "in total"

    def covers(self, run: Run) -> bool:
        """Whether a run that is bought now counts against it."""
        return self.sandbox == run.sandbox and self.scope in (TOTAL, DAY, notebook_scope(run.notebook))

    def __str__(self) -> str:
        stake = f", {dollars(self.at_stake_micros)} at stake" if self.at_stake_micros else ""
        spent = f"{dollars(self.spent_micros)} spent{stake}"
        return f"{dollars(self.limit_micros)} {self.name}: {spent}, {self._left()}"

    def _left(self) -> str:
        left = self.left_micros
        return f"{dollars(left)} left" if left >= 0 else f"{dollars(-left)} over"


def notebook_scope(notebook: str) -> str:
    """The scope of a notebook's budget."""
    return _NOTEBOOK + notebook


def day_bounds(zone: str = "", now: datetime | None = None) -> tuple[datetime, datetime]:
    """The midnights before and after now, in UTC.

    Parameters
    ----------
    zone : str
        As `local_zone` gives it; "", and a name that is not known here, is this machine's.
    now : datetime, optional
        With its zone.
    """
    there = _zone(zone)
    today = (now or datetime.now(UTC)).astimezone(there).date()
    midnights = (datetime.combine(today + timedelta(days=days), time(), there) for days in (0, 1))
    start, end = (midnight.astimezone(UTC) for midnight in midnights)
    return start, end


def _zone(name: str) -> tzinfo | None:
    if _OFFSET.fullmatch(name):
        return datetime.strptime(name, "%z").tzinfo
    try:
        return zoneinfo.ZoneInfo(name) if name else None
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


def local_zone() -> str:
    """The time zone of this machine: its IANA name where that is known, else its offset of now, as +02:00."""
    name = os.environ.get("TZ", "").removeprefix(":") or _name_of_localtime()
    if _zone(name) is not None:
        return name
    offset = f"{datetime.now().astimezone():%z}"
    return f"{offset[:3]}:{offset[3:5]}"


def _name_of_localtime() -> str:
    """The name in the path that /etc/localtime is a link to; "" where it is none."""
    path = os.path.realpath("/etc/localtime")
    return path.rpartition("/zoneinfo/")[2] if "/zoneinfo/" in path else ""


def _counts(scope: str, zone: str, *, sandbox: bool) -> sa.ColumnElement[bool]:
    """Which runs count against a budget; on a day those whose money was committed on it."""
    which = runs.c.sandbox == sandbox
    if scope == DAY:
        start, end = day_bounds(zone)
        return which & (start <= _BOUGHT_AT) & (end > _BOUGHT_AT)
    return which if scope == TOTAL else which & (sa.literal(scope) == notebook_scope("") + runs.c.notebook)


def write(connection: sa.Connection, scope: str, *, sandbox: bool, limit_micros: int | None) -> None:
    """Set a budget, or with None take it away."""
    connection.execute(budgets.delete().where((budgets.c.scope == scope) & (budgets.c.sandbox == sandbox)))
    if limit_micros is not None:
        columns: dict[str, Any] = {"scope": scope, "sandbox": sandbox, "limit_micros": limit_micros}
        columns["zone"] = local_zone() if scope == DAY else ""
        connection.execute(budgets.insert().values(**columns, set_at=datetime.now(UTC)))


def read(connection: sa.Connection, *, sandbox: bool) -> list[Budget]:
    """All budgets of the sandbox, or all of the real service, with what counts against each now."""
    wanted = sa.select(budgets).where(budgets.c.sandbox == sandbox).order_by(budgets.c.scope)
    return [_with_sums(connection, row) for row in connection.execute(wanted).all()]


def _with_sums(connection: sa.Connection, row: Any) -> Budget:
    """A row of the table of budgets, with what counts against it at this moment."""
    open_micros = rows.AT_STAKE_MICROS + rows.RESERVED_MICROS
    sums = sa.select(sa.func.sum(runs.c.cost_micros), sa.func.sum(open_micros))
    spent, at_stake = connection.execute(sums.where(_counts(row.scope, row.zone, sandbox=row.sandbox))).one()
    return Budget(row.scope, row.sandbox, row.limit_micros, int(spent or 0), int(at_stake or 0))


def check(connection: sa.Connection, planned: Sequence[Run]) -> None:
    """Raise BudgetError if these runs together would pass a budget."""
    for sandbox in {run.sandbox for run in planned}:
        for budget in read(connection, sandbox=sandbox):
            price = sum(run.price_micros for run in planned if budget.covers(run))
            if price > max(0, budget.left_micros):
                raise BudgetError(
                    f"This would cost {dollars(price)} and pass the budget of {budget}",
                    next_step="Nothing was sent. `%apixo budget` shows it, `%apixo budget SUM` sets another.",
                )
