"""Budgets: limits on spending, kept in the ledger - in total, for a day, or for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on spending, and what counts against it. Money is integer micro-dollars.

    Attributes
    ----------
    scope : str
        "total", "day" (each day from midnight of this machine's time zone) or "notebook:" and its name.
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


def day_start() -> datetime:
    """The last midnight of this machine's time zone, in UTC."""
    return datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)


def _counts(scope: str, *, sandbox: bool) -> sa.ColumnElement[bool]:
    """Which runs count against a budget."""
    which = runs.c.sandbox == sandbox
    if scope == DAY:
        return which & (runs.c.created_at >= day_start())
    return which if scope == TOTAL else which & (sa.literal(scope) == notebook_scope("") + runs.c.notebook)


def write(connection: sa.Connection, scope: str, *, sandbox: bool, limit_micros: int | None) -> None:
    """Set a budget, or with None take it away."""
    connection.execute(budgets.delete().where((budgets.c.scope == scope) & (budgets.c.sandbox == sandbox)))
    if limit_micros is not None:
        columns = {"scope": scope, "sandbox": sandbox, "limit_micros": limit_micros}
        connection.execute(budgets.insert().values(**columns, set_at=datetime.now(UTC)))


def read(connection: sa.Connection, *, sandbox: bool) -> list[Budget]:
    """All budgets of the sandbox, or all of the real service, with what counts against each now."""
    wanted = sa.select(budgets).where(budgets.c.sandbox == sandbox).order_by(budgets.c.scope)
    return [_with_sums(connection, row) for row in connection.execute(wanted).all()]


def _with_sums(connection: sa.Connection, row: Any) -> Budget:
    """A row of the table of budgets, with what counts against it at this moment."""
    sums = sa.select(sa.func.sum(runs.c.cost_micros), sa.func.sum(rows.AT_STAKE_MICROS))
    spent, at_stake = connection.execute(sums.where(_counts(row.scope, sandbox=row.sandbox))).one()
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
